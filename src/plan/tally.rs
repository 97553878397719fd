//! Who is where: members by worker and by zone, counting those that a pass adds.

use std::collections::{BTreeMap, BTreeSet};

use super::away;
use super::discard::was_killed;
use crate::model::{Member, Phase, Shard, View, Worker, WorkerName, Zone};

/// The counts. A Pod without a worker counts where it was asked to go.
///
/// Workers and zones are counted by number: every new Pod of a pass looks at all of them, and names take long to compare.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    /// The workers that a member may be asked for, by name. Their numbers are their places here.
    pub open: Vec<&'a Worker>,
    workers: Numbers<WorkerName>,
    zones: Numbers<Zone>,
    /// The zone of each worker that Kubernetes knows.
    homes: Vec<Option<usize>>,
    /// The zones that have an open worker.
    open_zones: BTreeSet<usize>,
    on: Counts,
    within: Counts,
    /// Members that are about to be replaced: they repel only among equals.
    leaving: Counts,
    /// Where members were killed a moment ago.
    killed: Vec<usize>,
    /// Among the open workers the one that got a member last.
    last: Option<usize>,
}

/// Names and their numbers, in the order in which they were met.
#[derive(Debug)]
struct Numbers<T> {
    numbers: BTreeMap<T, usize>,
    names: Vec<T>,
}

impl<T: Ord + Clone> Numbers<T> {
    fn new() -> Self {
        Self { numbers: BTreeMap::new(), names: Vec::new() }
    }

    /// The number of this name, which gets one if it has none.
    fn give(&mut self, name: &T) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.numbers.insert(name.clone(), self.names.len());
        self.names.push(name.clone());
        self.names.len() - 1
    }

    /// The number of this name; one that nobody has heard of has none that counts anything.
    fn of(&self, name: &T) -> usize {
        self.numbers.get(name).copied().unwrap_or(usize::MAX)
    }
}

/// How many are at each place (workers or zones, by their numbers), of a shard and of all.
#[derive(Debug, Default)]
struct Counts {
    /// The few places that have some of the shard.
    of: BTreeMap<Shard, Vec<(usize, usize)>>,
    all: Vec<usize>,
}

impl Counts {
    fn add(&mut self, shard: Shard, place: usize) {
        let of = self.of.entry(shard).or_default();
        match of.iter_mut().find(|(at, _)| *at == place) {
            Some((_, n)) => *n += 1,
            None => of.push((place, 1)),
        }
        one_more(&mut self.all, place);
    }

    fn take(&mut self, shard: Shard, place: usize) {
        let of = self.of.get_mut(&shard).and_then(|of| of.iter_mut().find(|(at, _)| *at == place));
        for n in of.map(|(_, n)| n).into_iter().chain(self.all.get_mut(place)) {
            *n = n.saturating_sub(1);
        }
    }

    fn of(&self, shard: Shard, place: usize) -> usize {
        let of = self.of.get(&shard).and_then(|of| of.iter().find(|(at, _)| *at == place));
        of.map_or(0, |(_, n)| *n)
    }

    fn all(&self, place: usize) -> usize {
        self.all.get(place).copied().unwrap_or(0)
    }
}

fn one_more(counts: &mut Vec<usize>, place: usize) {
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    if let Some(n) = counts.get_mut(place) {
        *n += 1;
    }
}

impl<'a> Tally<'a> {
    /// Counts the members that stay as they are, and those that serve until they are replaced.
    pub(super) fn new(v: &View<'a>) -> Self {
        let suspects: Vec<&WorkerName> = away::suspects(v).collect();
        let open = v.s.workers.values().filter(|w| w.open && !suspects.contains(&&w.name));
        let open: Vec<&Worker> = open.collect();
        let (mut workers, mut zones, mut homes) = (Numbers::new(), Numbers::new(), Vec::new());
        for worker in open.iter().copied().chain(v.s.workers.values()) {
            if workers.give(&worker.name) == homes.len() {
                homes.push(worker.zone.as_ref().map(|zone| zones.give(zone)));
            }
        }
        let mut tally = Self {
            open_zones: homes.iter().take(open.len()).flatten().copied().collect(),
            open,
            workers,
            zones,
            homes,
            on: Counts::default(),
            within: Counts::default(),
            leaving: Counts::default(),
            killed: Vec::new(),
            last: None,
        };
        for worker in v.all().filter(|m| was_killed(m)).filter_map(|m| m.pod.worker.as_ref()) {
            one_more(&mut tally.killed, tally.workers.give(worker));
        }
        for m in v.all().filter(|m| !matches!(m.pod.phase, Phase::Finished { .. })) {
            if m.stays() && v.unfit(m).is_none() {
                tally.add(m.pod.shard, at(m), m.pod.place.pinned.as_ref());
            } else if let Some(worker) = at(m) {
                tally.leaving.add(m.pod.shard, tally.workers.give(worker));
            }
        }
        tally
    }

    /// One member more; of one without a worker at least the zone may be known.
    pub(super) fn add(&mut self, shard: Shard, worker: Option<&WorkerName>, zone: Option<&Zone>) {
        let worker = worker.map(|w| self.workers.give(w));
        let home = worker.and_then(|w| self.zone_of(w));
        if let Some(worker) = worker {
            self.on.add(shard, worker);
            self.last = Some(worker).filter(|place| *place < self.open.len());
        }
        if let Some(zone) = home.or_else(|| zone.map(|z| self.zones.give(z))) {
            self.within.add(shard, zone);
        }
    }

    /// One member less, as if it were not there.
    pub(super) fn take(&mut self, shard: Shard, worker: &WorkerName) {
        let worker = self.number(worker);
        self.on.take(shard, worker);
        if let Some(zone) = self.zone_of(worker) {
            self.within.take(shard, zone);
        }
    }

    /// The number of a worker.
    pub(super) fn number(&self, worker: &WorkerName) -> usize {
        self.workers.of(worker)
    }

    /// The number of a zone.
    pub(super) fn zone(&self, zone: &Zone) -> usize {
        self.zones.of(zone)
    }

    /// The zone of this worker.
    pub(super) fn zone_of(&self, worker: usize) -> Option<usize> {
        self.homes.get(worker).copied().flatten()
    }

    /// The workers that have a copy of the shard.
    pub(super) fn workers_of(&self, shard: Shard) -> impl Iterator<Item = &WorkerName> {
        let on = self.on.of.get(&shard).into_iter().flatten().filter(|(_, n)| *n > 0);
        on.filter_map(|(worker, _)| self.workers.names.get(*worker))
    }

    /// The zones that have an open worker.
    pub(super) fn open_zones(&self) -> impl Iterator<Item = usize> {
        self.open_zones.iter().copied()
    }

    /// What these are called.
    pub(super) fn names_of(&self, zones: impl Iterator<Item = usize>) -> impl Iterator<Item = &Zone> {
        zones.filter_map(|zone| self.zones.names.get(zone))
    }

    /// Copies of the shard on the worker.
    pub(super) fn shard_on(&self, shard: Shard, worker: usize) -> usize {
        self.on.of(shard, worker)
    }

    /// Copies of the shard in the zone.
    pub(super) fn shard_in(&self, shard: Shard, zone: usize) -> usize {
        self.within.of(shard, zone)
    }

    /// Members on the worker.
    pub(super) fn members_on(&self, worker: usize) -> usize {
        self.on.all(worker)
    }

    /// Members in the zone.
    pub(super) fn members_in(&self, zone: usize) -> usize {
        self.within.all(zone)
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
