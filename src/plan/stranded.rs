//! Stranded: a member that leads no slots and copies nobody who has any, while every slot has an owner. The keys that it holds are
//! others' by now (it was promoted before it had heard of its slots, or its primary is gone with a shard that is not wanted any
//! more). It cannot be made to copy, since a primary with keys refuses that: it goes, and another takes its place. So does a replica
//! without keys whose primary is gone before its shard got slots: it can neither be elected nor be told to lead.

use super::fill::is_served;
use super::lost::nobodys;
use super::newcomers;
use crate::model::{Member, NodeId, NodeReport, Plan, Proposal, Role, Step, View, Why, step::Removable};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (shard, _) in v.shards() {
        for m in v.staying(shard) {
            let (only_if, note) = if is_stranded(v, m) {
                (Removable::Stranded, "it leads no slots and copies nobody, and every slot has an owner")
            } else if is_orphaned(v, m) {
                (Removable::Empty, "its primary is gone, and its shard has no slots yet")
            } else {
                continue;
            };
            let (name, uid) = (m.pod.name.clone(), m.pod.uid.clone());
            plan.steps.push(Proposal::new(Step::DeletePod { name, uid, shard, only_if }, Why::Repair, note));
        }
    }
    plan
}

/// A replica without keys of nobody, in a shard that waits for slots, its first ones or those that it begins anew with, and has nobody
/// else to lead it.
fn is_orphaned(v: &View<'_>, m: &Member<'_>) -> bool {
    let (Some(node), shard) = (m.node(), m.pod.shard) else { return false };
    let first = || v.owned().is_all() && !is_served(v, shard);
    let anew = || !nobodys(v).is_empty();
    let waits = || v.s.whole && v.s.desired.wants(shard) && v.primary(shard).is_none() && (first() || anew());
    let idle = node.keys == 0 && !node.loading && !node.is_isolated() && !moves(v, m);
    idle && follows_nobody(v, &node.role) && waits() && newcomers::head(v, shard).is_none()
}

/// Slots may still be on their way to it, or from it. What a copy has half way is its primary's, and goes with that.
pub(super) fn moves(v: &View<'_>, m: &Member<'_>) -> bool {
    let copies_nobody = m.link().is_some_and(|(of, _)| v.by_id(of).is_none());
    !copies_nobody && m.node().is_some_and(NodeReport::is_moving_slots)
}

/// A replica whose primary has no Pod, and slots in nobody's list.
fn follows_nobody(v: &View<'_>, role: &Role) -> bool {
    let gone = |of: &NodeId| v.by_id(of).is_none() && v.listed_slots(of).is_empty();
    matches!(role, Role::Replica { of, link } if !link.up && !link.syncing && gone(of))
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
        role @ Role::Replica { .. } => {
            !is_served(v, shard) && !v.s.desired.wants(shard) && follows_nobody(v, role)
        }
    };
    // What comes to it goes to the owner of its shard by now.
    let busy = if m.link().is_none() { node.gives_slots() } else { moves(v, m) };
    let idle = node.keys > 0 && !node.loading && !node.is_isolated() && !busy;
    v.s.whole && alone && idle && v.owned().is_all()
}
