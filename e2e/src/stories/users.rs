//! Users of the spec: on every node within seconds, two passwords while clients change over, the old ones while something is
//! wrong, and a cluster that nobody enters without a name goes on working.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::failures::Failures;
use super::load::{GAP, Load};
use super::secrets;
use super::stage::{Stage, eventually};
use crate::resp::{Access, Connection, Reply};

pub(super) const STORY: Story = Story {
    name: "users",
    about: "spec.users live on every node, passwords changed by two steps, mistakes keep the old users, no anonymous access",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// From a change of the spec or of the Secret to the last node.
const APPLIED: Duration = Duration::from_secs(2);
const ASK: Duration = Duration::from_secs(1);
/// Passwords of the application, one after another.
const ONE: &str = "first-password-4rXq8Lw2";
const TWO: &str = "second-password-7hTn3Vz9";
const THREE: &str = "third-password-5kPd6Mc1";
const OLD_IMAGE: &str = "docker.io/valkey/valkey:8.1.1";

async fn run(stage: &Stage) -> Result<()> {
    under_load(stage).await?;
    nobody_without_a_name(stage).await
}

fn spec(users: &Value) -> Value {
    json!({ "shards": 3, "replicas": 1, "users": users })
}

fn app(allow: &[&str], keys: &[&str]) -> Value {
    json!([{ "name": "app", "commands": { "allow": allow }, "keys": { "readWrite": ["app:*"] },
        "passwordSecret": { "name": "logins", "keys": keys } }])
}

async fn under_load(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(&json!([]))).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    let failures = Failures::so_far(stage).await?;
    passwords(stage, &cluster, &[("first", ONE)]).await?;
    let mut times = Vec::new();

    cluster.change(spec(&app(&["@read"], &["first"]))).await?;
    times.push(("user", within(stage, &cluster, ONE, true).await?));
    allowed(&cluster, ONE, "app:x", true).await?;
    allowed(&cluster, ONE, "other:x", false).await?;

    // Two passwords while the clients change over.
    passwords(stage, &cluster, &[("first", ONE), ("second", TWO)]).await?;
    cluster.change(spec(&app(&["@read"], &["first", "second"]))).await?;
    times.push(("second password", within(stage, &cluster, TWO, true).await?));
    within(stage, &cluster, ONE, true).await?;
    cluster.change(spec(&app(&["@read"], &["second"]))).await?;
    times.push(("first one gone", within(stage, &cluster, ONE, false).await?));
    passwords(stage, &cluster, &[("second", THREE)]).await?;
    times.push(("Secret changed", within(stage, &cluster, THREE, true).await?));

    failures.none_since(stage, "users and their passwords", None).await?;
    mistakes(stage, &cluster).await?;
    let corrected = Instant::now();
    cluster.change(spec(&json!([]))).await?;
    times.push(("user gone", within(stage, &cluster, THREE, false).await?));
    cluster.ready(corrected, LIMIT).await?;
    load.judged(stage, "users under load", 1, GAP).await?;
    let told: Vec<String> =
        times.iter().map(|(what, took)| format!("{what} {:.2} s", took.as_secs_f64())).collect();
    stage.say(format_args!("on six nodes: {}", told.join(", ")));
    secrets::kept(stage, &cluster, &[ONE, TWO, THREE].map(str::to_owned)).await
}

/// What is wrong is said, and the user stays as it was.
async fn mistakes(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let said = async |word: &str| {
        cluster
            .says("the status to name the user", stage.bound(APPLIED), |cr| {
                let status = cr.status.clone().unwrap_or_default();
                let told = status.conditions.iter().find(|c| c.type_ == "UsersReady");
                told.is_some_and(|c| c.reason == "UsersACLError" && c.message.contains(word))
            })
            .await
    };
    cluster.change(spec(&app(&["nosuchcommand"], &["second"]))).await?;
    said("+nosuchcommand").await?;
    within(stage, cluster, THREE, true).await?;
    allowed(cluster, THREE, "app:x", true).await?;
    cluster.change(spec(&app(&["@read"], &["second", "third"]))).await?;
    said("key third").await?;
    within(stage, cluster, THREE, true).await?;
    // A node that comes now has the user, too.
    let corrected = Instant::now();
    let primary = cluster.primary_of(0).await?;
    cluster.delete_pod(&cluster.replica_of(0, &primary).await?).await?;
    cluster.whole(3, 1, LIMIT).await?;
    within(stage, cluster, THREE, true).await?;
    cluster.change(spec(&app(&["@read"], &["second"]))).await?;
    cluster.ready(corrected, LIMIT).await?;
    Ok(())
}

