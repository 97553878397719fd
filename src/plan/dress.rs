//! Dress: labels and annotations that the spec wants on Pods are put on, and taken away, live.

use crate::build::metadata::note;
use crate::model::{Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let wanted = note(&v.s.desired.template.metadata);
    for m in v.all().filter(|m| m.stays() && m.pod.given != wanted) {
        let (name, uid, shard) = (m.pod.name.clone(), m.pod.uid.clone(), m.pod.shard);
        let step = Step::SetMetadata { name, uid, shard, given: wanted.clone() };
        plan.steps.push(Proposal::new(step, Why::Report, "labels and annotations of the spec"));
    }
    plan
}
