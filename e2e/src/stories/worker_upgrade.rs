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
    let sandbox = stage.sandbox("switches workers off and removes them")?;
    let workers = stage.workers().await?;
    let [old, .., new] = workers.as_slice() else { return Err(anyhow::anyhow!("fewer than two workers")) };
    let machine = |name: &str| sandbox.workers().find(|w| w.to_string() == *name).context("no such machine");
    let (old, new) = ((old.as_str(), machine(old)?), (new.as_str(), machine(new)?));
    let told = async {
        remove(stage, sandbox, new).await.context("what is added later is not there yet")?;
        upgraded(stage, sandbox, old, new).await
    };
    let told = told.await;
    // Whatever came of it, the next story finds all workers, open.
    let power = [old, new].map(|(_, m)| tokio::task::block_in_place(|| sandbox.start(m, &stage.progress)));
    stage.kubectl(&["uncordon", old.0, new.0]).await?;
    power.into_iter().collect::<Result<()>>()?;
    told
}

/// Empties a worker, takes its power, and takes it from Kubernetes, which knows nothing of it any more.
async fn remove(stage: &Stage, sandbox: &Sandbox, (name, machine): (&str, Worker)) -> Result<()> {
    stage
        .kubectl(&["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=170s"])
        .await?;
    tokio::task::block_in_place(|| sandbox.kill(machine))?;
    Api::<Node>::all(stage.client.clone()).delete(name, &DeleteParams::default()).await?;
    Ok(())
}

async fn upgraded(stage: &Stage, sandbox: &Sandbox, old: (&str, Worker), new: (&str, Worker)) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    load.mark("added");
    ensure!(!stage.workers().await?.iter().any(|w| w == new.0), "{} is there before it was added", new.0);
    tokio::task::block_in_place(|| sandbox.start(new.1, &stage.progress))?;
    let began = Instant::now();
    load.mark("emptied and removed");
    remove(stage, sandbox, old).await?;
    let removed = began.elapsed();
    ensure!(on(&cluster, old.0).await? == 0, "members are still on {}", old.0);
    load.flowing().await?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    let moved = on(&cluster, new.0).await?;
    ensure!(moved > 0, "the new worker got no member");
    stage.say(format_args!(
        "{} emptied and removed in {:.1} s; {}, which Kubernetes did not know before, has {moved} members now",
        old.0,
        removed.as_secs_f64(),
        new.0
    ));
    load.judged(stage, "worker upgrade", 2, GAP).await
}

/// Members on a worker.
async fn on(cluster: &Cluster, worker: &str) -> Result<usize> {
    Ok(cluster.workers().await?.into_values().filter(|w| w == worker).count())
}
