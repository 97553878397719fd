//! Clusters of every shape: Ready, whole by what the nodes themselves say, spread over the workers, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use valkey_cluster_operator::build::labels;
use valkey_cluster_operator::model::settings::NODE_TIMEOUT_MS;

use super::Story;
use super::aftermath;
use super::cluster::Cluster;
use super::stage::{Stage, TICK};
use crate::resp::Connection;
use crate::truth::{Expected, Truth, lines};

pub(super) const STORY: Story = Story {
    name: "create",
    about: "clusters of every shape form in seconds, whole and spread",
    run: |stage| run(stage).boxed_local(),
};

/// Shards and replicas.
const SHAPES: [(usize, usize); 5] = [(3, 0), (3, 1), (3, 2), (6, 1), (1, 0)];
/// From the start of the last server to a formed cluster, median.
const FORMED: Duration = Duration::from_secs(3);
/// For one answer.
const ASK: Duration = Duration::from_secs(2);
/// No cluster of these sizes takes longer, whatever else the machine does.
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let mut formations = Vec::new();
    for _ in 0..stage.times(1, 20) {
        for (shards, replicas) in SHAPES {
            formations
                .push(create(stage, shards, replicas).await.with_context(|| format!("{shards}x{replicas}"))?);
        }
    }
    let (answered, started): (Vec<_>, Vec<_>) = formations.iter().map(Times::formations).unzip();
    let median = aftermath::median(started);
    stage.say(format_args!(
        "formed after the last server's first answer, median: {:.2} s; after its start: {:.2} s",
        aftermath::median(answered).as_secs_f64(),
        median.as_secs_f64()
    ));
    ensure!(median <= stage.bound(FORMED), "the median is above {:?}", stage.bound(FORMED));
    Ok(())
}

/// Times since the apply.
pub(super) struct Times {
    /// Of the last server's start, up to a second too early.
    started: Duration,
    answered: Duration,
    formed: Duration,
}

impl Times {
    /// From the last server's first answer, and from its start.
    fn formations(&self) -> (Duration, Duration) {
        (self.formed.saturating_sub(self.answered), self.formed.saturating_sub(self.started))
    }
}

pub(super) async fn create(stage: &Stage, shards: usize, replicas: usize) -> Result<Times> {
    let cluster = stage.cluster(json!({ "shards": shards, "replicas": replicas })).await?;
    let (times, ready) = tokio::try_join!(watch(&cluster, shards, replicas), waited(stage, &cluster))?;
    // What `kubectl wait` has let through must be true now, not soon.
    let truth = cluster.truth().await?;
    let problems = truth.problems_against(&expected(shards, replicas));
    ensure!(problems.is_empty(), "kubectl wait returned, and: {}", problems.join("; "));
    ensure!(truth.covered() == usize::from(crate::resp::SLOTS), "{} slots are covered", truth.covered());
    check(stage, &cluster).await?;
    spread(stage, &cluster, &truth).await?;
    let (answered, started) = times.formations();
    stage.say(format_args!(
        "{shards}x{replicas}: the last server starts after {:.2} s, all answer after {:.2} s, formed {:.2} s later ({:.2} s after the start), Ready after {:.2} s",
        times.started.as_secs_f64(),
        times.answered.as_secs_f64(),
        answered.as_secs_f64(),
        started.as_secs_f64(),
        ready.as_secs_f64()
    ));
    stage.clean().await?;
    Ok(times)
}

fn expected(shards: usize, replicas: usize) -> Expected {
    Expected {
        shards: Some(shards),
        replicas: Some(replicas),
        node_timeout_ms: Some(u64::from(NODE_TIMEOUT_MS)),
    }
}

/// `kubectl wait`, begun right after the apply.
async fn waited(stage: &Stage, cluster: &Cluster) -> Result<Duration> {
    let vkc = format!("vkc/{}", cluster.name);
    let arguments = ["wait", "-n", &cluster.namespace, "--for=condition=Ready", &vkc, "--timeout=120s"];
    stage.kubectl(&arguments).await?;
    Ok(cluster.applied.elapsed())
}

