//! Who is where: members by worker and by zone, counting those that a pass adds.

use std::collections::{BTreeMap, BTreeSet};

use super::away;
use super::discard::was_killed;
use crate::model::{Member, Phase, Shard, View, Worker, WorkerName, Zone};

/// The counts. A Pod without a worker counts where it was asked to go.
///
/// Workers are counted by number: every new Pod of a pass looks at all of them, and names take long to compare.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    /// The workers that a member may be asked for, by name. Their numbers are their places here.
    pub open: Vec<&'a Worker>,
    /// The zones of these, sorted.
    open_zones: Vec<&'a Zone>,
    zones: BTreeMap<&'a WorkerName, &'a Zone>,
    numbers: BTreeMap<WorkerName, usize>,
    names: Vec<WorkerName>,
    on: OnWorkers,
    within: BTreeMap<Shard, BTreeMap<Zone, usize>>,
    all_within: BTreeMap<Zone, usize>,
    /// Members that are about to be replaced: they repel only among equals.
    leaving: OnWorkers,
    /// Where members were killed a moment ago.
    killed: Vec<usize>,
    /// Among the open workers the one that got a member last.
    last: Option<usize>,
}

/// How many are on each worker, of a shard and of all.
#[derive(Debug, Default)]
struct OnWorkers {
    /// The few workers that have some of the shard, by their numbers.
    of: BTreeMap<Shard, Vec<(usize, usize)>>,
    all: Vec<usize>,
}

impl OnWorkers {
    fn add(&mut self, shard: Shard, worker: usize) {
        let of = self.of.entry(shard).or_default();
        match of.iter_mut().find(|(w, _)| *w == worker) {
            Some((_, n)) => *n += 1,
            None => of.push((worker, 1)),
        }
        one_more(&mut self.all, worker);
    }

    fn take(&mut self, shard: Shard, worker: usize) {
        let of = self.of.get_mut(&shard).and_then(|of| of.iter_mut().find(|(w, _)| *w == worker));
        for n in of.map(|(_, n)| n).into_iter().chain(self.all.get_mut(worker)) {
            *n = n.saturating_sub(1);
        }
    }

    fn of(&self, shard: Shard, worker: usize) -> usize {
        let of = self.of.get(&shard).and_then(|of| of.iter().find(|(w, _)| *w == worker));
        of.map_or(0, |(_, n)| *n)
    }

    fn all(&self, worker: usize) -> usize {
        self.all.get(worker).copied().unwrap_or(0)
    }
}

fn one_more(counts: &mut Vec<usize>, worker: usize) {
    if counts.len() <= worker {
        counts.resize(worker + 1, 0);
    }
    if let Some(n) = counts.get_mut(worker) {
        *n += 1;
    }
}

impl<'a> Tally<'a> {
    /// Counts the members that stay as they are, and those that serve until they are replaced.
    pub(super) fn new(v: &View<'a>) -> Self {
        let suspects: Vec<&WorkerName> = away::suspects(v).collect();
        let open = v.s.workers.values().filter(|w| w.open && !suspects.contains(&&w.name));
        let open: Vec<&Worker> = open.collect();
        let open_zones: BTreeSet<&Zone> = open.iter().filter_map(|w| w.zone.as_ref()).collect();
        let names: Vec<WorkerName> = open.iter().map(|w| w.name.clone()).collect();
        let mut tally = Self {
            open_zones: open_zones.into_iter().collect(),
            open,
            zones: v.s.workers.values().filter_map(|w| Some((&w.name, w.zone.as_ref()?))).collect(),
            numbers: names.iter().cloned().zip(0..).collect(),
            names,
            on: OnWorkers::default(),
            within: BTreeMap::new(),
            all_within: BTreeMap::new(),
            leaving: OnWorkers::default(),
            killed: Vec::new(),
            last: None,
        };
        for worker in v.all().filter(|m| was_killed(m)).filter_map(|m| m.pod.worker.as_ref()) {
            let worker = tally.numbered(worker);
            one_more(&mut tally.killed, worker);
        }
        for m in v.all().filter(|m| !matches!(m.pod.phase, Phase::Finished { .. })) {
            if m.stays() && v.unfit(m).is_none() {
                tally.add(m.pod.shard, at(m), m.pod.place.pinned.as_ref());
            } else if let Some(worker) = at(m) {
                let worker = tally.numbered(worker);
                tally.leaving.add(m.pod.shard, worker);
            }
        }
        tally
    }

