//! Shards up and down on live data: nothing acknowledged is lost, every write goes on, and the slots end up even.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use valkey_cluster_operator::model::SLOTS;

use super::Story;
use super::cluster::Cluster;
use super::load::Load;
use super::rescale;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "scale",
    about: "shards are added and removed on live data, by jobs of the server, key by key, and together with an upgrade",
    run: |stage| run(stage).boxed_local(),
};

/// A change of shape is done within this.
pub(super) const LIMIT: Duration = Duration::from_mins(3);

/// The longest time in which no write to a key is acknowledged.
const GAP: Duration = Duration::from_millis(500);

/// Another version, of before jobs.
pub(super) const OLD_IMAGE: &str = "docker.io/valkey/valkey:8.1.1";
const NEW_IMAGE: &str = "docker.io/valkey/valkey:9.1.2";

async fn run(stage: &Stage) -> Result<()> {
    there_and_back(stage, "jobs", json!({}), None).await?;
    there_and_back(stage, "key by key", json!({ "image": OLD_IMAGE }), Some(NEW_IMAGE)).await
}

fn spec(shards: u16, more: &Value) -> Value {
    let mut spec = json!({ "shards": shards, "replicas": 1 });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    spec
}

/// From 3 shards to 4, and back, by `kubectl scale`; or back by one change of shards and image, when slots and servers of two versions
/// are on their way together.
async fn there_and_back(stage: &Stage, way: &str, more: Value, back: Option<&str>) -> Result<()> {
    let cluster = stage.cluster(spec(3, &more)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    one_pod_a_shard(&cluster, 3).await?;
    for shards in [4, 3] {
        let load = Load::start(stage, &cluster).await?;
        load.mark("scale");
        let began = Instant::now();
        let image = back.filter(|_| shards == 3);
        match image {
            Some(image) => upgraded(&cluster, shards, image).await?,
            None => rescale::scale(stage, &cluster, shards).await?,
        }
        cluster
            .whole(usize::from(shards), 1, LIMIT)
            .await
            .with_context(|| format!("{way}: to {shards} shards"))?;
        let whole = began.elapsed();
        load.follow(&cluster).await?;
        load.flowing().await?;
        let ready = cluster.ready(began, LIMIT).await?;
        let (report, history) = load.end(stage, &format!("{way}, to {shards} shards")).await?;
        stage.say(format_args!(
            "{way}, to {shards} shards: whole after {:.1} s, Ready after {:.1} s, longest gap {} ms",
            whole.as_secs_f64(),
            ready.as_secs_f64(),
            report.longest_gap().as_millis()
        ));
        stage.say(history.summary());
        ensure!(report.lost() == 0, "{} acknowledged writes are lost: {}", report.lost(), report.summary());
        let gap = report.longest_gap();
        ensure!(gap < stage.bound(GAP), "no write for {gap:?}: {}", report.summary());
        even(&cluster, shards).await?;
        one_pod_a_shard(&cluster, shards).await?;
        if let Some(image) = image {
            all_run(&cluster, image).await?;
        }
    }
    Ok(())
}

/// Another number of shards and another image in one change.
async fn upgraded(cluster: &Cluster, shards: u16, image: &str) -> Result<()> {
    let began = Instant::now();
    cluster.change(spec(shards, &json!({ "image": image, "maxDisruptedShards": 3 }))).await?;
    cluster.ready(began, LIMIT).await?;
    Ok(())
}

/// No Pod that stays is of another image.
async fn all_run(cluster: &Cluster, image: &str) -> Result<()> {
    for (name, pod) in cluster.pods().await?.iter().filter(|(_, p)| p.metadata.deletion_timestamp.is_none()) {
        let runs = pod.spec.as_ref().and_then(|s| s.containers.first()).and_then(|c| c.image.as_deref());
        ensure!(runs == Some(image), "{name} runs {runs:?}");
    }
    Ok(())
}

/// Every shard owns its share, give or take one slot, and the Pods of no other are left.
pub(super) async fn even(cluster: &Cluster, shards: u16) -> Result<()> {
    let status = cluster.get().await?.status.unwrap_or_default();
    let sizes: BTreeMap<i32, u16> = status
        .topology
        .iter()
        .map(|t| {
            let slots = t.slots.parse::<valkey_cluster_operator::model::Slots>().unwrap_or_default();
            (t.shard, slots.len())
        })
        .collect();
    let share = SLOTS / shards..=SLOTS.div_ceil(shards);
    ensure!(
        sizes.len() == usize::from(shards) && sizes.values().all(|n| share.contains(n)),
        "the slots are not even: {sizes:?}"
    );
    Ok(())
}

/// The selector of the scale subresource finds exactly one Pod a shard.
pub(super) async fn one_pod_a_shard(cluster: &Cluster, shards: u16) -> Result<()> {
    eventually("the scale's selector to find one Pod a shard", LIMIT, async || {
        let scale = cluster.api().get_scale(&cluster.name).await?;
        let status = scale.status.unwrap_or_default();
        let selector = status.selector.unwrap_or_default();
        let found = cluster.pod_api().list(&ListParams::default().labels(&selector)).await?;
        let names: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
        ensure!(
            names.len() == usize::from(shards) && status.replicas == i32::from(shards),
            "{selector} finds {names:?}, and the scale says {} shards",
            status.replicas
        );
        Ok(())
    })
    .await
}
