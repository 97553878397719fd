//! Servers that are neither well nor dead: at one time one is slow, one is busy with a script and one lets the operator in no more; then one
//! does not hear the others, and new ones load their data for long. Each is named, nobody is replaced, the other shards notice nothing, and
//! all is well when they are.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use serde_json::json;
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::build::credentials::OPERATOR_USER;
use valkey_cluster_operator::model::Slots;

use super::Story;
use super::aftermath::LIMIT;
use super::cluster::Cluster;
use super::denied;
use super::fill::fill;
use super::load::{GAP, Load, gap_outside};
use super::mend::{deafen, pause, server};
use super::stage::Stage;
use crate::resp::Connection;
use crate::sandbox::{Running, Sandbox};

pub(super) const STORY: Story = Story {
    name: "sick",
    about: "servers that are slow, busy, deaf, loading, or refuse the operator: named, nobody is replaced, the others notice nothing",
    run: |stage| run(stage).boxed_local(),
};

/// The slow one stands still for this long again and again, well below the node-timeout,
const STILL: Duration = Duration::from_millis(700);
/// and runs for a moment in between.
const RUNS: Duration = Duration::from_millis(100);
/// A script that ends when it is told to.
const FOREVER: &str = "while true do end";
/// For an answer of a node that is well.
const ANSWER: Duration = Duration::from_secs(5);
/// A user that may put right what this story does to the operator's. By its first letter the operator leaves it alone.
const HELPER: &str = "_helper";
/// Keys of all shards together, and how many bytes each has: too few to be compressed.
const KEYS: (usize, usize) = (100_000, 20);
/// So many microseconds does a new replica take for each key: 20 s in all, and some 20 ms until it answers its clients again.
const KEY_LOAD_DELAY: &str = "600";
/// The shard whose primary is slow.
const SLOW: u16 = 0;

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("makes a server slow")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let slow = cluster.primary_of(SLOW).await?;
    let busy = cluster.replica_of(1, &cluster.primary_of(1).await?).await?;
    let closed = cluster.replica_of(2, &cluster.primary_of(2).await?).await?;
    let before = cluster.uids().await?;
    let load = Load::start(stage, &cluster).await?;
    load.mark("sick");
    let server = server(stage, &cluster, &slow).await?;
    let script = begin_script(&cluster, &busy).await?;
    let mut helper = shut_out(&cluster, &closed).await?;
    let words =
        [(&slow, "most of its answers take"), (&busy, "busy with a script"), (&closed, "is not accepted")];
    let named = cluster
        .says("all three to be named", LIMIT, |cr| words.iter().all(|(pod, what)| names(cr, pod, what)));
    let took = tokio::select! {
        limped = limp(sandbox, &server) => bail!("it does not limp any more: {limped:?}"),
        took = named => took,
    };
    // Whatever came of it, they get well.
    load.mark("well");
    let well = Instant::now();
    let said = cluster.get().await?.status.unwrap_or_default();
    helper.call(&["ACL", "SETUSER", OPERATOR_USER, "on"], ANSWER).await?;
    open(&cluster, &busy).await?.call(&["SCRIPT", "KILL"], ANSWER).await?;
    drop(script);
    let took = took?;
    cluster.whole(3, 1, LIMIT).await.context("they are well again")?;
    cluster.ready(well, LIMIT).await?;
    stage.say(format_args!(
        "named after {:.1} s ({}: {}), Ready {:.1} s after they were well",
        took.as_secs_f64(),
        said.reason,
        said.message,
        well.elapsed().as_secs_f64()
    ));
    deaf(stage, sandbox, &cluster).await.context("one does not hear the others")?;
    ensure!(cluster.uids().await? == before, "Pods were replaced: there were {before:?}");
    ensure!(cluster.primary_of(SLOW).await? == slow, "{slow} was slow, and leads no more");
    // It was refused on purpose.
    denied::forget(&cluster).await?;
    let (report, _) = load.end(stage, "sick servers").await?;
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    let gap = gap_outside(&report, &Slots::share(SLOW, 3));
    stage.say(format_args!("longest gap of the other shards: {} ms", gap.as_millis()));
    ensure!(
        gap < stage.bound(GAP),
        "no write for {gap:?} to a shard whose primary is well: {}",
        report.summary()
    );
    loads(stage, &cluster).await.context("new replicas load their data for long")
}

