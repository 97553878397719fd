//! A small world searched: every point of its life, every single fault at every point, until the end is reached from each.
//!
//! A point is the moment before a pass of the operator. From each the future without faults is one chain, since chance follows
//! from the state (`canon`); where it meets a state from which the end was reached before, nothing new can come.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::life::{CALM, PATIENCE};
use super::script::{Action, Who};
use super::trace::Trace;
use super::world::{Start, World};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// States by how many faults lead to them at the least, the first without any.
    pub states: Vec<usize>,
    /// Chains that were followed.
    pub lives: usize,
    /// Every state within that many faults was seen, unless the bound ended the search.
    pub complete: bool,
    /// The faults that lead to it, and what is wrong.
    pub failure: Option<(Vec<String>, String)>,
}

/// What may happen at a point.
type Faults = fn(&World) -> Vec<Action>;

/// Searches everything that so many faults can lead to, and stops after so many states.
pub(crate) fn search(start: &Start, deep: usize, most: usize, faults: Faults) -> Found {
    let mut search =
        Search { good: HashSet::new(), seen: vec![HashSet::new(); deep + 1], most, faults, lives: 0 };
    let world = World::new(start, Trace::default());
    let failure = search.explore(world, 0, &mut Vec::new()).err();
    let complete = failure.is_none() && search.states() < most;
    Found { states: search.seen.iter().map(HashSet::len).collect(), lives: search.lives, complete, failure }
}

struct Search {
    /// States from which the end is reached when nothing more happens.
    good: HashSet<u64>,
    /// States at which every fault was tried, or which the last fault led to.
    seen: Vec<HashSet<u64>>,
    most: usize,
    faults: Faults,
    lives: usize,
}

type Failure = (Vec<String>, String);

impl Search {
    fn states(&self) -> usize {
        self.seen.iter().map(HashSet::len).sum()
    }

    /// Lives on without a fault, and has every fault happen at every point on the way.
    fn explore(&mut self, mut world: World, faults: usize, path: &mut Vec<String>) -> Result<(), Failure> {
        self.lives += 1;
        let last = faults + 1 == self.seen.len();
        let (began, mut calm_since, mut chain) = (world.now, world.now, Vec::new());
        loop {
            let state = world.state();
            world.rng = StdRng::seed_from_u64(state);
            let known = self.seen[..=faults].iter().any(|seen| seen.contains(&state));
            if known && self.good.contains(&state) {
                break;
            }
            chain.push(state);
            if !known && self.states() < self.most {
                self.seen[faults].insert(state);
                if !last {
                    self.branch(&world, faults, path)?;
                }
            }
            if world.step() {
                calm_since = world.now;
            }
            let fail = |why: String| Err((path.clone(), why));
            if let Some((_, why)) = world.watch.first_break.clone() {
                return fail(why);
            }
            if world.now - calm_since >= 2 * CALM {
                let pass = world.clone().pass(0);
                match world.unfinished(&pass.plan, false) {
                    Some(why) => return fail(format!("quiet, and yet: {why}")),
                    None => break,
                }
            }
            if world.now - began > PATIENCE {
                return fail("the end is not reached".to_owned());
            }
        }
        self.good.extend(chain);
        Ok(())
    }

    fn branch(&mut self, world: &World, faults: usize, path: &mut Vec<String>) -> Result<(), Failure> {
        for action in (self.faults)(world) {
            let mut child = world.clone();
            child.happen(&action, false);
            path.push(format!("at {}.{} {action}", world.now / 10, world.now % 10));
            self.explore(child, faults + 1, path)?;
            path.pop();
        }
        Ok(())
    }
}

/// Every kind of fault that fits: the operator dies between any two steps, sees what was, is refused, waits; a process is
/// killed; a Pod is told to go; a worker is emptied or opened again; the spec is changed.
pub(crate) fn every_fault(world: &World) -> Vec<Action> {
    let mut out = Vec::new();
    let steps = world.clone().pass(0).plan.steps.len();
    out.extend((0..steps).map(Action::Crash));
    if steps > 0 {
        out.extend([
            Action::Stale(3, 1),
            Action::StalePods(3, 1),
            Action::Refuse(1),
            Action::Lose(1),
            Action::Slow(1),
        ]);
    }
    for pod in world.kube.pods.values().map(|o| &o.pod) {
        let who = Who::Pod(pod.shard.0, pod.index);
        if world.process(&pod.name).is_some() {
            out.push(Action::Kill(who.clone()));
        }
        if !pod.terminating {
            out.push(Action::Delete(who));
        }
    }
    for (i, worker) in (1..).zip(world.kube.workers.values()) {
        out.push(if worker.worker.open { Action::Cordon(i) } else { Action::Uncordon(i) });
    }
    let desired = &world.resource.desired;
    let image = if desired.template.image == "valkey:9" { "valkey:10" } else { "valkey:9" };
    out.push(Action::Image(image.to_owned()));
    out.push(Action::Replicas(desired.replicas + 1));
    out.extend(desired.replicas.checked_sub(1).map(Action::Replicas));
    out.push(Action::Shards(desired.shards + 1));
    out.extend(Some(desired.shards - 1).filter(|n| *n > 0).map(Action::Shards));
    out
}
