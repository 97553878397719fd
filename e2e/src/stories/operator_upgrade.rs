//! The operator itself is upgraded while an application writes: no Pod is replaced, and what the earlier one wrote is taken over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use valkey_cluster_operator::build::credentials::OPERATOR_USER;
use valkey_cluster_operator::build::labels;

use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::process::OperatorProcess;
use super::scale::{even, one_pod_a_shard};
use super::stage::{Stage, eventually};
use super::{Story, Suite, earlier, operator, rescale};
use crate::resp::Connection;
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "operator_upgrade",
    about: "another build of the operator takes over under a write load what an earlier one left: the same Pods, no gap",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// For an answer of a node.
const ANSWER: Duration = Duration::from_secs(5);
/// What an earlier operator may have written into `valkey.conf`, and this one does not.
const EARLIER: &str = "# An earlier operator wrote this line.\n";
/// What its own user was not allowed then.
const NEW_RIGHT: &str = "client|kill";

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("replaces the operator, with whatever else it looks after")?;
    by_hand(stage, sandbox).await.context("what an earlier build may have left")?;
    stage.clean().await?;
    if stage.suite == Suite::Ci && earlier::given().is_none() {
        return Ok(());
    }
    match earlier::program(stage) {
        Ok(program) => taken_over(stage, sandbox, &program).await.context("from an earlier build"),
        Err(why) => {
            stage.leave_out("an operator that was really built earlier", &why);
            Ok(())
        }
    }
}

/// What earlier builds left otherwise is written while no operator runs; then this one comes, and comes again.
async fn by_hand(stage: &Stage, sandbox: &Sandbox) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let before = cluster.uids().await?;
    let load = Load::start(stage, &cluster).await?;
    operator::scale(&stage.client, 0).await?;
    let written = leave_as_an_earlier_one(stage, &cluster).await;
    let began = Instant::now();
    // From here on this story's operator runs again, whatever came of it.
    operator::scale(&stage.client, 2).await?;
    written?;
    operator::restart(sandbox, &stage.client).await?;
    eventually("everything to be this operator's", LIMIT, async || is_ours(stage, &cluster).await).await?;
    same_pods(&cluster, &before, began).await?;
    stage.say(format_args!(
        "replaced twice within {:.1} s: the same six Pods, and nothing is left of what an earlier one wrote",
        began.elapsed().as_secs_f64()
    ));
    load.judged(stage, "operator replaced", 2, GAP).await
}

/// An operator that was built earlier makes the cluster, ends, and this one goes on: the same Pods, and it can do with them what it likes.
async fn taken_over(stage: &Stage, sandbox: &Sandbox, program: &std::path::Path) -> Result<()> {
    operator::scale(&stage.client, 0).await?;
    let earlier = OperatorProcess::start(sandbox, program)?;
    let made = async {
        let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
        cluster.ready(cluster.applied, LIMIT).await?;
        let load = Load::start(stage, &cluster).await?;
        Ok::<_, anyhow::Error>((cluster.uids().await?, cluster, load))
    };
    let made = made.await;
    drop(earlier);
    let began = Instant::now();
    operator::scale(&stage.client, 2).await?;
    let (before, cluster, load) = made?;
    eventually("everything to be this operator's", LIMIT, async || is_ours(stage, &cluster).await).await?;
    same_pods(&cluster, &before, began).await?;
    stage.say(format_args!("taken over from an earlier build within {:.1} s", began.elapsed().as_secs_f64()));
    let began = Instant::now();
    rescale::scale(stage, &cluster, 4).await?;
    cluster.whole(4, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    even(&cluster, 4).await?;
    load.follow(&cluster).await?;
    load.judged(stage, "taken over from an earlier build, and a shard more", 2, GAP).await
}

/// The cluster is Ready and whole, and its Pods are those of before.
async fn same_pods(cluster: &Cluster, before: &BTreeSet<String>, began: Instant) -> Result<()> {
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    one_pod_a_shard(cluster, 3).await?;
    let after = cluster.uids().await?;
    ensure!(after == *before, "Pods were replaced: {before:?} became {after:?}");
    Ok(())
}

/// As builds of earlier days left a cluster: another text in the ConfigMap, no network policy, no word of what the data is spread for, no
/// label of roles, and nodes on which the operator's own user may do less.
async fn leave_as_an_earlier_one(stage: &Stage, cluster: &Cluster) -> Result<()> {
    write_as_an_earlier_one(stage, cluster).await?;
    policies(stage, cluster).delete(&labels::common_name(&cluster.name), &DeleteParams::default()).await?;
    let less = Patch::Merge(json!({ "status": { "shape": null, "selector": null } }));
    cluster.api().patch_status(&cluster.name, &PatchParams::default(), &less).await?;
    for pod in cluster.primaries().await? {
        let bare = Patch::Merge(json!({ "metadata": { "labels": { labels::ROLE: null } } }));
        cluster.pod_api().patch_metadata(&pod, &PatchParams::default(), &bare).await?;
    }
    let narrower = format!("-{NEW_RIGHT}");
    for pod in cluster.addresses().await?.into_keys() {
        ask(cluster, &pod, &["ACL", "SETUSER", OPERATOR_USER, &narrower]).await?;
    }
    Ok(())
}

/// Leaves the text of another build behind, as that build would: by its field manager.
async fn write_as_an_earlier_one(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let name = labels::common_name(&cluster.name);
    let live = maps.get(&name).await?;
    let mut data = live.data.context("an empty ConfigMap")?;
    for text in data.values_mut() {
        text.insert_str(0, EARLIER);
    }
    let metadata = json!({ "name": name, "labels": live.metadata.labels, "annotations": live.metadata.annotations,
        "ownerReferences": live.metadata.owner_references });
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
    maps.patch(&name, &PatchParams::apply(labels::OPERATOR).force(), &Patch::Apply(&body)).await?;
    Ok(())
}

/// The ConfigMap, the network policy, the status and the rights of the operator's user are as this build makes them.
async fn is_ours(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let name = labels::common_name(&cluster.name);
    let text = serde_json::to_string(&maps.get(&name).await?.data)?;
    ensure!(!text.contains("An earlier operator"), "{text}");
    policies(stage, cluster).get(&name).await.context("there is no network policy")?;
    let status = cluster.get().await?.status.unwrap_or_default();
    ensure!(status.shape.is_some() && status.selector.is_some(), "the status lacks fields: {status:?}");
    for pod in cluster.addresses().await?.into_keys() {
        let users = ask(cluster, &pod, &["ACL", "LIST"]).await?;
        let own = users.lines().find(|l| l.starts_with(&format!("user {OPERATOR_USER} ")));
        ensure!(own.is_some_and(|l| l.contains(NEW_RIGHT)), "{pod} says of the operator's user {own:?}");
    }
    Ok(())
}

fn policies(stage: &Stage, cluster: &Cluster) -> Api<NetworkPolicy> {
    Api::namespaced(stage.client.clone(), &cluster.namespace)
}

/// Asks a node as the operator does; the texts of its answer, one a line.
async fn ask(cluster: &Cluster, pod: &str, command: &[&str]) -> Result<String> {
    let at = cluster.address(pod).await?;
    let mut connection = Connection::open(&cluster.access().await?, at, ANSWER).await?;
    let answer = connection.call(command, ANSWER).await?;
    ensure!(answer.error().is_none(), "{pod}: {:?}", answer.error());
    let items = answer.items().unwrap_or_default();
    Ok(items.iter().filter_map(|item| item.text()).collect::<Vec<_>>().join("\n"))
}
