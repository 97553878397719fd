//! The operator's pass as `reconcile` runs it: observe, plan, execute in lanes, note what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::Rng;
use valkey_cluster_operator::execute::lanes::nothing_rests_on;
use valkey_cluster_operator::model::{
    Attempts, Lane, Looks, NodeReport, Outcome, Past, Plan, Proposal, Seen, Shards, Snapshot,
};

use super::observe::Applied;
use super::reorder::{essence, reordered};
use super::turns::Acting;
use super::world::World;
use super::{tally, ticks};

/// How many looks back a stale read can be.
const MEMORY: usize = 20;

/// Of so many passes one is planned twice.
pub(crate) const ASKED_AGAIN: u64 = 8;

/// What one operator process keeps in memory, and loses with it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Operator {
    pub attempts: Attempts,
    pub applied: Applied,
    pub past_looks: Past,
    pub looks: Looks,
    pub generation: i64,
    pub next_pass: i64,
    /// Until then a step that failed may still be held back.
    pub failures_until: Option<i64>,
    /// It has started while the API server was away, and knows nothing.
    pub blind: bool,
    /// What it saw in earlier passes: what a cache may still show.
    past: VecDeque<Arc<Snapshot>>,
}

/// A pass as it went.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Pass {
    pub plan: Plan,
    pub outcomes: Vec<(Proposal, Outcome)>,
    pub crashed: bool,
    /// It saw the world as it is.
    pub fresh: bool,
}

impl World {
    /// One pass of the operator with this number.
    pub(crate) fn pass(&mut self, number: usize) -> Pass {
        let mut operator = std::mem::take(&mut self.operators[number]);
        if operator.blind {
            operator.next_pass = self.now + World::period(true);
            self.operators[number] = operator;
            return Pass { plan: Plan::default(), outcomes: Vec::new(), crashed: false, fresh: false };
        }
        let (snapshot, fresh) = self.look(&mut operator);
        operator.past_looks.see(&snapshot);
        if snapshot.desired.generation != operator.generation {
            operator.generation = snapshot.desired.generation;
            operator.attempts.clear();
        }
        let mut plan = self.mutant.plan(&snapshot, &operator.attempts);
        self.same_facts_same_plan(&snapshot, &operator.attempts, &plan);
        self.restrict(&mut plan, &operator, &snapshot);
        let sees_now = fresh && self.mischief.slow == 0;
        let (outcomes, crashed) = self.run((number, sees_now), &plan, &snapshot, &mut operator);
        self.watch.turns.acting = None;
        if crashed {
            self.watch.turns.forget(number);
            let next = self.now + 1;
            operator = Operator {
                past: std::mem::take(&mut operator.past),
                next_pass: next,
                blind: self.away.is_some(),
                ..Operator::default()
            };
        } else {
            let shards = Shards::new(snapshot.pods.values(), snapshot.desired.copies());
            operator.looks.owe(outcomes.iter().map(|(p, _)| &p.step), &plan.waiting, &shards);
            // Whatever was asked for is done.
            self.watch.purgeable &= !(plan.quiet() && fresh && !self.resource.desired.paused);
            operator.next_pass = self.now + World::period(plan.quiet());
        }
        self.operators[number] = operator;
        let pass = Pass { plan, outcomes, crashed, fresh };
        if !crashed && self.away.is_none() {
            self.publish(&snapshot, &pass, sees_now);
        }
        self.tally.one(tally::PASSES);
        self.tally.many(tally::STEPS, pass.outcomes.len() as u64);
        let inferred = |n: &&NodeReport| n.peers.is_inferred();
        self.tally.many(
            tally::BRIEF,
            snapshot.nodes.values().filter_map(Seen::now).filter(inferred).count() as u64,
        );
        self.note_pass(number, &pass);
        pass
    }

