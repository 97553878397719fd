//! Pods that are told to go, by a person or by an eviction, serve on until they are replaced.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::EvictParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "evict",
    about: "a primary that is deleted or evicted, and the only member of a cluster, serve until they are replaced",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    for evict in [false, true] {
        lose_primary(stage, &cluster, 3, 1, evict).await?;
    }
    let alone = stage.cluster(json!({ "shards": 1, "replicas": 0 })).await?;
    alone.ready(alone.applied, LIMIT).await?;
    lose_primary(stage, &alone, 1, 0, true).await
}

async fn lose_primary(
    stage: &Stage,
    cluster: &Cluster,
    shards: usize,
    replicas: usize,
    evict: bool,
) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let primary = cluster.primary_of(0).await?;
    let uid = cluster.pods().await?.get(&primary).and_then(ResourceExt::uid).context("no such Pod")?;
    let what = format!("{shards}x{replicas} primary {}", if evict { "evicted" } else { "deleted" });
    load.mark(&what);
    let began = Instant::now();
    if evict {
        let api: Api<Pod> = cluster.pod_api();
        eventually("the eviction to be allowed", LIMIT, async || {
            Ok(api.evict(&primary, &EvictParams::default()).await?)
        })
        .await?;
    } else {
        cluster.delete_pod(&primary).await?;
    }
    let gone = eventually("the Pod to be gone", LIMIT, async || {
        let pods = cluster.pods().await?;
        if pods.values().any(|p| p.uid().as_deref() == Some(&uid)) {
            bail!("{primary} is still there");
        }
        Ok(began.elapsed())
    })
    .await?;
    cluster.whole(shards, replicas, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    stage.say(format_args!("{what}: gone after {:.1} s", gone.as_secs_f64()));
    let pods = cluster.addresses().await?.len();
    ensure!(pods == shards * (replicas + 1), "{pods} Pods for {shards}x{replicas}");
    load.judged(stage, &what, replicas + 1, GAP).await
}
