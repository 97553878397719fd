//! Scaling measured: what the operator adds to an empty change, and how quickly it moves a lot of data, beside one bare
//! `CLUSTER MIGRATESLOTS` of the same cluster in the same run.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::cluster::Cluster;
use super::fill::{fill, keys};
use super::load::Load;
use super::rescale::scale;
use super::scale::{LIMIT, OLD_IMAGE, even};
use super::stage::{Stage, TICK, eventually};
use super::watching::Watching;
use super::{Story, Suite};
use crate::resp::{Access, Connection, Reply, SLOTS};

pub(super) const STORY: Story = Story {
    name: "big",
    about: "the operator's own time in a scale, and its rate on a lot of data beside one bare job of the server",
    run: |stage| run(stage).boxed_local(),
};

/// The operator's own time in a change of an empty cluster.
const OVERHEAD: Duration = Duration::from_secs(2);
/// A new primary serves 2 s after its process started, whatever anybody does.
const WRITABLE: Duration = Duration::from_secs(2);
/// Keys in the full suite.
const FULL: usize = 125_000;
/// Bytes of each key.
const SIZE: usize = 4096;
/// The rate of a bare job that the operator reaches at least, in percent.
const LEAST_PERCENT: f64 = 50.0;
/// The longest time in which no write to a key is acknowledged.
const GAP: Duration = Duration::from_millis(500);
/// What one command of a node may take while it moves slots.
const ANSWER: Duration = Duration::from_secs(5);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    for shards in [4, 3] {
        overhead(stage, &cluster, shards).await?;
    }
    // 120 MB, or 500.
    fill(stage, &cluster, stage.times(30_000, FULL), SIZE).await?;
    let there = keys(&cluster).await?;
    let bare = bare(stage, &cluster).await?;
    let watching = Watching::start(stage, &cluster)?;
    out_and_in(stage, &cluster, there, Some(bare)).await?;
    for line in watching.end()? {
        stage.say(line);
    }
    for _ in 0..stage.times(0, 1) {
        key_by_key(stage).await.context(OLD_IMAGE)?;
    }
    Ok(())
}

/// As much data from servers that have no jobs: its rate and its gap are told.
async fn key_by_key(stage: &Stage) -> Result<()> {
    stage.clean().await?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1, "image": OLD_IMAGE })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    fill(stage, &cluster, FULL, SIZE).await?;
    let there = keys(&cluster).await?;
    out_and_in(stage, &cluster, there, None).await
}

/// A shard more and one less. There are as many keys in the end as there were.
async fn out_and_in(stage: &Stage, cluster: &Cluster, there: i64, bare: Option<f64>) -> Result<()> {
    for shards in [4, 3] {
        moved(stage, cluster, shards, bare).await.with_context(|| format!("to {shards} shards"))?;
    }
    let after = keys(cluster).await?;
    ensure!(after == there, "{there} keys became {after}");
    Ok(())
}

/// A change of an empty cluster: from the last of what takes its time anyhow until the nodes themselves say that all is done.
async fn overhead(stage: &Stage, cluster: &Cluster, shards: u16) -> Result<()> {
    let known: Vec<SocketAddr> = cluster.addresses().await?.into_values().collect();
    let began = Instant::now();
    scale(stage, cluster, shards).await?;
    let started = async {
        if shards < 4 {
            return Ok(began);
        }
        // The second of the new shard's servers is its last.
        eventually("the new servers to answer", LIMIT, async || {
            let new: Vec<SocketAddr> =
                cluster.addresses().await?.into_values().filter(|a| !known.contains(a)).collect();
            let answered = cluster.look(&new).await?.answered().count();
            ensure!(answered == 2, "{answered} answer");
            Ok(Instant::now() + WRITABLE)
        })
        .await
    };
    let whole = async {
        cluster.whole(usize::from(shards), 1, LIMIT).await?;
        Ok::<_, anyhow::Error>(Instant::now())
    };
    let (started, whole) = tokio::try_join!(started, whole)?;
    let own = whole.saturating_duration_since(started);
    let all = whole.saturating_duration_since(began).as_secs_f64();
    stage.say(format_args!(
        "empty, to {shards} shards: {all:.2} s in all, {:.2} s of them the operator's own",
        own.as_secs_f64()
    ));
    ensure!(own < stage.bound(OVERHEAD), "the operator's own time is {own:?}");
    cluster.ready(began, LIMIT).await?;
    Ok(())
}

