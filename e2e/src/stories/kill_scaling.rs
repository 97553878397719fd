//! Deaths while slots move, under a write load: the operator's at random moments of scale-outs and scale-ins, and that of a
//! primary that gives or takes slots. The end is always the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};

use super::Story;
use super::caught::{self, End};
use super::cluster::Cluster;
use super::fill::{fill, keys};
use super::load::Load;
use super::process::{Victim, with_victim};
use super::rescale::scale;
use super::scale::{LIMIT, OLD_IMAGE, even};
use super::stage::Stage;

pub(super) const STORY: Story = Story {
    name: "kill_scaling",
    about: "the operator, a source and a target are killed while slots move: all ends as it should, nothing is lost",
    run: |stage| run(stage).boxed_local(),
};

/// A change of the shards takes about this long: kills are spread over it.
const CHANGE: Duration = Duration::from_secs(6);
/// Bytes of each key.
const SIZE: usize = 2000;
/// A primary that dies may not have passed on its last writes: at most one in flight on each lane of its own slots, and all shards
/// together have hardly more than these.
const IN_FLIGHT: u64 = 12;

async fn run(stage: &Stage) -> Result<()> {
    let why = "kills an operator that runs beside the cluster, and processes on workers";
    with_victim(stage, why, async |victim| changes(stage, victim).await).await
}

async fn changes(stage: &Stage, victim: &mut Victim<'_>) -> Result<()> {
    // 30 MB move each time, and one in sixteen of that key by key.
    let filled = Filled::new(stage, json!({ "shards": 3, "replicas": 1 }), 60_000).await?;
    for round in 0..stage.times(3, 30) {
        let shards = if round % 2 == 0 { 4 } else { 3 };
        let load = Load::start(stage, &filled.cluster).await?;
        scale(stage, &filled.cluster, shards).await?;
        let killed = victim.killed(1, CHANGE).await?;
        filled.ended(stage, load, shards, (&format!("to {shards} shards, the operator {killed}"), 0)).await?;
    }
    filled.primaries(stage).await?;
    for _ in 0..stage.times(0, 1) {
        let old = json!({ "shards": 3, "replicas": 1, "image": OLD_IMAGE });
        Filled::new(stage, old, 4_000).await?.primaries(stage).await.context(OLD_IMAGE)?;
    }
    Ok(())
}

/// A cluster with this many keys in it.
struct Filled {
    cluster: Cluster,
    count: usize,
}

impl Filled {
    async fn new(stage: &Stage, spec: Value, count: usize) -> Result<Self> {
        let cluster = stage.cluster(spec).await?;
        cluster.ready(cluster.applied, LIMIT).await?;
        fill(stage, &cluster, count, SIZE).await?;
        Ok(Self { cluster, count })
    }

    /// The source of a migration dies, then the target of one.
    async fn primaries(&self, stage: &Stage) -> Result<()> {
        let cluster = &self.cluster;
        for (end, what) in [(End::Source, "a source killed"), (End::Target, "the target killed")] {
            // From three shards, whatever the rounds before have left.
            scale(stage, cluster, 3).await?;
            cluster.whole(3, 1, LIMIT).await?;
            cluster.ready(Instant::now(), LIMIT).await?;
            let load = Load::start(stage, cluster).await?;
            scale(stage, cluster, 4).await?;
            caught::killed(stage, cluster, (0, 3), end).await.context(what)?;
            self.ended(stage, load, 4, (what, IN_FLIGHT)).await?;
        }
        Ok(())
    }

    /// Waits for the end of a change, and judges it.
    async fn ended(
        &self,
        stage: &Stage,
        load: Load,
        shards: u16,
        (what, may_lose): (&str, u64),
    ) -> Result<()> {
        let (cluster, began) = (&self.cluster, Instant::now());
        cluster.whole(usize::from(shards), 1, LIMIT).await.with_context(|| what.to_owned())?;
        load.follow(cluster).await?;
        load.flowing().await?;
        cluster.ready(began, LIMIT).await.with_context(|| what.to_owned())?;
        even(cluster, shards).await.with_context(|| what.to_owned())?;
        let (report, _) = load.end(stage, what).await?;
        ensure!(report.lost() <= may_lose, "{what}: {} acknowledged writes are lost", report.lost());
        let there = keys(cluster).await?;
        ensure!(usize::try_from(there)? >= self.count, "{what}: {there} keys are left of {}", self.count);
        stage.say(format_args!("{what}: whole {:.1} s later, {there} keys", began.elapsed().as_secs_f64()));
        Ok(())
    }
}
