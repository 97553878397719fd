//! Moving slots on live data: what three rules (consolidate, scale in, even out) have in common.
//!
//! Everything is derived from what is seen: who owns what, which jobs run, which slots are half way. A change of mind is
//! therefore nothing special. A source does one job after another, and has the next ones in hand before the first has ended;
//! different sources work side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::fill::{is_served, served_shards};
use super::newcomers;
use super::shares::Move;
use crate::model::settings::JOBS_SINCE;
use crate::model::{
    Blocked, Code, Job, JobState, Member, NodeId, NodeReport, Plan, Proposal, Shard, SlotRange, Slots, Stage,
    Step, Target, View, Waiting, Why,
};

/// The most bytes that one job moves. At its end the source deletes what it gave away, and all its clients wait: 120–130 ms
/// for 200 MB (measured on 9.1.2), so a quarter of that stays far below what anybody notices.
const JOB_BYTES: u64 = 64 << 20;

/// The most keys that one job moves: deleting them takes time for each key, too.
const JOB_KEYS: u64 = 100_000;

/// Jobs that a source has at one time. It does them one after another (one snapshot at a time), so that it never idles until somebody
/// looks again; and a hand-over, which waits for them, does not wait for long (decision 0036).
const IN_HAND: usize = 3;

/// The pause after a job that failed, in milliseconds; it doubles with each further one in a row.
const PAUSE_MS: i64 = 500;

/// The longest pause, in milliseconds.
const LONGEST_PAUSE_MS: i64 = 30_000;

/// A failure older than this many milliseconds is not told any more.
const TOLD_MS: i64 = 120_000;

/// Slots are on their way to or from a member of this shard: a hand-over would end the job (measured: its slots stay
/// where they were, and all of it is done again).
pub fn migrating(v: &View<'_>, shard: Shard) -> bool {
    v.members(shard).iter().filter_map(Member::node).any(NodeReport::is_moving_slots)
}

/// Who owns what once everything that is under way has arrived. A shard of which no owner answers keeps what nobody else
/// has: the others are evened out around it. None in the moment in which slots change hands and the nodes, asked one a little
/// after the other, do not add up.
pub(super) fn owners_at_rest(v: &View<'_>) -> Option<BTreeMap<Shard, Slots>> {
    let mut out: BTreeMap<Shard, Slots> = BTreeMap::new();
    let mut claims: u32 = 0;
    for (m, n) in v.answering().filter(|(_, n)| !n.slots().is_empty()) {
        let mine = out.entry(m.pod.shard).or_default();
        *mine = mine.or(n.slots());
        claims += u32::from(n.slots().len());
    }
    let mut unknown = Slots::all().minus(v.owned());
    let silent: Vec<Shard> =
        (0..served_shards(v)).map(Shard).filter(|s| v.primary(*s).is_none() && is_served(v, *s)).collect();
    if claims != u32::from(v.owned().len()) || (silent.is_empty() && !unknown.is_empty()) {
        return None;
    }
    for (from, to, slots) in under_way(v) {
        if let Some(mine) = out.get_mut(&from) {
            let goes = mine.and(&slots);
            *mine = mine.minus(&goes);
            let theirs = out.entry(to).or_default();
            *theirs = theirs.or(&goes);
        }
    }
    for (i, shard) in silent.iter().enumerate() {
        let left = silent.len() - i;
        let part = first(&unknown, unknown.len() / u16::try_from(left).unwrap_or(1).max(1));
        unknown = unknown.minus(&part);
        let theirs = out.entry(*shard).or_default();
        *theirs = theirs.or(&part);
    }
    Some(out)
}

/// Jobs that run, and slots that are half way, by the shards of their ends.
fn under_way(v: &View<'_>) -> Vec<(Shard, Shard, Slots)> {
    let mut out = Vec::new();
    for (m, n) in v.answering().filter(|(_, n)| n.gives_slots()) {
        let jobs = n.jobs.iter().filter(|j| j.state == JobState::Running && !j.incoming);
        let jobs = jobs.filter_map(|j| Some((j.other.as_ref()?, &j.slots)));
        for (id, slots) in jobs.chain(&n.open_slots.outgoing) {
            if let Some(to) = v.by_id(id) {
                out.push((m.pod.shard, to.pod.shard, slots.clone()));
            }
        }
    }
    out
}

