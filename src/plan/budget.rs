//! The budget of planned disruptions: how many shards may be short of a copy, or have one being replaced, at one moment.
//!
//! A shard that is impaired for any other reason spends it, too. What repairs is never held back by it.

use std::collections::BTreeSet;

use super::{away, fill};
use crate::model::{Proposal, Shard, Step, View, Why};

/// The shards that spend the budget now.
pub(super) fn disrupted(v: &View<'_>) -> BTreeSet<Shard> {
    let wanted = v.shards().map(|(shard, _)| shard).filter(|s| v.s.desired.wants(*s));
    wanted.filter(|s| fill::is_served(v, *s) && impaired(v, *s)).collect()
}

fn impaired(v: &View<'_>, shard: Shard) -> bool {
    let desired = &v.s.desired;
    // Who was told to go, or asked to leave, and leads nothing is missed by nobody: its shard has all its copies without it.
    let remaining = v.staying(shard).filter(|m| !away::is_leaving(m));
    v.primary(shard).is_none_or(|(m, _)| !m.stays())
        || v.in_sync(shard).len() < usize::from(desired.replicas)
        || remaining.count() != desired.copies()
}

/// The shards that lack nothing and wait for a successor that no worker takes. Emptying a worker goes on without them.
pub(super) fn stuck(v: &View<'_>) -> BTreeSet<Shard> {
    let desired = &v.s.desired;
    let waits = |shard: Shard| {
        v.primary(shard).is_some()
            && v.in_sync(shard).len() >= usize::from(desired.replicas)
            && v.staying(shard).count() == desired.copies() + 1
            && v.staying(shard).any(|m| m.pod.is_unschedulable())
    };
    v.shards().map(|(shard, _)| shard).filter(|s| waits(*s)).collect()
}

/// The shard that a step disrupts by plan; none for steps that repair.
pub(super) fn disrupts(p: &Proposal) -> Option<Shard> {
    match (&p.step, p.why) {
        (Step::CreatePod { shard, .. }, Why::Upgrade | Why::Evacuate | Why::Placement) => Some(*shard),
        (Step::HandOver { from, .. }, Why::Upgrade | Why::Evacuate | Why::Placement) => Some(from.shard),
        _ => None,
    }
}
