//! What another manager has made under names of ours is left untouched.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::stage::Stage;

pub(super) const STORY: Story = Story {
    name: "foreign",
    about: "objects of another manager are not touched, and names that others hold are passed over",
    run: |stage| run(stage).boxed_local(),
};

const NAMED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_mins(2);
const REASON: &str = "ForeignOperator";

async fn run(stage: &Stage) -> Result<()> {
    service(stage).await.context("a Service of another manager")?;
    config_map(stage).await.context("a ConfigMap of another manager")?;
    match stage.sandbox("has a Pod of an image that only the sandbox has") {
        Ok(_) => pod(stage).await.context("a Pod of somebody else"),
        Err(why) => {
            stage.leave_out("foreign Pod", &why);
            Ok(())
        }
    }
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "labels": { "app.kubernetes.io/managed-by": "somebody-else" } })
}

/// Nothing is created while the name is held; once it is free the cluster comes.
async fn blocked(cluster: &Cluster) -> Result<()> {
    let foreign = |cr: &valkey_cluster_operator::api::ValkeyCluster| {
        cr.status.as_ref().is_some_and(|s| s.reason == REASON && s.message.contains("somebody-else"))
    };
    cluster.says("the status to name the other manager", NAMED, foreign).await?;
    ensure!(cluster.pods().await?.is_empty(), "Pods were created");
    Ok(())
}

async fn service(stage: &Stage) -> Result<()> {
    let namespace = stage.namespace().await?;
    let api: Api<Service> = Api::namespaced(stage.client.clone(), &namespace);
    let object = json!({ "metadata": metadata("valkey-demo"), "spec": { "ports": [{ "port": 80 }] } });
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let cluster = Cluster::apply(stage, &namespace, "demo", json!({ "shards": 1 })).await?;
    blocked(&cluster).await?;
    let after = api.get("valkey-demo").await?;
    ensure!(after.resource_version() == made.resource_version(), "the Service was changed");
    let freed = Instant::now();
    api.delete("valkey-demo", &DeleteParams::default()).await?;
    let took = cluster.ready(freed, LIMIT).await?;
    stage.say(format_args!("Ready {:.1} s after the foreign Service was removed", took.as_secs_f64()));
    Ok(())
}

async fn config_map(stage: &Stage) -> Result<()> {
    let namespace = stage.namespace().await?;
    let api: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &namespace);
    let object = json!({ "metadata": metadata("valkey-demo"), "data": { "theirs": "yes" } });
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let cluster = Cluster::apply(stage, &namespace, "demo", json!({ "shards": 1 })).await?;
    blocked(&cluster).await?;
    ensure!(api.get("valkey-demo").await?.resource_version() == made.resource_version(), "it was changed");
    Ok(())
}

/// The name that the first Pod would have is held by a Pod that is none of ours.
async fn pod(stage: &Stage) -> Result<()> {
    let namespace = stage.namespace().await?;
    let api: Api<Pod> = Api::namespaced(stage.client.clone(), &namespace);
    let security = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let container =
        json!({ "name": "theirs", "image": crate::sandbox::images::PAUSE, "securityContext": security });
    let spec = json!({ "containers": [container], "terminationGracePeriodSeconds": 0,
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } } });
    let object = json!({ "metadata": metadata("valkey-demo-0-0"), "spec": spec });
    let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let cluster = Cluster::apply(stage, &namespace, "demo", json!({ "shards": 3 })).await?;
    let took = cluster.ready(cluster.applied, LIMIT).await?;
    cluster.whole(3, 0, LIMIT).await?;
    ensure!(api.get("valkey-demo-0-0").await?.uid() == made.uid(), "the foreign Pod was replaced");
    let pods = cluster.pods().await?;
    let names: Vec<&String> = pods.keys().collect();
    ensure!(!pods.contains_key("valkey-demo-0-0"), "the foreign Pod was adopted");
    stage.say(format_args!("a taken name passed over, Ready after {:.1} s: {names:?}", took.as_secs_f64()));
    Ok(())
}