/// Bytes a second of one bare job that moves a quarter of the cluster's slots and back, while the operator is paused.
/// The same write load takes its part of the machine as beside the operator's jobs: otherwise the two are no pair.
async fn bare(stage: &Stage, cluster: &Cluster) -> Result<f64> {
    pause(cluster, true).await?;
    let load = Load::start(stage, cluster).await?;
    let told = there_and_back(cluster).await;
    pause(cluster, false).await?;
    let rate = told?;
    let (report, _) = load.end(stage, "a bare job").await?;
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    cluster.ready(Instant::now(), LIMIT).await?;
    stage.say(format_args!("one bare job: {:.0} MB/s", rate / 1e6));
    Ok(rate)
}

async fn there_and_back(cluster: &Cluster) -> Result<f64> {
    let access = cluster.access().await?;
    let truth = cluster.truth().await?;
    let mut owners = truth.answered().filter(|(_, _, me)| me.primary && !me.slots.is_empty());
    let (from, _, source) = owners.next().context("nobody owns slots")?;
    let (to, _, target) = owners.next().context("only one node owns slots")?;
    let (first, last) = *source.slots.first().context("it owns slots")?;
    let last = last.min(first + SLOTS / 4);
    let mut bytes = 0.0;
    let mut took = Duration::ZERO;
    for (on, id) in [(from, &target.id), (to, &source.id)] {
        let share = f64::from(last - first + 1) / f64::from(u16::try_from(slots_of(cluster, on).await?)?);
        bytes += data(&access, on).await? * share;
        let began = Instant::now();
        let (first, last) = (first.to_string(), last.to_string());
        let command = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first, &last, "NODE", id];
        let answer = call(&access, on, &command).await?;
        ensure!(answer.error().is_none(), "CLUSTER MIGRATESLOTS: {answer:?}");
        eventually("the bare job to end", LIMIT, async || {
            let jobs = call(&access, on, &["CLUSTER", "GETSLOTMIGRATIONS"]).await?;
            let newest = jobs.items().and_then(<[Reply]>::first).context("there is no job")?;
            let state = field(newest, "state").context("a job without a state")?;
            ensure!(["success", "failed", "cancelled"].contains(&state.as_str()), "it is {state}");
            ensure!(state == "success", "it has ended as {state}");
            Ok(())
        })
        .await?;
        took += began.elapsed();
    }
    Ok(bytes / took.as_secs_f64())
}

/// The same data by the operator, under a write load, judged beside a bare job's rate where servers have jobs.
async fn moved(stage: &Stage, cluster: &Cluster, shards: u16, bare: Option<f64>) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let access = cluster.access().await?;
    let mut sum = 0.0;
    for addr in primaries(cluster).await? {
        sum += data(&access, addr).await?;
    }
    let before = moving(cluster, &access).await?.0;
    let sizes = sizes(cluster).await?;
    let scaled = Instant::now();
    scale(stage, cluster, shards).await?;
    let began = match bare {
        Some(_) => began(cluster, &access, before).await?,
        None => arrived(cluster, &sizes).await?,
    };
    spread(cluster, shards).await?;
    let took = began.elapsed();
    cluster.whole(usize::from(shards), 1, LIMIT).await?;
    load.follow(cluster).await?;
    load.flowing().await?;
    cluster.ready(scaled, LIMIT).await?;
    even(cluster, shards).await?;
    let (report, _) = load.end(stage, &format!("{:.0} MB, to {shards} shards", sum / 1e6)).await?;
    // A quarter of everything moves, either way.
    let rate = sum / 4.0 / took.as_secs_f64();
    stage.say(format_args!(
        "to {shards} shards: {:.0} MB in {:.2} s, {:.0} MB/s; {:.1} s in all",
        sum / 4e6,
        took.as_secs_f64(),
        rate / 1e6,
        scaled.elapsed().as_secs_f64()
    ));
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    ensure!(report.longest_gap() < stage.bound(GAP), "the longest gap is {:?}", report.longest_gap());
    let Some(bare) = bare else { return Ok(()) };
    let percent = 100.0 * rate / bare;
    stage.say(format_args!("to {shards} shards: {percent:.0} % of a bare job"));
    // What is over within a second says little about a rate: the figure is judged on the full suite's data.
    let least = if stage.suite == Suite::Full { LEAST_PERCENT } else { LEAST_PERCENT / 10.0 };
    ensure!(percent >= least, "that is less than {least:.0} % of a bare job");
    Ok(())
}