    fn look(&mut self, operator: &mut Operator) -> (Arc<Snapshot>, bool) {
        if let Some(seen) = self.look_without_api(operator) {
            return (Arc::new(seen), false);
        }
        let fresh = Arc::new(self.snapshot(&operator.applied, &operator.past_looks, &mut operator.looks));
        operator.past.push_front(Arc::clone(&fresh));
        operator.past.truncate(MEMORY);
        let back = |age: usize, past: &VecDeque<Arc<Snapshot>>| past.get(age.min(past.len() - 1)).cloned();
        if let Some((age, left)) = take_one(&mut self.mischief.stale)
            && let Some(old) = back(age, &operator.past)
        {
            self.mischief.stale = (left > 0).then_some((age, left));
            self.tally.one(tally::STALE);
            self.watch.upset_at = self.now;
            // What this process has written and remembered itself it knows, however old its caches are.
            let (old, fresh) = (Snapshot::clone(&old), Arc::unwrap_or_clone(fresh));
            let old = Snapshot {
                now: fresh.now,
                applied: fresh.applied,
                past: fresh.past,
                formed: fresh.formed,
                whole: fresh.whole,
                served: fresh.served,
                shape: fresh.shape,
                accounts: fresh.accounts,
                ..old
            };
            return (Arc::new(old), false);
        }
        if let Some((age, left)) = take_one(&mut self.mischief.stale_pods)
            && let Some(old) = back(age, &operator.past)
        {
            self.mischief.stale_pods = (left > 0).then_some((age, left));
            self.tally.one(tally::STALE_PODS);
            self.watch.upset_at = self.now;
            let pods = old.pods.clone();
            let seen = self.snapshot_with(pods, &operator.applied, &operator.past_looks, &mut operator.looks);
            return (Arc::new(seen), false);
        }
        (fresh, true)
    }

    /// The plan is a function of the facts: asked again it is the same, and their order says nothing. Every so many passes, since it
    /// doubles their cost.
    fn same_facts_same_plan(&mut self, snapshot: &Snapshot, attempts: &Attempts, first: &Plan) {
        match self.tally.of(tally::PASSES) % (2 * ASKED_AGAIN) {
            0 if self.mutant.plan(snapshot, attempts) != *first => {
                self.watch.broken(self.now, "the same facts gave two plans".to_owned());
            }
            // What failed a moment ago is known by names that the order changes.
            ASKED_AGAIN if *attempts == Attempts::default() => {
                let again = self.mutant.plan(&reordered(snapshot), attempts);
                let (here, there) = (essence(first), essence(&again));
                if here != there {
                    let why =
                        format!("the same facts in another order gave another plan: {here:#?} {there:#?}");
                    self.watch.broken(self.now, why);
                }
            }
            _ => {}
        }
    }

    /// The first lane alone, then the others side by side: any interleaving may happen, order holds within a lane.
    fn run(
        &mut self,
        (number, sees_now): (usize, bool),
        plan: &Plan,
        facts: &Snapshot,
        operator: &mut Operator,
    ) -> (Vec<(Proposal, Outcome)>, bool) {
        let mut lanes: BTreeMap<Lane, VecDeque<Proposal>> = BTreeMap::new();
        for p in &plan.steps {
            lanes.entry(p.step.lane()).or_default().push_back(p.clone());
        }
        let mut done: Vec<(Proposal, Outcome)> = Vec::new();
        let mut dies = self.mischief.crash_after.filter(|n| *n < plan.steps.len());
        if dies.is_some() {
            self.mischief.crash_after = None;
        }
        let slow = self.mischief.slow > 0;
        if slow && !plan.steps.is_empty() {
            self.tally.one(tally::SLOW);
        }
        self.mischief.slow = self.mischief.slow.saturating_sub(1);
        while !lanes.is_empty() {
            let ahead = lanes.contains_key(&Lane::Urgent) || lanes.contains_key(&Lane::First);
            let at = if ahead { 0 } else { self.rng.random_range(0..lanes.len()) };
            let lane = lanes.keys().nth(at).expect("below the length").clone();
            let Some(proposal) = lanes.get_mut(&lane).and_then(VecDeque::pop_front) else {
                lanes.remove(&lane);
                continue;
            };
            if dies == Some(0) {
                self.tally.one(tally::DIED);
                return (done, true);
            }
            dies = dies.map(|n| n - 1);
            if slow {
                self.tick();
            }
            self.watch.turns.acting = Some(Acting { operator: number, sees_now, why: proposal.why });
            let outcome = self.execute(&proposal.step, facts, &mut operator.applied);
            operator.past_looks.tried(&proposal.step, &outcome, self.moment());
            match &outcome {
                Outcome::Done => {
                    operator.attempts.done(&proposal.step);
                }
                Outcome::Failed(why) => {
                    operator.attempts.failed(&proposal.step, self.moment(), why);
                    operator.failures_until = Some(self.now + ticks(30_000));
                }
                Outcome::Stale(_) => {}
            }
            let ends = outcome != Outcome::Done && !nothing_rests_on(&proposal.step);
            done.push((proposal, outcome));
            if ends && lane == Lane::First {
                break;
            }
            if ends {
                lanes.remove(&lane);
            }
        }
        (done, false)
    }
}

fn take_one(budget: &mut Option<(usize, usize)>) -> Option<(usize, usize)> {
    budget.take().map(|(age, passes)| (age, passes.saturating_sub(1)))
}
