//! Deaths while slots move, under a write load: the operator's at random moments of scale-outs and scale-ins, and that of a
//! primary that gives or takes slots. The end is always the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::fill::{fill, keys};
use super::load::Load;
use super::mend::kill;
use super::operator;
use super::process::{OperatorProcess, program, seed};
use super::rescale::scale;
use super::scale::{LIMIT, even};
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "kill_scaling",
    about: "the operator, a source and a target are killed while slots move: all ends as it should, nothing is lost",
    run: |stage| run(stage).boxed_local(),
};

/// A change of the shards takes about this long: kills are spread over it.
const CHANGE_MS: u64 = 6000;
/// Keys that are moved about.
const KEYS: usize = 60_000;
/// Bytes of each.
const SIZE: usize = 2000;
/// A primary that dies may not have passed on its last writes: at most one in flight on each of the twelve lanes.
const IN_FLIGHT: u64 = 12;

async fn run(stage: &Stage) -> Result<()> {
    let sandbox =
        stage.sandbox("kills an operator that runs beside the cluster, and processes on workers")?;
    let seed = seed(stage)?;
    operator::scale(&stage.client, 0).await?;
    let told = async {
        let program = program()?;
        let mut process = OperatorProcess::start(sandbox, &program, "story")?;
        let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
        cluster.ready(cluster.applied, LIMIT).await?;
        fill(stage, &cluster, KEYS, SIZE).await?;
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..stage.times(3, 30) {
            let shards = if round % 2 == 0 { 4 } else { 3 };
            let moment = random.random_range(0..CHANGE_MS);
            let load = Load::start(stage, &cluster).await?;
            scale(stage, &cluster, shards).await?;
            tokio::time::sleep(Duration::from_millis(moment)).await;
            process.kill()?;
            process = OperatorProcess::start(sandbox, &program, "story")?;
            let what = format!("to {shards} shards, the operator killed after {moment} ms");
            ended(stage, &cluster, load, shards, (&what, 0)).await?;
        }
        // Small data may have moved before anybody can look: that needs the time of the full suite.
        for _ in 0..stage.times(0, 1) {
            primaries(stage, &cluster).await?;
        }
        Ok(())
    }
    .await;
    operator::scale(&stage.client, 2).await?;
    told
}

/// The source of a migration, then its target.
async fn primaries(stage: &Stage, cluster: &Cluster) -> Result<()> {
    for (shard, what) in [(0, "a source killed"), (3, "the target killed")] {
        // From three shards, whatever the rounds before have left.
        scale(stage, cluster, 3).await?;
        cluster.whole(3, 1, LIMIT).await?;
        cluster.ready(Instant::now(), LIMIT).await?;
        let load = Load::start(stage, cluster).await?;
        scale(stage, cluster, 4).await?;
        let victim = eventually("slots to be on their way", LIMIT, async || {
            let status = cluster.get().await?.status.unwrap_or_default();
            let operation = status.operation.context("nothing goes on")?;
            ensure!(operation.stage == "MovingSlots" && operation.done > 0, "{}", operation.progress);
            cluster.primary_of(shard).await
        })
        .await?;
        kill(stage, cluster, &victim).await?;
        ended(stage, cluster, load, 4, (what, IN_FLIGHT)).await?;
    }
    Ok(())
}

/// Waits for the end of a change, and judges it.
async fn ended(
    stage: &Stage,
    cluster: &Cluster,
    load: Load,
    shards: u16,
    (what, may_lose): (&str, u64),
) -> Result<()> {
    let began = Instant::now();
    cluster.whole(usize::from(shards), 1, LIMIT).await.with_context(|| what.to_owned())?;
    load.follow(cluster).await?;
    load.flowing().await?;
    cluster.ready(began, LIMIT).await.with_context(|| what.to_owned())?;
    even(cluster, shards).await.with_context(|| what.to_owned())?;
    let (report, _) = load.end(stage, what).await?;
    ensure!(report.lost() <= may_lose, "{what}: {} acknowledged writes are lost", report.lost());
    let there = keys(cluster).await?;
    ensure!(usize::try_from(there)? >= KEYS, "{what}: {there} keys are left of {KEYS}");
    stage.say(format_args!("{what}: whole {:.1} s later, {there} keys", began.elapsed().as_secs_f64()));
    Ok(())
}
