//! Misplaced: one member that would be better off elsewhere, once all else has been quiet for a while.
//!
//! Copies of one shard that share a worker or a zone, a zone that a member is not pinned to, a new worker that has none: such a
//! member is replaced like any that is unfit. Every move makes the cluster strictly better in the order of the policy, so
//! that moves come to an end, and one that has begun is known by its successor, which names it.

use super::fill;
use super::place::{best, crowd, demanded};
use super::tally::{Tally, at};
use crate::model::view::Misplaced;
use crate::model::{Member, Phase, Shard, View, WorkerName};

/// So long there has to be peace before a member is moved, in milliseconds: at most one a minute.
pub const PAUSE_MS: i64 = 60_000;

/// The member that is to be moved now, if one is.
pub(super) fn misplaced(v: &View<'_>) -> Option<Misplaced> {
    if !v.s.whole || v.s.desired.deleting {
        return None;
    }
    under_way(v).or_else(|| if is_peace(v) { worst(v) } else { None })
}

/// A successor names the member that it is for. One that no worker takes is given up, and one whose shard has lost another member since
/// takes the place of that.
fn under_way(v: &View<'_>) -> Option<Misplaced> {
    v.all().filter(|m| m.stays() && !m.pod.is_unschedulable()).find_map(|m| {
        let uid = m.pod.place.instead_of.as_ref().filter(|_| is_surplus(v, m.pod.shard))?;
        v.staying(m.pod.shard).find(|old| old.pod.uid == *uid)?;
        Some(Misplaced { uid: uid.clone(), to: at(m).cloned()? })
    })
}

fn is_surplus(v: &View<'_>, shard: Shard) -> bool {
    v.staying(shard).count() > v.s.desired.copies()
}

fn is_peace(v: &View<'_>) -> bool {
    let copies = v.s.desired.copies();
    let whole = |shard: Shard, members: &[Member<'_>]| {
        members.len() == copies
            && fill::is_served(v, shard)
            && v.in_sync(shard).len() + 1 >= copies
            && !super::migrate::migrating(v, shard)
    };
    let settled = |m: &Member<'_>| m.stays() && m.pod.phase == Phase::Running && v.unfit(m).is_none();
    v.all().all(|m| settled(m) && v.s.now.since(m.pod.created) >= PAUSE_MS)
        && v.shards().all(|(shard, members)| v.s.desired.wants(shard) && whole(shard, members))
}

/// The member that gains most; replicas before primaries among equals.
fn worst(v: &View<'_>) -> Option<Misplaced> {
    let mut tally = Tally::new(v);
    let floor = Floor::of(&tally);
    let mut found: Option<(Gain, bool, Misplaced)> = None;
    for m in v.all() {
        let Some(here) = m.pod.worker.as_ref() else { continue };
        tally.take(m.pod.shard, here);
        if let Some((gain, to)) = gain(v, &tally, &floor, m) {
            let leads = m.link().is_none();
            if found.as_ref().is_none_or(|(most, led, _)| rank(gain, leads) > rank(*most, *led)) {
                found = Some((gain, leads, Misplaced { uid: m.pod.uid.clone(), to }));
            }
        }
        tally.add(m.pod.shard, Some(here), None);
    }
    found.map(|(_, _, misplaced)| misplaced)
}

/// The fewest members that a place has: who is not among more than these gains nothing by a move.
struct Floor {
    worker: usize,
    zone: usize,
}

impl Floor {
    fn of(tally: &Tally<'_>) -> Self {
        Self {
            worker: (0..tally.open.len()).map(|worker| tally.members_on(worker)).min().unwrap_or(0),
            zone: tally.open_zones().map(|z| tally.members_in(z)).min().unwrap_or(0),
        }
    }
}

/// A role is handed over for copies that are apart, but not for Pods that are even, where a replica would do.
fn rank((astray, a, b, c, d): Gain, leads: bool) -> (bool, i64, i64, bool, i64, i64) {
    (astray, a, b, !leads, c, d)
}

/// By how much fewer are near, in the order of the policy.
type Gain = (bool, i64, i64, i64, i64);

fn gain(v: &View<'_>, tally: &Tally<'_>, floor: &Floor, m: &Member<'_>) -> Option<(Gain, WorkerName)> {
    let shard = m.pod.shard;
    let here = v.s.workers.get(m.pod.worker.as_ref()?)?;
    let demands = demanded(v, tally, shard);
    let astray = demands.zone.is_some() && here.zone != demands.zone;
    let now = crowd(v, tally, shard, tally.number(&here.name));
    let least = tally.open_zones().map(|z| tally.shard_in(shard, z)).min().unwrap_or(0);
    let fine = now.shard_on_worker == 0
        && now.shard_in_zone <= least
        && now.members_on_worker <= floor.worker
        && now.members_in_zone <= floor.zone;
    if fine && !astray {
        return None;
    }
    let to =
        best(v, tally, shard, &demands).filter(|w| *w != here.name && !v.s.past.refused.contains_key(w))?;
    let then = crowd(v, tally, shard, tally.number(&to));
    let less = |a: usize, b: usize| i64::try_from(a).unwrap_or(0) - i64::try_from(b).unwrap_or(0);
    let gain = (
        astray,
        less(now.shard_on_worker, then.shard_on_worker),
        less(now.shard_in_zone, then.shard_in_zone),
        less(now.members_on_worker, then.members_on_worker),
        less(now.members_in_zone, then.members_in_zone),
    );
    (gain > (false, 0, 0, 0, 0)).then_some((gain, to))
}