/// The first `count` slots.
fn first(slots: &Slots, count: u16) -> Slots {
    let mut left = count;
    Slots::from_ranges(slots.ranges().iter().map_while(|r| {
        let take = left.min(r.len());
        left -= take;
        (take > 0).then(|| SlotRange { first: r.first, last: r.first + take - 1 })
    }))
}

/// Proposes what of these moves can begin now, says what is waited for, and why something is not tried at once.
pub(super) fn propose(v: &View<'_>, wanted: &[Move], note: &str, plan: &mut Plan) {
    let mut sources: BTreeMap<Shard, Vec<&Move>> = BTreeMap::new();
    for m in wanted {
        sources.entry(m.from).or_default().push(m);
    }
    let closing: BTreeSet<Shard> = left_over(v).keys().map(|on| on.shard).collect();
    for (from, moves) in sources {
        // Sources begin with different targets, so that the work spreads.
        let start = usize::from(from.0) % moves.len().max(1);
        let order = moves.iter().cycle().skip(start).take(moves.len());
        let Some((source, owner)) = v.primary(from) else { continue };
        let mut room = if source.stays() { room(owner) } else { 0 };
        for m in order.filter(|m| !closing.contains(&m.from) && !closing.contains(&m.to)) {
            let begun = begin(v, source, m, room, plan);
            let by_hand = begun.iter().any(|step| matches!(step, Step::Carry { .. }));
            room = if by_hand { 0 } else { room.saturating_sub(begun.len()) };
            plan.steps.extend(begun.into_iter().map(|step| Proposal::new(step, Why::Scale, note)));
        }
    }
}

/// How many jobs the owner takes now. While slots come, or are half way, it begins none.
fn room(owner: &NodeReport) -> usize {
    let running = || owner.jobs.iter().filter(|j| j.state == JobState::Running);
    if !owner.open_slots.is_empty() || running().any(|j| j.incoming) {
        return 0;
    }
    IN_HAND.saturating_sub(running().count())
}

/// The steps that begin a move, at most `most`; none while its target is not full or after a job that failed a moment ago.
fn begin(v: &View<'_>, source: &Member<'_>, m: &Move, most: usize, plan: &mut Plan) -> Vec<Step> {
    if most == 0 {
        return Vec::new();
    }
    if let Some(why) = newcomers::not_full(v, m.to) {
        let message = format!("shard {} gets no slots yet: {why}", m.to);
        let told = Waiting { shard: Some(m.to), stage: Stage::MovingSlots, message };
        if !plan.waiting.contains(&told) {
            plan.waiting.push(told);
        }
        return Vec::new();
    }
    let Some((target, there)) = newcomers::head(v, m.to) else { return Vec::new() };
    steps(source, target, there, &m.slots, most, plan)
}

/// At most `most` jobs, or one stretch of work key by key where an end is older than jobs are. One at a time after a failure.
fn steps(
    source: &Member<'_>,
    target: &Member<'_>,
    there: &NodeReport,
    slots: &Slots,
    most: usize,
    plan: &mut Plan,
) -> Vec<Step> {
    let (mut out, mut left) = (Vec::new(), slots.clone());
    while out.len() < most && !left.is_empty() {
        let blocked = plan.blocked.len();
        let Some(next) = step(source, target, there, &left, plan) else { break };
        let more = plan.blocked.len() == blocked;
        if let Step::Migrate { slots, .. } = &next {
            left = left.minus(slots);
        }
        let carried = matches!(next, Step::Carry { .. });
        out.push(next);
        if carried || !more {
            break;
        }
    }
    out
}

/// One job, or one stretch of work key by key where an end is older than jobs are.
pub(super) fn step(
    source: &Member<'_>,
    target: &Member<'_>,
    there: &NodeReport,
    slots: &Slots,
    plan: &mut Plan,
) -> Option<Step> {
    let node = source.node()?;
    let (on, to) = (source.target()?, target.target()?);
    if !reads(there, node) {
        plan.waiting.push(until_replaced(&on, &to));
        return None;
    }
    if node.version < JOBS_SINCE || there.version < JOBS_SINCE {
        return Some(Step::Carry { on, to, slots: slots.clone() });
    }
    // A job is refused while slots are half way at either end; those are carried first.
    if !there.open_slots.is_empty() {
        return None;
    }
    if let Some((told, left)) = failed(node, &on, &to) {
        // The next try is under way.
        if is_giving(node, &to) {
            return None;
        }
        plan.blocked.push(told);
        if left > 0 {
            return None;
        }
    }
    Some(Step::Migrate { slots: first(slots, chunk(node)), on, to })
}

