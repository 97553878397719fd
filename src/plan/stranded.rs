//! Stranded: a member that leads no slots and copies nobody who has any, while every slot has an owner. The keys that it holds are
//! others' by now (it was promoted before it had heard of its slots, or its primary is gone with a shard that is not wanted any
//! more). It cannot be made to copy, since a primary with keys refuses that: it goes, and another takes its place.

use super::fill::is_served;
use crate::model::{Member, Plan, Proposal, Role, Step, View, Why, step::Removable};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (shard, _) in v.shards() {
        for m in v.staying(shard).filter(|m| is_stranded(v, m)) {
            let (name, uid, only_if) = (m.pod.name.clone(), m.pod.uid.clone(), Removable::Stranded);
            let note = "it leads no slots and copies nobody, and every slot has an owner";
            plan.steps.push(Proposal::new(Step::DeletePod { name, uid, shard, only_if }, Why::Repair, note));
        }
    }
    plan
}

/// What it holds is of no use to anybody.
pub(super) fn is_stranded(v: &View<'_>, m: &Member<'_>) -> bool {
    let Some(node) = m.node() else { return false };
    let shard = m.pod.shard;
    let alone = match &node.role {
        // One whose shard has no other owner may be all that is left of it, or be about to get its first slots.
        Role::Primary { slots } => {
            slots.is_empty()
                && v.primary(shard).is_some_and(|(_, n)| n.id != node.id && !n.slots().is_empty())
        }
        // In a shard that has an owner it is pointed at that.
        Role::Replica { of, link } => {
            let gone = || v.by_id(of).is_none() && v.listed_slots(of).is_empty();
            !link.up && !link.syncing && !is_served(v, shard) && !v.s.desired.wants(shard) && gone()
        }
    };
    let idle = node.keys > 0 && !node.loading && !node.is_isolated() && !node.is_moving_slots();
    v.s.whole && alone && idle && v.owned().is_all()
}
