//! A scale-in whose data would not fit into the shards that stay is refused in bytes, and nothing is touched; with more room it goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};
use valkey_cluster_operator::api::ValkeyCluster;

use super::Story;
use super::cluster::Cluster;
use super::fill::{fill, keys};
use super::scale::{LIMIT, even};
use super::stage::Stage;

pub(super) const STORY: Story = Story {
    name: "full",
    about: "a scale-in that would not fit is refused in bytes and touches nothing; with more memory it goes through",
    run: |stage| run(stage).boxed_local(),
};

/// Of each shard: two that are filled like this cannot take the third.
const SMALL: &str = "32mb";
const LARGE: &str = "128mb";
/// 20 MB in each of three shards.
const KEYS: (usize, usize) = (3750, 16_000);
/// After the refusal nothing may happen for this long.
const WATCHED: Duration = Duration::from_secs(5);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(spec(3, SMALL)).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    fill(stage, &cluster, KEYS.0, KEYS.1).await?;
    let before = state(&cluster).await?;
    cluster.change(spec(2, SMALL)).await?;
    let generation = cluster.get().await?.metadata.generation;
    cluster.says("the status to say that it would not fit", LIMIT, refused).await?;
    tokio::time::sleep(WATCHED).await;
    let cr = cluster.get().await?;
    ensure!(refused(&cr), "the refusal is taken back: {:?}", cr.status);
    ensure!(cr.metadata.generation == generation, "the operator has changed the spec: {:?}", cr.spec);
    let after = state(&cluster).await?;
    ensure!(after == before, "the cluster was touched: {before:?} became {after:?}");
    stage.say(format_args!("refused: {}", cr.status.unwrap_or_default().message));
    let began = Instant::now();
    cluster.change(spec(2, LARGE)).await?;
    cluster.ready(began, LIMIT).await.context("with more memory")?;
    cluster.whole(2, 0, LIMIT).await?;
    even(&cluster, 2).await?;
    let left = keys(&cluster).await?;
    ensure!(usize::try_from(left) == Ok(KEYS.0), "{left} of {} keys are there", KEYS.0);
    stage.say(format_args!(
        "with {LARGE} instead of {SMALL}: two shards after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn spec(shards: u16, memory: &str) -> Value {
    json!({ "shards": shards, "replicas": 0, "config": { "maxmemory": memory } })
}

/// The status names what would move and what is free, in bytes.
fn refused(cr: &ValkeyCluster) -> bool {
    let told = |message: &str| {
        ["bytes would move", "bytes free under maxmemory"].iter().all(|w| message.contains(w))
    };
    cr.status.as_ref().is_some_and(|s| s.reason == "WouldNotFit" && told(&s.message))
}

/// What there is: the Pods, the slots of each server by its own word, and the keys.
#[derive(Debug, PartialEq, Eq)]
struct State {
    pods: BTreeSet<String>,
    slots: BTreeMap<SocketAddr, Vec<(u16, u16)>>,
    keys: i64,
}

async fn state(cluster: &Cluster) -> Result<State> {
    let truth = cluster.truth().await?;
    Ok(State {
        pods: cluster.uids().await?,
        slots: truth.answered().map(|(at, _, me)| (at, me.slots.clone())).collect(),
        keys: keys(cluster).await?,
    })
}
