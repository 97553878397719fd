//! What a person gives of Pods and of the Service reaches them, a hand-over is done on request, and copies are where their zones are
//! pinned to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use valkey_cluster_operator::api::status::HandOverState;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::stage::{Stage, eventually};
use crate::resp::Connection;

pub(super) const STORY: Story = Story {
    name: "template",
    about: "containers by name, memory, labels and annotations, a hand-over on request, copies pinned to zones",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(4);
/// Limits of memory, and what of each in percent is for data.
const SMALL: &str = "1Gi";
const LARGE: &str = "2Gi";
const FOR_DATA: u64 = 65;
const ASK: Duration = Duration::from_secs(2);
/// The label by which Kubernetes knows the zone of a worker.
const ZONE: &str = "topology.kubernetes.io/zone";

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(SMALL, "blue")).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    dressed(stage, &cluster, SMALL, "blue").await?;
    sized(&cluster, 1 << 30).await?;
    let load = Load::start(stage, &cluster).await?;
    relabelled(stage, &cluster).await?;
    replaced(stage, &cluster).await?;
    load.follow(&cluster).await?;
    handed_over(stage, &cluster).await?;
    load.judged(stage, "changes of the template, and a hand-over on request", 2, GAP).await?;
    match stage.sandbox("it labels workers with zones") {
        Ok(_) => in_zones(stage).await,
        Err(why) => {
            stage.leave_out("pinned zones", &why);
            Ok(())
        }
    }
}

/// A limit of memory, which a variable of the server's container repeats, and labels and annotations of this colour.
fn spec(memory: &str, colour: &str) -> Value {
    json!({
        "shards": 3, "replicas": 1,
        "resources": { "requests": { "memory": "32Mi" }, "limits": { "memory": memory } },
        "containers": [{ "name": "server", "env": [{ "name": "STORY", "value": memory }] }],
        "podMetadata": { "labels": { format!("team-{colour}"): "a" }, "annotations": { "example.com/colour": colour } },
        "serviceMetadata": { "labels": { "team": colour }, "annotations": { "example.com/colour": colour } }
    })
}

/// Waits until all Pods and the Service are as the spec says.
async fn dressed(stage: &Stage, cluster: &Cluster, memory: &str, colour: &str) -> Result<()> {
    let services: Api<Service> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    eventually("Pods and Service to be as the spec says", LIMIT, async || {
        for (name, pod) in cluster.pods().await? {
            let teams: Vec<&String> = pod.labels().keys().filter(|k| k.starts_with("team-")).collect();
            ensure!(teams == [&format!("team-{colour}")], "{name} has the labels {teams:?}");
            let shown = pod.annotations().get("example.com/colour");
            ensure!(shown.is_some_and(|c| c == colour), "{name} has the colour {shown:?}");
            let found = story(&pod);
            ensure!(found.as_deref() == Some(memory), "{name} has STORY={found:?}");
        }
        let service = services.get(&labels::common_name(&cluster.name)).await?;
        ensure!(
            service.labels().get("team").is_some_and(|c| c == colour),
            "the Service has {:?}",
            service.labels()
        );
        let shown = service.annotations().get("example.com/colour");
        ensure!(shown.is_some_and(|c| c == colour), "the Service has the colour {shown:?}");
        Ok(())
    })
    .await
}

/// The variable of the server's container.
fn story(pod: &Pod) -> Option<String> {
    let server = pod.spec.as_ref()?.containers.iter().find(|c| c.name == "server")?;
    server.env.as_ref()?.iter().find(|e| e.name == "STORY")?.value.clone()
}

/// Labels and annotations change on the Pods that are there.
async fn relabelled(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let (before, began) = (cluster.uids().await?, Instant::now());
    cluster.change(spec(SMALL, "red")).await?;
    dressed(stage, cluster, SMALL, "red").await?;
    stage.say(format_args!("other labels and annotations: {:.1} s", began.elapsed().as_secs_f64()));
    ensure!(cluster.uids().await? == before, "labels and annotations replace no Pod");
    Ok(())
}

