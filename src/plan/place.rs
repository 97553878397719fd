//! Which worker each new member is asked for: hard rules first, then copies of a shard apart, then members even over workers.
//!
//! All new Pods of a pass are placed together, after everything that says no, so that each counts for the next. The field order
//! of [`Score`] is the policy. The scheduler has the last word: the choice is a wish and the hard rules are
//! its own terms, never `nodeName`.

use std::collections::BTreeSet;

use super::heir::heirs;
use super::tally::Tally;
use crate::model::{
    Blocked, Code, Demands, Member, Phase, Plan, Shard, SpreadMode, Step, View, Why, Worker, WorkerName, Zone,
};

/// Smaller is better, field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Score {
    /// No member of this size fits beside those of the cluster that are there.
    full: bool,
    /// Copies of the same shard on the worker.
    shard_on_worker: usize,
    /// Members that the worker has just killed for want of memory, or evicted.
    killed_by_worker: usize,
    /// Copies of the same shard in the worker's zone.
    shard_in_zone: usize,
    /// An autoscaler would like to remove the worker, or it asks to be left alone.
    shunned: bool,
    /// The primary of the shard, or who is about to lead it, is on the worker: where all are to leave it does so last.
    beside_leader: bool,
    /// Copies of the same shard on the worker that are about to leave: until then they would fall with it.
    leaving_on_worker: usize,
    /// Members of the cluster on the worker.
    members_on_worker: usize,
    /// Members of the cluster in the worker's zone.
    members_in_zone: usize,
    /// Steps around the ring of workers from the one placed last: equals go round instead of piling up on the first.
    ring: usize,
}

/// Gives every new Pod of the plan its worker and its demands; one that has to wait for another is left out.
pub(super) fn assign(v: &View<'_>, plan: &mut Plan) {
    let places = plan.steps.iter().any(|p| matches!(p.step, Step::CreatePod { .. }));
    if !places && v.all().all(|m| m.pod.worker.is_some()) {
        return;
    }
    let mut tally = Tally::new(v);
    plan.blocked.extend(v.s.desired.shards().filter_map(|shard| waits(v, &tally, shard)));
    let mut uncounted = BTreeSet::new();
    let mut kept = Vec::with_capacity(plan.steps.len());
    for mut p in std::mem::take(&mut plan.steps) {
        if let Step::CreatePod { shard, worker, demands, .. } = &mut p.step {
            *demands = demanded(v, &tally, *shard);
            if demands.uncounted && (!uncounted.insert(*shard) || any_unbound(v, *shard)) {
                continue;
            }
            *worker = best(v, &tally, *shard, demands);
            tally.add(*shard, worker.as_ref(), demands.zone.as_ref());
            if p.why == Why::Placement {
                let moved = v.misplaced.as_ref();
                demands.instead_of = moved.map(|m| m.uid.clone());
                *worker = moved.map(|m| m.to.clone());
                demands.only = worker.is_some();
            } else if worker.is_none() && matches!(p.why, Why::Upgrade | Why::Evacuate) {
                plan.blocked.push(no_worker(v, *shard, demands));
            }
        }
        kept.push(p);
    }
    plan.steps = kept;
    plan.blocked.sort();
}

/// Whether there is a worker that a member may be asked for.
pub(super) fn has_room(v: &View<'_>) -> bool {
    v.s.workers.values().any(|w| w.open)
}

/// What a newcomer of the shard demands beside the terms that all Pods of the spec carry.
///
/// Beside a member that leaves it is not counted, because the scheduler would keep it away from that one's worker, too: the workers
/// and zones that it must not go to are then named. The same when a copy does not carry the label yet.
pub(super) fn demanded(v: &View<'_>, tally: &Tally<'_>, shard: Shard) -> Demands {
    let scheduling = &v.s.desired.template.scheduling;
    let mut demands = Demands { zone: pinned(v, tally, shard), ..Demands::default() };
    let there = |m: &&Member<'_>| !matches!(m.pod.phase, Phase::Finished { .. });
    let stays = |m: &Member<'_>| m.stays() && v.unfit(m).is_none();
    let mut members = v.members(shard).iter().filter(there);
    demands.uncounted = scheduling.is_strict() && members.any(|m| !stays(m) || !m.pod.place.counted);
    if demands.uncounted && scheduling.node.shard == SpreadMode::Required {
        demands.not_on = tally.workers_of(shard).cloned().collect();
    }
    if demands.uncounted && scheduling.zone.shard == SpreadMode::Required {
        let least = tally.open_zones().map(|z| tally.shard_in(shard, z)).min().unwrap_or(0);
        let full = tally.open_zones().filter(|z| tally.shard_in(shard, *z) > least);
        demands.not_in = tally.names_of(full).cloned().collect();
    }
    demands
}

