//! Who is where: members by worker and by zone, counting those that a pass adds.

use std::collections::{BTreeMap, BTreeSet};

use super::away;
use super::discard::was_killed;
use crate::model::{Member, Phase, Shard, View, Worker, WorkerName, Zone};

/// The counts. A Pod without a worker counts where it was asked to go.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    /// The workers that a member may be asked for, by name.
    pub open: Vec<&'a Worker>,
    /// The zones of these, sorted.
    open_zones: Vec<&'a Zone>,
    zones: BTreeMap<&'a WorkerName, &'a Zone>,
    on: BTreeMap<Shard, BTreeMap<WorkerName, usize>>,
    within: BTreeMap<Shard, BTreeMap<Zone, usize>>,
    all_on: BTreeMap<WorkerName, usize>,
    all_within: BTreeMap<Zone, usize>,
    /// Members that are about to be replaced: they repel only among equals.
    leaving: BTreeMap<Shard, BTreeMap<WorkerName, usize>>,
    all_leaving: BTreeMap<WorkerName, usize>,
    /// Where members were killed a moment ago.
    killed: BTreeMap<WorkerName, usize>,
    /// Among the open workers the one that got a member last.
    last: Option<usize>,
}

impl<'a> Tally<'a> {
    /// Counts the members that stay as they are, and those that serve until they are replaced.
    pub(super) fn new(v: &View<'a>) -> Self {
        let suspects: Vec<&WorkerName> = away::suspects(v).collect();
        let open = v.s.workers.values().filter(|w| w.open && !suspects.contains(&&w.name));
        let open: Vec<&Worker> = open.collect();
        let open_zones: BTreeSet<&Zone> = open.iter().filter_map(|w| w.zone.as_ref()).collect();
        let mut tally = Self {
            open_zones: open_zones.into_iter().collect(),
            open,
            zones: v.s.workers.values().filter_map(|w| Some((&w.name, w.zone.as_ref()?))).collect(),
            on: BTreeMap::new(),
            within: BTreeMap::new(),
            all_on: BTreeMap::new(),
            all_within: BTreeMap::new(),
            leaving: BTreeMap::new(),
            all_leaving: BTreeMap::new(),
            killed: BTreeMap::new(),
            last: None,
        };
        for worker in v.all().filter(|m| was_killed(m)).filter_map(|m| m.pod.worker.clone()) {
            *tally.killed.entry(worker).or_default() += 1;
        }
        for m in v.all().filter(|m| !matches!(m.pod.phase, Phase::Finished { .. })) {
            if m.stays() && v.unfit(m).is_none() {
                tally.add(m.pod.shard, at(m), m.pod.place.pinned.as_ref());
            } else if let Some(worker) = at(m) {
                *tally.leaving.entry(m.pod.shard).or_default().entry(worker.clone()).or_default() += 1;
                *tally.all_leaving.entry(worker.clone()).or_default() += 1;
            }
        }
        tally
    }

    /// One member more; of one without a worker at least the zone may be known.
    pub(super) fn add(&mut self, shard: Shard, worker: Option<&WorkerName>, zone: Option<&Zone>) {
        let zone = worker.and_then(|w| self.zones.get(w).copied()).or(zone).cloned();
        if let Some(worker) = worker {
            *self.on.entry(shard).or_default().entry(worker.clone()).or_default() += 1;
            *self.all_on.entry(worker.clone()).or_default() += 1;
            self.last = self.open.binary_search_by(|w| w.name.cmp(worker)).ok();
        }
        if let Some(zone) = zone {
            *self.within.entry(shard).or_default().entry(zone.clone()).or_default() += 1;
            *self.all_within.entry(zone).or_default() += 1;
        }
    }

    /// One member less, as if it were not there.
    pub(super) fn take(&mut self, shard: Shard, worker: &WorkerName) {
        fn less<K: Ord>(map: &mut BTreeMap<K, usize>, key: &K) {
            if let Some(n) = map.get_mut(key) {
                *n = n.saturating_sub(1);
            }
        }
        less(self.on.entry(shard).or_default(), worker);
        less(&mut self.all_on, worker);
        if let Some(zone) = self.zones.get(worker).copied() {
            less(self.within.entry(shard).or_default(), zone);
            less(&mut self.all_within, zone);
        }
    }

    /// The workers that have a copy of the shard.
    pub(super) fn workers_of(&self, shard: Shard) -> impl Iterator<Item = &WorkerName> {
        self.on.get(&shard).into_iter().flatten().filter(|(_, n)| **n > 0).map(|(w, _)| w)
    }

    /// The zones that have an open worker.
    pub(super) fn open_zones(&self) -> impl Iterator<Item = &'a Zone> {
        self.open_zones.iter().copied()
    }

    /// Copies of the shard on the worker.
    pub(super) fn shard_on(&self, shard: Shard, worker: &WorkerName) -> usize {
        self.on.get(&shard).and_then(|on| on.get(worker)).copied().unwrap_or(0)
    }

    /// Copies of the shard in the zone.
    pub(super) fn shard_in(&self, shard: Shard, zone: &Zone) -> usize {
        self.within.get(&shard).and_then(|within| within.get(zone)).copied().unwrap_or(0)
    }

    /// Members on the worker.
    pub(super) fn members_on(&self, worker: &WorkerName) -> usize {
        self.all_on.get(worker).copied().unwrap_or(0)
    }

    /// Members in the zone.
    pub(super) fn members_in(&self, zone: &Zone) -> usize {
        self.all_within.get(zone).copied().unwrap_or(0)
    }

    /// Members on the worker that leave, of this shard or of all.
    pub(super) fn leaving_on(&self, shard: Option<Shard>, worker: &WorkerName) -> usize {
        match shard {
            Some(shard) => self.leaving.get(&shard).and_then(|on| on.get(worker)),
            None => self.all_leaving.get(worker),
        }
        .copied()
        .unwrap_or(0)
    }

    /// Members that the worker has just killed for want of memory, or evicted.
    pub(super) fn killed_on(&self, worker: &WorkerName) -> usize {
        self.killed.get(worker).copied().unwrap_or(0)
    }

    /// Steps around the ring of open workers from the one that got a member last to the one at this place.
    pub(super) fn ring(&self, here: usize) -> usize {
        let all = self.open.len().max(1);
        let last = self.last.unwrap_or(all - 1);
        (here + all - last).checked_sub(1).map_or(0, |d| d % all)
    }
}

/// Where it is, or was asked to go.
pub(super) fn at<'m>(m: &Member<'m>) -> Option<&'m WorkerName> {
    m.pod.worker.as_ref().or(m.pod.place.asked.as_ref())
}
