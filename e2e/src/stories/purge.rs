//! A cache whose keys may go: a change of the spec drops them all, once, and is over as soon as its Pods run. Nothing else drops any.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::fill::{fill, keys};
use super::rescale::scale;
use super::scale::{LIMIT, even, one_pod_a_shard};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "purge",
    about: "with purgeKeysOnRebalance a change of shards or image drops all keys once and says so; nothing else does",
    run: |stage| run(stage).boxed_local(),
};

/// Another version, so that Pods have to be replaced.
const OTHER_IMAGE: &str = "docker.io/valkey/valkey:8.1.1";
/// Enough to tell an emptied cluster from one that was not.
const KEYS: usize = 3000;
/// Bytes of each.
const SIZE: usize = 100;

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(3, true, None)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    fill(stage, &cluster, KEYS, SIZE).await?;
    kept_by_accidents(stage, &cluster).await?;
    for shards in [4, 3] {
        let began = Instant::now();
        scale(stage, &cluster, shards).await?;
        changed(stage, &cluster, shards, began).await.with_context(|| format!("to {shards} shards"))?;
        fill(stage, &cluster, KEYS, SIZE).await?;
    }
    let began = Instant::now();
    cluster.change(spec(3, true, Some(OTHER_IMAGE))).await?;
    changed(stage, &cluster, 3, began).await.context("another image")?;
    fill(stage, &cluster, KEYS, SIZE).await?;
    let told = told(stage, &cluster).await?;
    ensure!(told == 3, "the keys were dropped for three changes, and {told} were told of");
    without_the_flag(stage, &cluster).await
}

fn spec(shards: u16, purge: bool, image: Option<&str>) -> Value {
    let mut spec = json!({ "shards": shards, "replicas": 1, "purgeKeysOnRebalance": purge });
    if let (Some(spec), Some(image)) = (spec.as_object_mut(), image) {
        spec.insert("image".to_owned(), json!(image));
    }
    spec
}

/// The keys are gone, the shape is as wanted.
async fn changed(stage: &Stage, cluster: &Cluster, shards: u16, began: Instant) -> Result<()> {
    let ready = cluster.ready(began, LIMIT).await?.as_secs_f64();
    cluster.whole(usize::from(shards), 1, LIMIT).await?;
    even(cluster, shards).await?;
    one_pod_a_shard(cluster, shards).await?;
    let left = keys(cluster).await?;
    ensure!(left == 0, "{left} keys are left of those that were to be dropped");
    stage.say(format_args!("{shards} shards: Ready after {ready:.1} s, no key is left"));
    Ok(())
}

/// What happens by itself drops nothing.
async fn kept_by_accidents(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let before = keys(cluster).await?;
    let primary = cluster.primary_of(1).await?;
    cluster.delete_pod(&primary).await?;
    eventually("the deleted primary to be replaced", LIMIT, async || {
        ensure!(!cluster.pods().await?.contains_key(&primary), "{primary} is still there");
        Ok(())
    })
    .await?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(Instant::now(), LIMIT).await?;
    let after = keys(cluster).await?;
    ensure!(after == before, "{before} keys before a primary was deleted, {after} after it");
    stage.say(format_args!("a primary's Pod deleted: {after} keys, as before"));
    Ok(())
}

/// The same change moves the keys when the flag is gone.
async fn without_the_flag(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let before = keys(cluster).await?;
    cluster.change(spec(2, false, Some(OTHER_IMAGE))).await?;
    cluster.whole(2, 1, LIMIT).await?;
    cluster.ready(Instant::now(), LIMIT).await?;
    let after = keys(cluster).await?;
    ensure!(after == before, "without the flag {before} keys became {after}");
    stage.say(format_args!("without the flag: {after} keys, as before"));
    Ok(())
}

/// How many times the keys were told to be dropped; a repeated event counts as often as it happened.
async fn told(stage: &Stage, cluster: &Cluster) -> Result<i32> {
    let api: Api<Event> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    eventually("the events", Duration::from_secs(20), async || {
        let all = api.list(&ListParams::default()).await?.items;
        let purged = all.iter().filter(|e| e.reason.as_deref() == Some("KeysPurged"));
        let count = purged
            .inspect(|e| stage.say(e.note.clone().unwrap_or_default()))
            .map(|e| e.series.as_ref().map_or(1, |s| s.count))
            .sum();
        ensure!(count > 0, "nothing was told");
        Ok(count)
    })
    .await
}
