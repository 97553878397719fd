//! Writes: for each step the guard, then one effect. Lanes run side by side, the steps of a lane one after another.
//!
//! A step never waits for its completion: the next pass sees it.

pub mod guard;
mod kube;
pub mod lanes;
mod passwords;
pub mod purge;
pub mod recovery;
pub mod valkey;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::context::Ctx;
use crate::hints::Hints;
use crate::model::{Done, Outcome, Plan, Shards, Snapshot, Step};
use crate::mutex::lock;
use crate::standby;
use valkey::ValkeyExecutor;

pub(crate) use kube::short_grace;

/// Executes a plan and says what became of each step that was reached.
pub async fn execute(
    ctx: &Ctx,
    s: &Snapshot,
    plan: &Plan,
    hints: &Arc<std::sync::Mutex<Hints>>,
) -> Vec<Done> {
    let (access, replication, applied, lanes) = {
        let h = lock(hints);
        let replication = h.credentials.as_ref().map(|c| c.replication.clone());
        (h.access(), replication, Arc::clone(&h.applied), h.lanes.clone())
    };
    if !plan.steps.iter().any(|p| matches!(p.step, Step::Carry { .. })) {
        lanes.only(&BTreeSet::new());
    }
    let nodes = access.zip(replication).map(|(access, replication)| {
        let nodes = ValkeyExecutor::new(Arc::clone(&ctx.connector), access, ctx.ports, applied);
        nodes.by(lanes).replicating_with(replication).until(ctx.links.lost_since(&s.desired.key))
    });
    let executor = Executor { ctx, s, hints, nodes };
    let done = lanes::run(&plan.steps, |step| executor.effect(step)).await;
    remember(hints, s, plan, &done);
    done
}

struct Executor<'a> {
    ctx: &'a Ctx,
    s: &'a Snapshot,
    hints: &'a Arc<std::sync::Mutex<Hints>>,
    nodes: Option<ValkeyExecutor>,
}

impl Executor<'_> {
    async fn effect(&self, step: &Step) -> Outcome {
        if !self.ctx.leadership.valid_now() && !standby::votes_decide(step) {
            return Outcome::Stale("this operator does not hold the lease now".to_owned());
        }
        if step.is_of_kubernetes() {
            return self.kubernetes(step).await;
        }
        match &self.nodes {
            Some(nodes) => nodes.run(step).await,
            None => Outcome::Stale(
                "the passwords of the system users, or the certificates, are not known yet".to_owned(),
            ),
        }
    }
}

/// Failures are remembered for the spacing of the next try.
fn remember(hints: &std::sync::Mutex<Hints>, s: &Snapshot, plan: &Plan, done: &[Done]) {
    let mut h = lock(hints);
    let shards = Shards::new(s.pods.values(), s.desired.copies());
    h.looks.owe(done.iter().map(|d| &d.proposal.step), &plan.waiting, &shards);
    for d in done {
        h.past.tried(&d.proposal.step, &d.outcome, s.now);
        match &d.outcome {
            Outcome::Done => {
                h.attempts.done(&d.proposal.step);
                h.traffic.done(&d.proposal.step, s.now);
            }
            Outcome::Stale(_) => {}
            Outcome::Failed(error) => h.attempts.failed(&d.proposal.step, s.now, error),
        }
    }
}
