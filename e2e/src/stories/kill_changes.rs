//! The operator is killed at any moment of an upgrade and of a drain and started again at once: the end is always the same,
//! and no acknowledged write is lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::operator;
use super::process::{OperatorProcess, program, seed};
use super::stage::{Stage, eventually};
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "kill_changes",
    about: "an operator that is killed at any moment of an upgrade or a drain finishes it when it is back; nothing is lost",
    run: |stage| run(stage).boxed_local(),
};

/// An upgrade and a drain take about this long: kills are spread over it.
const CHANGE_MS: u64 = 8000;
/// How often it is killed during one change.
const KILLS: usize = 3;
const LIMIT: Duration = Duration::from_mins(4);
/// One version under two names: every Pod changes, and nothing else.
const ONE: &str = "docker.io/valkey/valkey:9.1.2";
const OTHER: &str = "docker.io/valkey/valkey:9.1";

/// An operator that is killed, and started again at once.
struct Victim<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
    process: OperatorProcess,
}

impl<'a> Victim<'a> {
    fn start(sandbox: &'a Sandbox, program: &Path) -> Result<Self> {
        let process = OperatorProcess::start(sandbox, program, "story")?;
        Ok(Self { sandbox, program: program.to_owned(), process })
    }

    /// Kills it at each of these moments, in milliseconds from the one before.
    async fn killed_at(&mut self, moments: &[u64]) -> Result<()> {
        for moment in moments {
            tokio::time::sleep(Duration::from_millis(*moment)).await;
            self.process.kill()?;
            self.process = OperatorProcess::start(self.sandbox, &self.program, "story")?;
        }
        Ok(())
    }
}

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("kills an operator that runs beside the cluster, in its network")?;
    let mut random = StdRng::seed_from_u64(seed(stage)?);
    operator::scale(&stage.client, 0).await?;
    let told = changes(stage, sandbox, &mut random).await;
    operator::scale(&stage.client, 2).await?;
    told
}

async fn changes(stage: &Stage, sandbox: &Sandbox, random: &mut StdRng) -> Result<()> {
    let mut victim = Victim::start(sandbox, &program()?)?;
    let cluster = stage.cluster(spec(ONE)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let workers = stage.workers().await?;
    let load = Load::start(stage, &cluster).await?;
    for round in 0..stage.times(1, 10) {
        let moments = moments(random);
        let image = if round % 2 == 0 { OTHER } else { ONE };
        upgrade(&cluster, image, &mut victim, &moments)
            .await
            .with_context(|| format!("an upgrade with kills after {moments:?} ms"))?;
        stage.say(format_args!("round {round}: upgraded, killed after {moments:?} ms"));
        let moments = self::moments(random);
        let worker = workers.get(round % workers.len().max(1)).context("no worker")?;
        let drained = drain(stage, &cluster, worker, &mut victim, &moments).await;
        stage.kubectl(&["uncordon", worker]).await?;
        drained.with_context(|| format!("a drain of {worker} with kills after {moments:?} ms"))?;
        cluster.whole(3, 1, LIMIT).await?;
        stage.say(format_args!("round {round}: drained {worker}, killed after {moments:?} ms"));
    }
    load.judged(stage, "the operator killed in upgrades and drains", 2, GAP).await
}

fn spec(image: &str) -> Value {
    json!({ "shards": 3, "replicas": 1, "image": image })
}

fn moments(random: &mut StdRng) -> Vec<u64> {
    (0..KILLS).map(|_| random.random_range(0..CHANGE_MS / KILLS as u64)).collect()
}

async fn upgrade(cluster: &Cluster, image: &str, victim: &mut Victim<'_>, moments: &[u64]) -> Result<()> {
    let began = Instant::now();
    cluster.change(spec(image)).await?;
    victim.killed_at(moments).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let old = cluster.pods().await?.into_iter().find(|(_, pod)| {
        let server = pod.spec.as_ref().and_then(|s| s.containers.first());
        pod.metadata.deletion_timestamp.is_none() && server.is_none_or(|c| c.image.as_deref() != Some(image))
    });
    ensure!(old.is_none(), "{:?} has another image", old.map(|(name, _)| name));
    Ok(())
}

async fn drain(
    stage: &Stage,
    cluster: &Cluster,
    worker: &str,
    victim: &mut Victim<'_>,
    moments: &[u64],
) -> Result<()> {
    let arguments = ["drain", worker, "--ignore-daemonsets", "--timeout=170s"];
    let (drained, killed) = tokio::join!(stage.kubectl(&arguments), victim.killed_at(moments));
    killed?;
    drained?;
    cluster.whole(3, 1, LIMIT).await?;
    eventually("the worker to be empty", LIMIT, async || {
        let left = cluster.workers().await?.into_values().filter(|w| w == worker).count();
        ensure!(left == 0, "{left} Pods are still on {worker}");
        Ok(())
    })
    .await
}
