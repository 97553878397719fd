//! Many clusters on one operator, one of them broken in every way: the others are served as before.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::aftermath::{LIMIT, median};
use super::cluster::Cluster;
use super::mend::{isolate, kill, pause, server};
use super::stage::Stage;
use super::{Story, Suite};

pub(super) const STORY: Story = Story {
    name: "many",
    about: "a cluster that is broken in every way does not slow down the others of the same operator",
    run: |stage| run(stage).boxed_local(),
};

/// The broken one is left to its troubles for this long before the others are asked again.
const TROUBLED: Duration = Duration::from_secs(15);
/// How much slower the others may be served meanwhile.
const SLOWER: u32 = 2;
/// What is shorter than this is not compared: the machine's own noise.
const NOISE: Duration = Duration::from_millis(200);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("breaks servers on workers")?;
    let names: Vec<String> = (0..stage.times(5, 19)).map(|n| format!("c{n}")).collect();
    let namespace = stage.namespace().await?;
    let applied = names.iter().map(|name| Cluster::apply(stage, &namespace, name, spec("noeviction")));
    let clusters = try_join_all(applied).await?;
    for cluster in &clusters {
        cluster.ready(cluster.applied, LIMIT).await.with_context(|| cluster.name.clone())?;
    }
    let broken = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    broken.ready(broken.applied, LIMIT).await?;
    let before = median(served(&clusters, "allkeys-lru").await?);

    let mut primaries = Vec::new();
    for shard in 0..3 {
        primaries.push(broken.primary_of(shard).await?);
    }
    let [first, second, third] = primaries.as_slice() else { anyhow::bail!("three shards") };
    let (addresses, workers) = (broken.addresses().await?, broken.workers().await?);
    let _hung = pause(sandbox, server(stage, &broken, &broken.replica_of(0, first).await?).await?)?;
    let alone = addresses.get(second).zip(workers.get(second)).context("it has no address")?;
    let _alone = isolate(sandbox, alone.1, alone.0.ip())?;
    kill(stage, &broken, third).await?;
    broken
        .change(json!({ "shards": 3, "replicas": 2, "image": "docker.io/valkey/valkey:missing",
        "config": { "no-such-setting": "1" } }))
        .await?;
    tokio::time::sleep(TROUBLED).await;
    let during = median(served(&clusters, "allkeys-lfu").await?);

    stage.say(format_args!(
        "a live setting of each of {} clusters, median until Ready: {before:?}, beside a broken one {during:?}",
        clusters.len()
    ));
    let factor = if stage.suite == Suite::Ci { 10 * SLOWER } else { SLOWER };
    ensure!(during <= (before * factor).max(NOISE), "{during:?} instead of {before:?}");
    Ok(())
}

fn spec(policy: &str) -> Value {
    json!({ "shards": 1, "replicas": 1, "config": { "maxmemory-policy": policy } })
}

/// How long each cluster took to be Ready with another setting, one after another.
async fn served(clusters: &[Cluster], policy: &str) -> Result<Vec<Duration>> {
    let mut all = Vec::new();
    for cluster in clusters {
        let began = Instant::now();
        cluster.change(spec(policy)).await?;
        all.push(cluster.ready(began, LIMIT).await.with_context(|| cluster.name.clone())?);
    }
    Ok(all)
}
