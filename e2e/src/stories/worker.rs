//! Workers that lose their power or their cable under a write load: their primaries have heirs, their members are made
//! anew elsewhere, and their return changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::json;
use valkey_cluster_operator::build::labels;

use super::aftermath::{self, LIMIT, median, succeeded};
use super::cluster::Cluster;
use super::mend::{Mend, cut, power_off};
use super::operator;
use super::stage::{Stage, eventually};
use super::{Story, Suite};
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "worker",
    about: "a worker loses its power or its cable: heirs at once, copies elsewhere, and its return changes nothing",
    run: |stage| run(stage).boxed_local(),
};

/// The longest time without an acknowledged write: two node-timeouts until a majority suspects, and the failover.
const GAP: Duration = Duration::from_secs(3);
/// Until every shard has all its copies in sync again: 12 s until the silence counts, and 15 s for new Pods and their syncs.
/// (The ids of the lost stay listed until Kubernetes has given the worker up, or it is back: they may live.)
const REDUNDANT: Duration = Duration::from_secs(27);
/// The same when the leading operator is lost with it: the lease of 15 s has to run out first, and the standby asks for it every
/// 2 s. How long the members have been silent it knows by then.
const TAKEN_OVER: Duration = Duration::from_secs(32);
/// What is absent for this long is replaced by nobody.
const BLINK: Duration = Duration::from_secs(10);
/// So long the majority of the workers is away.
const APART: Duration = Duration::from_secs(20);
/// After its return nothing may happen for this long.
const WATCHED: Duration = Duration::from_secs(10);

/// How a worker is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Power,
    Cable,
}

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("takes power and cables from workers")?;
    for loss in [Loss::Power, Loss::Cable] {
        let (mut gaps, mut below) = (Vec::new(), Vec::new());
        for _ in 0..stage.times(1, 5) {
            let lost = lose(stage, sandbox, 1, (loss, false)).await.with_context(|| format!("{loss:?}"))?;
            gaps.push(lost.0);
            below.push(lost.1);
        }
        let (gap, below) = (median(gaps), median(below));
        stage.say(format_args!(
            "{loss:?}: median of the longest gaps {gap:?}, of the times without a copy {below:?}"
        ));
        ensure!(gap <= stage.bound(GAP), "{loss:?}: a gap of {gap:?}");
        ensure!(below <= stage.bound(REDUNDANT), "{loss:?}: a copy was missing for {below:?}");
    }
    let (gap, below) =
        lose(stage, sandbox, 1, (Loss::Power, true)).await.context("with the leading operator")?;
    ensure!(gap <= stage.bound(GAP), "with the leading operator: a gap of {gap:?}");
    ensure!(below <= stage.bound(TAKEN_OVER), "with the leading operator: a copy was missing for {below:?}");
    apart(stage, sandbox, "one worker blinks", BLINK, 1).await?;
    apart(stage, sandbox, "the majority of the workers is away", APART, 2).await?;
    with_a_choice(stage, sandbox).await.context("3x2")
}

/// The same with two replicas in each shard. It is left to the full suite: each loss takes most of a minute.
async fn with_a_choice(stage: &Stage, sandbox: &Sandbox) -> Result<()> {
    if stage.suite == Suite::Ci {
        return Ok(());
    }
    for loss in [Loss::Power, Loss::Cable] {
        let (gap, below) =
            lose(stage, sandbox, 2, (loss, false)).await.with_context(|| format!("{loss:?}"))?;
        ensure!(gap <= stage.bound(GAP), "{loss:?}: a gap of {gap:?}");
        ensure!(below <= stage.bound(REDUNDANT), "{loss:?}: a copy was missing for {below:?}");
    }
    Ok(())
}

/// One worker with a primary goes, with or without the leading operator on it, and comes back.
async fn lose(
    stage: &Stage,
    sandbox: &Sandbox,
    replicas: usize,
    (loss, with_leader): (Loss, bool),
) -> Result<(Duration, Duration)> {
    let cluster = formed(stage, replicas).await?;
    let leader = worker_of_leader(stage).await?;
    let (shard, primary, worker) = primary_on(&cluster, |w| (w == leader) == with_leader).await?;
    let what = format!(
        "{loss:?} of {worker}, 3x{replicas}{}",
        if with_leader { " with the leading operator" } else { "" }
    );
    let mut mend = None;
    let after = aftermath::of(stage, &cluster, (3, replicas), &what, async |_| {
        mend = Some(break_it(sandbox, loss, &worker)?);
        succeeded(&cluster, shard, &primary).await?;
        Ok(())
    })
    .await?;
    after.nothing_lost_but_last_writes()?;
    let before = staying(&cluster).await?;
    mend.context("it was never broken")?.now()?;
    ready(stage, &worker).await?;
    tokio::time::sleep(WATCHED).await;
    cluster.whole(3, replicas, LIMIT).await.context("after its return")?;
    let changed = unexplained(&before, &staying(&cluster).await?);
    ensure!(
        changed.is_empty(),
        "the return of {worker} changed which Pods there are: {}",
        changed.join(", ")
    );
    cluster.ready(Instant::now(), LIMIT).await?;
    stage.clean().await?;
    Ok((after.gap(), after.below))
}

