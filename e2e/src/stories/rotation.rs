//! New passwords of the system users, asked for by an annotation and by the deletion of a key, under load: no link breaks, no
//! command of the operator fails, no Pod is replaced, and the old passwords are worth nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use valkey_cluster_operator::build::Credentials;
use valkey_cluster_operator::build::credentials::{EXPORTER_USER, OPERATOR_USER, REPLICATION_USER};
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::denied;
use super::failures::Failures;
use super::load::{GAP, Load};
use super::secrets;
use super::stage::{Stage, eventually};
use crate::resp::{Connection, Reply};

pub(super) const STORY: Story = Story {
    name: "rotation",
    about: "new passwords of the system users under load: no broken link, no failed command, no replaced pod",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// From the request to the last node that takes the new password alone.
const ROTATED: Duration = Duration::from_secs(3);
const ASK: Duration = Duration::from_secs(1);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let uids = cluster.uids().await?;
    let load = Load::start_as(stage, &cluster, cluster.open_access()).await?;
    let links = links(&cluster).await?;
    let mut seen = vec![known(&cluster).await?];
    let failures = Failures::so_far(stage).await?;
    let rounds = stage.times(2, 5);
    for round in 0..rounds {
        load.mark("rotation");
        let before = seen.last().cloned().context("a password")?;
        let text = format!("round {round}");
        let after = rotated(stage, &cluster, &before, ask(stage, &cluster, &text)).await?;
        worthless(&cluster, &before).await?;
        seen.push(after);
    }
    let before = seen.last().cloned().context("a password")?;
    let after = rotated(stage, &cluster, &before, delete_key(stage, &cluster, OPERATOR_USER)).await?;
    ensure!(after.replication == before.replication, "the deletion of one key changed another password");
    seen.push(after);
    failures.none_since(stage, "new passwords", None).await?;
    ensure!(self::links(&cluster).await? == links, "a link was opened anew: {links:?}");
    reconnects(&cluster).await?;
    ensure!(cluster.uids().await? == uids, "Pods were replaced");
    cluster.ready(cluster.applied, LIMIT).await?;
    load.judged(stage, "rotation under load", 1, GAP).await?;
    let all = seen.into_iter().flat_map(|known| [known.operator, known.replication, known.exporter]);
    secrets::kept(stage, &cluster, &all.collect::<Vec<_>>()).await
}

async fn known(cluster: &Cluster) -> Result<Credentials> {
    Credentials::from_secret(&cluster.secret().await?).map_err(anyhow::Error::msg)
}

/// New passwords by what a person does, on every node, and no replica was turned away meanwhile. What the operator itself is turned
/// away for is left out: it knows no other way to learn which password a node takes by now.
async fn rotated(
    stage: &Stage,
    cluster: &Cluster,
    before: &Credentials,
    person: impl Future<Output = Result<()>>,
) -> Result<Credentials> {
    denied::nobody_was(cluster).await?;
    denied::forget(cluster).await?;
    let began = Instant::now();
    person.await?;
    let after = changed(stage, cluster, before).await?;
    stage.say(format_args!("new passwords on six nodes after {:.2} s", began.elapsed().as_secs_f64()));
    denied::no_wrong_password(cluster, REPLICATION_USER).await?;
    Ok(after)
}

/// As a person would: one annotation.
async fn ask(stage: &Stage, cluster: &Cluster, text: &str) -> Result<()> {
    let annotation = format!("{}={text}", labels::ROTATE);
    let object = format!("valkeycluster/{}", cluster.name);
    stage.kubectl(&["-n", &cluster.namespace, "annotate", "--overwrite", &object, &annotation]).await?;
    Ok(())
}

async fn delete_key(stage: &Stage, cluster: &Cluster, key: &str) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let body = json!({ "data": { key: null } });
    secrets.patch(&labels::secret_name(&cluster.name), &PatchParams::default(), &Patch::Merge(&body)).await?;
    Ok(())
}

/// Waits until the Secret holds another password that every node takes, and none besides.
async fn changed(stage: &Stage, cluster: &Cluster, before: &Credentials) -> Result<Credentials> {
    eventually("other passwords on every node", stage.bound(ROTATED), async || {
        let now = known(cluster).await?;
        ensure!(now.lacks.is_empty() && now.operator != before.operator, "the Secret holds the old password");
        ensure!(now.former.is_none(), "the Secret still holds the former password");
        for (pod, addr) in cluster.addresses().await? {
            let access = cluster.access_as(OPERATOR_USER, &now.operator);
            let opened = Connection::open(&access, addr, ASK + access.slack).await;
            ensure!(opened.is_ok(), "{pod} does not take the new password: {:?}", opened.err());
        }
        Ok(now)
    })
    .await
}

/// Nobody gets in with the old passwords.
async fn worthless(cluster: &Cluster, old: &Credentials) -> Result<()> {
    let each = [
        (OPERATOR_USER, &old.operator),
        (REPLICATION_USER, &old.replication),
        (EXPORTER_USER, &old.exporter),
    ];
    for (user, password) in each {
        let access = cluster.access_as(user, password);
        for (pod, addr) in cluster.addresses().await? {
            let opened = Connection::open(&access, addr, ASK + access.slack).await;
            ensure!(opened.is_err(), "{pod} takes an old password of {user}");
        }
    }
    Ok(())
}

/// Full and partial syncs that each node has served: one more is a link that was opened anew.
async fn links(cluster: &Cluster) -> Result<BTreeMap<String, Vec<String>>> {
    let counters = ["sync_full", "sync_partial_ok", "sync_partial_err", "connected_slaves"];
    let access = cluster.open_access();
    let mut all = BTreeMap::new();
    for (pod, addr) in cluster.addresses().await? {
        let limit = ASK + access.slack;
        let mut node = Connection::open(&access, addr, limit).await?;
        let info = node.call(&["INFO", "stats", "replication"], limit).await?;
        let text = info.text().unwrap_or_default().to_owned();
        let of = |line: &&str| counters.iter().any(|c| line.starts_with(&format!("{c}:")));
        all.insert(pod, text.lines().filter(of).map(str::to_owned).collect());
    }
    Ok(all)
}

/// A link that breaks afterwards comes back with the new password, and without a full sync.
async fn reconnects(cluster: &Cluster) -> Result<()> {
    let access = cluster.open_access();
    let limit = ASK + access.slack;
    let full = |all: &BTreeMap<String, Vec<String>>| -> Vec<String> {
        all.values().flatten().filter(|line| line.starts_with("sync_full")).cloned().collect()
    };
    let before = full(&links(cluster).await?);
    for addr in cluster.addresses().await?.into_values() {
        let mut node = Connection::open(&access, addr, limit).await?;
        let killed = node.call(&["CLIENT", "KILL", "TYPE", "REPLICA"], limit).await?;
        ensure!(matches!(killed, Reply::Integer(_)), "CLIENT KILL answers {killed:?}");
    }
    cluster.whole(3, 1, LIMIT).await?;
    ensure!(full(&links(cluster).await?) == before, "a link came back by a full sync");
    Ok(())
}