/// Asks the servers from the moment when they have addresses until they are one cluster.
async fn watch(cluster: &Cluster, shards: usize, replicas: usize) -> Result<Times> {
    let members = shards * (1 + replicas);
    let mut answered = BTreeSet::new();
    let mut times: Option<Duration> = None;
    while cluster.applied.elapsed() < LIMIT {
        let addresses: Vec<SocketAddr> = cluster.addresses().await?.into_values().collect();
        // There is no Secret yet: nobody can be asked.
        if let Ok(truth) = cluster.look(&addresses).await {
            answered.extend(truth.answered().map(|(addr, _, _)| addr));
            if times.is_none() {
                times = (answered.len() == members).then(|| cluster.applied.elapsed());
            }
            if let Some(last) = times
                && truth.problems().is_empty()
                && truth.shards().len() == shards
            {
                let formed = cluster.applied.elapsed();
                let started = last_start(cluster).await?.min(last);
                return Ok(Times { started, answered: last, formed });
            }
        }
        tokio::time::sleep(TICK / 2).await;
    }
    bail!(
        "{} of {members} servers answered and they formed no cluster within {} s",
        answered.len(),
        LIMIT.as_secs()
    )
}

/// When the last server started, by the servers' own clocks. They tell it in whole seconds: it is up to a second too early.
async fn last_start(cluster: &Cluster) -> Result<Duration> {
    let access = cluster.access().await?;
    let limit = ASK + access.slack;
    let mut last = Duration::ZERO;
    for (pod, addr) in cluster.addresses().await? {
        let mut node = Connection::open(&access, addr, limit).await?;
        let info = node.call(&["INFO", "server"], limit).await?;
        let age = age(info.text().unwrap_or_default()).with_context(|| format!("{pod} tells no age"))?;
        last = last.max(cluster.applied.elapsed().saturating_sub(age));
    }
    Ok(last)
}

fn age(info: &str) -> Option<Duration> {
    let lines = lines(info);
    let number = |name: &str| lines.get(name)?.parse::<u64>().ok();
    let since_the_second = Duration::from_micros(number("server_time_usec")? % 1_000_000);
    Some(Duration::from_secs(number("uptime_in_seconds")?) + since_the_second)
}

/// `valkey-cli --cluster check` in a Pod.
async fn check(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let pods = cluster.pods().await?;
    let pod = pods.keys().next().context("there is no Pod")?.clone();
    let began = Instant::now();
    let tls: &[&str] = if cluster.pki.is_some() { &["--tls", "--insecure"] } else { &[] };
    let cli = ["valkey-cli", "--cluster", "check", "127.0.0.1:6379"];
    let exec = ["exec", "-n", &cluster.namespace, &pod, "-c", "server", "--"];
    let text = stage.kubectl(&[&exec[..], &cli[..], tls].concat()).await?;
    let agreed = text.contains("[OK] All nodes agree about slots configuration.");
    ensure!(
        agreed && text.contains("[OK] All 16384 slots covered."),
        "--cluster check after {:?} says: {text}",
        began.elapsed()
    );
    Ok(())
}

/// Primaries evenly over the workers, and the copies of a shard on different ones where there are as many.
async fn spread(stage: &Stage, cluster: &Cluster, truth: &Truth) -> Result<()> {
    let (pods, addresses, workers) =
        (cluster.pods().await?, cluster.addresses().await?, cluster.workers().await?);
    let primaries: Vec<SocketAddr> = truth.shards().iter().filter_map(|s| s.primary_addr).collect();
    let mut load: BTreeMap<&String, usize> = cluster_workers(&workers);
    for (pod, worker) in &workers {
        if addresses.get(pod).is_some_and(|a| primaries.contains(a)) {
            *load.entry(worker).or_default() += 1;
        }
    }
    let (most, least) =
        (load.values().max().copied().unwrap_or(0), load.values().min().copied().unwrap_or(0));
    ensure!(most - least <= 1, "primaries over workers: {load:?}");
    let all = Api::<Node>::all(stage.client.clone()).list(&ListParams::default()).await?.items;
    let takes = |node: &Node| {
        let spec = node.spec.as_ref();
        let tainted = spec
            .and_then(|s| s.taints.as_ref())
            .is_some_and(|all| all.iter().any(|t| t.effect != "PreferNoSchedule"));
        !tainted && spec.and_then(|s| s.unschedulable) != Some(true)
    };
    let copies = truth.shards().iter().map(|s| 1 + s.replicas.len()).max().unwrap_or(0);
    if all.iter().filter(|node| takes(node)).count() < copies {
        return Ok(());
    }
    let shard = |pod: &Pod| pod.labels().get(labels::SHARD_INDEX).cloned();
    let mut places = BTreeSet::new();
    for (name, pod) in &pods {
        let place = (shard(pod), workers.get(name));
        ensure!(places.insert(place.clone()), "two copies of a shard are on one worker: {place:?}");
    }
    Ok(())
}

/// Every worker that has a Pod, with no primary yet.
fn cluster_workers(workers: &BTreeMap<String, String>) -> BTreeMap<&String, usize> {
    workers.values().map(|worker| (worker, 0)).collect()
}