/// New replicas that answer `LOADING`: they are named and left alone, and nobody else notices.
async fn loads(stage: &Stage, cluster: &Cluster) -> Result<()> {
    fill(stage, cluster, KEYS.0, KEYS.1).await?;
    let before = cluster.uids().await?;
    let load = Load::start(stage, cluster).await?;
    // Clients are answered between a few keys, as they are every two megabytes of real data.
    let slowly = json!({ "key-load-delay": KEY_LOAD_DELAY, "loading-process-events-interval-bytes": "1024" });
    cluster.change(json!({ "shards": 3, "replicas": 2, "config": slowly })).await?;
    let began = Instant::now();
    let new = |cr: &ValkeyCluster| names(cr, "-2", "it loads its data");
    let took = cluster.says("the status to name those that load", LIMIT, new).await?;
    cluster.whole(3, 2, LIMIT).await.context("they have loaded")?;
    cluster.ready(began, LIMIT).await?;
    stage.say(format_args!(
        "new replicas that answer LOADING were named after {:.1} s, Ready after {:.1} s",
        took.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    let after = cluster.uids().await?;
    ensure!(before.iter().all(|uid| after.contains(uid)), "Pods were replaced: {before:?}, now {after:?}");
    ensure!(
        after.len() == before.len() + 3,
        "more than the new replicas were made: {before:?}, now {after:?}"
    );
    load.judged(stage, "replicas that load", 2, GAP).await
}

/// A replica turns its clients away: it hears nobody on the bus, and copies on.
async fn deaf(stage: &Stage, sandbox: &Sandbox, cluster: &Cluster) -> Result<()> {
    let deaf = cluster.replica_of(SLOW, &cluster.primary_of(SLOW).await?).await?;
    let worker = cluster.workers().await?.remove(&deaf).with_context(|| format!("{deaf} is on no worker"))?;
    let filtered = deafen(sandbox, &worker, cluster.address(&deaf).await?.ip())?;
    let named = |cr: &ValkeyCluster| names(cr, &deaf, "CLUSTERDOWN");
    let took = cluster.says("the status to say that it turns clients away", LIMIT, named).await?;
    let well = Instant::now();
    filtered.now()?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(well, LIMIT).await?;
    stage.say(format_args!(
        "{deaf} was named after {:.1} s without the bus, Ready {:.1} s after it was back",
        took.as_secs_f64(),
        well.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The condition Degraded names this Pod with these words.
fn names(cr: &ValkeyCluster, pod: &str, what: &str) -> bool {
    let conditions = cr.status.iter().flat_map(|s| &s.conditions);
    let degraded = conditions.filter(|c| c.type_ == "Degraded").flat_map(|c| c.message.split("; "));
    degraded.into_iter().any(|part| part.contains(pod) && part.contains(what))
}

/// Until it is dropped.
async fn limp(sandbox: &Sandbox, server: &Running) -> Result<()> {
    loop {
        let stopped = pause(sandbox, server.clone())?;
        tokio::time::sleep(STILL).await;
        stopped.now()?;
        tokio::time::sleep(RUNS).await;
    }
}

/// The connection over which a script runs for ever: it gives no answer.
async fn begin_script(cluster: &Cluster, pod: &str) -> Result<tokio::task::JoinHandle<()>> {
    let mut connection = open(cluster, pod).await?;
    Ok(tokio::spawn(async move {
        // Its end is an error in any case.
        let _ = connection.call(&["EVAL", FOREVER, "0"], LIMIT).await;
    }))
}

/// The operator's user is switched off, as a person does by mistake; the connection of one who can switch it on.
async fn shut_out(cluster: &Cluster, pod: &str) -> Result<Connection> {
    let at = cluster.address(pod).await?;
    let mut connection = Connection::open(&cluster.access().await?, at, ANSWER).await?;
    let user = ["ACL", "SETUSER", HELPER, "on", "nopass", "+acl|setuser"];
    let commands: [&[&str]; 3] =
        [&user, &["AUTH", HELPER, "none"], &["ACL", "SETUSER", OPERATOR_USER, "off"]];
    for answer in connection.pipeline(&commands, ANSWER).await? {
        ensure!(answer.error().is_none(), "{pod}: {:?}", answer.error());
    }
    Ok(connection)
}

async fn open(cluster: &Cluster, pod: &str) -> Result<Connection> {
    Ok(Connection::open(&cluster.open_access(), cluster.address(pod).await?, ANSWER).await?)
}
