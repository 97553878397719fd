//! Discard Pods that hold nothing: servers that ended, and Pods of an earlier spec that never became members.
//!
//! A server that keeps ending right after its start, or keeps being killed for want of memory, is replaced after a growing
//! delay, and said so: a copy that would kill its successor the same way must not be made again and again.

use super::{evidence, fill, migrate};
use crate::model::{
    Blocked, Code, Member, NodeId, NodeReport, Phase, Plan, Proposal, Seen, Shard, Stage, Step, View,
    Waiting, Why, step::Removable,
};

/// A server that ran for less than this many milliseconds failed quickly.
pub const QUICK_FAILURE_MS: i64 = 10_000;

/// A server that was killed for want of memory, or evicted, within this many milliseconds failed as well: it is the load that
/// kills it, and the load comes back with its successor.
pub const KILLED_MS: i64 = 600_000;

/// The delay after the first quick failure in a row, in milliseconds; it doubles with each further one.
const DELAY_MS: i64 = 1_000;

/// The longest delay, in milliseconds: that of the kubelet's own back-off for containers.
const LONGEST_DELAY_MS: i64 = 300_000;

/// How long a Pod whose predecessors failed `failures` times in a row waits for its replacement, in milliseconds.
pub fn delay_ms(failures: u16) -> i64 {
    match failures {
        0 => 0,
        n => DELAY_MS
            .checked_shl(u32::from(n - 1))
            .map_or(LONGEST_DELAY_MS, |d| d.clamp(DELAY_MS, LONGEST_DELAY_MS)),
    }
}

/// Failures in a row, this Pod's own end included.
fn failures_with(m: &Member<'_>, ran_ms: i64) -> u16 {
    let bound = if was_killed(m) { KILLED_MS } else { QUICK_FAILURE_MS };
    if ran_ms < bound { m.pod.failures.saturating_add(1) } else { 0 }
}

/// Its worker ended it: the kernel for want of memory, or the kubelet.
pub(super) fn was_killed(m: &Member<'_>) -> bool {
    let ended = matches!(m.pod.phase, Phase::Finished { .. });
    ended && m.pod.trouble.as_ref().is_some_and(|t| matches!(t.reason.as_str(), "OOMKilled" | "Evicted"))
}

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let proofs = evidence::proofs(v);
    for m in v.all().filter(|m| !m.pod.terminating) {
        let earlier = m.pod.revision != v.s.revision;
        match m.pod.phase {
            Phase::Finished { .. } => ended(v, m, proofs.contains(&m.pod.uid), &mut plan),
            Phase::Pending if earlier => {
                plan.steps.push(delete(
                    m,
                    Removable::NotRunning,
                    "it was made from an earlier spec and never started",
                ));
            }
            Phase::Running if earlier && m.is_unused() => {
                plan.steps.push(delete(
                    m,
                    Removable::Unused,
                    "it was made from an earlier spec and never joined",
                ));
            }
            Phase::Running if is_made_anew(v, m) => {
                plan.steps.push(delete(
                    m,
                    Removable::Empty,
                    "it was made from an earlier spec, and cannot read the keys that its shard is to get",
                ));
            }
            Phase::Running if !v.s.whole && earlier && !matches!(m.seen, Seen::Now(_)) => {
                plan.waiting.push(Waiting {
                    shard: Some(m.pod.shard),
                    stage: Stage::AddingPods,
                    message: format!("{} was made from an earlier spec and does not answer yet", m.pod.name),
                });
            }
            Phase::Pending | Phase::Running => {}
        }
    }
    if !v.s.whole && v.answering().all(|(_, n)| n.keys == 0) {
        plan.steps.extend(v.s.desired.shards().filter_map(|shard| orphan(v, shard)));
    }
    plan
}

/// It is from an earlier spec, its shard has no slots yet, and some of those who have them are too new for it. What holds nothing has no
/// successor to wait for.
pub(super) fn is_made_anew(v: &View<'_>, m: &Member<'_>) -> bool {
    let unread = |n: &NodeReport| n.keys == 0 && migrate::is_too_old(v, n);
    v.s.whole
        && m.pod.revision != v.s.revision
        && v.s.desired.wants(m.pod.shard)
        && !fill::is_served(v, m.pod.shard)
        && m.node().is_some_and(unread)
        && !v.staying(m.pod.shard).filter_map(Member::node).any(NodeReport::is_moving_slots)
}

