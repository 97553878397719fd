//! The evenest choice: one seat a shard, such that workers and zones have as equal a number of them as can be.
//!
//! A flow of least cost, where the n-th shard on a worker costs 2n − 1 (the squares of the loads are summed up), and likewise for
//! zones. Starting from the choice that is there, cycles of negative cost are followed until there is none, so the result
//! is exact: max − min ≤ 1 over workers and over zones whenever any choice reaches both, and the fewest shards change.
//! `tests/leads.rs` tries everything beside it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Shard;

/// Where a shard may be led from: a worker, and its zone if it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seat<'a> {
    /// The worker.
    pub worker: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
}

/// What is to be even.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// The number of seats on each worker.
    pub workers: bool,
    /// The number of seats in each zone.
    pub zones: bool,
}

/// Workers come before zones, and both before the number of changes. Loads are at most 1000, so that sums do not overlap.
const WORKER: i64 = 1 << 40;
const ZONE: i64 = 1 << 20;

/// For each shard the index of one of its seats; `now` is what is chosen already.
pub fn even(
    choices: &BTreeMap<Shard, Vec<Seat<'_>>>,
    now: &BTreeMap<Shard, usize>,
    over: Over,
) -> BTreeMap<Shard, usize> {
    let mut flow = Flow::new(choices, now, over);
    while let Some(cycle) = flow.negative_cycle() {
        for moved in cycle {
            flow.chosen.insert(moved.0, moved.1);
        }
    }
    flow.chosen
}

/// A shard that takes another seat.
type Move = (Shard, usize);

/// An edge of the residual graph; the nodes are workers, zones, and one for all.
struct Edge {
    from: usize,
    to: usize,
    cost: i64,
    moved: Option<Move>,
}

struct Flow<'c, 'a> {
    choices: &'c BTreeMap<Shard, Vec<Seat<'a>>>,
    home: &'c BTreeMap<Shard, usize>,
    chosen: BTreeMap<Shard, usize>,
    over: Over,
    workers: BTreeMap<&'a str, usize>,
    zones: BTreeMap<&'a str, usize>,
    zone_of: BTreeMap<&'a str, Option<&'a str>>,
}

impl<'c, 'a> Flow<'c, 'a> {
    fn new(
        choices: &'c BTreeMap<Shard, Vec<Seat<'a>>>,
        home: &'c BTreeMap<Shard, usize>,
        over: Over,
    ) -> Self {
        let seats: BTreeSet<Seat<'a>> = choices.values().flatten().copied().collect();
        let zone_of: BTreeMap<&str, Option<&str>> = seats.iter().map(|s| (s.worker, s.zone)).collect();
        let workers: BTreeMap<&str, usize> = zone_of.keys().enumerate().map(|(i, w)| (*w, i)).collect();
        let names: BTreeSet<&str> = seats.iter().filter_map(|s| s.zone).collect();
        let zones = names.into_iter().enumerate().map(|(i, z)| (z, workers.len() + i)).collect();
        Self { choices, home, chosen: home.clone(), over, workers, zones, zone_of }
    }

    fn seat(&self, shard: Shard, index: usize) -> Option<Seat<'a>> {
        self.choices.get(&shard)?.get(index).copied()
    }

    fn nodes(&self) -> usize {
        self.workers.len() + self.zones.len() + 1
    }

    /// What one seat more, or one less, costs at a place that has this many.
    fn edges_of_load(&self, edges: &mut Vec<Edge>) {
        let (mut on, mut within) = (BTreeMap::<&str, i64>::new(), BTreeMap::<&str, i64>::new());
        for seat in self.chosen.iter().filter_map(|(s, i)| self.seat(*s, *i)) {
            *on.entry(seat.worker).or_default() += 1;
            if let Some(zone) = seat.zone {
                *within.entry(zone).or_default() += 1;
            }
        }
        let mut both = |from: usize, to: usize, load: i64, weight: i64| {
            edges.push(Edge { from, to, cost: weight * (2 * load + 1), moved: None });
            if load > 0 {
                edges.push(Edge { from: to, to: from, cost: -weight * (2 * load - 1), moved: None });
            }
        };
        let all = self.nodes() - 1;
        let (worker, zone) = (i64::from(self.over.workers) * WORKER, i64::from(self.over.zones) * ZONE);
        for (name, node) in &self.workers {
            let within = self.zone_of.get(name).copied().flatten().and_then(|z| self.zones.get(z));
            both(*node, within.copied().unwrap_or(all), on.get(name).copied().unwrap_or(0), worker);
        }
        for (name, node) in &self.zones {
            both(*node, all, within.get(name).copied().unwrap_or(0), zone);
        }
    }

    fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (shard, seats) in self.choices {
            let Some(here) = self.chosen.get(shard).and_then(|i| self.seat(*shard, *i)) else { continue };
            let home = self.home.get(shard);
            let away = |i: usize| i64::from(home != Some(&i));
            let at = self.chosen.get(shard).copied().unwrap_or(0);
            for (i, seat) in seats
                .iter()
                .enumerate()
                .filter(|(i, s)| *i != at && (s.worker != here.worker || away(*i) == 0))
            {
                let (Some(from), Some(to)) = (self.workers.get(here.worker), self.workers.get(seat.worker))
                else {
                    continue;
                };
                edges.push(Edge { from: *from, to: *to, cost: away(i) - away(at), moved: Some((*shard, i)) });
            }
        }
        self.edges_of_load(&mut edges);
        edges
    }

    /// Bellman and Ford; a cycle of predecessors is one of negative cost, and is looked for after each round.
    fn negative_cycle(&self) -> Option<Vec<Move>> {
        let edges = self.edges();
        let mut cost = vec![0_i64; self.nodes()];
        let mut by: Vec<Option<usize>> = vec![None; self.nodes()];
        for _ in 0..=self.nodes() {
            let mut changed = false;
            for (number, edge) in edges.iter().enumerate() {
                let through = cost.get(edge.from)?.saturating_add(edge.cost);
                if through < *cost.get(edge.to)? {
                    *cost.get_mut(edge.to)? = through;
                    *by.get_mut(edge.to)? = Some(number);
                    changed = true;
                }
            }
            if !changed {
                return None;
            }
            if let Some(cycle) = cycle(&by, &edges) {
                return Some(cycle);
            }
        }
        None
    }
}

/// The moves along a cycle of predecessors, if there is one.
fn cycle(by: &[Option<usize>], edges: &[Edge]) -> Option<Vec<Move>> {
    let before = |node: usize| by.get(node).copied().flatten().and_then(|e| edges.get(e));
    let mut met: Vec<Option<usize>> = vec![None; by.len()];
    for start in 0..by.len() {
        let mut node = start;
        while met.get(node).copied().flatten().is_none() {
            *met.get_mut(node)? = Some(start);
            let Some(edge) = before(node) else { break };
            node = edge.from;
        }
        if met.get(node).copied().flatten() == Some(start) && before(node).is_some() {
            let (mut moves, end) = (Vec::new(), node);
            while let Some(edge) = before(node) {
                moves.extend(edge.moved);
                node = edge.from;
                if node == end {
                    return Some(moves);
                }
            }
        }
    }
    None
}
