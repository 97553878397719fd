//! Recover: the replica of a dead primary takes over at once, instead of after Valkey's own election (2–4 s).
//!
//! A failover is forced only where the primary cannot be alive and heard: its address refuses, every replica has lost it
//! and so has another node; or it is silent and the majority of the slot owners suspects it. The replica must have been
//! seen in sync with this very primary. Without that hint, or without a second witness, Valkey's own election decides.
//! Where nobody is left to elect, or the others refuse their votes, a replica takes over without votes only when its primary is
//! proven dead.
//!
//! One at a time: candidates that stand together deny each other votes, and one that is under way cannot be seen. They take turns: one
//! whose election cannot be won does not keep the others from theirs.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::evidence::{
    Absent, How, about, absent, answering_owners, holds_nothing, is_behind, quorum, votes,
};
use super::forget::short;
use super::vouch;
use crate::model::step::{Promotion, Proof};
use crate::model::{
    Blocked, Code, Member, Moment, NodeId, NodeReport, Plan, Proposal, Slots, Stage, Step, Target, View,
    Waiting, Why,
};

/// Nodes, apart from the other replicas, that are asked again before a failover is forced.
const WITNESSES: usize = 8;

/// Node-timeouts after which an election that could have been has not been: Valkey tries one every four (measured: one
/// succeeds within two).
const ELECTIONS: i64 = 5;

/// A node that has been silent for less, in milliseconds, is no case for a person yet.
const PATIENCE_MS: i64 = 5_000;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    let told: Vec<_> = absent(v).into_iter().map(|gone| (verdict(v, &gone), gone)).collect();
    let ready = told.iter().filter(|(verdict, _)| matches!(verdict, Verdict::Promote(_)));
    let longest_ago = ready.map(|(_, gone)| gone.id).min_by_key(|id| v.s.past.forced_for(id));
    let turn = longest_ago.filter(|_| !v.s.past.forced(v.s.now)).cloned();
    for (verdict, gone) in told {
        let blocked = |message| Blocked { code: Code::Unproven, shard: gone.shard(), message };
        match verdict {
            Verdict::Promote(heir) => {
                if denied(v, &gone) {
                    plan.blocked.extend(open(v, &gone, "its replica gets no votes").map(blocked));
                }
                if turn.as_ref() == Some(gone.id) {
                    let note = heir.note.clone();
                    plan.steps.push(Proposal::new(step(v, &gone, heir), Why::Repair, note));
                } else {
                    plan.waiting.push(electing(&gone, "another failover is under way"));
                }
            }
            Verdict::Wait(why) => plan.waiting.push(electing(&gone, why)),
            Verdict::Blocked(message) => plan.blocked.push(blocked(message)),
            Verdict::Nothing => {}
        }
    }
    plan
}

enum Verdict {
    Promote(Heir),
    Wait(&'static str),
    Blocked(String),
    /// Another rule, or nobody, has something to say.
    Nothing,
}

/// Who takes over, and why he may.
struct Heir {
    on: Target,
    by: Promotion,
    /// How far it had come when it was seen in sync.
    offset: u64,
    note: String,
}

fn electing(gone: &Absent<'_, '_>, why: &str) -> Waiting {
    let message = format!("node {} with slots {} is gone: {why}", short(gone.id), gone.slots);
    Waiting { shard: gone.shard(), stage: Stage::Electing, message }
}

fn verdict(v: &View<'_>, gone: &Absent<'_, '_>) -> Verdict {
    if matches!(gone.how, How::Alive | How::Unclear) || gone.heirs.is_empty() {
        return match (gone.how, gone.heirs.is_empty()) {
            (How::Silent, true) => unproven(v, gone),
            _ => Verdict::Nothing,
        };
    }
    let suspected = gone.how == How::Silent && gone.is_suspected(v);
    // The link to a worker without power stays open until its own time-out.
    let certain = gone.told(v).is_some();
    match heir(v, gone, suspected || certain) {
        Some((heir, offset)) => with_heir(v, gone, heir, offset, suspected),
        None => without_heir(v, gone),
    }
}

/// The best of those that were seen in sync, with how far it had come then.
fn heir<'v, 'a>(v: &View<'a>, gone: &Absent<'v, 'a>, unheard: bool) -> Option<(&'v Member<'a>, u64)> {
    let qualified = gone.heirs.iter().filter_map(|m| {
        let (node, (_, link)) = (m.node()?, m.link()?);
        let seen = v.s.past.synced_with(&node.id, gone.id)?;
        let sound = (unheard || !link.up) && !link.syncing && !node.loading && link.offset >= seen;
        sound.then_some((*m, seen, link.offset))
    });
    best(qualified).map(|(m, seen, _)| (m, seen))
}

/// The one with the most data, also if it is about to leave: only it may have a write that two nodes acknowledged. One whose
/// process is ending is the last.
fn best<'v, 'a: 'v>(
    all: impl Iterator<Item = (&'v Member<'a>, u64, u64)>,
) -> Option<(&'v Member<'a>, u64, u64)> {
    all.max_by_key(|(m, _, offset)| {
        let retiring = m.node().is_some_and(NodeReport::is_retiring);
        let released = m.node().is_some_and(|n| n.is_released(&m.pod.uid));
        (!released, *offset, m.stays(), !retiring, Reverse(m.pod.index))
    })
}

