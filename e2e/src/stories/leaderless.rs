//! A shard is added while another one has no primary: what can move moves, and the rest follows when that one is back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::model::Slots;

use super::Story;
use super::cluster::Cluster;
use super::load::{Load, gap_outside};
use super::mend::{pause, server};
use super::rescale;
use super::scale::{LIMIT, even};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "leaderless",
    about: "a shard is added while the only server of another hangs: the others go on, and it is even when that one is back",
    run: |stage| run(stage).boxed_local(),
};

/// The longest time in which no write to a key of another shard is acknowledged, as in any change of the shards.
const GAP: Duration = Duration::from_millis(500);
/// The shard whose only server hangs. Nobody can take its place, and nothing proves that its data is gone.
const HUNG: u16 = 1;
/// Slots of each of four shards.
const SHARE: usize = 4096;

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("stops a server where it stands")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 0 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let hung = cluster.primary_of(HUNG).await?;
    let uid = uid(&cluster, &hung).await?;
    let load = Load::start(stage, &cluster).await?;
    load.mark("a server hangs");
    let stopped = pause(sandbox, server(stage, &cluster, &hung).await?)?;
    let lost = |cr: &ValkeyCluster| cr.status.as_ref().is_some_and(|s| s.reason == "PrimaryLost");
    cluster.says("the status to say that a shard has no primary", LIMIT, lost).await?;
    load.mark("a shard more");
    let began = Instant::now();
    rescale::scale(stage, &cluster, 4).await?;
    moved(&cluster).await?;
    let others = began.elapsed();
    load.mark("it goes on");
    let back = Instant::now();
    stopped.now()?;
    cluster.whole(4, 0, LIMIT).await.context("the server goes on")?;
    load.follow(&cluster).await?;
    load.flowing().await?;
    cluster.ready(back, LIMIT).await?;
    even(&cluster, 4).await?;
    ensure!(self::uid(&cluster, &hung).await? == uid, "{hung} was replaced, and it had the only copy");
    stage.say(format_args!(
        "what could move had moved {:.1} s after the change, all was even {:.1} s after the server went on",
        others.as_secs_f64(),
        back.elapsed().as_secs_f64()
    ));
    let (report, _) = load.end(stage, "a shard more while another hangs").await?;
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    let gap = gap_outside(&report, &Slots::share(HUNG, 3));
    stage.say(format_args!("longest gap of the other shards: {} ms", gap.as_millis()));
    ensure!(gap < stage.bound(GAP), "no write for {gap:?} to a shard that serves: {}", report.summary());
    Ok(())
}

/// Waits until the two shards that answer have no more than their share, by their own words, and the new one has the rest.
async fn moved(cluster: &Cluster) -> Result<()> {
    eventually("the slots of the others to be where they belong", LIMIT, async || {
        let truth = cluster.truth().await?;
        let mut owned: Vec<usize> =
            truth.shards().iter().filter(|s| s.primary_addr.is_some()).map(|s| s.slots).collect();
        owned.sort_unstable();
        ensure!(
            matches!(owned[..], [new, SHARE, SHARE] if new > 0 && new < SHARE),
            "those that answer own {owned:?} slots"
        );
        Ok(())
    })
    .await
}

async fn uid(cluster: &Cluster, pod: &str) -> Result<Option<String>> {
    Ok(cluster.pods().await?.get(pod).and_then(ResourceExt::uid))
}
