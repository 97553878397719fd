//! The operator is killed at any moment of an upgrade and of a drain and started again at once: the end is always the same,
//! and no acknowledged write is lost.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::process::{Victim, with_victim};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "kill_changes",
    about: "an operator that is killed at any moment of an upgrade or a drain finishes it when it is back; nothing is lost",
    run: |stage| run(stage).boxed_local(),
};

/// An upgrade and a drain take about this long: kills are spread over it.
const CHANGE: Duration = Duration::from_secs(8);
/// How often it is killed during one change.
const KILLS: usize = 3;
const LIMIT: Duration = Duration::from_mins(4);
/// One version under two names: every Pod changes, and nothing else.
const ONE: &str = "docker.io/valkey/valkey:9.1.2";
const OTHER: &str = "docker.io/valkey/valkey:9.1";

async fn run(stage: &Stage) -> Result<()> {
    let why = "kills an operator that runs beside the cluster, in its network";
    with_victim(stage, why, async |victim| changes(stage, victim).await).await
}

async fn changes(stage: &Stage, victim: &mut Victim<'_>) -> Result<()> {
    let cluster = stage.cluster(spec(ONE)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let workers = stage.workers().await?;
    let load = Load::start(stage, &cluster).await?;
    for round in 0..stage.times(1, 5) {
        let image = if round % 2 == 0 { OTHER } else { ONE };
        let killed = upgrade(&cluster, image, victim).await.with_context(|| format!("upgrade {round}"))?;
        stage.say(format_args!("round {round}: upgraded, {killed}"));
        let worker = workers.get(round % workers.len().max(1)).context("no worker")?;
        let drained = drain(stage, &cluster, worker, victim).await;
        stage.kubectl(&["uncordon", worker]).await?;
        let killed = drained.with_context(|| format!("drain {round} of {worker}"))?;
        cluster.whole(3, 1, LIMIT).await?;
        stage.say(format_args!("round {round}: drained {worker}, {killed}"));
    }
    load.judged(stage, "the operator killed in upgrades and drains", 2, GAP).await
}

fn spec(image: &str) -> Value {
    json!({ "shards": 3, "replicas": 1, "image": image })
}

async fn upgrade(cluster: &Cluster, image: &str, victim: &mut Victim<'_>) -> Result<String> {
    let began = Instant::now();
    cluster.change(spec(image)).await?;
    let killed = victim.killed(KILLS, CHANGE).await?;
    let told = async {
        cluster.ready(began, LIMIT).await?;
        cluster.whole(3, 1, LIMIT).await?;
        let old = cluster.pods().await?.into_iter().find(|(_, pod)| {
            let server = pod.spec.as_ref().and_then(|s| s.containers.first());
            let other = server.is_none_or(|c| c.image.as_deref() != Some(image));
            pod.metadata.deletion_timestamp.is_none() && other
        });
        ensure!(old.is_none(), "{:?} has another image", old.map(|(name, _)| name));
        Ok(())
    };
    told.await.map(|()| killed.clone()).context(killed)
}

async fn drain(stage: &Stage, cluster: &Cluster, worker: &str, victim: &mut Victim<'_>) -> Result<String> {
    let arguments = ["drain", worker, "--ignore-daemonsets", "--timeout=170s"];
    let (drained, killed) = tokio::join!(stage.kubectl(&arguments), victim.killed(KILLS, CHANGE));
    let killed = killed?;
    let told = async {
        drained?;
        cluster.whole(3, 1, LIMIT).await?;
        eventually("the worker to be empty", LIMIT, async || {
            let left = cluster.workers().await?.into_values().filter(|w| w == worker).count();
            ensure!(left == 0, "{left} Pods are still on {worker}");
            Ok(())
        })
        .await
    };
    told.await.map(|()| killed.clone()).context(killed)
}
