//! Purge: where `spec.purgeKeysOnRebalance` says so, a change of the number of shards or of what Pods are made of drops all
//! keys, once, before it begins. Then the change goes the ordinary way, with nothing to move and nothing to copy.
//!
//! What the data was last spread for is recorded in the status ([`shape`]). Only when the spec asks for something else is
//! anything dropped: what fails, moves or is lost on its way changes no spec. The executor reads the spec again before it acts,
//! and records that it has: the same change drops the keys once, whatever dies in between.

use super::fill::is_served;
use crate::model::{Member, Plan, Proposal, Shape, Stage, Step, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !pending(v) {
        return plan;
    }
    let message = "all keys are dropped first: spec.purgeKeysOnRebalance is true and the spec has changed";
    let wait = |message: String| Waiting { shard: None, stage: Stage::DroppingKeys, message };
    if !v.owned().is_all() {
        plan.waiting.push(wait(format!("{message}; not every shard has a primary that answers")));
        return plan;
    }
    // Those without slots, too: a key may be there on its way.
    let primaries = v.answering().filter(|(m, n)| m.link().is_none() && (m.stays() || !n.slots().is_empty()));
    let on = primaries.filter_map(|(m, _)| m.target()).collect();
    let note = match &v.s.shape {
        Some(was) if was.shards != v.s.desired.shards => {
            format!("the spec asks for {} shards instead of {}", v.s.desired.shards, was.shards)
        }
        _ => "the spec asks for new Pods".to_owned(),
    };
    plan.waiting.push(wait(message.to_owned()));
    plan.steps.push(Proposal::new(Step::Purge { on, shape: wanted(v) }, Why::Purge, note));
    plan
}

/// The keys are to be dropped and have not been: nothing is moved or replaced for the change before that.
pub fn pending(v: &View<'_>) -> bool {
    let desired = &v.s.desired;
    let differs = v.s.shape.as_ref().is_some_and(|was| *was != wanted(v));
    desired.purge && v.s.whole && !desired.deleting && differs && !settled(v)
}

/// The keys were dropped for what the spec asks: there is nothing that one shard after another would protect.
pub(super) fn dropped(v: &View<'_>) -> bool {
    v.s.desired.purge && v.s.shape.as_ref() == Some(&wanted(v))
}

/// What is recorded after this look: what the data is spread for.
pub fn shape(v: &View<'_>) -> Option<Shape> {
    if v.s.whole && settled(v) { Some(wanted(v)) } else { v.s.shape.clone() }
}

fn wanted(v: &View<'_>) -> Shape {
    Shape { shards: v.s.desired.shards, revision: v.s.revision.clone() }
}

/// The wanted shards have slots and no other has, and no Pod was made from another spec.
fn settled(v: &View<'_>) -> bool {
    let fits = |m: &Member<'_>| !m.stays() || m.pod.revision == v.s.revision;
    v.shards().all(|(shard, _)| is_served(v, shard) == v.s.desired.wants(shard))
        && v.s.served.iter().all(|shard| v.s.desired.wants(*shard))
        && v.all().all(fits)
}
