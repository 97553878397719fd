//! The operator is killed at any moment of a creation and started again at once: the end is always the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::Story;
use super::operator;
use super::process::{OperatorProcess, program, seed};
use super::stage::Stage;
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "kill_operator",
    about: "an operator that is killed at any moment of a creation finishes it when it is back",
    run: |stage| run(stage).boxed_local(),
};

/// A creation takes about this long: kills are spread over it.
const CREATION_MS: u64 = 4000;
/// How often it is killed during one creation.
const KILLS: usize = 3;
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("kills an operator that runs beside the cluster, in its network")?;
    let seed = seed(stage)?;
    operator::scale(&stage.client, 0).await?;
    let told = creations(stage, sandbox, seed).await;
    operator::scale(&stage.client, 2).await?;
    told
}

async fn creations(stage: &Stage, sandbox: &Sandbox, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let program = program()?;
    for round in 0..stage.times(3, 20) {
        let moments: Vec<u64> = (0..KILLS).map(|_| random.random_range(0..CREATION_MS)).collect();
        let mut operator = OperatorProcess::start(sandbox, &program, "story")?;
        let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
        for moment in &moments {
            tokio::time::sleep(Duration::from_millis(*moment)).await;
            operator.kill()?;
            operator = OperatorProcess::start(sandbox, &program, "story")?;
        }
        let ready =
            cluster.ready(cluster.applied, LIMIT).await.with_context(|| format!("killed at {moments:?}"))?;
        cluster.whole(3, 1, LIMIT).await.with_context(|| format!("killed at {moments:?}"))?;
        let pods = cluster.pods().await?.len();
        ensure!(pods == 6, "{pods} Pods after kills at {moments:?}");
        stage.say(format_args!(
            "round {round}: killed after {moments:?} ms, Ready after {:.1} s",
            ready.as_secs_f64()
        ));
        // The next round begins with an operator that has nothing to do.
        stage.clean().await?;
    }
    Ok(())
}
