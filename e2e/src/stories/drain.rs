//! Workers are drained with plain `kubectl drain` under a write load: the operator leads the evacuation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "drain",
    about: "each worker in turn is drained while an application writes: nothing lost, never fewer copies than wanted",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(3);
/// From the end of a drain to primaries that are spread evenly over the workers that are left.
const EVEN: Duration = Duration::from_secs(30);

async fn run(stage: &Stage) -> Result<()> {
    stage.sandbox("it drains every worker, with whatever else runs there")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let workers: Vec<String> = stage.workers().await?;
    let mut broken = Vec::new();
    for worker in &workers {
        let drained = drain(stage, &cluster, worker, &workers).await;
        // Whatever came of it, the next story finds the worker open.
        stage.kubectl(&["uncordon", worker.as_str()]).await?;
        if let Err(error) = drained {
            broken.push(format!("{worker}: {error:#}"));
        }
        cluster.whole(3, 1, LIMIT).await?;
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    let both = two_at_once(stage, &cluster, &workers).await;
    for worker in &workers {
        stage.kubectl(&["uncordon", worker]).await?;
    }
    both.context("two at once")
}

/// Two of three workers are drained at one moment: nobody but the last one is left, and what can be kept is kept.
async fn two_at_once(stage: &Stage, cluster: &Cluster, all: &[String]) -> Result<()> {
    let [first, second, rest @ ..] = all else { bail!("fewer than two workers") };
    ensure!(!rest.is_empty(), "no worker would be left");
    let load = Load::start(stage, cluster).await?;
    let began = Instant::now();
    let drain =
        async |worker: &str| stage.kubectl(&["drain", worker, "--ignore-daemonsets", "--timeout=170s"]).await;
    let (one, other) = tokio::join!(drain(first), drain(second));
    one?;
    other?;
    let drained = began.elapsed();
    cluster.whole(3, 1, LIMIT).await?;
    let on = cluster.workers().await?;
    ensure!(on.values().all(|w| rest.contains(w)), "Pods are still on a drained worker: {on:?}");
    stage.say(format_args!(
        "{first} and {second} at once: both drains ended after {:.1} s",
        drained.as_secs_f64()
    ));
    load.judged(stage, "two workers drained at once", 2, GAP).await
}

async fn drain(stage: &Stage, cluster: &Cluster, worker: &str, all: &[String]) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let here = cluster.workers().await?.into_values().filter(|w| w == worker).count();
    load.mark(worker);
    let began = Instant::now();
    stage.kubectl(&["drain", worker, "--ignore-daemonsets", "--timeout=170s"]).await?;
    let drained = began.elapsed();
    cluster.whole(3, 1, LIMIT).await?;
    let open: Vec<&String> = all.iter().filter(|w| *w != worker).collect();
    let even = eventually("primaries to be even over the open workers", stage.bound(EVEN), async || {
        let spread = primaries(cluster, &open).await?;
        let (most, least) = (spread.values().max(), spread.values().min());
        ensure!(most.zip(least).is_some_and(|(m, l)| m - l <= 1), "{spread:?}");
        Ok(began.elapsed())
    })
    .await?;
    let left = cluster.workers().await?.into_values().filter(|w| w == worker).count();
    ensure!(left == 0, "{left} Pods are still on {worker}");
    stage.say(format_args!(
        "{worker} with {here} members: kubectl drain ended after {:.1} s, even after {:.1} s",
        drained.as_secs_f64(),
        even.as_secs_f64()
    ));
    load.judged(stage, &format!("drain {worker}"), 2, GAP).await
}

/// Primaries by worker, for these workers.
async fn primaries(cluster: &Cluster, workers: &[&String]) -> Result<BTreeMap<String, usize>> {
    let on = cluster.workers().await?;
    let mut out: BTreeMap<String, usize> = workers.iter().map(|w| ((*w).clone(), 0)).collect();
    for shard in 0..3 {
        if let Some(worker) = on.get(&cluster.primary_of(shard).await?) {
            *out.entry(worker.clone()).or_default() += 1;
        }
    }
    Ok(out)
}