/// Every node takes its share of this limit for data.
async fn sized(cluster: &Cluster, limit: u64) -> Result<()> {
    let access = cluster.access().await?;
    for (pod, addr) in cluster.addresses().await? {
        let mut node = Connection::open(&access, addr, ASK + access.slack).await?;
        let reply = node.call(&["CONFIG", "GET", "maxmemory"], ASK + access.slack).await?;
        let shown = reply.items().and_then(|pair| pair.last()?.text()?.parse::<u64>().ok());
        ensure!(shown == Some(limit * FOR_DATA / 100), "{pod} has maxmemory {shown:?} of {limit} bytes");
    }
    Ok(())
}

/// A container is part of a Pod: each is replaced, a successor first.
async fn replaced(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let (before, began) = (cluster.uids().await?, Instant::now());
    cluster.change(spec(LARGE, "red")).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    dressed(stage, cluster, LARGE, "red").await?;
    sized(cluster, 2 << 30).await?;
    ensure!(cluster.uids().await?.is_disjoint(&before), "a Pod of before is left");
    stage.say(format_args!(
        "another variable of the server and more memory: {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// `kubectl annotate vkc/NAME valkey.io/hand-over=POD`.
async fn handed_over(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let before = cluster.primary_of(0).await?;
    let heir = cluster.replica_of(0, &before).await?;
    let (what, request) = (format!("vkc/{}", cluster.name), format!("valkey.io/hand-over={heir}"));
    let began = Instant::now();
    stage.kubectl(&["annotate", "-n", &cluster.namespace, &what, &request]).await?;
    eventually("the Pod that was named to lead", LIMIT, async || {
        let leads = cluster.primary_of(0).await?;
        ensure!(leads == heir, "{leads} leads, {heir} was named");
        Ok(())
    })
    .await?;
    stage.say(format_args!("handed over on request: {:.1} s", began.elapsed().as_secs_f64()));
    cluster
        .says("the status to say that it was done", LIMIT, |cr| {
            let told = cr.status.as_ref().and_then(|s| s.hand_over.as_ref());
            told.is_some_and(|h| h.request == heir && h.state == HandOverState::Done)
        })
        .await?;
    cluster.ready(began, LIMIT).await?;
    Ok(())
}

/// Each worker gets a zone for the time of this.
async fn in_zones(stage: &Stage) -> Result<()> {
    let workers = stage.workers().await?;
    let zone = |worker: &str| format!("zone-of-{worker}");
    for worker in &workers {
        let label = format!("{ZONE}={}", zone(worker));
        stage.kubectl(&["label", "node", worker, &label, "--overwrite"]).await?;
    }
    let told = pinned(stage, &workers.iter().map(|w| zone(w)).collect::<Vec<_>>()).await;
    for worker in &workers {
        stage.kubectl(&["label", "node", worker, &format!("{ZONE}-")]).await?;
    }
    told
}

/// The copies are where they are pinned to, and come back there.
async fn pinned(stage: &Stage, zones: &[String]) -> Result<()> {
    let pinning =
        json!({ "shards": 3, "replicas": 1, "scheduling": { "zone": { "pinning": { "zones": zones } } } });
    let cluster = stage.cluster(pinning).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    in_their_zones(&cluster, zones).await?;
    let gone = cluster.primary_of(1).await?;
    cluster.delete_pod(&gone).await?;
    let began = Instant::now();
    eventually("its successor", LIMIT, async || {
        ensure!(!cluster.pods().await?.contains_key(&gone), "{gone} is there");
        Ok(())
    })
    .await?;
    cluster.whole(3, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    in_their_zones(&cluster, zones).await?;
    stage.say(format_args!("copies pinned to {} zones, and {gone} replaced in its own", zones.len()));
    Ok(())
}

/// Every shard begins one zone later than the one before.
async fn in_their_zones(cluster: &Cluster, zones: &[String]) -> Result<()> {
    let pods = cluster.pods().await?;
    let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (name, worker) in cluster.workers().await? {
        let shard = pods.get(&name).and_then(|p| p.labels().get(labels::SHARD_INDEX)?.parse().ok());
        let shard = shard.with_context(|| format!("{name} has no shard"))?;
        found.entry(shard).or_default().insert(format!("zone-of-{worker}"));
    }
    for (shard, here) in &found {
        let wanted = (*shard..*shard + 2).filter_map(|i| zones.get(i % zones.len().max(1)).cloned());
        let wanted: BTreeSet<String> = wanted.collect();
        ensure!(*here == wanted, "shard {shard} is in {here:?} and pinned to {wanted:?}");
    }
    ensure!(found.len() == 3, "{} shards have Pods", found.len());
    Ok(())
}
