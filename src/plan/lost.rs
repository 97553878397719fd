//! A shard of which every copy is lost: its slots go to new empty members, loudly; everything else is left alone.
//!
//! Measured on 8.0.1 and 9.1.2 (2.1 s in all): the dead owner is forgotten on all nodes, a new member is introduced, gets
//! the slots and bumps its epoch. Without forgetting first the others take the slots away from it again.
//!
//! Dead is what is proven dead. What is merely silent keeps its slots, however long.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::evidence::{Absent, How, about, absent, answering_owners, proof_of};
use super::fill::{is_served, served_shards};
use super::forget::short;
use crate::model::{
    Blocked, Code, Member, NodeId, NodeReport, Phase, Plan, Proposal, Seen, Shard, Slots, Stage, Step,
    Target, View, Waiting, Why, WorkerName,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    let absent = absent(v);
    let receiving: Vec<_> = v.answering().filter(|(_, n)| !n.open_slots.incoming.is_empty()).collect();
    plan.steps.extend(absent.iter().flat_map(|gone| abandon(v, gone, &receiving)));
    restore(v, &absent, &mut plan);
    plan
}

/// Ids that are listed as replicas of it, do not answer, and are not proven dead: each may be a copy.
pub(super) fn copies_elsewhere<'v, 'a>(
    v: &'v View<'a>,
    gone: &'v Absent<'_, '_>,
) -> impl Iterator<Item = &'a NodeId> + use<'v, 'a> {
    v.silent_copies(gone.id).filter(|id| about(v, id, Slots::none()).proof(v).is_none())
}

/// The last trace of a shard without a copy: after this its slots are nobody's. First what has come of slots that were half way
/// stays where it is.
fn abandon(v: &View<'_>, gone: &Absent<'_, '_>, receiving: &[(&Member<'_>, &NodeReport)]) -> Vec<Proposal> {
    if gone.proof(v).is_none()
        || gone.how == How::Alive
        || !gone.heirs.is_empty()
        || copies_elsewhere(v, gone).next().is_some()
    {
        return Vec::new();
    }
    let half_way: Vec<Proposal> = receiving.iter().filter_map(|(m, n)| inherit(m, n, gone)).collect();
    if !half_way.is_empty() {
        return half_way;
    }
    let lists = v.answering().filter(|(_, n)| n.peers.contains_key(gone.id));
    let on: Vec<Target> = lists.filter_map(|(m, _)| m.target()).collect();
    let note = format!("{} and every copy of slots {} are dead", short(gone.id), gone.slots);
    let step = Step::Abandon { id: gone.id.clone(), at: gone.at, on };
    vec![Proposal::new(step, Why::Repair, note)]
}

/// Slots that were on their way from the dead one to this primary.
fn inherit(m: &Member<'_>, n: &NodeReport, gone: &Absent<'_, '_>) -> Option<Proposal> {
    let slots = n.open_slots.incoming.get(gone.id)?.and(&gone.slots);
    if slots.is_empty() || m.link().is_some() {
        return None;
    }
    let note = format!("what has come from {} is all that is left of them", short(gone.id));
    let step = Step::Inherit { on: m.target()?, from: gone.id.clone(), at: gone.at, slots };
    Some(Proposal::new(step, Why::Repair, note))
}

/// Slots that nobody owns and nobody lists.
pub(super) fn nobodys(v: &View<'_>) -> Slots {
    Slots::all().minus(v.owned()).minus(&v.lists().all_slots())
}

