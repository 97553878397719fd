//! Release: a member that was told to go serves on until the shard is whole without it.
//!
//! A deleted or evicted Pod is held in its preStop hook, still serving. Its place is filled at once (it does not count as
//! staying any more), its role moves to a replica that stays, and when enough other copies are in sync it is let go.
//! The hold is bounded by the Pod's grace period, so none of this has a budget.

use super::fill::is_served;
use super::heir::{hand_over, heirs};
use super::stranded::is_stranded;
use crate::model::step::Removable;
use crate::model::{
    Member, NodeId, NodeReport, Phase, Plan, Proposal, Role, Slots, Stage, Step, View, Waiting, Why,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let held = v.all().filter(|m| m.told_to_go() && m.pod.phase == Phase::Running);
    let answering = held.filter_map(|m| m.node().map(|n| (m, n)));
    for (m, node) in answering.filter(|(m, n)| !n.is_released(&m.pod.uid)) {
        if v.s.desired.deleting {
            plan.steps.extend(release(m, None, "the whole cluster goes"));
            continue;
        }
        let holds_nothing = node.slots().is_empty() && node.keys == 0;
        match &node.role {
            // Before the cluster is whole nobody waits for it, whomever it copies: that one may be gone.
            _ if holds_nothing && (m.link().is_none() || !v.s.whole || !is_served(v, m.pod.shard)) => {
                plan.steps.extend(release(m, Some(Removable::Empty), "it holds nothing"));
            }
            _ if is_alone(v, node) => {
                let note = "it knows nobody and holds no key, and others have its slots";
                plan.steps.extend(release(m, Some(Removable::Alone), note));
            }
            _ if is_stranded(v, m) => {
                plan.steps.extend(release(m, Some(Removable::Stranded), "what it holds is others'"));
            }
            Role::Primary { .. } => leading(v, m, &mut plan),
            Role::Replica { of, .. } => copying(v, m, of, &mut plan),
        }
    }
    plan
}

/// It was given slots and then cut off while the cluster formed, and they were given to another.
fn is_alone(v: &View<'_>, node: &NodeReport) -> bool {
    let others = v.answering().map(|(_, n)| n).filter(|n| n.id != node.id);
    node.is_isolated()
        && node.keys == 0
        && node.slots().minus(&others.fold(Slots::none(), |all, n| all.or(n.slots()))).is_empty()
}

/// A primary hands over first, to whoever stays.
fn leading(v: &View<'_>, m: &Member<'_>, plan: &mut Plan) {
    let leads = v.primary(m.pod.shard).is_some_and(|(p, _)| p.pod.uid == m.pod.uid);
    let heir = heirs(v, m.pod.shard).first().copied().filter(|_| leads);
    match heir {
        Some(heir) => plan.steps.extend(hand_over(m, heir, Why::Repair, "the primary was told to go")),
        None => plan.waiting.push(holds_on(m, Stage::Syncing, "until a replica can take over")),
    }
}

/// A replica goes when the shard that it copies (another one than its own after an accident) has its copies without it.
/// While that has no primary it may be the one that is elected.
fn copying(v: &View<'_>, m: &Member<'_>, of: &NodeId, plan: &mut Plan) {
    let leads = |p: &&Member<'_>| v.primary(p.pod.shard).is_some_and(|(_, n)| n.id == *of);
    let Some(shard) = v.by_id(of).filter(leads).map(|p| p.pod.shard) else {
        plan.waiting.push(holds_on(m, Stage::Electing, "until its shard has a primary that it follows"));
        return;
    };
    // Also while it is out of sync itself: a primary that has just handed over is for a moment.
    let wanted = v.s.desired.replicas;
    if v.in_sync(shard).len() >= usize::from(wanted) {
        let only_if = Removable::Replaced { others: wanted };
        plan.steps.extend(release(m, Some(only_if), "it was told to go, and its shard is whole without it"));
    } else {
        plan.waiting.push(holds_on(m, Stage::Syncing, "until another copy is in sync"));
    }
}

fn release(m: &Member<'_>, only_if: Option<Removable>, note: &str) -> Option<Proposal> {
    Some(Proposal::new(Step::Release { on: m.target()?, only_if }, Why::Evacuate, note))
}

fn holds_on(m: &Member<'_>, stage: Stage, until: &str) -> Waiting {
    let message = format!("{} was told to go and serves on {until}", m.pod.name);
    Waiting { shard: Some(m.pod.shard), stage, message }
}
