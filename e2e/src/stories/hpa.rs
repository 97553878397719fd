//! An autoscaler of Kubernetes on processor time, fed by a real metrics server: a loaded cluster gets shards, keeps them while
//! the load stays, and gives them back afterwards.
//!
//! The number of shards that it comes to also shows what its selector counts: it multiplies the pods that it finds by the ratio
//! of the load, so that with replicas among them it would double the cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::burn::Burn;
use super::cluster::Cluster;
use super::load::Load;
use super::scale::{LIMIT, even, one_pod_a_shard};
use super::stage::{Stage, eventually};
use super::watching::Watching;
use super::{Story, Suite};

pub(super) const STORY: Story = Story {
    name: "hpa",
    about: "an autoscaler with a real metrics server scales a loaded cluster out and in, without flapping",
    run: |stage| run(stage).boxed_local(),
};

/// Shards at the beginning and at the end.
const LEAST: u16 = 3;
/// Where the load leads: three shards at one and a half times what is wanted of each, rounded up. With replicas among the pods
/// that it counts it would ask for nine.
const LOADED: u16 = 5;
/// Requested of a processor, in thousandths.
const REQUEST: u64 = 200;
/// What is wanted of that, in percent.
const TARGET: u64 = 60;
/// The whole load in thousandths of a processor, the servers' other work included: one and a half times the target.
const WORK: u64 = LEAST as u64 * REQUEST * TARGET * 150 / 10_000;
/// The first figures of the metrics server come after two questions to the kubelets.
const FIGURES: Duration = Duration::from_mins(3);
/// The autoscaler looks every 5 s (the sandbox's setting), at figures of the last 10 s.
const DECIDES: Duration = Duration::from_mins(4);
/// How long the load stays once the cluster has grown: twelve decisions of the autoscaler.
const STEADY: Duration = Duration::from_mins(1);
/// The longest time in which no write to a key is acknowledged.
const GAP: Duration = Duration::from_millis(500);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("installs a metrics server")?.clone();
    let progress = stage.progress.clone();
    tokio::task::spawn_blocking(move || sandbox.install_metrics(&progress)).await??;
    let cluster = stage.cluster(spec()).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    one_pod_a_shard(&cluster, LEAST).await?;
    let watching = Watching::start(stage, &cluster)?;
    let load = Load::start(stage, &cluster).await?;
    let idle = figures(stage, &cluster).await?;
    stage.say(format_args!("{idle:.0} thousandths of a processor for each primary before the load"));
    autoscale(stage, &cluster).await?;
    let burn = Burn::start(&cluster).await?;
    out(stage, &cluster, &load, &burn, idle).await?;
    let began = Instant::now();
    burn.set(0);
    shards(&cluster, LEAST, DECIDES).await.context("after the load")?;
    settled(stage, &cluster, &load, LEAST, began).await?;
    let (report, _) = load.end(stage, "scaled by an autoscaler").await?;
    for line in watching.end()? {
        stage.say(line);
    }
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    ensure!(report.longest_gap() < stage.bound(GAP), "the longest gap is {:?}", report.longest_gap());
    Ok(())
}

fn spec() -> Value {
    json!({ "replicas": 1, "shards": LEAST, "resources": { "requests": { "cpu": format!("{REQUEST}m") } } })
}

/// Grows under load, and stays so while the load does.
async fn out(stage: &Stage, cluster: &Cluster, load: &Load, burn: &Burn, idle: f64) -> Result<()> {
    let began = Instant::now();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundreds")]
    let own = (idle * f64::from(LEAST)) as u64;
    burn.set(WORK.saturating_sub(own));
    if stage.suite == Suite::Ci {
        // A machine that is busy with other things gives the load less than it asks for: then fewer shards are right.
        let more = async || {
            let shards = cluster.get().await?.spec.shards;
            ensure!(shards > i32::from(LEAST), "it asks for {shards}");
            Ok(u16::try_from(shards)?)
        };
        let asked = eventually("the autoscaler to ask for more shards", DECIDES, more).await?;
        stage.say(format_args!("{asked} shards asked for after {:.0} s", began.elapsed().as_secs_f64()));
        return Ok(());
    }
    shards(cluster, LOADED, DECIDES).await.context("under load")?;
    settled(stage, cluster, load, LOADED, began).await?;
    let generation = cluster.get().await?.metadata.generation;
    tokio::time::sleep(STEADY).await;
    let after = cluster.get().await?;
    ensure!(
        after.metadata.generation == generation,
        "the load stayed as it was, and the autoscaler has changed its mind: {} shards",
        after.spec.shards
    );
    Ok(())
}

/// Waits until the autoscaler has asked for this many.
async fn shards(cluster: &Cluster, wanted: u16, limit: Duration) -> Result<()> {
    eventually(&format!("the autoscaler to ask for {wanted} shards"), limit, async || {
        let shards = cluster.get().await?.spec.shards;
        ensure!(shards == i32::from(wanted), "it asks for {shards}");
        Ok(())
    })
    .await
}

async fn settled(stage: &Stage, cluster: &Cluster, load: &Load, shards: u16, began: Instant) -> Result<()> {
    cluster.whole(usize::from(shards), 1, LIMIT).await?;
    load.follow(cluster).await?;
    load.flowing().await?;
    cluster.ready(began, LIMIT).await?;
    even(cluster, shards).await?;
    one_pod_a_shard(cluster, shards).await?;
    stage.say(format_args!(
        "{shards} shards, even and Ready, {:.0} s after the load changed",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The autoscaler as docs/scaling.md recommends it, but for its patience before it takes shards away.
async fn autoscale(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let object: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": { "name": cluster.name },
        "spec": {
            "scaleTargetRef": { "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster", "name": cluster.name },
            "minReplicas": LEAST,
            "maxReplicas": LOADED + 1,
            "metrics": [{ "type": "Resource", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": TARGET } } }],
            "behavior": {
                "scaleUp": { "stabilizationWindowSeconds": 0 },
                "scaleDown": { "stabilizationWindowSeconds": 30 }
            }
        }
    }))?;
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Thousandths of a processor that a primary uses, when the metrics server knows it of all of them.
async fn figures(stage: &Stage, cluster: &Cluster) -> Result<f64> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", cluster.namespace);
    let primaries = cluster.primaries().await?;
    eventually("the metrics server to know every primary", FIGURES, async || {
        let text = stage.kubectl(&["get", "--raw", &path]).await?;
        let list: Value = serde_json::from_str(&text)?;
        let mut sum = 0.0;
        for pod in &primaries {
            let mut items = list.pointer("/items").and_then(Value::as_array).into_iter().flatten();
            let named = |i: &&Value| i.pointer("/metadata/name").is_some_and(|n| n == pod.as_str());
            let item = items.find(named).with_context(|| format!("it does not know {pod}"))?;
            let usage = item.pointer("/containers/0/usage/cpu").and_then(Value::as_str).unwrap_or_default();
            let nano = usage.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<f64>()?;
            sum += if usage.ends_with('n') { nano / 1e6 } else { nano / 1e3 };
        }
        #[expect(clippy::cast_precision_loss, reason = "a few Pods")]
        Ok(sum / primaries.len() as f64)
    })
    .await
}