/// Slots that nobody owns and nobody lists go to the shards without an owner.
fn restore(v: &View<'_>, absent: &[Absent<'_, '_>], plan: &mut Plan) {
    if v.owned().is_all() {
        return;
    }
    let nobodys = nobodys(v);
    // While slots change hands, nodes that are asked one after another may not add up.
    let moving = v.answering().any(|(_, n)| n.is_moving_slots());
    if nobodys.is_empty() || moving || absent.iter().any(|gone| gone.shard().is_none()) {
        return;
    }
    let mut wait = |stage, message: String| plan.waiting.push(Waiting { shard: None, stage, message });
    // Newcomers list nodes before they have heard of their slots: only a slot owner's list says that others have none of these.
    if answering_owners(v).next().is_none()
        && let Some(m) = v.all().find(|m| may_own(v, m))
    {
        plan.blocked.extend(unseen(v, m, &nobodys));
        return;
    }
    if nobodys == Slots::all() && v.s.ghosts.values().any(|g| matches!(g, Seen::Now(_))) {
        wait(Stage::Electing, "slots have no owner, and a process without a Pod answers".to_owned());
        return;
    }
    let taken: BTreeSet<Shard> = absent.iter().filter_map(Absent::shard).collect();
    let headless = (0..served_shards(v)).map(Shard);
    let headless: Vec<Shard> =
        headless.filter(|s| is_served(v, *s) && v.primary(*s).is_none() && !taken.contains(s)).collect();
    let heads: Vec<(Shard, Option<Target>)> = headless.iter().map(|s| (*s, head(v, *s))).collect();
    // Where nothing is left the new members get to know each other first: one with slots is no newcomer any more.
    if nobodys == Slots::all() && heads.iter().any(|(_, head)| head.is_none()) {
        wait(Stage::JoiningNodes, "every copy of every shard was lost: new members come together".to_owned());
        return;
    }
    let shares = shares(&nobodys, &headless, served_shards(v));
    for ((shard, head), slots) in heads.into_iter().zip(shares).filter(|(_, s)| !s.is_empty()) {
        match head {
            Some(on) => {
                let note = format!("the copies of shard {shard} were lost: it begins anew");
                plan.steps.push(Proposal::new(Step::Restore { on, slots }, Why::Repair, note));
            }
            None => plan.waiting.push(Waiting {
                shard: Some(shard),
                stage: Stage::AssigningSlots,
                message: format!("slots {slots} wait for a new member of shard {shard}"),
            }),
        }
    }
    if headless.is_empty() && absent.is_empty() {
        plan.steps.extend(to_the_smallest(v, nobodys));
    }
}

/// Each shard its usual share; what is left over goes to the first.
fn shares(nobodys: &Slots, headless: &[Shard], of: u16) -> Vec<Slots> {
    let mut left = nobodys.clone();
    let mut out: Vec<Slots> = Vec::with_capacity(headless.len());
    for shard in headless {
        let share = Slots::share(shard.0, of).and(&left);
        left = left.minus(&share);
        out.push(share);
    }
    if let Some(first) = out.first_mut() {
        *first = first.or(&left);
    }
    out
}

/// Slots without a shard of their own (an accident) go to the owner with the fewest.
fn to_the_smallest(v: &View<'_>, slots: Slots) -> Option<Proposal> {
    let owners = v.answering().filter(|(m, n)| m.stays() && !n.slots().is_empty());
    let on = owners.min_by_key(|(_, n)| n.slots().len()).and_then(|(m, _)| m.target())?;
    Some(Proposal::new(Step::Restore { on, slots }, Why::Repair, "nobody lists an owner of these slots"))
}

/// A member without slots that everybody knows: one that holds keys was promoted before it had heard of its slots, and has what
/// is left of them; else a new one.
fn head(v: &View<'_>, shard: Shard) -> Option<Target> {
    let known = |id: &NodeId| {
        let mut others = v.answering().filter(|(m, n)| m.stays() && n.admitted && n.id != *id);
        others.all(|(_, n)| n.peers.get(id).is_some_and(|p| !p.handshake))
    };
    let new = v
        .staying(shard)
        .filter(|m| m.link().is_none() && m.node().is_some_and(|n| n.admitted && !n.loading && known(&n.id)));
    let keys = |m: &Member<'_>| m.node().map_or(0, |n| n.keys);
    new.max_by_key(|m| (keys(m), Reverse(m.pod.index))).and_then(Member::target)
}

/// A process that is there and gives no answer: when no slot owner does, it may be one.
fn may_own(v: &View<'_>, m: &Member<'_>) -> bool {
    let silent = m.node().is_none() && m.pod.phase == Phase::Running;
    silent && proof_of(v, m).is_none()
}

fn unseen(v: &View<'_>, m: &Member<'_>, slots: &Slots) -> Option<Blocked> {
    let long = v.s.past.silent_for(&m.pod.uid, v.s.now) > super::form::PATIENCE_MS;
    long.then(|| Blocked {
        code: Code::Unproven,
        shard: Some(m.pod.shard),
        message: format!(
            "slots {slots} have no owner, and {} is silent and not proven dead: if its worker is off for good, say so: {}",
            m.pod.name,
            super::vouch::taint(m.pod.worker.as_ref().map_or("<worker>", WorkerName::as_str))
        ),
    })
}