    /// One member more; of one without a worker at least the zone may be known.
    pub(super) fn add(&mut self, shard: Shard, worker: Option<&WorkerName>, zone: Option<&Zone>) {
        let zone = worker.and_then(|w| self.zones.get(w).copied()).or(zone).cloned();
        if let Some(worker) = worker {
            let worker = self.numbered(worker);
            self.on.add(shard, worker);
            self.last = Some(worker).filter(|place| *place < self.open.len());
        }
        if let Some(zone) = zone {
            *self.within.entry(shard).or_default().entry(zone.clone()).or_default() += 1;
            *self.all_within.entry(zone).or_default() += 1;
        }
    }

    /// One member less, as if it were not there.
    pub(super) fn take(&mut self, shard: Shard, worker: &WorkerName) {
        fn less(map: &mut BTreeMap<Zone, usize>, key: &Zone) {
            if let Some(n) = map.get_mut(key) {
                *n = n.saturating_sub(1);
            }
        }
        let number = self.numbered(worker);
        self.on.take(shard, number);
        if let Some(zone) = self.zones.get(worker).copied() {
            less(self.within.entry(shard).or_default(), zone);
            less(&mut self.all_within, zone);
        }
    }

    /// The number of a worker, which gets one if it has none.
    fn numbered(&mut self, worker: &WorkerName) -> usize {
        if let Some(number) = self.numbers.get(worker) {
            return *number;
        }
        self.numbers.insert(worker.clone(), self.names.len());
        self.names.push(worker.clone());
        self.names.len() - 1
    }

    /// The number of a worker; one that nobody has heard of has none that counts anything.
    pub(super) fn number(&self, worker: &WorkerName) -> usize {
        self.numbers.get(worker).copied().unwrap_or(usize::MAX)
    }

    /// The workers that have a copy of the shard.
    pub(super) fn workers_of(&self, shard: Shard) -> impl Iterator<Item = &WorkerName> {
        let on = self.on.of.get(&shard).into_iter().flatten().filter(|(_, n)| *n > 0);
        on.filter_map(|(worker, _)| self.names.get(*worker))
    }

    /// The zones that have an open worker.
    pub(super) fn open_zones(&self) -> impl Iterator<Item = &'a Zone> {
        self.open_zones.iter().copied()
    }

    /// Copies of the shard on the worker.
    pub(super) fn shard_on(&self, shard: Shard, worker: usize) -> usize {
        self.on.of(shard, worker)
    }

    /// Copies of the shard in the zone.
    pub(super) fn shard_in(&self, shard: Shard, zone: &Zone) -> usize {
        self.within.get(&shard).and_then(|within| within.get(zone)).copied().unwrap_or(0)
    }

    /// Members on the worker.
    pub(super) fn members_on(&self, worker: usize) -> usize {
        self.on.all(worker)
    }

    /// Members in the zone.
    pub(super) fn members_in(&self, zone: &Zone) -> usize {
        self.all_within.get(zone).copied().unwrap_or(0)
    }

    /// Members on the worker that leave, of this shard or of all.
    pub(super) fn leaving_on(&self, shard: Option<Shard>, worker: usize) -> usize {
        shard.map_or_else(|| self.leaving.all(worker), |shard| self.leaving.of(shard, worker))
    }

    /// Members that the worker has just killed for want of memory, or evicted.
    pub(super) fn killed_on(&self, worker: usize) -> usize {
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