/// The first of the shard's pinned zones that has fewer copies than it should.
fn pinned(v: &View<'_>, tally: &Tally<'_>, shard: Shard) -> Option<Zone> {
    let zones = v.s.desired.template.scheduling.zones_of(shard, v.s.desired.copies());
    let wanted = |zone: &Zone| zones.iter().filter(|z| **z == zone).count();
    let short = zones.iter().find(|z| tally.shard_in(shard, tally.zone(z)) < wanted(z));
    short.or(zones.first()).map(|z| (*z).clone())
}

/// A successor that is there, and no worker may take it. The scheduler says so too, in words that do not tell what would help.
fn waits(v: &View<'_>, tally: &Tally<'_>, shard: Shard) -> Option<Blocked> {
    let leaves = |m: &Member<'_>| matches!(v.unfit(m), Some(Why::Upgrade | Why::Evacuate));
    let nowhere = |m: &&Member<'_>| m.pod.worker.is_none() && m.pod.place.asked.is_none();
    let waited_for = || !v.s.desired.deleting && v.staying(shard).any(leaves);
    let successor = v.staying(shard).find(nowhere).filter(|_| waited_for())?;
    let demands = Demands { zone: successor.pod.place.pinned.clone(), ..demanded(v, tally, shard) };
    best(v, tally, shard, &demands).is_none().then(|| no_worker(v, shard, &demands))
}

/// The shard has a Pod without a worker: where it will be is not known yet.
fn any_unbound(v: &View<'_>, shard: Shard) -> bool {
    v.staying(shard).any(|m| m.pod.worker.is_none())
}

/// The best worker that the hard rules leave.
pub(super) fn best(v: &View<'_>, tally: &Tally<'_>, shard: Shard, demands: &Demands) -> Option<WorkerName> {
    let open =
        tally.open.iter().enumerate().filter(|(place, w)| allowed(v, tally, (shard, demands), *place, w));
    let leads = leader(v, shard).and_then(|m| m.pod.worker.as_ref());
    open.min_by_key(|(place, w)| (score(v, tally, shard, *place, w, leads), &w.name))
        .map(|(_, w)| w.name.clone())
}

fn allowed(
    v: &View<'_>,
    tally: &Tally<'_>,
    (shard, demands): (Shard, &Demands),
    place: usize,
    w: &Worker,
) -> bool {
    let scheduling = &v.s.desired.template.scheduling;
    let strict = |mode: SpreadMode| mode == SpreadMode::Required;
    let zone = w.zone.as_ref();
    let in_zone = |count: &dyn Fn(usize) -> usize| {
        let least = tally.open_zones().map(count).min().unwrap_or(0);
        tally.zone_of(place).is_some_and(|z| count(z) <= least)
    };
    let fewest = || (0..tally.open.len()).map(|other| tally.members_on(other)).min().unwrap_or(0);
    demands.zone.as_ref().is_none_or(|z| zone == Some(z))
        && !demands.not_on.contains(&w.name)
        && zone.is_none_or(|z| !demands.not_in.contains(z))
        && (!strict(scheduling.node.shard) || tally.shard_on(shard, place) == 0)
        && (!strict(scheduling.zone.shard) || in_zone(&|z| tally.shard_in(shard, z)))
        && (!strict(scheduling.node.pods) || tally.members_on(place) <= fewest())
        && (!strict(scheduling.zone.pods) || in_zone(&|z| tally.members_in(z)))
}