/// The moment in which the first job was seen.
async fn began(cluster: &Cluster, access: &Access, before: usize) -> Result<Instant> {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let asked = Instant::now();
        let (jobs, running) = moving(cluster, access).await?;
        if running || jobs > before {
            return Ok(asked);
        }
        tokio::time::sleep(TICK / 2).await;
    }
    bail!("no slot has moved within {} s", LIMIT.as_secs())
}

/// The moment in which the shards no longer have as many slots as before.
async fn arrived(cluster: &Cluster, before: &[usize]) -> Result<Instant> {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let asked = Instant::now();
        if sizes(cluster).await? != before {
            return Ok(asked);
        }
        tokio::time::sleep(TICK / 2).await;
    }
    bail!("no slot has moved within {} s", LIMIT.as_secs())
}

/// How many slots each shard has.
async fn sizes(cluster: &Cluster) -> Result<Vec<usize>> {
    Ok(cluster.truth().await?.shards().iter().map(|s| s.slots).filter(|n| *n > 0).collect())
}

/// Waits until every slot is where it belongs, as the nodes themselves say.
async fn spread(cluster: &Cluster, shards: u16) -> Result<()> {
    let share = usize::from(SLOTS / shards)..=usize::from(SLOTS.div_ceil(shards));
    eventually("the slots to be even", LIMIT, async || {
        let sizes = sizes(cluster).await?;
        let even = sizes.len() == usize::from(shards) && sizes.iter().all(|n| share.contains(n));
        ensure!(even, "{sizes:?}");
        Ok(())
    })
    .await
}

/// How many jobs all primaries know, and whether one runs.
async fn moving(cluster: &Cluster, access: &Access) -> Result<(usize, bool)> {
    let (mut count, mut running) = (0, false);
    for addr in primaries(cluster).await? {
        let jobs = call(access, addr, &["CLUSTER", "GETSLOTMIGRATIONS"]).await?;
        let jobs = jobs.items().unwrap_or_default();
        count += jobs.len();
        let ended = |job: &Reply| {
            field(job, "state").is_some_and(|s| ["success", "failed", "cancelled"].contains(&s.as_str()))
        };
        running |= !jobs.iter().all(ended);
    }
    Ok((count, running))
}

async fn primaries(cluster: &Cluster) -> Result<Vec<SocketAddr>> {
    Ok(cluster.truth().await?.shards().iter().filter_map(|s| s.primary_addr).collect())
}

async fn slots_of(cluster: &Cluster, addr: SocketAddr) -> Result<usize> {
    let truth = cluster.truth().await?;
    let shard = truth.shards().into_iter().find(|s| s.primary_addr == Some(addr));
    Ok(shard.with_context(|| format!("{addr} owns no slots"))?.slots)
}

/// Bytes of keys and values in a node.
async fn data(access: &Access, addr: SocketAddr) -> Result<f64> {
    let answer = call(access, addr, &["INFO", "memory"]).await?;
    let text = answer.text().context("INFO is text")?;
    let bytes = text.lines().find_map(|l| l.strip_prefix("used_memory_dataset:")?.trim().parse::<f64>().ok());
    bytes.context("INFO memory without used_memory_dataset")
}

async fn call(access: &Access, addr: SocketAddr, command: &[&str]) -> Result<Reply> {
    let mut connection = Connection::open(access, addr, ANSWER).await.map_err(anyhow::Error::msg)?;
    connection.call(command, ANSWER).await.map_err(anyhow::Error::msg)
}

/// The value of a name in a flat list of names and values.
fn field(job: &Reply, name: &str) -> Option<String> {
    let items = job.items()?;
    let at = items.iter().position(|i| i.text() == Some(name))?;
    items.get(at + 1)?.text().map(str::to_owned)
}

async fn pause(cluster: &Cluster, paused: bool) -> Result<()> {
    let body = json!({ "spec": { "paused": paused } });
    cluster.api().patch(&cluster.name, &PatchParams::default(), &Patch::Merge(&body)).await?;
    Ok(())
}
