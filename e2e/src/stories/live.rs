//! Settings that a running server takes are applied live, and taken back when they leave the spec: no Pod is replaced.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::stage::{Stage, eventually};
use crate::resp::{Connection, Reply};

pub(super) const STORY: Story = Story {
    name: "live",
    about: "spec.config is applied to running servers and taken back from them, and no Pod is replaced",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// From the apply to the last server that shows the value.
const APPLIED: Duration = Duration::from_secs(3);
const ASK: Duration = Duration::from_secs(1);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let uids = cluster.uids().await?;
    let wanted = [("maxmemory-policy", "allkeys-lru"), ("cluster-node-timeout", "3000")];
    let mut before = BTreeMap::new();
    for (key, _) in wanted {
        before.insert(key, shown(&cluster, key).await?);
    }
    let config: BTreeMap<&str, &str> = wanted.into_iter().collect();
    let began = Instant::now();
    cluster.change(json!({ "shards": 3, "replicas": 1, "config": config })).await?;
    for (key, value) in wanted {
        eventually(&format!("{key} {value} on every node"), stage.bound(APPLIED), async || {
            for (pod, shown) in shown(&cluster, key).await? {
                ensure!(shown == value, "{pod} shows {shown:?}");
            }
            Ok(())
        })
        .await?;
    }
    let took = began.elapsed();
    cluster.ready(began, LIMIT).await?;
    stage.say(format_args!("two settings on six nodes after {:.2} s", took.as_secs_f64()));
    let began = Instant::now();
    cluster.change(json!({ "shards": 3, "replicas": 1, "config": {} })).await?;
    for (key, _) in wanted {
        let first = before.get(key).cloned().unwrap_or_default();
        eventually(&format!("{key} as it was on every node"), stage.bound(APPLIED), async || {
            ensure!(shown(&cluster, key).await? == first, "still shown: {:?}", shown(&cluster, key).await?);
            Ok(())
        })
        .await?;
    }
    let took = began.elapsed();
    cluster.ready(began, LIMIT).await?;
    ensure!(cluster.uids().await? == uids, "Pods were replaced");
    stage.say(format_args!("both taken back after {:.2} s, no Pod replaced", took.as_secs_f64()));
    Ok(())
}

/// The value of a setting on every node.
async fn shown(cluster: &Cluster, key: &str) -> Result<BTreeMap<String, String>> {
    let access = cluster.access().await?;
    let mut all = BTreeMap::new();
    for (pod, addr) in cluster.addresses().await? {
        let limit = ASK + access.slack;
        let mut node = Connection::open(&access, addr, limit).await?;
        let reply = node.call(&["CONFIG", "GET", key], limit).await?;
        let value = reply.items().and_then(|items| items.get(1)).and_then(Reply::text).unwrap_or_default();
        all.insert(pod, value.to_owned());
    }
    Ok(all)
}