/// Of a worker for a copy of this shard, whose leader is, or is about to be, on the one that `leads`.
fn score(
    v: &View<'_>,
    tally: &Tally<'_>,
    shard: Shard,
    place: usize,
    w: &Worker,
    leads: Option<&WorkerName>,
) -> Score {
    let crowd = crowd(v, tally, shard, place);
    let all = tally.members_on(place) + tally.leaving_on(None, place);
    Score {
        full: w.room.is_some_and(|room| all >= room),
        shard_on_worker: crowd.shard_on_worker,
        killed_by_worker: tally.killed_on(place),
        shard_in_zone: crowd.shard_in_zone,
        shunned: w.shunned,
        beside_leader: leads == Some(&w.name),
        leaving_on_worker: tally.leaving_on(Some(shard), place),
        members_on_worker: crowd.members_on_worker,
        members_in_zone: crowd.members_in_zone,
        ring: tally.ring(place),
    }
}

/// Who leads the shard, or is about to: a primary that was told to go hands over at once.
fn leader<'v, 'a>(v: &'v View<'a>, shard: Shard) -> Option<&'v Member<'a>> {
    let (primary, _) = v.primary(shard)?;
    let heir = || heirs(v, shard).first().copied();
    if primary.stays() { Some(primary) } else { heir().or(Some(primary)) }
}

/// Who is near, as far as the spec cares: what a move of a member is judged by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Crowd {
    /// Copies of the same shard on the worker.
    pub shard_on_worker: usize,
    /// Copies of the same shard in the worker's zone.
    pub shard_in_zone: usize,
    /// Members of the cluster on the worker.
    pub members_on_worker: usize,
    /// Members of the cluster in the worker's zone.
    pub members_in_zone: usize,
}

/// On the worker with this number in the tally.
pub(super) fn crowd(v: &View<'_>, tally: &Tally<'_>, shard: Shard, number: usize) -> Crowd {
    let scheduling = &v.s.desired.template.scheduling;
    let cares = |mode: SpreadMode, count: usize| if mode == SpreadMode::Disabled { 0 } else { count };
    let (node, zone) = (scheduling.node, scheduling.zone);
    // Pinning is the whole say over zones.
    let here = tally.zone_of(number).filter(|_| scheduling.pinned.is_empty());
    Crowd {
        shard_on_worker: cares(node.shard, tally.shard_on(shard, number)),
        shard_in_zone: cares(zone.shard, here.map_or(0, |z| tally.shard_in(shard, z))),
        members_on_worker: cares(node.pods, tally.members_on(number)),
        members_in_zone: cares(zone.pods, here.map_or(0, |z| tally.members_in(z))),
    }
}

/// A copy of the shard is to leave, and no worker may take its successor: which rule says so, and what would help.
pub(super) fn no_worker(v: &View<'_>, shard: Shard, demands: &Demands) -> Blocked {
    if !has_room(v) {
        let message = format!(
            "shard {shard} waits: every worker is cordoned, tainted or not Ready, and a copy leaves only after \
             another is in sync; uncordon or add a worker"
        );
        return Blocked { code: Code::NoWorker, shard: Some(shard), message };
    }
    let scheduling = &v.s.desired.template.scheduling;
    let rules = [
        (scheduling.node.shard, "node.spread.shard"),
        (scheduling.zone.shard, "zone.spread.shard"),
        (scheduling.node.pods, "node.spread.pods"),
        (scheduling.zone.pods, "zone.spread.pods"),
    ];
    let strict = rules.iter().filter(|(mode, _)| *mode == SpreadMode::Required).map(|(_, name)| *name);
    let (rules, more) = match &demands.zone {
        Some(zone) => {
            (format!("it is pinned to zone {zone}"), "that zone, or change spec.scheduling.zone.pinning")
        }
        None => (
            format!("spec.scheduling asks for {} Required", strict.collect::<Vec<_>>().join(" and ")),
            "them, or set that to Preferred",
        ),
    };
    let message = format!(
        "shard {shard} waits: a copy leaves only after another is in sync, and no open worker may take it ({rules}); \
         add or uncordon a worker for {more}"
    );
    Blocked { code: Code::NoWorker, shard: Some(shard), message }
}
