//! While no operator runs, primaries are evicted: what is lost, and for how long the shard stands still.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use kube::api::EvictParams;
use serde_json::json;

use super::Story;
use super::load::Load;
use super::operator;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "alone",
    about: "a primary is evicted while no operator runs: 9.x hands over as it stops, 8.x is followed by an election",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// Seconds: a Pod that nobody releases holds on until 15 s before this.
const SHORT_GRACE: u16 = 20;
/// Valkey's own election after a crash, with the default node-timeout of 2 s (measured: at most twice that).
const ELECTED: Duration = Duration::from_secs(5);

async fn run(stage: &Stage) -> Result<()> {
    stage.own_operator("stops the operator").await?;
    // 9.0 and newer have `shutdown-on-sigterm failover`, so nothing may be lost; 8.x is reported.
    evicted(stage, "docker.io/valkey/valkey:9.1.2", true).await?;
    evicted(stage, "docker.io/valkey/valkey:8.1.1", false).await
}

async fn evicted(stage: &Stage, image: &str, hands_over: bool) -> Result<()> {
    let spec =
        json!({ "shards": 3, "replicas": 1, "image": image, "terminationGracePeriodSeconds": SHORT_GRACE });
    let cluster = stage.cluster(spec).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    let primary = cluster.primary_of(0).await?;
    operator::scale(&stage.client, 0).await?;
    load.mark("evicted");
    let began = Instant::now();
    let alone = async {
        cluster.pod_api().evict(&primary, &EvictParams::default()).await?;
        eventually("the Pod to be gone", LIMIT, async || {
            ensure!(!cluster.pods().await?.contains_key(&primary), "{primary} is still there");
            Ok(began.elapsed())
        })
        .await
    }
    .await;
    load.flowing().await?;
    operator::scale(&stage.client, 2).await?;
    let gone = alone?;
    cluster.whole(3, 1, LIMIT).await?;
    let what = format!("{image} without an operator, gone after {:.1} s", gone.as_secs_f64());
    let (report, _) = load.end(stage, &what).await?;
    let gap = report.longest_gap();
    ensure!(gap < stage.bound(ELECTED), "the longest gap is {gap:?}: {}", report.summary());
    ensure!(!hands_over || report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    Ok(())
}
