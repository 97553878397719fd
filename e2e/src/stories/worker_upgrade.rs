//! A worker is upgraded the way workers are: a new one is added, the old one is emptied and removed, without reduced redundancy.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::Stage;
use crate::sandbox::{Sandbox, Worker};

pub(super) const STORY: Story = Story {
    name: "worker_upgrade",
    about: "a worker is added, another emptied, switched off and removed, under a write load",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(3);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("switches a worker off and removes it")?;
    let workers = stage.workers().await?;
    let [old, .., new] = workers.as_slice() else { return Err(anyhow::anyhow!("fewer than two workers")) };
    let machine = sandbox.workers().find(|w| w.to_string() == *old).context("no such machine")?;
    // The new worker is not there yet.
    stage.kubectl(&["cordon", new]).await?;
    let told = upgraded(stage, sandbox, (old, machine), new).await;
    // Whatever came of it, the next story finds all workers, open.
    let power = tokio::task::block_in_place(|| sandbox.start(machine, &stage.progress));
    stage.kubectl(&["uncordon", old, new]).await?;
    power?;
    told
}

async fn upgraded(stage: &Stage, sandbox: &Sandbox, (old, machine): (&str, Worker), new: &str) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    ensure!(on(&cluster, new).await? == 0, "members are on the worker that is not there yet");
    let load = Load::start(stage, &cluster).await?;
    load.mark("added");
    stage.kubectl(&["uncordon", new]).await?;
    let began = Instant::now();
    stage.kubectl(&["drain", old, "--ignore-daemonsets", "--timeout=170s"]).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let drained = began.elapsed();
    ensure!(on(&cluster, old).await? == 0, "members are still on {old}");
    load.mark("removed");
    tokio::task::block_in_place(|| sandbox.kill(machine))?;
    Api::<Node>::all(stage.client.clone()).delete(old, &DeleteParams::default()).await?;
    load.flowing().await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let moved = on(&cluster, new).await?;
    ensure!(moved > 0, "the new worker got no member");
    stage.say(format_args!(
        "{old} emptied in {:.1} s and removed; {new} has {moved} members now",
        drained.as_secs_f64()
    ));
    load.judged(stage, "worker upgrade", 2, GAP).await
}

/// Members on a worker.
async fn on(cluster: &Cluster, worker: &str) -> Result<usize> {
    Ok(cluster.workers().await?.into_values().filter(|w| w == worker).count())
}
