//! Follow the primary: every other member of a shard copies from its slot owner.
//!
//! A node whose present primary still owns slots is never pointed elsewhere: it may be the last good copy, about to be
//! elected (the first bug that simulation found in the prototype). One that holds no key has nothing to lose: else
//! the replica of a primary that died while the cluster formed would follow the dead for ever.

use super::newcomers;
use crate::model::{Member, NodeReport, Plan, Proposal, Role, Shard, Stage, Step, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (shard, members) in v.shards() {
        let served = super::fill::is_served(v, shard);
        match newcomers::head(v, shard) {
            Some((_, primary)) => {
                plan.steps.extend(members.iter().filter_map(|m| point(v, m, primary)));
                plan.waiting.extend(syncing(v, shard, primary));
            }
            None if v.s.whole && served => plan.waiting.push(Waiting {
                shard: Some(shard),
                stage: Stage::Electing,
                message: format!("shard {shard} has no primary that answers"),
            }),
            None => {}
        }
    }
    plan
}

/// The step that makes this member copy from the primary, if it should and may.
fn point(v: &View<'_>, m: &Member<'_>, primary: &NodeReport) -> Option<Proposal> {
    let node = m.node()?;
    let knows = || node.peers.get(&primary.id).is_some_and(|p| !p.handshake);
    if node.id == primary.id || !m.stays() || !node.slots().is_empty() || !primary.admitted {
        return None;
    }
    let free = match &node.role {
        Role::Primary { .. } => node.keys == 0,
        Role::Replica { of, .. } => *of != primary.id && (node.keys == 0 || owns_nothing(v, node, of)),
    };
    (free && knows()).then(|| m.target()).flatten().map(|on| {
        let why = if v.s.whole { Why::Capacity } else { Why::Form };
        let reason = format!("copies the slots of shard {}", on.shard);
        Proposal::new(Step::Replicate { on, primary: primary.id.clone() }, why, reason)
    })
}

/// Neither the node itself nor anybody else lists slots under this id.
fn owns_nothing(v: &View<'_>, node: &NodeReport, id: &crate::model::NodeId) -> bool {
    let own_view = node.peers.get(id).is_none_or(|p| p.slots.is_empty());
    let answers = v.by_id(id).and_then(Member::node).is_none_or(|n| n.slots().is_empty());
    own_view && answers && v.listed_slots(id).is_empty()
}

fn syncing(v: &View<'_>, shard: Shard, primary: &NodeReport) -> Option<Waiting> {
    let members = v.staying(shard).filter(|m| m.node().is_some_and(|n| n.id != primary.id));
    let behind = members.filter(|m| !crate::model::view::in_sync_with(m, primary)).count();
    let retiring = v.staying(shard).filter(|m| m.node().is_some_and(NodeReport::is_retiring)).count();
    (behind > retiring).then(|| Waiting {
        shard: Some(shard),
        stage: Stage::Syncing,
        message: format!("{} replicas of shard {shard} are not in sync yet", behind - retiring),
    })
}
