//! Every Pod is replaced by one of another image under a write load: a successor first, then the old one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use serde_json::{Value, json};
use valkey_cluster_operator::build::labels;

use super::Story;
use super::aftermath;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::{Stage, TICK, eventually};
use crate::resp::Connection;

pub(super) const STORY: Story = Story {
    name: "upgrade",
    about: "the image changes while an application writes: nothing lost, never fewer copies than wanted",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(5);
/// For an answer.
const ASK: Duration = Duration::from_secs(1);
/// What three shards at a time gain at least.
const FASTER: f64 = 1.5;

/// From which image to which.
#[derive(Clone, Copy)]
struct Path {
    from: &'static str,
    to: &'static str,
}

/// The same version under another name: every Pod changes, and nothing else.
const SAME: Path = Path { from: "docker.io/valkey/valkey:9.1.2", to: "docker.io/valkey/valkey:9.1" };
const FIRST: Path = Path { from: "docker.io/valkey/valkey:8.0.1", to: "docker.io/valkey/valkey:8.1.1" };
const SECOND: Path = Path { from: "docker.io/valkey/valkey:8.1.1", to: "docker.io/valkey/valkey:9.1.2" };

async fn run(stage: &Stage) -> Result<()> {
    upgrades(stage, (3, 1), 1, &[SAME]).await?;
    upgrades(stage, (3, 0), 1, &[SAME]).await?;
    upgrades(stage, (3, 1), 3, &[FIRST, SECOND]).await?;
    for _ in 0..stage.times(0, 1) {
        upgrades(stage, (3, 2), 1, &[SAME]).await?;
        let one = upgrades(stage, (6, 1), 1, &[SAME]).await?;
        let three = upgrades(stage, (6, 1), 3, &[SAME]).await?;
        let (ratio, starts) = (one.took / three.took, 3.0 * one.start / three.start);
        stage.say(format_args!(
            "6x1: three shards at a time are {ratio:.2} times as fast as one; the starts of Pods alone (mean {:.1} and {:.1} s) are {starts:.2} times",
            one.start, three.start
        ));
        ensure!(ratio >= FASTER, "three shards at a time are {ratio:.2} times as fast as one");
    }
    bad_image(stage).await?;
    no_way_back(stage).await
}

fn spec((shards, replicas): (u16, u16), at_once: u16, image: &str) -> Value {
    json!({ "shards": shards, "replicas": replicas, "image": image, "maxDisruptedShards": at_once })
}

/// How long the last upgrade took, and a start of a Pod in it, in seconds; and the longest gap of a write.
#[derive(Default)]
struct Times {
    took: f64,
    start: f64,
    gap: Duration,
}

/// Some upgrades of one kind, whose gaps are judged by their median: a single one tells more of the machine. The times are those of the last.
async fn upgrades(stage: &Stage, size: (u16, u16), at_once: u16, paths: &[Path]) -> Result<Times> {
    let (mut gaps, mut last) = (Vec::new(), Times::default());
    for _ in 0..stage.times(1, 3) {
        last = upgrade(stage, size, at_once, paths).await?;
        stage.clean().await?;
        gaps.push(last.gap);
    }
    let median = aftermath::median(gaps);
    stage.say(format_args!(
        "upgrade {}x{}, {at_once} at a time: the longest gap, median: {} ms",
        size.0,
        size.1,
        median.as_millis()
    ));
    // Three servers start at one moment on the cores that those of all shards have: that is judged by how quick it is.
    let gap = if at_once > 1 { 2 * GAP } else { GAP };
    ensure!(median < stage.bound(gap), "the longest gap is {median:?} in the median");
    Ok(last)
}

async fn upgrade(stage: &Stage, size: (u16, u16), at_once: u16, paths: &[Path]) -> Result<Times> {
    let (shards, replicas) = (usize::from(size.0), usize::from(size.1));
    let mut times = Times::default();
    let Some(first) = paths.first() else { return Ok(times) };
    let cluster = stage.cluster(spec(size, at_once, first.from)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    for path in paths {
        let what = format!("{shards}x{replicas} {} to {}, {at_once} at a time", path.from, path.to);
        load.mark(&what);
        let began = Instant::now();
        cluster.change(spec(size, at_once, path.to)).await?;
        let members = size.0 * (size.1 + 1);
        let broken = watched(stage, &cluster, members);
        tokio::select! {
            broken = broken => return broken.map(|()| times),
            ready = cluster.ready(began, LIMIT) => ready?,
        };
        times.took = began.elapsed().as_secs_f64();
        cluster.whole(shards, replicas, LIMIT).await?;
        one_at_a_time(stage, &cluster, members).await?;
        for (name, pod) in
            cluster.pods().await?.iter().filter(|(_, p)| p.metadata.deletion_timestamp.is_none())
        {
            let image = pod.spec.as_ref().and_then(|s| s.containers.first()).and_then(|c| c.image.clone());
            ensure!(image.as_deref() == Some(path.to), "{name} still runs {image:?}");
        }
        times.start = start(&cluster).await?;
        let pods = f64::from(size.0 * (size.1 + 1)) / f64::from(at_once);
        stage.say(format_args!(
            "{what}: {:.1} s, {:.2} times the sum of the starts of its Pods",
            times.took,
            times.took / (times.start * pods)
        ));
    }
    let what = format!("upgrade {shards}x{replicas}, {at_once} at a time");
    times.gap = load.kept(stage, &what, replicas + 1).await?.longest_gap();
    Ok(times)
}

/// How many members evictions have to leave, and how many they may take now.
async fn budget(stage: &Stage, cluster: &Cluster) -> Result<(i32, i32)> {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let live = budgets.get(&labels::common_name(&cluster.name)).await?;
    let least = match live.spec.and_then(|spec| spec.min_available) {
        Some(IntOrString::Int(least)) => least,
        other => bail!("the budget leaves {other:?}"),
    };
    Ok((least, live.status.map_or(0, |status| status.disruptions_allowed)))
}

/// Meanwhile the budget never has evictions leave more than all but one of those that are wanted. Ends when it does.
async fn watched(stage: &Stage, cluster: &Cluster, members: u16) -> Result<()> {
    loop {
        let (least, _) = budget(stage, cluster).await?;
        ensure!(least < i32::from(members), "evictions have to leave {least} of {members} members");
        tokio::time::sleep(TICK).await;
    }
}

/// When it is over evictions may take exactly one.
async fn one_at_a_time(stage: &Stage, cluster: &Cluster, members: u16) -> Result<()> {
    eventually("evictions to be allowed one member", LIMIT, async || {
        let (least, allowed) = budget(stage, cluster).await?;
        ensure!(
            (least, allowed) == (i32::from(members) - 1, 1),
            "they have to leave {least} of {members}, and may take {allowed}"
        );
        Ok(())
    })
    .await
}

/// The mean time from a Pod's creation until its server runs, in seconds, of all Pods that there are.
async fn start(cluster: &Cluster) -> Result<f64> {
    let pods = cluster.pods().await?;
    let took = pods.values().filter_map(|pod| {
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        let server = containers.iter().find(|c| c.name == "server")?;
        let started = server.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
        let created = pod.metadata.creation_timestamp.as_ref()?;
        Some(started.0.duration_since(created.0).as_secs_f64())
    });
    let took: Vec<f64> = took.collect();
    ensure!(!took.is_empty(), "no server runs");
    Ok(took.iter().sum::<f64>() / f64::from(u16::try_from(took.len())?))
}

/// The first Pod with an image that does not exist stops the upgrade; the cluster stays as it is, and says why.
async fn bad_image(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec((3, 1), 1, SAME.from)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    cluster.change(spec((3, 1), 1, "docker.io/valkey/valkey:none")).await?;
    let named = |s: &valkey_cluster_operator::api::ValkeyCluster| {
        s.status.as_ref().is_some_and(|s| s.reason.contains("Image") && s.message.contains("cannot start"))
    };
    let said = cluster.says("the image to be named", LIMIT, named).await?;
    let pods = cluster.pods().await?.len();
    ensure!(pods == 7, "{pods} Pods: one successor may wait for its image, and all others stay");
    let began = Instant::now();
    cluster.change(spec((3, 1), 1, SAME.from)).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    stage.say(format_args!(
        "wrong image: named after {:.1} s, taken back in {:.1} s",
        said.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    load.judged(stage, "wrong image", 2, GAP).await
}

/// Back to the older version: like an upgrade, as long as nothing was written that only the newer one knows; afterwards it stops at the
/// first successor, says why, and goes on when the newer image is set again.
async fn no_way_back(stage: &Stage) -> Result<()> {
    let (size, Path { from: old, to: new }) = ((1, 1), SECOND);
    let cluster = stage.cluster(spec(size, 1, old)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    for image in [new, old, new] {
        let began = Instant::now();
        cluster.change(spec(size, 1, image)).await?;
        cluster.ready(began, LIMIT).await?;
        cluster.whole(1, 1, LIMIT).await?;
        stage.say(format_args!("to {image}: {:.1} s", began.elapsed().as_secs_f64()));
    }
    let primary = cluster.primary_of(0).await?;
    let at = *cluster.addresses().await?.get(&primary).context("it has an address")?;
    let access = cluster.open_access();
    let mut node = Connection::open(&access, at, ASK + access.slack).await?;
    for words in
        [["HSET", "new", "field", "1"].as_slice(), &["HEXPIRE", "new", "3600", "FIELDS", "1", "field"]]
    {
        let answer = node.call(words, ASK + access.slack).await?;
        ensure!(answer.error().is_none(), "{words:?}: {answer:?}");
    }
    cluster.change(spec(size, 1, old)).await?;
    let named = |s: &valkey_cluster_operator::api::ValkeyCluster| {
        s.status.as_ref().is_some_and(|s| s.reason == "NoWayBack" && s.message.contains("HEXPIRE"))
    };
    let said = cluster.says("that there is no way back", LIMIT, named).await?;
    let began = Instant::now();
    cluster.change(spec(size, 1, new)).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(1, 1, LIMIT).await?;
    stage.say(format_args!(
        "no way back: said after {:.1} s, ahead again in {:.1} s",
        said.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    load.judged(stage, "there and back", 2, GAP).await
}
