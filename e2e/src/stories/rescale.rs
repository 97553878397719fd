//! Shapes change while an application writes, by `kubectl scale` and in other ways that people come up with: from one shard
//! and back to it, with replicas in the same change, a change of mind in the middle, a cordoned worker.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::load::Load;
use super::scale::{LIMIT, even, one_pod_a_shard};
use super::stage::{Stage, eventually};
use super::watching::Watching;

pub(super) const STORY: Story = Story {
    name: "rescale",
    about: "kubectl scale 1 to 3 to 1, with replicas in the same change, a change of mind, a cordoned worker",
    run: |stage| run(stage).boxed_local(),
};

/// The longest time in which no write to a key is acknowledged.
const GAP: Duration = Duration::from_millis(500);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(1, 1)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let watching = Watching::start(stage, &cluster)?;
    let load = Load::start(stage, &cluster).await?;
    for shards in [3, 1] {
        by_kubectl(stage, &cluster, &load, shards).await?;
    }
    for (shards, replicas) in [(3, 2), (2, 0), (3, 1)] {
        let began = Instant::now();
        cluster.change(spec(shards, replicas)).await?;
        settled(stage, &cluster, &load, (shards, replicas), began).await?;
    }
    change_of_mind(stage, &cluster, &load).await?;
    while_cordoned(stage, &cluster, &load).await?;
    let (report, _) = load.end(stage, "changes of shape").await?;
    for line in watching.end()? {
        stage.say(line);
    }
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    ensure!(report.longest_gap() < stage.bound(GAP), "the longest gap is {:?}", report.longest_gap());
    Ok(())
}

fn spec(shards: u16, replicas: u16) -> Value {
    json!({ "shards": shards, "replicas": replicas })
}

/// As a person does it.
async fn by_kubectl(stage: &Stage, cluster: &Cluster, load: &Load, shards: u16) -> Result<()> {
    let began = Instant::now();
    scale(stage, cluster, shards).await?;
    settled(stage, cluster, load, (shards, 1), began).await
}

/// `kubectl scale vkc/NAME --replicas=N`.
pub(super) async fn scale(stage: &Stage, cluster: &Cluster, shards: u16) -> Result<()> {
    let (what, count) = (format!("vkc/{}", cluster.name), format!("--replicas={shards}"));
    let told = stage.kubectl(&["scale", "-n", &cluster.namespace, &what, &count]).await?;
    ensure!(told.contains("scaled"), "kubectl scale says {told:?}");
    Ok(())
}

/// Waits until the cluster has this shape, as its nodes say and as its status says.
async fn settled(
    stage: &Stage,
    cluster: &Cluster,
    load: &Load,
    (shards, replicas): (u16, u16),
    began: Instant,
) -> Result<()> {
    load.mark(&format!("{shards}x{replicas}"));
    cluster
        .whole(usize::from(shards), usize::from(replicas), LIMIT)
        .await
        .with_context(|| format!("to {shards}x{replicas}"))?;
    let whole = began.elapsed();
    load.follow(cluster).await?;
    load.flowing().await?;
    let ready = cluster.ready(began, LIMIT).await?;
    even(cluster, shards).await?;
    one_pod_a_shard(cluster, shards).await?;
    let (whole, ready) = (whole.as_secs_f64(), ready.as_secs_f64());
    stage.say(format_args!("to {shards}x{replicas}: whole after {whole:.1} s, Ready after {ready:.1} s"));
    Ok(())
}

/// 3 to 6, and to 4 when the first slots have moved.
async fn change_of_mind(stage: &Stage, cluster: &Cluster, load: &Load) -> Result<()> {
    scale(stage, cluster, 6).await?;
    cluster
        .says("slots to be on their way", LIMIT, |cr| {
            let operation = cr.status.as_ref().and_then(|s| s.operation.as_ref());
            operation.is_some_and(|o| o.stage == "MovingSlots")
        })
        .await?;
    let began = Instant::now();
    scale(stage, cluster, 4).await?;
    settled(stage, cluster, load, (4, 1), began).await.context("3 to 6, and to 4 in the middle")
}

/// Out and in while a worker takes no new Pods and is being emptied.
async fn while_cordoned(stage: &Stage, cluster: &Cluster, load: &Load) -> Result<()> {
    let worker = stage.workers().await?.into_iter().next().context("there is no worker")?;
    stage.kubectl(&["cordon", &worker]).await?;
    let told = cordoned(stage, cluster, load, &worker).await;
    stage.kubectl(&["uncordon", &worker]).await?;
    told?;
    cluster.ready(Instant::now(), LIMIT).await?;
    Ok(())
}

async fn cordoned(stage: &Stage, cluster: &Cluster, load: &Load, worker: &str) -> Result<()> {
    for shards in [5, 3] {
        by_kubectl(stage, cluster, load, shards).await.with_context(|| format!("{worker} is cordoned"))?;
        // A cluster is Ready while its last members leave: they go when their replacements serve.
        eventually("everybody to leave the cordoned worker", LIMIT, async || {
            let here = cluster.workers().await?.into_iter().find(|(_, on)| on == worker);
            ensure!(here.is_none(), "{here:?} is on {worker}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
