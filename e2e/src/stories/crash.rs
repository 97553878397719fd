//! Processes that die without a word, under a write load: the heir takes over in milliseconds, what a replica had is kept, and a shard of
//! which nothing is left begins anew.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use valkey_cluster_operator::build::labels;

use super::aftermath::{self, Aftermath, LIMIT, median, succeeded};
use super::cluster::Cluster;
use super::load::Load;
use super::mend::kill;
use super::stage::{Stage, eventually};
use super::{Story, Suite};
use crate::resp::Connection;

pub(super) const STORY: Story = Story {
    name: "crash",
    about: "a primary that dies has its heir at once; a shard that is lost begins anew and says so",
    run: |stage| run(stage).boxed_local(),
};

/// The longest time without an acknowledged write on any lane.
const GAP: Duration = Duration::from_millis(250);
/// For an answer of a server that is well.
const ANSWER: Duration = Duration::from_secs(5);
/// The server gets a new epoch, and writes down the list of nodes.
const BUMP: [&str; 2] = ["CLUSTER", "BUMPEPOCH"];
/// Bytes of an argument that no server with the memory limit of this story can take in.
const LARGE: usize = 400 << 20;

/// One way for a primary to die alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    ForceDeleted,
    OutOfMemory,
    /// Where `nodes.conf` is there is no room, and the list of nodes changes.
    DiskFull,
}

async fn run(stage: &Stage) -> Result<()> {
    all(stage, 1).await?;
    stage.clean().await?;
    // With two replicas one of them leads, and the other copies from it.
    match stage.suite {
        Suite::Full => all(stage, 2).await,
        Suite::Ci => many(stage, &Shape::of(stage, 2).await?, Death::Killed).await,
    }
    .context("3x2")
}

/// Every death, of shards with so many replicas.
async fn all(stage: &Stage, replicas: usize) -> Result<()> {
    let cluster = Shape::of(stage, replicas).await?;
    for death in [Death::Killed, Death::ForceDeleted] {
        many(stage, &cluster, death).await?;
    }
    confirmed(stage, &cluster, Death::Killed).await?;
    let gap = one_primary(stage, &cluster, 0, Death::DiskFull).await.context("no room for nodes.conf")?;
    ensure!(gap <= stage.bound(GAP), "no room for nodes.conf: a gap of {gap:?}");
    whole_shard(stage, &cluster).await.context("a whole shard")?;
    all_primaries(stage, &cluster).await.context("all primaries")?;
    all_pods(stage, &cluster).await.context("all Pods")?;
    let small = Shape::small(stage, replicas).await?;
    many(stage, &small, Death::OutOfMemory).await?;
    confirmed(stage, &small, Death::OutOfMemory).await
}

/// Three shards with so many replicas each.
struct Shape {
    cluster: Cluster,
    replicas: usize,
}

impl Shape {
    async fn of(stage: &Stage, replicas: usize) -> Result<Self> {
        Self::with(stage, replicas, json!({ "shards": 3, "replicas": replicas })).await
    }

    /// Whose servers can be made to want more memory than they may have.
    async fn small(stage: &Stage, replicas: usize) -> Result<Self> {
        let spec = json!({ "shards": 3, "replicas": replicas, "config": { "maxmemory": "0" },
            "resources": { "limits": { "memory": "96Mi" } } });
        Self::with(stage, replicas, spec).await
    }

    async fn with(stage: &Stage, replicas: usize, spec: Value) -> Result<Self> {
        let cluster = stage.cluster(spec).await?;
        cluster.ready(cluster.applied, LIMIT).await?;
        Ok(Self { cluster, replicas })
    }

    fn size(&self) -> (usize, usize) {
        (3, self.replicas)
    }
}

/// The same death as often as the suite asks; the median of the gaps is judged.
async fn many(stage: &Stage, cluster: &Shape, death: Death) -> Result<()> {
    let mut gaps = Vec::new();
    for round in 0..stage.times(1, 10) {
        let shard = u16::try_from(round % 3)?;
        gaps.push(one_primary(stage, cluster, shard, death).await.with_context(|| format!("{death:?}"))?);
    }
    let median = median(gaps);
    let of = cluster.replicas;
    stage.say(format_args!("{death:?}, 3x{of}: median of the longest gaps {median:?}"));
    ensure!(median <= stage.bound(GAP), "{death:?}, 3x{of}: a gap of {median:?}");
    Ok(())
}

/// The longest gap that the load saw.
async fn one_primary(stage: &Stage, shape: &Shape, shard: u16, death: Death) -> Result<Duration> {
    let load = Load::start(stage, &shape.cluster).await?;
    let after = struck(stage, shape, load, shard, death, "").await?;
    if death == Death::ForceDeleted {
        // It lived on for a moment, and handed over in order.
        after.nothing_lost()?;
    }
    Ok(after.gap())
}

/// Of the writes that a replica had, too, none is lost.
async fn confirmed(stage: &Stage, shape: &Shape, death: Death) -> Result<()> {
    for round in 0..stage.times(1, 3) {
        let load = Load::confirmed(stage, &shape.cluster).await?;
        let after = struck(stage, shape, load, u16::try_from(round)?, death, ", writes with WAIT 1").await?;
        after.nothing_lost().with_context(|| format!("{death:?}, with WAIT 1"))?;
    }
    Ok(())
}