/// A replica whose primary died while the cluster formed owns no slots and cannot be given any. It makes room when its
/// shard has nobody but such replicas, or when nobody can introduce the new owner to it (it lists the dead one's slots).
fn orphan(v: &View<'_>, shard: Shard) -> Option<Proposal> {
    let members: Vec<_> = v.staying(shard).collect();
    let mut orphans: Vec<_> = members.iter().filter(|m| follows_dead(v, m)).collect();
    let owner = v.primary(shard).map(|(_, n)| &n.id);
    if owner.is_some() || members.len() < v.s.desired.copies() || orphans.len() < members.len() {
        orphans.retain(|m| owner.is_some_and(|id| cut_off_from(v, m, id)));
    }
    let last = orphans.into_iter().max_by_key(|m| m.pod.index)?;
    Some(delete(
        last,
        Removable::Empty,
        "its primary died before the cluster was formed, and it holds nothing",
    ))
}

fn follows_dead(v: &View<'_>, m: &Member<'_>) -> bool {
    m.link().is_some_and(|(of, _)| v.by_id(of).is_none() && !matches!(v.s.ghosts.get(of), Some(Seen::Now(_))))
}

/// It does not know the owner of its shard's slots, and only the dead one's followers still list that one.
fn cut_off_from(v: &View<'_>, m: &Member<'_>, owner: &NodeId) -> bool {
    let (Some(node), Some((dead, _))) = (m.node(), m.link()) else { return false };
    let lists = |(o, n): &(&Member<'_>, &NodeReport)| {
        n.peers.contains_key(dead) && o.link().is_none_or(|(of, _)| of != dead)
    };
    !node.peers.contains_key(owner) && !v.answering().any(|other| lists(&other))
}

/// How many milliseconds a member that ended still waits for its replacement, and its quick failures in a row.
/// The first failure is replaced at once; a changed spec is worth a try at once, too.
pub(super) fn due(v: &View<'_>, m: &Member<'_>) -> Option<(i64, u16)> {
    let Phase::Finished { at, ran_ms } = m.pod.phase else { return None };
    let failures = failures_with(m, ran_ms);
    let delay = if m.pod.revision == v.s.revision { delay_ms(failures.saturating_sub(1)) } else { 0 };
    Some(((delay - v.s.now.since(at)).max(0), failures))
}

/// The Pod that ended goes once its successor is there: until then it is what tells of its failures. One that proves a death stays until
/// that has been acted upon.
fn ended(v: &View<'_>, m: &Member<'_>, is_proof: bool, plan: &mut Plan) {
    let Some((left, failures)) = due(v, m) else { return };
    let words = m.pod.trouble.as_ref().map_or_else(String::new, |t| format!(": {} {}", t.reason, t.message));
    let replaced = super::away::present(v, m.pod.shard).count() >= v.s.desired.copies();
    if replaced || !v.s.desired.wants(m.pod.shard) {
        let delete = || delete(m, Removable::NotRunning, &format!("its server has ended{words}"));
        plan.steps.extend((!is_proof).then(delete));
        return;
    }
    if failures > 1 {
        let how = if was_killed(m) { "was killed soon" } else { "ended right after its start" };
        plan.blocked.push(Blocked {
            code: Code::CrashLoop,
            shard: Some(m.pod.shard),
            message: format!("{} {how}, {failures} times in a row{words}", m.pod.name),
        });
    }
    if left > 0 {
        plan.waiting.push(Waiting {
            shard: Some(m.pod.shard),
            stage: Stage::AddingPods,
            message: format!("{} is replaced in {} s", m.pod.name, (left + 999) / 1000),
        });
    }
}

fn delete(m: &Member<'_>, only_if: Removable, note: &str) -> Proposal {
    Proposal::new(
        Step::DeletePod { name: m.pod.name.clone(), uid: m.pod.uid.clone(), shard: m.pod.shard, only_if },
        Why::Repair,
        note,
    )
}