fn with_heir(
    v: &View<'_>,
    gone: &Absent<'_, '_>,
    heir: &Member<'_>,
    offset: u64,
    suspected: bool,
) -> Verdict {
    let Some(on) = heir.target() else { return Verdict::Nothing };
    let few = votes(v, &on.node, gone.id) < quorum(v);
    let refused = || denied(v, gone) || heir.node().is_some_and(|n| is_behind(v, n, gone.id));
    match gone.proof(v) {
        Some(proof) if few || refused() => {
            return take_over(gone, on, Promotion::Takeover(proof), offset);
        }
        None if few => return unproven(v, gone),
        _ => {}
    }
    let note = |what: &str| format!("its primary {} is gone: {what}", short(gone.id));
    if suspected {
        let note = note("silent, and the majority of the slot owners suspects it");
        return Verdict::Promote(Heir { on, by: Promotion::Suspected, offset, note });
    }
    if gone.how == How::Silent {
        return Verdict::Wait("it is silent, and too few slot owners suspect it yet");
    }
    if gone.is_heard() {
        return Verdict::Wait("a replica still hears it");
    }
    if !gone.is_unheard(v, Some(&on.node)) {
        return Verdict::Wait("no other node has lost it yet");
    }
    let note = note("it refuses, and others have lost it, too");
    Verdict::Promote(Heir { on, by: Promotion::Refused, offset, note })
}

/// Nobody is known to have been in sync. Where Valkey can elect, it knows better; where it cannot, and the primary is
/// proven dead, waiting helps nobody: the replica with the most data takes over, and one without any as the last resort.
fn without_heir(v: &View<'_>, gone: &Absent<'_, '_>) -> Verdict {
    let Some(proof) = gone.proof(v) else {
        return if gone.how == How::Silent && answering_owners(v).count() < quorum(v) {
            unproven(v, gone)
        } else {
            Verdict::Wait("Valkey elects one of its replicas")
        };
    };
    let empty = gone.heirs.iter().all(|m| holds_nothing(m));
    let all_known = super::lost::copies_elsewhere(v, gone).next().is_none();
    if empty && all_known {
        let first = gone.heirs.iter().filter(|m| m.stays()).min_by_key(|m| m.pod.index);
        let Some(on) = first.or(gone.heirs.first()).and_then(|m| m.target()) else { return Verdict::Nothing };
        return take_over(gone, on, Promotion::Empty(proof), 0);
    }
    let able = |m: &&Member<'_>| m.node().is_some_and(|n| votes(v, &n.id, gone.id) >= quorum(v));
    // A former primary whose successor died before they were in sync has the data and is never elected: for Valkey it
    // has never copied anything.
    if gone.heirs.iter().any(able) && !in_vain(v, v.s.past.headless) {
        return Verdict::Wait("Valkey elects one of its replicas");
    }
    // The link to a worker without power stays open until its own time-out.
    let unheard = proof != Proof::Refused;
    let with_data = gone.heirs.iter().filter_map(|m| {
        let (node, (_, link)) = (m.node()?, m.link()?);
        let sound = (unheard || !link.up) && !link.syncing && !node.loading && node.keys > 0;
        sound.then_some((*m, 0, link.offset))
    });
    match best(with_data).and_then(|(m, _, _)| m.target()) {
        Some(on) => take_over(gone, on, Promotion::Takeover(proof), 0),
        None => Verdict::Wait("its replicas are not done with their syncs"),
    }
}

/// Since this moment elections could have helped, and have not.
fn in_vain(v: &View<'_>, since: Option<Moment>) -> bool {
    let patience = ELECTIONS * i64::from(v.s.desired.node_timeout_ms());
    since.is_some_and(|since| v.s.now.since(since) > patience)
}

/// The others are asked for their votes again and again, and refuse them.
fn denied(v: &View<'_>, gone: &Absent<'_, '_>) -> bool {
    in_vain(v, v.s.past.forced_since(gone.id))
}

