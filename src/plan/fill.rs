//! Fill what is missing: every wanted shard has its primary and its replicas.
//!
//! Names are deterministic, so that creating twice is one Pod; a name that is still taken is passed over.

use super::{away, discard};
use crate::build::labels::pod_name;
use crate::model::{Demands, Member, Phase, Plan, Proposal, Shard, Stage, Step, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if v.s.desired.deleting {
        return plan;
    }
    let wanted = super::scale_in::wanted_shards(v);
    // First every shard's first member, then every shard's second: each round spreads evenly over the workers.
    for round in 0..v.s.desired.copies() {
        for shard in (0..limit(v)).map(Shard).filter(|s| round < copies(v, *s, wanted)) {
            let have = away::present(v, shard).count() + waiting_to_be_replaced(v, shard);
            if have <= round {
                plan.steps.extend(create(v, shard, round - have, reason(v, shard)));
            }
        }
    }
    let missing = plan.steps.len();
    if missing > 0 {
        let message = format!("{missing} Pods are missing");
        plan.waiting.push(Waiting { shard: None, stage: Stage::AddingPods, message });
    }
    if v.s.whole {
        plan.waiting.extend(v.all().filter_map(not_there_yet));
    }
    plan
}

/// A Pod that exists is not yet a copy: nothing is settled before its node answers.
fn not_there_yet(m: &Member<'_>) -> Option<Waiting> {
    let what = match m.pod.phase {
        _ if m.pod.terminating => return None,
        Phase::Pending => "has not started",
        Phase::Running if m.node().is_none() => "does not answer",
        Phase::Running | Phase::Finished { .. } => return None,
    };
    let message = format!("{} {what}", m.pod.name);
    Some(Waiting { shard: Some(m.pod.shard), stage: Stage::AddingPods, message })
}

/// A finished Pod whose growing delay has not passed holds its place.
fn waiting_to_be_replaced(v: &View<'_>, shard: Shard) -> usize {
    let ended = v.members(shard).iter().filter(|m| !m.pod.terminating);
    ended.filter(|m| discard::due(v, m).is_some_and(|(left, _)| left > 0)).count()
}

/// Ordinals from here on get no Pods.
fn limit(v: &View<'_>) -> u16 {
    if v.s.whole { served_shards(v).max(v.s.desired.shards) } else { v.s.desired.shards }
}

/// How many copies the shard is filled up to. One that gives its slots away is not filled any more, except that somebody has to
/// be there to be given its slots when all are lost.
fn copies(v: &View<'_>, shard: Shard, wanted: u16) -> usize {
    match shard {
        s if s.0 < wanted => v.s.desired.copies(),
        s if v.s.whole && is_served(v, s) => 1,
        _ => 0,
    }
}

/// Whether the formed cluster has this shard. Where every slot has an owner that answers, a shard without one has none.
pub(super) fn is_served(v: &View<'_>, shard: Shard) -> bool {
    let recorded = || {
        if v.s.served.is_empty() { shard.0 < served_shards(v) } else { v.s.served.contains(&shard) }
    };
    v.primary(shard).is_some() || (!v.owned().is_all() && recorded())
}

/// How many shards the formed cluster has: recorded, since an owner that is silent or gone still leaves a shard.
pub(super) fn served_shards(v: &View<'_>) -> u16 {
    let owners = v.answering().filter(|(_, n)| !n.slots().is_empty());
    let seen = owners.map(|(m, _)| m.pod.shard.0.saturating_add(1)).max().unwrap_or(0);
    // Nothing seen and nothing recorded: the spec is the only one to ask.
    match seen.max(v.s.served.last().map_or(0, |s| s.0.saturating_add(1))) {
        0 => v.s.desired.shards,
        have => have,
    }
}

fn reason(v: &View<'_>, shard: Shard) -> (Why, String) {
    if v.s.whole {
        (Why::Capacity, format!("shard {shard} has fewer copies than wanted"))
    } else {
        (Why::Form, format!("member of shard {shard}"))
    }
}

/// The `nth` new member of the shard in this pass; `place` says where.
pub(super) fn create(v: &View<'_>, shard: Shard, nth: usize, (why, note): (Why, String)) -> Option<Proposal> {
    let free = (0..=u16::MAX)
        .map(|i| (i, pod_name(&v.s.desired.key.name, shard, i)))
        .filter(|(_, n)| !v.s.pods.contains_key(n) && !v.s.taken.contains(n));
    let (index, name) = free.take(nth + 1).last()?;
    // Only those that ended tell: a member that runs has left its predecessors' failures behind.
    let failures =
        v.members(shard).iter().filter_map(|m| discard::due(v, m)).map(|(_, n)| n).max().unwrap_or(0);
    let step = Step::CreatePod { name, shard, index, worker: None, demands: Demands::default(), failures };
    Some(Proposal::new(step, why, note))
}
