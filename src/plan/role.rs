//! The role label: exactly one Pod a shard carries it, the one that leads. It follows the role and decides nothing.
//!
//! The scale subresource's selector asks for it: an autoscaler multiplies by the Pods that the selector finds.

use crate::model::{Member, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    for (shard, members) in v.shards() {
        // Silence moves no label: a shard that nobody leads for a moment keeps the one it has.
        let served = super::fill::is_served(v, shard);
        let leader = v.primary(shard).map(|(m, _)| &m.pod.uid);
        if served && leader.is_none() {
            continue;
        }
        let leads = |m: &Member<'_>| Some(&m.pod.uid) == leader;
        let wrong = members.iter().filter(|m| m.stays() && m.pod.leads != leads(m));
        plan.steps.extend(wrong.map(|m| {
            let (name, uid) = (m.pod.name.clone(), m.pod.uid.clone());
            let step = Step::SetRole { name, uid, shard, leads: leads(m) };
            Proposal::new(
                step,
                Why::Report,
                if leads(m) { "it leads its shard" } else { "it does not lead its shard" },
            )
        }));
    }
    plan
}
