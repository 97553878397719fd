//! Even out: the fewest slots move so that all wanted shards own the same number, give or take one.
//!
//! That is scaling out (a new shard owns nothing yet) and rebalancing alike.

use super::shares::{Move, moves};
use super::{consolidate, migrate, purge, scale_in};
use crate::model::{Plan, View};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    let all = wanted_moves(v);
    migrate::waiting(v, &all, &mut plan);
    let (even, _): (Vec<_>, Vec<_>) = all.into_iter().partition(|m| v.s.desired.wants(m.from));
    migrate::propose(v, &even, "slots are spread evenly over the shards", &mut plan);
    plan
}

/// Everything that is to be moved, except from and to shards that have to become one first. Nothing before keys that are to be
/// dropped are.
pub(super) fn wanted_moves(v: &View<'_>) -> Vec<Move> {
    if purge::pending(v) {
        return Vec::new();
    }
    let split = |shard| consolidate::others(v, shard).next().is_some();
    let Some(owners) = migrate::owners_at_rest(v) else { return Vec::new() };
    let all = moves(&owners, scale_in::wanted_shards(v));
    all.into_iter().filter(|m| !split(m.from) && !split(m.to)).collect()
}
