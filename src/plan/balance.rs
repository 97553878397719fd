//! Balance: when all else is quiet, roles move until primaries are spread evenly over the workers and zones.
//!
//! Failovers leave a worker with more primaries than others; a hand-over to a replica in sync costs tens of
//! milliseconds. One at a time, only the fewest that make the spread as even as it can be, and never while anything else
//! goes on.

use std::collections::BTreeMap;

use super::even::{Seat, even};
use super::fill;
use super::heir::{hand_over, heirs};
use super::leads::{over, seat};
use super::request;
use crate::model::{Member, Plan, Shard, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    let mut choices: BTreeMap<Shard, Vec<&Member<'_>>> = BTreeMap::new();
    for (shard, _) in v.shards().filter(|(s, _)| fill::is_served(v, *s)) {
        let Some((primary, _)) = v.primary(shard) else { return plan };
        // Where a person has said who shall lead, it stays so.
        let free = request::shard(v) != Some(shard);
        let others = heirs(v, shard).into_iter().filter(|m| free && v.unfit(m).is_none());
        choices.insert(shard, [primary].into_iter().chain(others).collect());
    }
    let seats: BTreeMap<Shard, Vec<Seat<'_>>> = choices
        .iter()
        .map(|(shard, members)| (*shard, members.iter().map(|m| seat(v, m)).collect()))
        .collect();
    let now: BTreeMap<Shard, usize> = choices.keys().map(|shard| (*shard, 0)).collect();
    let moved = even(&seats, &now, over(v)).into_iter().find(|(_, chosen)| *chosen > 0);
    let Some((shard, chosen)) = moved else { return plan };
    if let Some([from, ..]) = choices.get(&shard).map(Vec::as_slice)
        && let Some(to) = choices.get(&shard).and_then(|c| c.get(chosen))
    {
        let (here, there) = (seat(v, from), seat(v, to));
        let note = format!("primaries are to be even: from worker {} to {}", here.worker, there.worker);
        plan.steps.extend(hand_over(from, to, Why::Balance, note));
    }
    plan
}
