//! Members on a worker that is away: replaced elsewhere after a bounded delay, because nothing is on a disk there.
//!
//! Only when the worker's kubelet has not been heard, the node in the Pod is silent, both for long enough that a blink of
//! half of the workers replaces nobody, and nobody lists the node with slots: a primary has its heir first. And only while
//! the majority of the slot owners answers: else it may be the operator that is cut off.

use super::evidence::{absent, owners, quorum};
use crate::model::{Member, Phase, Plan, Proposal, Seen, Silence, Step, View, Why, step::Removable};

/// How long a member has to be silent, in milliseconds, before it is replaced elsewhere.
pub const AWAY_MS: i64 = 12_000;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    // Whoever sees only a minority may be the one that is away.
    if v.s.whole && owners(v).count() >= quorum(v) {
        let owners: Vec<_> = absent(v).into_iter().filter_map(|gone| gone.at).collect();
        let away = v.all().filter(|m| is_away(v, m) && m.pod.ip.is_none_or(|ip| !owners.contains(&ip)));
        plan.steps.extend(away.map(delete));
    }
    plan
}

fn is_away(v: &View<'_>, m: &Member<'_>) -> bool {
    let worker = m.pod.worker.as_ref().and_then(|w| v.s.workers.get(w));
    let Some(since) = worker.and_then(|w| w.lost_since).filter(|_| m.stays()) else { return false };
    match m.pod.phase {
        Phase::Running => {
            *m.seen == Seen::Silent(Silence::Timeout)
                && v.s.past.silent_for(&m.pod.uid, v.s.now) >= AWAY_MS
                // Somebody of the shard has to be there to make the new copy from.
                && v.primary(m.pod.shard).is_some()
        }
        Phase::Pending => v.s.now.since(since) >= AWAY_MS,
        Phase::Finished { .. } => false,
    }
}

fn delete(m: &Member<'_>) -> Proposal {
    let (name, uid, shard) = (m.pod.name.clone(), m.pod.uid.clone(), m.pod.shard);
    let only_if = if m.pod.phase == Phase::Running { Removable::Unreachable } else { Removable::NotRunning };
    let step = Step::DeletePod { name, uid, shard, only_if };
    Proposal::new(step, Why::Repair, "its worker is away, and its data is elsewhere")
}
