//! The order in which steps run: first what is urgent, then what all rest on, then one lane a shard, side by side.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::model::{Done, Lane, Object, Outcome, Proposal, Step};
use crate::parallel;

/// How many lanes run at one time.
const PARALLEL: usize = 16;

/// Runs the steps. When a step of the first lane is not done the pass ends; when a step of another lane is not done that
/// lane ends, unless the step was one that nothing rests on.
pub async fn run<'a, F, O>(steps: &'a [Proposal], effect: F) -> Vec<Done>
where
    F: Fn(&'a Step) -> O + Sync,
    O: Future<Output = Outcome> + Send,
{
    let mut lanes: BTreeMap<Lane, Vec<&'a Proposal>> = BTreeMap::new();
    for p in steps {
        lanes.entry(p.step.lane()).or_default().push(p);
    }
    let mut done = Vec::with_capacity(steps.len());
    if let Some(urgent) = lanes.remove(&Lane::Urgent) {
        done.extend(lane(urgent, &effect).await);
    }
    if let Some(first) = lanes.remove(&Lane::First) {
        let first = lane(first, &effect).await;
        let go_on = first.iter().all(|d| d.outcome == Outcome::Done);
        done.extend(first);
        if !go_on {
            return done;
        }
    }
    let mut runs: Vec<BoxFuture<'_, Vec<Done>>> = Vec::with_capacity(lanes.len());
    for steps in lanes.into_values() {
        runs.push(lane(steps, &effect).boxed());
    }
    done.extend(parallel::all(runs, PARALLEL).await.into_iter().flatten());
    done
}

async fn lane<'a, F, O>(steps: Vec<&'a Proposal>, effect: &F) -> Vec<Done>
where
    F: Fn(&'a Step) -> O + Sync,
    O: Future<Output = Outcome> + Send,
{
    let mut done = Vec::with_capacity(steps.len());
    for p in steps {
        let outcome = effect(&p.step).await;
        let go_on = outcome == Outcome::Done || nothing_rests_on(&p.step);
        done.push(Done { proposal: p.clone(), outcome });
        if !go_on {
            break;
        }
    }
    done
}

/// Whether the other steps of the lane go on after this one, whatever became of it.
pub fn nothing_rests_on(step: &Step) -> bool {
    matches!(
        step,
        Step::SetGate { .. }
            | Step::SetRole { .. }
            | Step::SetApart { .. }
            | Step::SetMetadata { .. }
            | Step::Configure { .. }
            | Step::SetUser { .. }
            | Step::RemoveUser { .. }
            | Step::LogIn { .. }
            | Step::CreatePod { .. }
            | Step::DeletePod { .. }
            | Step::Migrate { .. }
            | Step::Carry { .. }
            | Step::Close { .. }
            | Step::Purge { .. }
            | Step::Apply(Object::Budget)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PodName, PodUid, Shard, Why, step::Removable};

    fn of(steps: Vec<Step>) -> Vec<Proposal> {
        steps.into_iter().map(|s| Proposal::new(s, Why::Form, "")).collect()
    }

    fn delete(shard: u16) -> Step {
        let (name, uid) = (PodName::new(format!("p{shard}")), PodUid::new("u"));
        Step::DeletePod { name, uid, shard: Shard(shard), only_if: Removable::NotRunning }
    }

    #[tokio::test]
    async fn what_all_rests_on_comes_first_and_ends_the_pass_when_it_fails() {
        let steps = of(vec![delete(0), Step::Apply(Object::Secret), Step::Latch]);
        let done = run(&steps, |s| {
            let fails = *s == Step::Apply(Object::Secret);
            async move { if fails { Outcome::Failed("no".into()) } else { Outcome::Done } }
        })
        .await;
        assert_eq!(done.iter().map(|d| d.proposal.step.to_string()).collect::<Vec<_>>(), ["apply Secret"]);
    }

    #[tokio::test]
    async fn a_failure_in_one_shard_does_not_hold_back_another() {
        let steps = of(vec![delete(0), delete(1), Step::Latch]);
        let done = run(&steps, |s| {
            let fails = *s == delete(0);
            async move { if fails { Outcome::Failed("no".into()) } else { Outcome::Done } }
        })
        .await;
        assert_eq!(done.len(), 3);
        assert_eq!(done.iter().filter(|d| d.outcome == Outcome::Done).count(), 2);
    }
}
