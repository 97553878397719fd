//! A primary is killed in the middle of a migration, for certain: as soon as slots are seen on their way, a script holds the target
//! for a second, so that nothing can end before the kill arrives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use valkey_cluster_operator::build::labels;

use super::cluster::Cluster;
use super::fill::application;
use super::mend::server;
use super::scale::LIMIT;
use super::stage::{Stage, eventually};
use crate::resp::{Connection, Reply};

/// Runs for as many seconds of processor time as its argument says.
const SCRIPT: &str = "local t = os.clock() while os.clock() - t < tonumber(ARGV[1]) do end return 1";
/// Below the node-timeout, so that nobody takes the target for dead.
const HELD: Duration = Duration::from_secs(1);
/// A script and a busy machine.
const ANSWER: Duration = Duration::from_secs(10);

/// Which end of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The one that gives slots.
    Source,
    /// The one that takes them.
    Target,
}

/// Kills the primary of one of these two shards while slots go from the first to the second.
///
/// # Errors
/// If no slot moves, or the kill came too late to be in the middle.
pub(super) async fn killed(stage: &Stage, cluster: &Cluster, (from, to): (u16, u16), end: End) -> Result<()> {
    let sandbox = stage.sandbox("kills processes on workers")?;
    let source = cluster.primary_of(from).await?;
    let target =
        eventually("the new shard to have a server", LIMIT, async || first_of(cluster, to).await).await?;
    let victim = if end == End::Source { &source } else { &target };
    let victim = eventually("its container", LIMIT, async || server(stage, cluster, victim).await).await?;
    let mut on_source = open(cluster, &source).await?;
    let mut on_target = open(cluster, &target).await?;
    let until = Instant::now() + LIMIT;
    while !moves(&mut on_source).await? {
        ensure!(Instant::now() < until, "no slot has left {source} within {} s", LIMIT.as_secs());
    }
    let held = Instant::now();
    let holds = tokio::spawn(async move {
        let seconds = HELD.as_secs_f64().to_string();
        // It ends with its server, or by itself.
        let _ = on_target.call(&["EVAL", SCRIPT, "0", &seconds], ANSWER).await;
    });
    sandbox.signal_running(&victim, nix::sys::signal::Signal::SIGKILL)?;
    let took = held.elapsed();
    holds.await?;
    ensure!(took < HELD, "the kill arrived {took:?} after slots were seen on their way");
    stage.say(format_args!("{end:?} killed {} ms after its slots were seen on their way", took.as_millis()));
    Ok(())
}

/// The member of a new shard that will own its slots: the other has begun to copy from it.
async fn first_of(cluster: &Cluster, shard: u16) -> Result<String> {
    let truth = cluster.truth().await?;
    let leads: Vec<SocketAddr> =
        truth.answered().filter(|(_, _, me)| me.primary).map(|(at, ..)| at).collect();
    let (pods, all, shard) = (cluster.pods().await?, cluster.addresses().await?, shard.to_string());
    let mine = |pod: &str| pods.get(pod).is_some_and(|p| p.labels().get(labels::SHARD_INDEX) == Some(&shard));
    let (first, others): (Vec<_>, Vec<_>) =
        all.iter().filter(|(pod, _)| mine(pod)).partition(|(_, at)| leads.contains(at));
    ensure!(
        first.len() == 1 && !others.is_empty(),
        "shard {shard} is led by {first:?}, and copied by {others:?}"
    );
    let (pod, _) = first.first().context("nobody leads it")?;
    Ok((*pod).clone())
}

async fn open(cluster: &Cluster, pod: &str) -> Result<Connection> {
    let addr = cluster.addresses().await?.get(pod).copied().with_context(|| format!("{pod} is gone"))?;
    Connection::open(&application(cluster).await?, addr, ANSWER).await.map_err(anyhow::Error::msg)
}

/// A job of this node runs, or a slot of it is half way.
async fn moves(node: &mut Connection) -> Result<bool> {
    let nodes = node.call(&["CLUSTER", "NODES"], ANSWER).await.map_err(anyhow::Error::msg)?;
    if nodes.text().is_some_and(|text| text.contains("->-")) {
        return Ok(true);
    }
    let jobs = node.call(&["CLUSTER", "GETSLOTMIGRATIONS"], ANSWER).await.map_err(anyhow::Error::msg)?;
    // Older servers know no jobs.
    Ok(jobs.items().unwrap_or_default().iter().any(runs))
}

/// Its server streams the slots: neither at its beginning nor at its end.
fn runs(job: &Reply) -> bool {
    let items = job.items().unwrap_or_default();
    let at = items.iter().position(|item| item.text() == Some("state"));
    let state = at.and_then(|at| items.get(at + 1)?.text());
    state.is_some_and(|state| !["success", "failed", "cancelled"].contains(&state))
}
