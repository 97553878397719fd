//! Which worker a new member is asked for: copies of a shard apart, then members even over workers.
//!
//! The field order of [`Score`] is the policy. The scheduler has the last word (affinity is preferred, never `nodeName`).

use std::collections::BTreeMap;

use super::discard::was_killed;
use crate::model::{Member, Phase, Shard, View, Worker, WorkerName, Zone};

/// Smaller is better, field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Score {
    /// Copies of the same shard on the worker.
    shard_on_worker: usize,
    /// Members that the worker has just killed for want of memory, or evicted.
    killed_by_worker: usize,
    /// Copies of the same shard in the worker's zone.
    shard_in_zone: usize,
    /// Copies of the same shard on the worker that are about to leave: until then they would fall with it.
    leaving_on_worker: usize,
    /// Members of the cluster on the worker.
    members_on_worker: usize,
    /// Members of the cluster in the worker's zone.
    members_in_zone: usize,
    /// Steps around the ring of workers from the one placed last: equals go round instead of piling up on the first.
    ring: usize,
}

/// Who is where, counting the members planned in this pass.
#[derive(Debug)]
pub struct Tally<'a> {
    workers: Vec<&'a Worker>,
    zones: BTreeMap<&'a WorkerName, &'a Zone>,
    placed: Vec<(Shard, WorkerName)>,
    /// Members that are about to be replaced: they repel only among equals.
    leaving: Vec<(Shard, WorkerName)>,
    /// Where members were killed a moment ago.
    killed: Vec<WorkerName>,
}

impl<'a> Tally<'a> {
    /// Counts the members that stay as they are, and those that serve until they are replaced.
    pub fn new(v: &View<'a>) -> Self {
        let there = v.all().filter(|m| !matches!(m.pod.phase, Phase::Finished { .. }));
        let (placed, leaving): (Vec<_>, Vec<_>) = there.partition(|m| m.stays() && v.unfit(m).is_none());
        let where_ = |list: Vec<&Member<'_>>| {
            list.into_iter().filter_map(|m| Some((m.pod.shard, m.pod.worker.clone()?))).collect()
        };
        let suspects: Vec<&WorkerName> = super::away::suspects(v).collect();
        Self {
            workers: v.s.workers.values().filter(|w| w.open && !suspects.contains(&&w.name)).collect(),
            zones: v.s.workers.values().filter_map(|w| Some((&w.name, w.zone.as_ref()?))).collect(),
            placed: where_(placed),
            leaving: where_(leaving),
            killed: v.all().filter(|m| was_killed(m)).filter_map(|m| m.pod.worker.clone()).collect(),
        }
    }

    /// Whether there is a worker that a member may be asked for.
    pub fn has_room(&self) -> bool {
        !self.workers.is_empty()
    }

    /// The best open worker for one more copy of the shard, which is counted from now on.
    pub fn place(&mut self, shard: Shard) -> Option<WorkerName> {
        let best = self.workers.iter().min_by_key(|w| (self.score(w, shard), &w.name))?.name.clone();
        self.placed.push((shard, best.clone()));
        Some(best)
    }

    fn ring(&self, worker: &Worker) -> usize {
        let place = |name: &WorkerName| self.workers.iter().position(|w| w.name == *name);
        let all = self.workers.len().max(1);
        let here = place(&worker.name).unwrap_or(0);
        let last = self.placed.last().and_then(|(_, w)| place(w)).unwrap_or(all - 1);
        (here + all - last).checked_sub(1).map_or(0, |d| d % all)
    }

    fn score(&self, worker: &Worker, shard: Shard) -> Score {
        let zone = self.zones.get(&worker.name);
        let count = |same_shard: bool, same_zone: bool| {
            let here = |w: &WorkerName| {
                if same_zone { zone.is_some() && self.zones.get(w) == zone } else { *w == worker.name }
            };
            self.placed.iter().filter(|(s, w)| (!same_shard || *s == shard) && here(w)).count()
        };
        Score {
            shard_on_worker: count(true, false),
            killed_by_worker: self.killed.iter().filter(|w| **w == worker.name).count(),
            shard_in_zone: count(true, true),
            leaving_on_worker: self.leaving.iter().filter(|(s, w)| *s == shard && *w == worker.name).count(),
            members_on_worker: count(false, false),
            members_in_zone: count(false, true),
            ring: self.ring(worker),
        }
    }
}