/// A server older than 9.0 refuses the keys of a newer one, which writes them in another format (measured: `MIGRATE` from 9.1.2 to
/// 8.1.1). The other way about they are taken.
fn reads(target: &NodeReport, source: &NodeReport) -> bool {
    source.version < JOBS_SINCE || target.version >= JOBS_SINCE
}

fn until_replaced(on: &Target, to: &Target) -> Waiting {
    let message = format!(
        "slots of {} stay until {} is replaced: a server older than {JOBS_SINCE} refuses the keys of a newer one",
        on.pod, to.pod
    );
    Waiting { shard: Some(to.shard), stage: Stage::MovingSlots, message }
}

/// The shard has slots that it must give away, and nobody who would read them as long as its own servers are as new as they are.
pub(super) fn is_too_new(v: &View<'_>, shard: Shard) -> bool {
    let Some((_, node)) = v.primary(shard) else { return false };
    !v.s.desired.wants(shard) && owners(v).any(|there| !reads(there, node))
}

/// Somebody has slots whose keys this one would not read.
pub(super) fn is_too_old(v: &View<'_>, node: &NodeReport) -> bool {
    owners(v).any(|owner| !reads(node, owner))
}

/// Those that lead the shards of the spec.
fn owners<'v, 'a>(v: &'v View<'a>) -> impl Iterator<Item = &'a NodeReport> + use<'v, 'a> {
    v.s.desired.shards().filter_map(|shard| v.primary(shard)).map(|(_, node)| node)
}

/// A job of the node to this target runs.
fn is_giving(node: &NodeReport, to: &Target) -> bool {
    let gives = |j: &Job| !j.incoming && j.other.as_ref() == Some(&to.node);
    node.jobs.iter().any(|j| gives(j) && j.state == JobState::Running)
}

/// How many slots one job takes, by the average slot of the source.
fn chunk(node: &NodeReport) -> u16 {
    let slots = u64::from(node.slots().len()).max(1);
    let by = |limit: u64, amount: u64| limit.saturating_mul(slots).checked_div(amount).unwrap_or(slots);
    let bytes = node.memory.map_or(0, |m| m.data);
    let most = by(JOB_BYTES, bytes).min(by(JOB_KEYS, node.keys)).clamp(1, slots);
    u16::try_from(most).unwrap_or(u16::MAX)
}

/// What the last job between the two said when it failed, and how many milliseconds are left until the next.
fn failed(node: &NodeReport, on: &Target, to: &Target) -> Option<(Blocked, i64)> {
    let ended = |j: &&Job| !j.incoming && j.other.as_ref() == Some(&to.node) && j.state != JobState::Running;
    let mut row = node.jobs.iter().filter(ended).take_while(|j| j.state == JobState::Failed).peekable();
    let last = (*row.peek()?).clone();
    if last.age_ms > TOLD_MS {
        return None;
    }
    let shift = u32::try_from(row.count().saturating_sub(1)).unwrap_or(0).min(16);
    let left = (PAUSE_MS << shift).min(LONGEST_PAUSE_MS) - last.age_ms;
    let words = if last.message.is_empty() { "it was cancelled" } else { last.message.trim() };
    let message = format!("slots of {} go to {}, and the last job failed: {words}", on.pod, to.pod);
    Some((Blocked { code: Code::MigrationFailed, shard: Some(on.shard), message }, left))
}

