//! Copies that must never share a worker, on exactly as many workers as copies: an upgrade goes through; a worker that is to be emptied keeps
//! its copies, and the status says why, until `kubectl drain` takes them; and they come back with the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "spread",
    about: "copies that must not share a worker: upgraded and emptied on as many workers as copies",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(5);
const FROM: &str = "docker.io/valkey/valkey:9.1.2";
/// The same version under another name.
const TO: &str = "docker.io/valkey/valkey:9.1";
/// Seconds: what nobody can replace holds on until 15 s before this.
const SHORT_GRACE: u16 = 20;
/// So it holds on for 5 s, by a clock that counts seconds.
const HELD: Duration = Duration::from_secs(4);

fn spec(image: &str) -> Value {
    json!({
        "shards": 3, "replicas": 2, "image": image, "terminationGracePeriodSeconds": SHORT_GRACE,
        "scheduling": { "node": { "spread": { "shard": { "mode": "Required" } } } }
    })
}

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(FROM)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let workers = apart(&cluster).await?;
    ensure!(workers.len() == 3, "the story needs three workers that take Pods, not {workers:?}");
    let load = Load::start(stage, &cluster).await?;
    load.mark("an upgrade with as many workers as copies");
    let began = Instant::now();
    cluster.change(spec(TO)).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 2, LIMIT).await?;
    apart(&cluster).await?;
    stage.say(format_args!("upgrade of 3x2 on three workers: {:.1} s", began.elapsed().as_secs_f64()));
    if let Err(why) = stage.sandbox("it empties a worker, with whatever else runs there") {
        stage.leave_out("a worker without a spare", &why);
        return load.judged(stage, "spread", 3, GAP).await;
    }
    let Some(worker) = workers.first() else { return Ok(()) };
    load.mark("a worker is to be emptied, and there is no spare");
    stage.kubectl(&["cordon", worker]).await?;
    let emptied = no_spare(stage, &cluster, worker).await;
    let opened = Instant::now();
    stage.kubectl(&["uncordon", worker]).await?;
    emptied?;
    cluster.ready(opened, LIMIT).await?;
    cluster.whole(3, 2, LIMIT).await?;
    apart(&cluster).await?;
    load.judged(stage, "spread", 3, GAP).await?;
    drained(stage, &cluster, worker).await.context("drained without a spare worker")
}

/// `kubectl drain` takes the copies all the same, one after another. Each serves until its time is over; what it leads it hands over.
async fn drained(stage: &Stage, cluster: &Cluster, worker: &str) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    load.mark("drained");
    let began = Instant::now();
    // What else runs there is no matter of this story.
    let members = format!("--pod-selector={}={}", labels::CLUSTER, cluster.name);
    let told = async {
        stage.kubectl(&["drain", worker, &members, "--timeout=120s"]).await?;
        let took = began.elapsed();
        ensure!(took >= HELD, "copies that nobody can replace were gone after {took:?}");
        short_of_copies(cluster, worker).await?;
        Ok(took)
    };
    let told: Result<Duration> = told.await;
    let opened = Instant::now();
    stage.kubectl(&["uncordon", worker]).await?;
    let took = told?;
    cluster.ready(opened, LIMIT).await?;
    cluster.whole(3, 2, LIMIT).await?;
    apart(cluster).await?;
    stage.say(format_args!(
        "no spare worker: kubectl drain ended after {:.1} s, whole again {:.1} s after the worker was opened",
        took.as_secs_f64(),
        opened.elapsed().as_secs_f64()
    ));
    load.follow(cluster).await?;
    load.judged(stage, "drained without a spare worker", 2, GAP).await
}

/// The worker is empty, every shard has a copy less than wanted, and the status says that its successor has no place.
async fn short_of_copies(cluster: &Cluster, worker: &str) -> Result<()> {
    let left = cluster.workers().await?.into_values().filter(|w| w == worker).count();
    ensure!(left == 0, "{left} Pods are still on {worker}");
    let placeless = |reason: &str| reason == "NoWorker" || reason.contains("Unschedulable");
    let named =
        |cr: &ValkeyCluster| cr.status.as_ref().is_some_and(|s| s.ready_shards == 0 && placeless(&s.reason));
    cluster.says("the status to say that successors have no place", LIMIT, named).await.map(drop)
}

/// The roles leave the worker, the copies stay, and the status says what is missing.
async fn no_spare(stage: &Stage, cluster: &Cluster, worker: &str) -> Result<()> {
    let named = |cr: &ValkeyCluster| {
        cr.status.as_ref().is_some_and(|s| s.reason == "NoWorker" && s.message.contains("node.spread.shard"))
    };
    let said = cluster.says("the status to say that a worker is missing", LIMIT, named).await?;
    let moved = eventually("the primaries to leave the worker", LIMIT, async || {
        let on = cluster.workers().await?;
        for shard in 0..3 {
            let primary = cluster.primary_of(shard).await?;
            ensure!(on.get(&primary).is_some_and(|w| w != worker), "{primary} is on {worker}");
        }
        Ok(())
    });
    moved.await?;
    let here = cluster.workers().await?.into_values().filter(|w| w == worker).count();
    ensure!(
        here == 3,
        "{here} copies are on {worker} instead of 3: none may leave before another is in sync"
    );
    stage.say(format_args!("no spare worker: named after {:.1} s, roles moved", said.as_secs_f64()));
    Ok(())
}

/// No two copies of a shard share a worker; the workers that have Pods.
async fn apart(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut by_shard: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let pods = cluster.pods().await?;
    for (name, pod) in pods.iter().filter(|(_, p)| p.metadata.deletion_timestamp.is_none()) {
        let shard = pod.metadata.labels.as_ref().and_then(|l| l.get("valkey.io/shard-index")).cloned();
        let worker = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let new = by_shard.entry(shard.unwrap_or_default()).or_default().insert(worker.clone());
        ensure!(new, "{name} shares worker {worker} with another copy of its shard");
    }
    Ok(by_shard.into_values().flatten().collect())
}
