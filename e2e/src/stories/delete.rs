//! Deleting a cluster, in every way that Kubernetes knows, takes seconds and leaves nothing behind.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt, try_join};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use kube::api::{DeleteParams, PropagationPolicy};
use kube::{Api, ResourceExt};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::mend::{pause, server};
use super::operator;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "delete",
    about: "a cluster is gone within seconds of its deletion, whichever way it was deleted",
    run: |stage| run(stage).boxed_local(),
};

/// From the deletion until nothing is left.
const GONE: Duration = Duration::from_secs(5);
/// How much later than an empty namespace one with a cluster is gone.
const LATER: Duration = Duration::from_secs(1);
/// The same for a server that has to be killed: 15 s of grace, and what Kubernetes does around them.
const KILLED: Duration = Duration::from_secs(20);
/// Clusters that are deleted while they start.
const YOUNG: usize = 4;
/// Seconds: a Pod that nobody releases holds on until 15 s before this.
const SHORT_GRACE: i64 = 25;
/// With nobody to help, Pods end at the latest with their grace period, and the garbage collector needs a moment more.
const LEEWAY: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        propagated(stage, policy.clone()).await.with_context(|| format!("{policy:?}"))?;
    }
    namesake(stage).await.context("deleted and applied anew at once")?;
    young(stage).await.context("deleted while it starts")?;
    orphaned(stage).await.context("orphaned")?;
    namespace(stage).await.context("the namespace")?;
    hung(stage).await.context("the namespace, with a server that hangs")?;
    if let Err(why) = stage.own_operator("stops the operator").await {
        stage.leave_out("delete without an operator", &why);
        return Ok(());
    }
    let alone = without_operator(stage).await.context("without an operator");
    operator::scale(&stage.client, 2).await?;
    alone
}

async fn made(stage: &Stage) -> Result<Cluster> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    Ok(cluster)
}

async fn delete(cluster: &Cluster, policy: PropagationPolicy) -> Result<Instant> {
    let began = Instant::now();
    let how = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    cluster.api().delete(&cluster.name, &how).await?;
    Ok(began)
}

/// Waits until neither the cluster nor anything that it was made of is left; the time since `began`.
async fn gone(stage: &Stage, cluster: &Cluster, began: Instant, limit: Duration) -> Result<Duration> {
    let namespace = &cluster.namespace;
    let services: Api<Service> = Api::namespaced(stage.client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), namespace);
    let common = labels::common_name(&cluster.name);
    eventually("everything to be gone", limit, async || {
        let pods = cluster.pods().await?;
        ensure!(pods.is_empty(), "{} Pods are left", pods.len());
        ensure!(cluster.api().get_metadata_opt(&cluster.name).await?.is_none(), "the cluster is left");
        ensure!(services.get_metadata_opt(&common).await?.is_none(), "the Service is left");
        ensure!(maps.get_metadata_opt(&common).await?.is_none(), "the ConfigMap is left");
        let secret = secrets.get_metadata_opt(&labels::secret_name(&cluster.name)).await?;
        ensure!(secret.is_none(), "the Secret is left");
        Ok(began.elapsed())
    })
    .await
}

async fn emptied(cluster: &Cluster, what: &str, limit: Duration) -> Result<()> {
    eventually(what, limit, async || {
        let left = cluster.pods().await?.len();
        ensure!(left == 0, "{left} Pods are left");
        Ok(())
    })
    .await
}