/// A cluster of 8.1 whose user `default` is off: lost pods, hand-overs and slots moved key by key, all the same.
async fn nobody_without_a_name(stage: &Stage) -> Result<()> {
    let with = |shards: u16| {
        json!({ "shards": shards, "replicas": 1, "image": OLD_IMAGE, "users": [
            { "name": "default", "enabled": false },
            { "name": "app", "nopass": true, "permissions": "~* +@all" } ] })
    };
    let cluster = stage.cluster(with(1)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    for (pod, refused) in answers(&cluster, &cluster.open_access(), &["PING"]).await? {
        ensure!(refused.contains("NOAUTH"), "{pod} answers without a name: {refused}");
    }
    fill(&cluster).await?;
    let began = Instant::now();
    cluster.change(with(2)).await?;
    cluster.whole(2, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    cluster.delete_pod(&cluster.primary_of(0).await?).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.whole(2, 1, LIMIT).await?;
    cluster.ready(began, LIMIT).await?;
    let keys: i64 = count(&cluster).await?;
    ensure!(keys == 2 * KEYS, "{keys} keys instead of {} are left", 2 * KEYS);
    stage.say(format_args!("without default: scaled key by key, a primary deleted, {KEYS} keys kept"));
    Ok(())
}

const KEYS: i64 = 400;

async fn fill(cluster: &Cluster) -> Result<()> {
    let access = cluster.access_as("app", "any");
    let primary = cluster.primary_of(0).await?;
    let addr = cluster.address(&primary).await?;
    let mut node = Connection::open(&access, addr, ASK + access.slack).await?;
    for i in 0..KEYS {
        let reply = node.call(&["SET", &format!("key:{i}"), "v"], ASK + access.slack).await?;
        ensure!(reply.text() == Some("OK"), "SET answers {reply:?}");
    }
    Ok(())
}

/// Keys of all nodes, replicas included.
async fn count(cluster: &Cluster) -> Result<i64> {
    let all = answers(cluster, &cluster.access_as("app", "any"), &["DBSIZE"]).await?;
    Ok(all.values().filter_map(|text| text.parse::<i64>().ok()).sum())
}

/// Waits until every node lets the user in with this password, or none does.
async fn within(stage: &Stage, cluster: &Cluster, password: &str, let_in: bool) -> Result<Duration> {
    let began = Instant::now();
    let access = cluster.access_as("app", password);
    eventually("every node to know the user", stage.bound(APPLIED), async || {
        for (pod, addr) in cluster.addresses().await? {
            let opened = Connection::open(&access, addr, ASK + access.slack).await;
            ensure!(opened.is_ok() == let_in, "{pod}: {:?}", opened.err());
        }
        Ok(began.elapsed())
    })
    .await
}

/// Whether the user may read this key; a node that does not own its slot says so only to who may.
async fn allowed(cluster: &Cluster, password: &str, key: &str, wanted: bool) -> Result<()> {
    for (pod, answer) in answers(cluster, &cluster.access_as("app", password), &["GET", key]).await? {
        ensure!(answer.contains("NOPERM") != wanted, "{pod} answers {answer:?} to GET {key}");
    }
    Ok(())
}

/// What every node answers, errors included.
async fn answers(cluster: &Cluster, access: &Access, command: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (pod, addr) in cluster.addresses().await? {
        let limit = ASK + access.slack;
        let answer = match Connection::open(access, addr, limit).await {
            Ok(mut node) => match node.call(command, limit).await {
                Ok(Reply::Integer(n)) => n.to_string(),
                Ok(reply) => format!("{reply:?}"),
                Err(fault) => format!("{fault:?}"),
            },
            Err(fault) => format!("{fault:?}"),
        };
        all.insert(pod, answer);
    }
    Ok(all)
}

/// The Secret that the user's passwords are in.
async fn passwords(stage: &Stage, cluster: &Cluster, all: &[(&str, &str)]) -> Result<()> {
    let data: BTreeMap<&str, &str> = all.iter().copied().collect();
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "logins" }, "stringData": data });
    let api: Api<Secret> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    api.patch("logins", &PatchParams::apply("story").force(), &Patch::Apply(&secret)).await?;
    Ok(())
}