async fn struck(
    stage: &Stage,
    shape: &Shape,
    load: Load,
    shard: u16,
    death: Death,
    how: &str,
) -> Result<Aftermath> {
    let cluster = &shape.cluster;
    let name = cluster.primary_of(shard).await?;
    aftermath::under(stage, cluster, load, shape.size(), &format!("{death:?}{how}"), async |_| {
        match death {
            Death::Killed => kill(stage, cluster, &name).await?,
            Death::ForceDeleted => {
                let now = DeleteParams::default().grace_period(0);
                cluster.pod_api().delete(&name, &now).await?;
            }
            Death::OutOfMemory => out_of_memory(cluster, &name).await?,
            Death::DiskFull => fill_disk(stage, cluster, (shard, &name)).await?,
        }
        succeeded(cluster, shard, &name).await.map(drop)
    })
    .await
}

/// The server cannot write down what it knows of the others, and ends as soon as it has to: in good form, whatever is left of the file.
async fn fill_disk(stage: &Stage, cluster: &Cluster, (shard, name): (u16, &str)) -> Result<()> {
    // As much as there is room for: the last piece does not fit.
    let fill = "cat /dev/zero > /dev/shm/fill || true; echo >> /dev/shm/fill && exit 1 || true";
    let exec = ["exec", "-n", &cluster.namespace, name, "-c", "server", "--", "sh", "-c", fill];
    stage.kubectl(&exec).await.context("/dev/shm is not full")?;
    let addr = cluster.address(name).await?;
    let mut connection = Connection::open(&cluster.open_access(), addr, ANSWER).await?;
    // The connection dies with the server.
    let Ok(answer) = connection.call(&BUMP, ANSWER).await else { return Ok(()) };
    ensure!(
        answer.text().is_some_and(|told| told.starts_with("STILL")),
        "{name} has nowhere to write its list of nodes, and answers {answer:?}"
    );
    // Its epoch is the highest already: it has to write as soon as it hears that another's is higher.
    let other = cluster.address(&cluster.primary_of((shard + 1) % 3).await?).await?;
    Connection::open(&cluster.open_access(), other, ANSWER).await?.call(&BUMP, ANSWER).await?;
    eventually("the server without room to end", LIMIT, async || {
        let answer = connection.call(&["PING"], ANSWER).await;
        ensure!(answer.is_err(), "{name} answers {answer:?}");
        Ok(())
    })
    .await
}

/// A client sends an argument that is larger than the memory limit. The server takes in what comes between the commands of
/// others, whom it goes on serving, until the kernel ends it: `maxmemory` bounds data, not what is being received.
async fn out_of_memory(cluster: &Cluster, name: &str) -> Result<()> {
    let addr = cluster.address(name).await?;
    let mut socket = (cluster.open_access().connector)(addr).await?;
    let header = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${LARGE}\r\n");
    let send = async {
        socket.write_all(header.as_bytes()).await?;
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..(LARGE >> 20) {
            socket.write_all(&chunk).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    match tokio::time::timeout(LIMIT, send).await.context("the server neither takes the argument nor dies")? {
        Ok(()) => bail!("{name} took an argument of {LARGE} bytes in a container that may have far less"),
        // The connection dies with the server.
        Err(_) => Ok(()),
    }
}

/// Nothing of the shard is left: no write of its can be, but the others go on and the shard serves again.
async fn whole_shard(stage: &Stage, shape: &Shape) -> Result<()> {
    let cluster = &shape.cluster;
    let members = members_of(cluster, 1).await?;
    let strike = async |_: &Load| kill_all(stage, cluster, &members).await;
    aftermath::of(stage, cluster, shape.size(), "a whole shard", strike).await?;
    let told = ["get", "events", "-n", &cluster.namespace, "--field-selector=reason=ShardLost", "-o", "name"];
    eventually("the event ShardLost", LIMIT, async || {
        ensure!(!stage.kubectl(&told).await?.trim().is_empty(), "there is none");
        Ok(())
    })
    .await
}

/// Nobody is left to elect, and the replicas take over on proof.
async fn all_primaries(stage: &Stage, shape: &Shape) -> Result<()> {
    let cluster = &shape.cluster;
    let mut names = Vec::new();
    for shard in 0..3 {
        names.push(cluster.primary_of(shard).await?);
    }
    let strike = async |_: &Load| kill_all(stage, cluster, &names).await;
    aftermath::of(stage, cluster, shape.size(), "all primaries", strike).await.map(drop)
}

/// The cluster begins anew. No client that knows its former addresses alone finds it again.
async fn all_pods(stage: &Stage, shape: &Shape) -> Result<()> {
    let cluster = &shape.cluster;
    let names: Vec<String> = cluster.pods().await?.into_keys().collect();
    let began = Instant::now();
    kill_all(stage, cluster, &names).await?;
    cluster.whole(3, shape.replicas, LIMIT).await?;
    stage.say(format_args!("all Pods: whole again after {:.1} s", began.elapsed().as_secs_f64()));
    cluster.ready(began, LIMIT).await.map(drop)
}

async fn members_of(cluster: &Cluster, shard: u16) -> Result<Vec<String>> {
    let ordinal = shard.to_string();
    let pods = cluster.pods().await?.into_iter();
    Ok(pods.filter(|(_, p)| p.labels().get(labels::SHARD_INDEX) == Some(&ordinal)).map(|(n, _)| n).collect())
}

async fn kill_all(stage: &Stage, cluster: &Cluster, names: &[String]) -> Result<()> {
    try_join_all(names.iter().map(|name| kill(stage, cluster, name))).await?;
    Ok(())
}