fn take_over(gone: &Absent<'_, '_>, on: Target, by: Promotion, offset: u64) -> Verdict {
    let proof = match by {
        Promotion::Takeover(proof) | Promotion::Empty(proof) => words(proof),
        Promotion::Refused | Promotion::Suspected => "",
    };
    let what = match by {
        Promotion::Empty(_) => "no copy of its data is left",
        _ => "nobody is elected",
    };
    let note = format!("its primary {} is dead ({proof}), and {what}", short(gone.id));
    Verdict::Promote(Heir { on, by, offset, note })
}

fn words(proof: Proof) -> &'static str {
    match proof {
        Proof::Ended => "its container has ended",
        Proof::NoWorker => "its worker was removed",
        Proof::OutOfService => "its worker is tainted as out of service",
        Proof::Refused => "it refuses, and others have lost it, too",
        Proof::Vouched => "a person vouches for that",
    }
}

/// The witnesses: every other replica of it, and slot owners. All of these where their majority is what counts.
fn step(v: &View<'_>, gone: &Absent<'_, '_>, heir: Heir) -> Step {
    let Heir { on, by, offset, .. } = heir;
    let siblings = gone.heirs.iter().filter_map(|m| m.target()).filter(|t| t.node != on.node);
    let others = v
        .answering()
        .filter(|(m, n)| n.id != on.node && !n.is_isolated() && m.link().is_none_or(|(of, _)| of != gone.id));
    let (owning, rest): (Vec<_>, Vec<_>) = others.partition(|(_, n)| !n.slots().is_empty());
    let most = if by == Promotion::Suspected { owning.len() } else { WITNESSES };
    let others = owning.into_iter().chain(rest).take(most).filter_map(|(m, _)| m.target());
    let witnesses = siblings.chain(others).collect();
    Step::Promote { on, dead: gone.id.clone(), at: gone.at, by, offset, witnesses }
}

/// That an owner, or what may be a copy of it, is dead is not proven, and nobody can elect: only a person knows.
fn unproven(v: &View<'_>, gone: &Absent<'_, '_>) -> Verdict {
    if gone.how == How::Closed {
        return Verdict::Wait("no other node has lost it yet");
    }
    if gone.pod.is_some_and(|m| v.s.past.silent_for(&m.pod.uid, v.s.now) < PATIENCE_MS) {
        return Verdict::Wait("it is silent");
    }
    let why = if gone.heirs.is_empty() {
        "no copy of them answers"
    } else if answering_owners(v).count() < quorum(v) {
        "too few slot owners answer to elect a replica"
    } else {
        return Verdict::Wait("it is silent, and too few slot owners suspect it yet");
    };
    open(v, gone, why).map_or(Verdict::Nothing, Verdict::Blocked)
}

/// Who of them is not proven dead, and what a person may do about it; nothing if all are.
fn open(v: &View<'_>, gone: &Absent<'_, '_>, why: &str) -> Option<String> {
    let owner = gone.proof(v).is_none().then_some(gone.id);
    let copies = super::lost::copies_elsewhere(v, gone).filter(|_| gone.heirs.is_empty());
    let open: Vec<Absent<'_, '_>> =
        owner.into_iter().chain(copies).map(|id| about(v, id, Slots::none())).collect();
    if open.is_empty() {
        return None;
    }
    let names: Vec<&str> = open.iter().map(|a| short(a.id)).collect();
    let (nodes, are) = if names.len() == 1 { ("node", "is") } else { ("nodes", "are") };
    Some(format!(
        "slots {} are without an owner: {nodes} {} {are} silent and not proven dead, and {why}; {}",
        gone.slots,
        names.join(", "),
        way_out(v, &open)
    ))
}

/// What a person would type who knows that these are dead.
fn way_out(v: &View<'_>, open: &[Absent<'_, '_>]) -> String {
    let worker =
        |a: &Absent<'_, '_>| a.home(v).filter(|w| v.s.workers.contains_key(*w)).map(ToString::to_string);
    let workers: BTreeSet<String> = open.iter().filter_map(worker).collect();
    let mut ways: Vec<String> = workers
        .iter()
        .map(|w| format!("if worker {w} is off for good, say so: {}", vouch::taint(w)))
        .collect();
    let ids: Vec<&NodeId> = open.iter().filter(|a| worker(a).is_none()).map(|a| a.id).collect();
    if !ids.is_empty() {
        let names: Vec<&str> = ids.iter().map(|id| short(id)).collect();
        ways.push(format!(
            "if the process of {} does not run any more, say so: {}",
            names.join(", "),
            vouch::command(v, &ids)
        ));
    }
    ways.join("; ")
}
