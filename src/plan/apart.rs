//! Apart: where copies of a shard must be apart, a label says which of them count for the scheduler.
//!
//! Required anti-affinity is symmetric: a Pod that is there keeps newcomers away that its term selects. So a member that leaves loses
//! the label, and its successor is born without it (`place`) and gets it here, once it is known where it is.

use crate::model::{Phase, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.desired.template.scheduling.is_strict() {
        return plan;
    }
    for m in v.all().filter(|m| !matches!(m.pod.phase, Phase::Finished { .. })) {
        let counts = m.stays() && v.unfit(m).is_none();
        let known = m.pod.worker.is_some() || !counts;
        if m.pod.place.counted != counts && known {
            let (name, uid, shard) = (m.pod.name.clone(), m.pod.uid.clone(), m.pod.shard);
            let note =
                if counts { "copies of its shard keep away" } else { "its successor may share its worker" };
            plan.steps.push(Proposal::new(Step::SetApart { name, uid, shard, counts }, Why::Report, note));
        }
    }
    plan
}