/// So many workers without the leading operator are cut off for a while: no Pod comes or goes.
async fn apart(stage: &Stage, sandbox: &Sandbox, what: &str, how_long: Duration, many: usize) -> Result<()> {
    let cluster = formed(stage, 1).await?;
    let leader = worker_of_leader(stage).await?;
    let others = stage.workers().await?.into_iter().filter(|w| *w != leader).take(many);
    let others: Vec<String> = others.collect();
    let before = staying(&cluster).await?;
    let after = aftermath::of(stage, &cluster, (3, 1), what, async |_| {
        let cuts: Vec<Mend> = others.iter().map(|w| cut(sandbox, w)).collect::<Result<_>>()?;
        tokio::time::sleep(how_long).await;
        cuts.into_iter().try_for_each(Mend::now)
    })
    .await?;
    let changed = unexplained(&before, &staying(&cluster).await?);
    ensure!(changed.is_empty(), "{what}: Pods were replaced: {}", changed.join(", "));
    // With a majority away the primary that is left acknowledges for a moment more, and Valkey may elect its replica when
    // the others meet again: how much that took with it was told above.
    if many == 1 {
        after.nothing_lost_but_last_writes()?;
    }
    stage.clean().await
}

fn break_it(sandbox: &Sandbox, loss: Loss, worker: &str) -> Result<Mend> {
    match loss {
        Loss::Power => power_off(sandbox, worker),
        Loss::Cable => cut(sandbox, worker),
    }
}

async fn formed(stage: &Stage, replicas: usize) -> Result<Cluster> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": replicas })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    cluster.whole(3, replicas, LIMIT).await?;
    Ok(cluster)
}

/// A Pod that is meant to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    name: String,
    /// UID of the member that it was made to take the place of, when that was only to be moved.
    instead_of: Option<String>,
}

/// The Pods that are meant to stay, by UID.
async fn staying(cluster: &Cluster) -> Result<BTreeMap<String, Kept>> {
    let staying = cluster.pods().await?.into_iter().filter(|(_, p)| p.metadata.deletion_timestamp.is_none());
    let kept = |(name, p): (String, Pod)| {
        let instead_of = p.annotations().get(labels::INSTEAD_OF).cloned();
        Some((p.uid()?, Kept { name, instead_of }))
    };
    Ok(staying.filter_map(kept).collect())
}

/// Pods that came or went, but for one that moved to a better place: a worker that is back has room, and a minute after the
/// last new Pod, which may be at any moment here, the members are evened out.
fn unexplained(before: &BTreeMap<String, Kept>, after: &BTreeMap<String, Kept>) -> Vec<String> {
    let moved: BTreeSet<&String> = after.values().filter_map(|p| p.instead_of.as_ref()).collect();
    let gone = before.iter().filter(|(uid, _)| !after.contains_key(*uid) && !moved.contains(uid));
    let new = after.iter().filter(|(uid, pod)| {
        !before.contains_key(*uid) && pod.instead_of.as_ref().is_none_or(|old| !before.contains_key(old))
    });
    let gone = gone.map(|(uid, pod)| format!("{} ({uid}) is gone", pod.name));
    gone.chain(new.map(|(uid, pod)| format!("{} ({uid}) is new", pod.name))).collect()
}

/// A shard whose primary is on a worker like this, with that primary and that worker.
pub(super) async fn primary_on(
    cluster: &Cluster,
    like: impl Fn(&str) -> bool,
) -> Result<(u16, String, String)> {
    let workers = cluster.workers().await?;
    for shard in 0..3 {
        let primary = cluster.primary_of(shard).await?;
        if let Some(worker) = workers.get(&primary).filter(|w| like(w)) {
            return Ok((shard, primary.clone(), worker.clone()));
        }
    }
    anyhow::bail!("no primary is on such a worker")
}

/// The worker that the leading operator is on.
pub(super) async fn worker_of_leader(stage: &Stage) -> Result<String> {
    eventually("a leading operator", LIMIT, async || {
        let leader = operator::leader(&stage.client).await?;
        let pods: Api<Pod> = Api::namespaced(stage.client.clone(), operator::NAMESPACE);
        let pod = pods.get(&leader).await?;
        pod.spec.and_then(|s| s.node_name).with_context(|| format!("{leader} is on no worker"))
    })
    .await
}

/// Waits until Kubernetes calls a worker Ready.
pub(super) async fn ready(stage: &Stage, worker: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(stage.client.clone());
    eventually("the worker to be Ready", LIMIT, async || {
        let status = nodes.get(worker).await?.status.unwrap_or_default();
        let ready =
            status.conditions.iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status.as_str());
        ensure!(ready == Some("True"), "{worker} is {ready:?}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(all: &[(&str, Option<&str>)]) -> BTreeMap<String, Kept> {
        let kept = |(uid, instead_of): &(&str, Option<&str>)| {
            let pod = Kept { name: format!("pod-{uid}"), instead_of: instead_of.map(str::to_owned) };
            ((*uid).to_owned(), pod)
        };
        all.iter().map(kept).collect()
    }

    #[test]
    fn only_a_move_to_a_better_place_explains_another_pod() {
        let before = pods(&[("a", None), ("b", None)]);
        assert_eq!(unexplained(&before, &before), Vec::<String>::new());
        let moving = pods(&[("a", None), ("b", None), ("c", Some("b"))]);
        assert_eq!(unexplained(&before, &moving), Vec::<String>::new());
        let moved = pods(&[("a", None), ("c", Some("b"))]);
        assert_eq!(unexplained(&before, &moved), Vec::<String>::new());
        let replaced = pods(&[("a", None), ("c", None)]);
        assert_eq!(unexplained(&before, &replaced), ["pod-b (b) is gone", "pod-c (c) is new"]);
        let lost = pods(&[("a", None)]);
        assert_eq!(unexplained(&before, &lost), ["pod-b (b) is gone"]);
    }
}
