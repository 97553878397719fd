//! Bad input: refused with a sentence, or named in the status soon after Kubernetes says so; a correction heals.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use valkey_cluster_operator::api::ValkeyCluster;

use super::Story;
use super::cluster::Cluster;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "bad_input",
    about: "bad input is refused with a sentence, or named in the status, and a correction heals",
    run: |stage| run(stage).boxed_local(),
};

/// From the moment when Kubernetes says so.
const NAMED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_mins(2);
/// What a container waits for that comes.
const COMING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

async fn run(stage: &Stage) -> Result<()> {
    let namespace = stage.namespace().await?;
    let refused = refused();
    for (what, spec, sentence) in &refused {
        let told = Cluster::apply(stage, &namespace, "bad", spec.clone()).await;
        let Err(error) = told else { bail!("{what} was accepted") };
        let text = format!("{error:#}");
        ensure!(text.contains(sentence), "{what} is refused without {sentence:?}: {text}");
    }
    for (what, spec, words) in accepted() {
        heals(stage, spec, &words).await.with_context(|| what)?;
    }
    stage.say(format_args!(
        "{} specs refused, {} named in the status and healed",
        refused.len(),
        accepted().len()
    ));
    Ok(())
}

/// What admission refuses, and a part of the sentence.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let config = |key: &str, value: &str| json!({ "shards": 3, "config": { key: value } });
    vec![
        ("shards 0", json!({ "shards": 0 }), "greater than or equal to 1"),
        ("negative replicas", json!({ "shards": 3, "replicas": -1 }), "greater than or equal to 0"),
        ("no shards", json!({ "replicas": 1 }), "spec.shards: Required value"),
        ("a managed setting", config("cluster-enabled", "no"), "config: cluster-enabled"),
        (
            "a node-timeout of 1 ms",
            config("cluster-node-timeout", "1"),
            "cluster-node-timeout is in milliseconds",
        ),
        (
            "a memory limit of 2Mi",
            json!({ "shards": 3, "resources": { "limits": { "memory": "2Mi" } } }),
            "limits.memory must be at least 32Mi",
        ),
        (
            "persistence",
            json!({ "shards": 3, "persistence": { "size": "1Gi" } }),
            "persistence is not supported",
        ),
        (
            "workloadType",
            json!({ "shards": 3, "workloadType": "StatefulSet" }),
            "workloadType is not supported",
        ),
        (
            "an image with a space",
            json!({ "shards": 3, "image": "valkey 9" }),
            "image must be one image reference",
        ),
    ]
}

/// What only the running cluster can show, and words that its status must hold (one of each row).
fn accepted() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let image = "docker.io/valkey/valkey:no-such-version";
    let much = json!({ "requests": { "cpu": "1000" } });
    vec![
        (
            "an unknown setting",
            json!({ "shards": 1, "config": { "no-such-setting": "1" } }),
            vec!["no-such-setting"],
        ),
        (
            "an image that does not exist",
            json!({ "shards": 1, "image": image }),
            vec!["ErrImagePull", "ImagePullBackOff"],
        ),
        (
            "resources that no worker has",
            json!({ "shards": 1, "resources": much }),
            vec!["Unschedulable", "Insufficient cpu"],
        ),
    ]
}

/// The status names what is wrong, and is Ready after a correction.
async fn heals(stage: &Stage, spec: Value, words: &[&str]) -> Result<()> {
    let cluster = stage.cluster(spec).await?;
    let named = |text: &str| words.iter().any(|word| text.contains(word));
    let says = |cr: &ValkeyCluster| {
        let status = cr.status.clone().unwrap_or_default();
        named(&status.reason) || named(&status.message)
    };
    let (known, took) =
        tokio::try_join!(known(&cluster), cluster.says("the status to name the reason", LIMIT, says))?;
    let (status, after) =
        (cluster.get().await?.status.unwrap_or_default(), took.saturating_sub(known).as_secs_f64());
    stage.say(format_args!(
        "named after {:.1} s, {after:.2} s after Kubernetes knew: {}: {}",
        took.as_secs_f64(),
        status.reason,
        status.message
    ));
    ensure!(took < known + NAMED, "named {after:.1} s after Kubernetes knew");
    let corrected = Instant::now();
    cluster.change(json!({ "shards": 1 })).await?;
    let healed = cluster.ready(corrected, LIMIT).await?;
    cluster.whole(1, 0, LIMIT).await?;
    stage.say(format_args!("healed {:.1} s after the correction", healed.as_secs_f64()));
    Ok(())
}

/// When a Pod showed first what is there to be known: that no worker takes it, that its server does not start, or that it runs (what is
/// wrong then, the server says).
async fn known(cluster: &Cluster) -> Result<Duration> {
    let began = Instant::now();
    eventually("Kubernetes to know of the Pod's fate", LIMIT, async || {
        let pods = cluster.pods().await?;
        ensure!(pods.values().any(is_known), "{} Pods, and nothing is known of them", pods.len());
        Ok(began.elapsed())
    })
    .await
}

fn is_known(pod: &Pod) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    let mut containers = status.container_statuses.iter().flatten().filter_map(|c| c.state.as_ref());
    conditions.any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
        || containers.any(|state| {
            let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
            state.running.is_some()
                || state.terminated.is_some()
                || waits.is_some_and(|why| !COMING.contains(&why))
        })
}
