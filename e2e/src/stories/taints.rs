//! Taints that say that a worker goes, or may go: by an autoscaler that would like to remove it, one that removes it, one that changes its
//! mind, and by a person who vouches that the machine is off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;

use super::Story;
use super::aftermath::{self, LIMIT, succeeded};
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::mend::{Mend, power_off, taint};
use super::rescale;
use super::stage::{Stage, eventually};
use super::worker::{primary_on, ready, worker_of_leader};
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "taints",
    about: "autoscalers taint a worker that may go, goes, or stays after all, and a person one that is off",
    run: |stage| run(stage).boxed_local(),
};

/// The cluster autoscaler's word that a worker could be spared: soft, and it may be so for hours.
const CANDIDATE: &str = "DeletionCandidateOfClusterAutoscaler=1:PreferNoSchedule";
/// Its word that the worker is being removed.
const REMOVED: &str = "ToBeDeletedByClusterAutoscaler=1:NoSchedule";
/// Karpenter's.
const DISRUPTED: &str = "karpenter.sh/disrupted=:NoSchedule";
/// A person's word that the machine is off.
const OFF: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
/// Until all copies are there again after that word: nobody has to wait until a silence counts, or until Kubernetes gives the worker up
/// (47 to 58 s after it fell silent, measured by the story `worker`).
const WHOLE: Duration = Duration::from_secs(20);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox =
        stage.sandbox("taints workers, with whatever else runs there, and takes the power of one")?;
    let cluster = stage.cluster(json!({ "shards": 2, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    candidate(stage, &cluster).await.context("a worker that may go")?;
    removed(stage, &cluster).await.context("a worker that goes")?;
    taken_back(stage, &cluster).await.context("a worker that stays after all")?;
    off(stage, sandbox, &cluster).await.context("a worker that is off")
}

/// A worker that an autoscaler would like to remove keeps its members, and gets no new ones while there are others.
async fn candidate(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let on = by_worker(stage, cluster).await?;
    // Without the taint it would be the first to get one.
    let (worker, before) = on.iter().min_by_key(|(_, pods)| pods.len()).context("there is no worker")?;
    let tainted = taint(stage, worker, CANDIDATE).await?;
    let began = Instant::now();
    rescale::scale(stage, cluster, 3).await?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    let after = by_worker(stage, cluster).await?;
    ensure!(after.get(worker) == Some(before), "{worker} had {before:?} and has {after:?}");
    tainted.now()?;
    stage.say(format_args!(
        "a shard more while {worker} may go: it kept its {} members and got none",
        before.len()
    ));
    Ok(())
}

/// A worker that an autoscaler is about to remove is emptied, as a cordoned one is.
async fn removed(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let (_, _, worker) = primary_on(cluster, |_| true).await?;
    let load = Load::start(stage, cluster).await?;
    load.mark(REMOVED);
    let began = Instant::now();
    let tainted = taint(stage, &worker, REMOVED).await?;
    eventually("the worker to be empty", LIMIT, async || {
        let left = by_worker(stage, cluster).await?.remove(&worker).unwrap_or_default();
        ensure!(left.is_empty(), "{left:?} are still on {worker}");
        Ok(())
    })
    .await?;
    stage.say(format_args!("{worker} was emptied {:.1} s after the taint", began.elapsed().as_secs_f64()));
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    tainted.now()?;
    load.judged(stage, "a worker that an autoscaler removes", 2, GAP).await
}

/// The taint goes as soon as the first successor was asked for: the shards that wait for their turn stay where they are.
async fn taken_back(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let before = pods(cluster).await?;
    let on = by_worker(stage, cluster).await?;
    let (worker, here) = on.iter().max_by_key(|(_, pods)| pods.len()).context("there is no worker")?;
    let load = Load::start(stage, cluster).await?;
    load.mark(DISRUPTED);
    let began = Instant::now();
    let tainted = taint(stage, worker, DISRUPTED).await?;
    eventually("the first successor", LIMIT, async || {
        ensure!(!pods(cluster).await?.is_subset(&before), "there is none");
        Ok(())
    })
    .await?;
    tainted.now()?;
    load.mark("taken back");
    eventually("as many members as before", LIMIT, async || {
        let now = pods(cluster).await?.len();
        ensure!(now == before.len(), "there are {now}");
        Ok(())
    })
    .await?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    let stayed = pods(cluster).await?.intersection(here).count();
    // One shard goes after another, and a taint is not taken back in no time.
    ensure!(stayed > 0, "all {} members have left {worker}, which stays after all", here.len());
    stage.say(format_args!("{worker} stays after all: {stayed} of its {} members never left", here.len()));
    load.judged(stage, "a worker that stays after all", 2, GAP).await
}

/// A worker loses its power, and a person says so: that proves what silence does not.
async fn off(stage: &Stage, sandbox: &Sandbox, cluster: &Cluster) -> Result<()> {
    let leader = worker_of_leader(stage).await?;
    let (shard, primary, worker) = primary_on(cluster, |w| w != leader).await?;
    let mut mends = Vec::new();
    let after = aftermath::of(stage, cluster, (3, 1), OFF, async |_| {
        mends.push(power_off(sandbox, &worker)?);
        mends.push(taint(stage, &worker, OFF).await?);
        succeeded(cluster, shard, &primary).await.map(drop)
    })
    .await?;
    ensure!(after.whole <= stage.bound(WHOLE), "it took {:?} until all was whole", after.whole);
    mends.into_iter().try_for_each(Mend::now)?;
    ready(stage, &worker).await?;
    cluster.whole(3, 1, LIMIT).await.context("after its return")?;
    cluster.ready(Instant::now(), LIMIT).await.map(drop)
}

/// The UIDs of its Pods that are meant to stay.
async fn pods(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let all = cluster.pods().await?.into_values();
    Ok(all.filter(|p| p.metadata.deletion_timestamp.is_none()).filter_map(|p| p.uid()).collect())
}

/// The UIDs of its Pods on each worker, of those that end, too.
async fn by_worker(stage: &Stage, cluster: &Cluster) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut out: BTreeMap<String, BTreeSet<String>> =
        stage.workers().await?.into_iter().map(|w| (w, BTreeSet::new())).collect();
    for pod in cluster.pods().await?.into_values() {
        if let (Some(uid), Some(worker)) = (pod.uid(), pod.spec.and_then(|s| s.node_name)) {
            out.entry(worker).or_default().insert(uid);
        }
    }
    Ok(out)
}
