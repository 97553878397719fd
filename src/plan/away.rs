//! Members that nobody hears any more: another copy is made elsewhere after a bounded delay, because nothing is on a disk,
//! and the silent one goes when the shard is whole without it.
//!
//! To make a copy destroys nothing, so it does not wait until Kubernetes gives the worker up (40 s and more): it is enough
//! that the silence is long, and that the majority of the slot owners does not hear the node either. A member that comes
//! back meanwhile is one copy more than wanted. Nothing happens here while a shard has no primary (that is the rule
//! `recover`'s), or while the operator itself sees only a minority: then it may be the one that is cut off.

use super::evidence::{absent, answering_owners, quorum};
use crate::model::{
    List, Member, Phase, Plan, Proposal, Seen, Shard, Silence, Step, View, Why, Worker, WorkerName,
    step::Removable,
};

/// How long a member has to be silent, in milliseconds, before another is made. Ten seconds of absence replace nobody.
pub const AWAY_MS: i64 = 12_000;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    // Whoever sees only a minority may be the one that is away.
    if v.s.whole && answering_owners(v).count() >= quorum(v) {
        let owners: Vec<_> = absent(v).into_iter().filter_map(|gone| gone.at).collect();
        let others = v.all().filter(|m| m.pod.ip.is_none_or(|ip| !owners.contains(&ip)));
        plan.steps.extend(others.filter_map(|m| delete(v, m)));
    }
    plan
}

/// The copies that a shard has or will have: members that stay and are not missing.
pub(super) fn present<'v, 'a>(v: &'v View<'a>, shard: Shard) -> impl Iterator<Item = &'v Member<'a>> {
    v.staying(shard).filter(|m| !is_missing(v, m))
}

/// It was asked to leave and leads nothing: it is as good as gone, and what comes after it need not wait until it is.
pub(super) fn is_leaving(m: &Member<'_>) -> bool {
    m.node().is_some_and(|n| n.is_retiring() && n.slots().is_empty())
}

/// Workers with a missing member: nothing new is asked to go there, whatever Kubernetes still says of them.
pub(super) fn suspects<'a>(v: &View<'a>) -> impl Iterator<Item = &'a WorkerName> {
    v.all().filter(|m| m.stays() && is_missing(v, m)).filter_map(|m| m.pod.worker.as_ref())
}

/// Nobody has heard its node for long: not this operator, and not the majority of the slot owners.
fn is_missing(v: &View<'_>, m: &Member<'_>) -> bool {
    v.s.whole && m.pod.phase == Phase::Running && is_silent(v, m) && v.primary(m.pod.shard).is_some() && {
        let hears = |list: &List<'_>| list.lines().any(|(_, p)| p.ip == m.pod.ip && !p.failed);
        v.lists().iter().filter(|list| !hears(list)).map(List::witnesses).sum::<usize>() >= quorum(v)
    }
}

fn is_silent(v: &View<'_>, m: &Member<'_>) -> bool {
    *m.seen == Seen::Silent(Silence::Timeout) && v.s.past.silent_for(&m.pod.uid, v.s.now) >= AWAY_MS
}

fn delete(v: &View<'_>, m: &Member<'_>) -> Option<Proposal> {
    let worker = m.pod.worker.as_ref().and_then(|w| v.s.workers.get(w));
    let lost = worker.and_then(|w| w.lost_since);
    let (only_if, note) = match m.pod.phase {
        // Somebody of the shard has to be there to make the new copy from.
        Phase::Running
            if worker.is_some_and(Worker::is_given_up)
                && is_silent(v, m)
                && v.primary(m.pod.shard).is_some() =>
        {
            (Removable::Unreachable, "its worker is away, and its data is elsewhere")
        }
        Phase::Running if m.stays() && is_missing(v, m) && is_whole_without(v, m) => {
            (Removable::Silent, "nobody hears it, and its shard is whole without it")
        }
        Phase::Pending if m.stays() && lost.is_some_and(|since| v.s.now.since(since) >= AWAY_MS) => {
            (Removable::NotRunning, "its worker is away")
        }
        Phase::Running | Phase::Pending | Phase::Finished { .. } => return None,
    };
    let (name, uid, shard) = (m.pod.name.clone(), m.pod.uid.clone(), m.pod.shard);
    Some(Proposal::new(Step::DeletePod { name, uid, shard, only_if }, Why::Repair, note))
}

fn is_whole_without(v: &View<'_>, m: &Member<'_>) -> bool {
    v.in_sync(m.pod.shard).len() >= usize::from(v.s.desired.replicas)
}
