//! A member that is lost, in every way in which one can be lost, is replaced under a write load.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;

use super::Story;
use super::aftermath::{self, LIMIT};
use super::cluster::Cluster;
use super::mend::kill;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "heal",
    about: "a lost replica or primary is replaced and the cluster is whole again",
    run: |stage| run(stage).boxed_local(),
};

/// From whole to the condition that says so.
const SAID: Duration = Duration::from_secs(1);

/// What it needs the sandbox for.
const KILLS: &str = "kills processes on workers";

/// One way to lose a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    ReplicaDeleted,
    PrimaryDeleted,
    ReplicaKilled,
    PrimaryKilled,
}

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let mut broken = Vec::new();
    for loss in [Loss::ReplicaDeleted, Loss::PrimaryDeleted, Loss::ReplicaKilled, Loss::PrimaryKilled] {
        if let (Loss::ReplicaKilled | Loss::PrimaryKilled, Err(why)) = (loss, stage.sandbox(KILLS)) {
            stage.leave_out(&format!("heal {loss:?}"), &why);
            continue;
        }
        // Each is told although the one before failed: what is lost shows in the sum.
        if let Err(error) = lose(stage, &cluster, loss).await {
            broken.push(format!("{loss:?}: {error:#}"));
        }
        cluster.whole(3, 1, LIMIT).await.with_context(|| format!("after {loss:?}"))?;
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

async fn lose(stage: &Stage, cluster: &Cluster, loss: Loss) -> Result<()> {
    let primary = cluster.primary_of(1).await?;
    let name = match loss {
        Loss::PrimaryDeleted | Loss::PrimaryKilled => primary,
        Loss::ReplicaDeleted | Loss::ReplicaKilled => cluster.replica_of(1, &primary).await?,
    };
    let pods = cluster.pods().await?;
    let uid = pods.get(&name).and_then(ResourceExt::uid).context("the Pod has gone by itself")?;
    let after = aftermath::of(stage, cluster, (3, 1), &format!("{loss:?}"), async |_| {
        match loss {
            Loss::ReplicaDeleted | Loss::PrimaryDeleted => cluster.delete_pod(&name).await?,
            Loss::ReplicaKilled | Loss::PrimaryKilled => kill(stage, cluster, &name).await?,
        }
        eventually("the lost Pod to be gone", LIMIT, async || {
            let left = cluster.pods().await?;
            ensure!(left.values().all(|p| p.uid().as_deref() != Some(&uid)), "{name} is still there");
            Ok(())
        })
        .await
    })
    .await?;
    stage.say(after.history.summary());
    let late = after.ready.saturating_sub(after.whole);
    ensure!(late < stage.bound(SAID), "Ready {late:?} after the cluster was whole");
    match loss {
        // What a killed primary had not yet passed on is gone; how much is reported above.
        Loss::PrimaryKilled => Ok(()),
        Loss::ReplicaDeleted | Loss::PrimaryDeleted | Loss::ReplicaKilled => after.nothing_lost(),
    }
}
