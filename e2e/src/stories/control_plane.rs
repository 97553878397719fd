//! The control plane fails while servers die: what needs no API server happens without one, and the rest afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;
use valkey_cluster_operator::build::labels;

use super::aftermath::{self, LIMIT, median, succeeded};
use super::cluster::Cluster;
use super::load::Load;
use super::mend::{hang, kill, kill_operator, server};
use super::operator;
use super::stage::{Stage, eventually};
use super::{Story, Suite};
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "control_plane",
    about: "servers die while the API server hangs, etcd stutters, or no operator runs: nobody waits for them",
    run: |stage| run(stage).boxed_local(),
};

/// As for any crash.
const GAP: Duration = Duration::from_millis(250);
/// The standby leaves the leader 0.3 s.
const BY_THE_STANDBY: Duration = Duration::from_millis(700);
/// Valkey's own election: two and a half node-timeouts.
const ELECTED: Duration = Duration::from_secs(5);
/// The lease has run out by then: the deaths happen afterwards.
const LEASE: Duration = Duration::from_secs(14);
/// Between two deaths.
const BETWEEN: Duration = Duration::from_secs(3);
/// How long etcd stands still, and runs in between.
const PULSE: Duration = Duration::from_millis(700);
/// How often.
const PULSES: usize = 20;

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("stops parts of the control plane")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    api_away(stage, sandbox, &cluster).await.context("the API server hangs")?;
    slow_etcd(stage, sandbox, &cluster).await.context("etcd stutters")?;
    with_the_leader(stage, &cluster).await.context("the leading operator dies, too")?;
    no_operator(stage, &cluster).await.context("no operator runs")
}

/// Two primaries die, one after another, while the API server hangs and the lease is not valid any more.
async fn api_away(stage: &Stage, sandbox: &Sandbox, cluster: &Cluster) -> Result<()> {
    let away = match stage.suite {
        Suite::Ci => Duration::from_secs(30),
        Suite::Full => Duration::from_mins(2),
    };
    let (mut names, mut servers) = (Vec::new(), Vec::new());
    for shard in 0..2 {
        let name = cluster.primary_of(shard).await?;
        servers.push(server(stage, cluster, &name).await?);
        names.push(name);
    }
    let after = aftermath::of(stage, cluster, (3, 1), "API server away", async |load: &Load| {
        let hung = hang(sandbox, "kube-apiserver")?;
        tokio::time::sleep(LEASE).await;
        for server in &servers {
            load.mark("death");
            sandbox.signal_running(server, nix::sys::signal::Signal::SIGKILL)?;
            tokio::time::sleep(BETWEEN).await;
        }
        load.flowing().await.context("without the API server")?;
        tokio::time::sleep(away.saturating_sub(LEASE + 2 * BETWEEN)).await;
        hung.now()?;
        for (shard, former) in (0..).zip(&names) {
            recorded(cluster, shard, &succeeded(cluster, shard, former).await?).await?;
        }
        Ok(())
    })
    .await?;
    let gap = after.gap();
    ensure!(gap <= stage.bound(GAP), "a gap of {gap:?}");
    Ok(())
}

/// The label of the role follows once the API server is back.
async fn recorded(cluster: &Cluster, shard: u16, heir: &str) -> Result<()> {
    eventually("the new primary to be recorded", LIMIT, async || {
        let pods = cluster.pods().await?;
        let role = pods.get(heir).and_then(|p| p.labels().get(labels::ROLE));
        ensure!(
            role.is_some_and(|r| r == labels::PRIMARY),
            "{heir} leads shard {shard} and its label is {role:?}"
        );
        Ok(())
    })
    .await
}

/// A primary dies and a replica is deleted while every write to etcd takes most of a second.
async fn slow_etcd(stage: &Stage, sandbox: &Sandbox, cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary_of(0).await?;
    let replica = cluster.replica_of(1, &cluster.primary_of(1).await?).await?;
    let after = aftermath::of(stage, cluster, (3, 1), "etcd stutters", async |_| {
        for pulse in 0..PULSES {
            let hung = hang(sandbox, "etcd")?;
            tokio::time::sleep(PULSE).await;
            hung.now()?;
            tokio::time::sleep(PULSE).await;
            match pulse {
                3 => kill(stage, cluster, &primary).await?,
                6 => cluster.delete_pod(&replica).await?,
                _ => {}
            }
        }
        Ok(())
    })
    .await?;
    let gap = after.gap();
    ensure!(gap <= stage.bound(GAP), "a gap of {gap:?}");
    Ok(())
}

/// The leading operator and a primary are killed at one moment: the standby has seen the death, and waits for no lease.
async fn with_the_leader(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let mut gaps = Vec::new();
    for round in 0..stage.times(1, 5) {
        let shard = u16::try_from(round % 3)?;
        let name = cluster.primary_of(shard).await?;
        let leader =
            eventually("a leading operator", LIMIT, async || operator::leader(&stage.client).await).await?;
        let after =
            aftermath::of(stage, cluster, (3, 1), "the leading operator killed with a primary", async |_| {
                kill_operator(stage, &leader).await?;
                kill(stage, cluster, &name).await?;
                succeeded(cluster, shard, &name).await?;
                Ok(())
            })
            .await?;
        gaps.push(after.gap());
        operator::scale(&stage.client, 2).await?;
    }
    let gap = median(gaps);
    ensure!(gap <= stage.bound(BY_THE_STANDBY), "a gap of {gap:?}");
    Ok(())
}

/// Valkey elects by itself; the operator repairs on its return.
async fn no_operator(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let name = cluster.primary_of(2).await?;
    operator::scale(&stage.client, 0).await?;
    let told = aftermath::of(stage, cluster, (3, 1), "no operator", async |load: &Load| {
        kill(stage, cluster, &name).await?;
        succeeded(cluster, 2, &name).await?;
        load.flowing().await.context("without an operator")?;
        operator::scale(&stage.client, 2).await
    })
    .await;
    // Whatever came of it, the next story finds two.
    operator::scale(&stage.client, 2).await?;
    let gap = told?.gap();
    ensure!(gap <= stage.bound(ELECTED), "a gap of {gap:?}");
    Ok(())
}
