//! Balance: when all else is quiet, roles move until primaries are spread evenly over the workers and zones.
//!
//! Failovers leave a worker with more primaries than others; a hand-over to a replica in sync costs tens of
//! milliseconds. One at a time, only the fewest that make the spread as even as it can be, and never while anything else
//! goes on. Where the spec requires it to be even and no hand-over helps, that is said.

use std::collections::BTreeMap;

use super::even::{Seat, even};
use super::fill;
use super::heir::{hand_over, heirs};
use super::leads::{over, seat};
use super::request;
use crate::model::{Blocked, Code, Member, Plan, Shard, SpreadMode, View, Why};

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
    let Some((shard, chosen)) = moved else {
        plan.blocked.extend(cannot_be_kept(v));
        return plan;
    };
    if let Some([from, ..]) = choices.get(&shard).map(Vec::as_slice)
        && let Some(to) = choices.get(&shard).and_then(|c| c.get(chosen))
    {
        let (here, there) = (seat(v, from), seat(v, to));
        let note = format!("primaries are to be even: from worker {} to {}", here.worker, there.worker);
        plan.steps.extend(hand_over(from, to, Why::Balance, note));
    }
    plan
}

/// The sentence for primaries that have to be even and are not, although every shard has all its copies.
fn cannot_be_kept(v: &View<'_>) -> Option<Blocked> {
    let wanted = usize::from(v.s.desired.replicas);
    if v.s.desired.shards().any(|s| v.in_sync(s).len() < wanted) {
        return None;
    }
    let scheduling = &v.s.desired.template.scheduling;
    let required = |mode: SpreadMode| mode == SpreadMode::Required;
    let workers =
        required(scheduling.node.primaries).then(|| ("worker", "node", loads(v, |s| Some(s.worker))));
    let zones = required(scheduling.zone.primaries).then(|| ("zone", "zone", loads(v, |s| s.zone)));
    let uneven = |(what, field, loads): (&str, &str, BTreeMap<&str, usize>)| {
        let (most, many) = loads.iter().max_by_key(|(_, n)| **n)?;
        let (least, few) = loads.iter().min_by_key(|(_, n)| **n)?;
        (many - few > 1).then(|| Blocked {
            code: Code::PrimariesUneven,
            shard: None,
            message: format!(
                "{what} {most} leads {many} shards and {what} {least} leads {few}, spec.scheduling.{field}.spread.primaries is \
                 Required, and no copy of another shard is where it could take over; raise spec.replicas, spread the copies with \
                 {field}.spread.shard, or set that to Preferred"
            ),
        })
    };
    workers.into_iter().chain(zones).find_map(uneven)
}

/// Primaries in each place that has a copy.
fn loads<'a>(v: &View<'a>, place: impl Fn(&Seat<'a>) -> Option<&'a str>) -> BTreeMap<&'a str, usize> {
    let mut out: BTreeMap<&str, usize> = BTreeMap::new();
    for (shard, members) in v.shards().filter(|(s, _)| fill::is_served(v, *s)) {
        let leads = v.primary(shard).map(|(m, _)| &m.pod.name);
        for m in members.iter().filter(|m| m.stays()) {
            if let Some(place) = place(&seat(v, m)) {
                *out.entry(place).or_default() += usize::from(leads == Some(&m.pod.name));
            }
        }
    }
    out
}
