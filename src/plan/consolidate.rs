//! Consolidate: two slot owners under one shard's label (an earlier accident) become one.
//!
//! The one with the newest epoch leads; what the other owns moves to it on live data, before anything else is evened out.

use super::migrate;
use crate::model::{Member, NodeReport, Plan, Proposal, Shard, Slots, Stage, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    migrate::carry_on(v, &mut plan);
    migrate::close_left_over(v, &mut plan);
    let twice = claimed_twice(v);
    plan.waiting.extend((!twice.is_empty()).then(|| Waiting {
        shard: None,
        stage: Stage::Agreeing,
        message: format!("slots {twice} are claimed by two nodes: the newer claim wins"),
    }));
    for (shard, _) in v.shards() {
        let Some((leader, there)) = v.primary(shard) else { continue };
        for (member, node) in others(v, shard) {
            plan.waiting.push(Waiting {
                shard: Some(shard),
                stage: Stage::MovingSlots,
                message: format!(
                    "{} and {} both own slots of shard {shard}",
                    leader.pod.name, member.pod.name
                ),
            });
            let idle = !node.is_moving_slots() && !there.is_moving_slots();
            // In the moment of a change of roles both say that they lead: the one has not heard of the other yet. And who claims what
            // others serve may be in the wrong: it gets nothing more.
            let settled = [node, there].iter().all(|n| !n.slots().overlaps(&twice));
            if idle && settled && there.state_ok && View::acquainted(node, there) {
                let step = migrate::step(member, leader, there, node.slots(), &mut plan);
                let note = format!("shard {shard} has two owners of slots");
                plan.steps.extend(step.map(|s| Proposal::new(s, Why::Repair, note)));
            }
        }
    }
    plan
}

/// Slots that two nodes claim: the higher epoch wins by gossip within moments, and nothing is settled before.
fn claimed_twice(v: &View<'_>) -> Slots {
    let claims: u32 = v.answering().map(|(_, n)| u32::from(n.slots().len())).sum();
    if claims == u32::from(v.owned().len()) {
        return Slots::none();
    }
    let mut seen = Slots::none();
    let mut twice = Slots::none();
    for (_, n) in v.answering() {
        twice = twice.or(&seen.and(n.slots()));
        seen = seen.or(n.slots());
    }
    twice
}

/// The slot owners of a shard beside its leader.
pub(super) fn others<'v, 'a>(
    v: &'v View<'a>,
    shard: Shard,
) -> impl Iterator<Item = (&'v Member<'a>, &'a NodeReport)> {
    let leader = v.primary(shard).map(|(_, n)| &n.id);
    let owners = v.members(shard).iter().filter_map(|m| m.node().map(|n| (m, n)));
    owners.filter(move |(_, n)| !n.slots().is_empty() && Some(&n.id) != leader)
}
