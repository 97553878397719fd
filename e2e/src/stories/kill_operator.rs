//! The operator is killed at any moment of a creation and started again at once: the end is always the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::process::{Victim, with_victim};
use super::stage::Stage;

pub(super) const STORY: Story = Story {
    name: "kill_operator",
    about: "an operator that is killed at any moment of a creation finishes it when it is back",
    run: |stage| run(stage).boxed_local(),
};

/// Kills are spread over this: a creation takes about half as long.
const CREATION: Duration = Duration::from_secs(9);
/// How often it is killed during one creation.
const KILLS: usize = 3;
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let why = "kills an operator that runs beside the cluster, in its network";
    with_victim(stage, why, async |victim| creations(stage, victim).await).await
}

async fn creations(stage: &Stage, victim: &mut Victim<'_>) -> Result<()> {
    for round in 0..stage.times(3, 20) {
        let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
        let killed = victim.killed(KILLS, CREATION).await?;
        let ready = cluster.ready(cluster.applied, LIMIT).await.with_context(|| killed.clone())?;
        cluster.whole(3, 1, LIMIT).await.with_context(|| killed.clone())?;
        let pods = cluster.pods().await?.len();
        ensure!(pods == 6, "{pods} Pods, {killed}");
        stage.say(format_args!("round {round}: {killed}, Ready after {:.1} s", ready.as_secs_f64()));
        // The next round begins with an operator that has nothing to do.
        stage.clean().await?;
    }
    Ok(())
}