async fn propagated(stage: &Stage, policy: PropagationPolicy) -> Result<()> {
    let cluster = made(stage).await?;
    let began = delete(&cluster, policy.clone()).await?;
    let took = gone(stage, &cluster, began, stage.bound(GONE)).await?;
    stage.say(format_args!("{policy:?}: all gone after {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// A new cluster of the same name is another one: it never meets the old one's nodes, and ends whole.
async fn namesake(stage: &Stage) -> Result<()> {
    let cluster = made(stage).await?;
    let before = ids(&cluster).await?;
    delete(&cluster, PropagationPolicy::Background).await?;
    let next =
        Cluster::apply(stage, &cluster.namespace, &cluster.name, json!({ "shards": 3, "replicas": 1 }))
            .await?;
    let took = next.ready(next.applied, LIMIT).await?;
    next.whole(3, 1, LIMIT).await?;
    let after = ids(&next).await?;
    ensure!(after.iter().all(|id| !before.contains(id)), "a node of the old cluster is in the new one");
    stage.say(format_args!("deleted and applied anew: Ready after {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// A server that starts does not hear SIGTERM yet, and whoever deletes its Pod then must not have to wait for the grace period.
async fn young(stage: &Stage) -> Result<()> {
    let mut random = StdRng::seed_from_u64(stage.seed()?);
    for _ in 0..YOUNG {
        let age = Duration::from_millis(random.random_range(0..2000));
        let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
        eventually("a Pod to have a worker", LIMIT, async || {
            let pods = cluster.pods().await?;
            let bound = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_some());
            ensure!(pods.values().any(bound), "none of {} Pods has one", pods.len());
            Ok(())
        })
        .await?;
        tokio::time::sleep(age).await;
        let began = delete(&cluster, PropagationPolicy::Background).await?;
        let took = gone(stage, &cluster, began, stage.bound(GONE)).await?;
        stage.say(format_args!(
            "deleted {} ms after its first Pod was bound: all gone after {:.1} s",
            age.as_millis(),
            took.as_secs_f64()
        ));
    }
    Ok(())
}

async fn ids(cluster: &Cluster) -> Result<Vec<String>> {
    let truth = cluster.truth().await?;
    Ok(truth.answered().flat_map(|(_, f, _)| f.view.lines.iter().map(|l| l.id.clone())).collect())
}

/// The Pods live on, and a new cluster of the same name never meets them.
async fn orphaned(stage: &Stage) -> Result<()> {
    let cluster = made(stage).await?;
    let (before, uids) = (ids(&cluster).await?, cluster.uids().await?);
    delete(&cluster, PropagationPolicy::Orphan).await?;
    eventually("the cluster to be gone", LIMIT, async || {
        ensure!(cluster.api().get_metadata_opt(&cluster.name).await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    let left = cluster.uids().await?;
    ensure!(uids.is_subset(&left), "Pods were removed: {} of {} are left", left.len(), uids.len());
    let next =
        Cluster::apply(stage, &cluster.namespace, &cluster.name, json!({ "shards": 3, "replicas": 1 }))
            .await?;
    next.ready(next.applied, LIMIT).await?;
    let mine = controlled_by(&next).await?;
    let truth = next.look(&mine).await?;
    ensure!(truth.problems().is_empty(), "the new cluster: {}", truth.problems().join("; "));
    let known = truth.answered().flat_map(|(_, f, _)| f.view.lines.iter().map(|l| l.id.clone()));
    let met: Vec<String> = known.filter(|id| before.contains(id)).collect();
    ensure!(met.is_empty(), "the new cluster met orphans: {met:?}");
    stage.say(format_args!("orphaned: {} Pods live on, and the new cluster knows none of them", uids.len()));
    Ok(())
}

/// The addresses of the Pods that this very custom resource controls.
async fn controlled_by(cluster: &Cluster) -> Result<Vec<std::net::SocketAddr>> {
    let uid = cluster.get().await?.uid().context("a custom resource without a UID")?;
    let mine = |p: &Pod| p.owner_references().iter().any(|o| o.controller == Some(true) && o.uid == uid);
    let pods = cluster.pods().await?;
    let addresses = cluster.addresses().await?;
    Ok(addresses.into_iter().filter(|(name, _)| pods.get(name).is_some_and(mine)).map(|(_, a)| a).collect())
}

/// The Pods are gone at once; the namespace itself as soon as an empty one that is deleted at the same moment, which takes Kubernetes five
/// seconds (its controller gives what is in it so much time before it looks again).
async fn namespace(stage: &Stage) -> Result<()> {
    let (cluster, empty) = (made(stage).await?, stage.namespace().await?);
    let pods = async {
        let began = Instant::now();
        emptied(&cluster, "its Pods to be gone", stage.bound(GONE)).await?;
        Ok(began.elapsed())
    };
    let ends = (removed(stage, &cluster.namespace), removed(stage, &empty), pods);
    let (took, alone, pods) = try_join!(ends.0, ends.1, ends.2)?;
    stage.say(format_args!(
        "the namespace: Pods gone after {:.1} s, itself after {:.1} s, an empty one after {:.1} s",
        pods.as_secs_f64(),
        took.as_secs_f64(),
        alone.as_secs_f64()
    ));
    ensure!(
        took < alone + stage.bound(LATER),
        "an empty namespace is gone after {alone:?}, this one after {took:?}"
    );
    Ok(())
}

/// Deletes a namespace; how long it took until it was gone.
async fn removed(stage: &Stage, name: &str) -> Result<Duration> {
    let api: Api<Namespace> = Api::all(stage.client.clone());
    let began = Instant::now();
    api.delete(name, &DeleteParams::default()).await?;
    eventually("the namespace to be gone", LIMIT, async || {
        ensure!(api.get_metadata_opt(name).await?.is_none(), "{name} is still there");
        Ok(())
    })
    .await?;
    stage.gone(name)?;
    Ok(began.elapsed())
}

/// A server that hangs hears neither the operator nor SIGTERM, and goes all the same.
async fn hung(stage: &Stage) -> Result<()> {
    let sandbox = match stage.sandbox("stops a server where it stands") {
        Ok(sandbox) => sandbox,
        Err(why) => {
            stage.leave_out("the end of a namespace with a server that hangs", &why);
            return Ok(());
        }
    };
    let cluster = made(stage).await?;
    let server = server(stage, &cluster, &cluster.primary_of(0).await?).await?;
    let _stopped = pause(sandbox, server)?;
    let api: Api<Namespace> = Api::all(stage.client.clone());
    let began = Instant::now();
    api.delete(&cluster.namespace, &DeleteParams::default()).await?;
    emptied(&cluster, "its Pods to be gone", stage.bound(KILLED)).await?;
    stage.say(format_args!(
        "the namespace, with a server that hangs: Pods gone after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn without_operator(stage: &Stage) -> Result<()> {
    let spec = json!({ "shards": 3, "replicas": 1, "terminationGracePeriodSeconds": SHORT_GRACE });
    let cluster = stage.cluster(spec).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let pods = cluster.pods().await?;
    let grace =
        pods.values().filter_map(|p| p.spec.as_ref()?.termination_grace_period_seconds).max().unwrap_or(30);
    operator::scale(&stage.client, 0).await?;
    let began = delete(&cluster, PropagationPolicy::Background).await?;
    let limit = Duration::from_secs(grace.unsigned_abs()) + LEEWAY;
    emptied(&cluster, "the Pods to be gone without an operator", limit).await?;
    let alone = began.elapsed();
    operator::scale(&stage.client, 2).await?;
    // What only the operator may remove goes when it is back.
    gone(stage, &cluster, began, LIMIT).await?;
    stage.say(format_args!(
        "without an operator: Pods gone after {:.1} s (grace {grace} s)",
        alone.as_secs_f64()
    ));
    Ok(())
}