/// Slots that are half way are carried to where they were going, whatever is wanted now: the only way that loses nothing. Where that
/// one was failed over meanwhile its heir is who they go to.
pub(super) fn carry_on(v: &View<'_>, plan: &mut Plan) {
    let mut pairs: BTreeMap<(Target, Target), Slots> = BTreeMap::new();
    let mut add = |on: Option<Target>, to: Option<Target>, slots: Slots| {
        if let (Some(on), Some(to)) = (on, to)
            && !slots.is_empty()
            && on.node != to.node
        {
            let all = pairs.entry((on, to)).or_default();
            *all = all.or(&slots);
        }
    };
    let leads = |m: &Member<'_>| v.primary(m.pod.shard).is_none_or(|(p, _)| p.pod.uid == m.pod.uid);
    let heir = |id: &NodeId| {
        let m = v.by_id(id)?;
        if leads(m) { m.target() } else { v.primary(m.pod.shard).and_then(|(p, _)| p.target()) }
    };
    // A copy has what its primary has.
    for (m, n) in v.answering().filter(|(m, _)| m.link().is_none()) {
        for (id, slots) in &n.open_slots.outgoing {
            add(m.target(), heir(id), slots.and(n.slots()));
        }
        // Known to the target alone: whoever owns them is the source.
        for slots in n.open_slots.incoming.values().filter(|_| leads(m)) {
            for (owner, o) in v.answering() {
                add(owner.target(), m.target(), slots.and(o.slots()));
            }
        }
    }
    for ((on, to), slots) in pairs {
        let (source, target) =
            (v.by_id(&on.node).and_then(Member::node), v.by_id(&to.node).and_then(Member::node));
        if source.zip(target).is_some_and(|(source, target)| !reads(target, source)) {
            plan.waiting.push(until_replaced(&on, &to));
            continue;
        }
        let note = "slots that are half way are finished first";
        plan.steps.push(Proposal::new(Step::Carry { on, to, slots }, Why::Scale, note));
    }
}

/// Slots that only copies of a primary have half way: nothing is on its way, and no server takes slots of a copy.
pub(super) fn close_left_over(v: &View<'_>, plan: &mut Plan) {
    for (on, slots) in left_over(v) {
        let note = "only copies of it have these slots half way";
        plan.steps.push(Proposal::new(Step::Close { on, slots }, Why::Repair, note));
    }
}

fn left_over(v: &View<'_>) -> BTreeMap<Target, Slots> {
    let primaries = v.answering().filter(|(m, _)| m.link().is_none());
    let under_way = primaries.fold(Slots::none(), |all, (_, n)| all.or(&n.open_slots.all()));
    let mut out = BTreeMap::new();
    for (m, n) in v.answering().filter(|(_, n)| !n.open_slots.is_empty()) {
        let primary = m.link().and_then(|(of, _)| v.by_id(of)).filter(|p| p.link().is_none());
        let slots = n.open_slots.all().minus(&under_way);
        if let Some(on) = primary.and_then(Member::target).filter(|_| !slots.is_empty()) {
            let all: &mut Slots = out.entry(on).or_insert_with(Slots::none);
            *all = all.or(&slots);
        }
    }
    out
}

/// Slots that are not yet where they shall be, those under way included.
pub fn slots_left(v: &View<'_>) -> u16 {
    left(v, &super::even_out::wanted_moves(v))
}

fn left(v: &View<'_>, wanted: &[Move]) -> u16 {
    let open: u16 = under_way(v).iter().map(|(_, _, s)| s.len()).sum();
    wanted.iter().map(|m| m.slots.len()).sum::<u16>().saturating_add(open)
}

/// The bytes in [`slots_left`], by the average slot of the shard that has them.
pub fn bytes_left(v: &View<'_>) -> u64 {
    let open = under_way(v).into_iter().map(|(from, _, slots)| (from, slots));
    let wanted = super::even_out::wanted_moves(v).into_iter().map(|m| (m.from, m.slots));
    open.chain(wanted).map(|(from, slots)| u64::from(slots.len()) * average_slot(v, from)).sum()
}

fn average_slot(v: &View<'_>, shard: Shard) -> u64 {
    let owner = v.primary(shard).map(|(_, n)| n);
    owner.map_or(0, |n| n.memory.map_or(0, |m| m.data) / u64::from(n.slots().len()).max(1))
}

/// What is still to be moved, for the progress that a person sees.
pub(super) fn waiting(v: &View<'_>, wanted: &[Move], plan: &mut Plan) {
    let left = left(v, wanted);
    if left > 0 {
        let message = format!("{left} slots are to be moved");
        plan.waiting.push(Waiting { shard: None, stage: Stage::MovingSlots, message });
    }
}
