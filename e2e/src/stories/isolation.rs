//! Clusters never meet: born at the same moment, two in one namespace and namesakes in two; and when one gets addresses that the other had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::fill::application;
use super::load::Load;
use super::stage::{Stage, TICK, eventually};
use crate::resp::{Connection, Credentials};
use crate::sandbox::Sandbox;
use crate::truth::Truth;

pub(super) const STORY: Story = Story {
    name: "isolation",
    about: "clusters never meet: created at the same moment, namesakes, and one at the used addresses of the other",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
const ASK: Duration = Duration::from_secs(5);
/// A write may wait that long while every replica of two clusters is replaced eight times.
const GAP: Duration = Duration::from_millis(500);
/// The ledger's user, and the Secret with its password.
const USER: &str = "app";
const LOGIN: &str = "login";

async fn run(stage: &Stage) -> Result<()> {
    let (here, there) = (stage.namespace().await?, stage.namespace().await?);
    for namespace in [&here, &there] {
        write_password(stage, namespace).await?;
    }
    let (one, two, namesake) = tokio::try_join!(
        apply(stage, &here, "one"),
        apply(stage, &here, "two"),
        apply(stage, &there, "one")
    )?;
    // Whole means that a node lists exactly the nodes of its own cluster, at their own addresses.
    let truths =
        tokio::try_join!(one.whole(3, 1, LIMIT), two.whole(3, 1, LIMIT), namesake.whole(3, 1, LIMIT))?;
    let known: Vec<BTreeSet<String>> = [&truths.0, &truths.1, &truths.2].into_iter().map(ids).collect();
    for (i, mine) in known.iter().enumerate() {
        ensure!(mine.len() == 6, "cluster {i} lists {} ids", mine.len());
        for other in known.iter().skip(i + 1) {
            ensure!(
                mine.is_disjoint(other),
                "two clusters share nodes: {:?}",
                mine.intersection(other).collect::<Vec<_>>()
            );
        }
    }
    tokio::try_join!(
        one.ready(one.applied, LIMIT),
        two.ready(two.applied, LIMIT),
        namesake.ready(namesake.applied, LIMIT)
    )?;
    stage.say(format_args!(
        "three clusters at once: all Ready after {:.2} s",
        one.applied.elapsed().as_secs_f64()
    ));
    match stage.sandbox("says which address a Pod gets") {
        Ok(sandbox) => used_addresses(stage, sandbox, &one, &namesake).await,
        Err(why) => {
            stage.leave_out("isolation with used addresses", &why);
            Ok(())
        }
    }
}

/// With a user of the ledger's whose password is the cluster's alone: without one it would write to whoever has an address now.
async fn apply(stage: &Stage, namespace: &str, name: &str) -> Result<Cluster> {
    let spec = json!({ "shards": 3, "replicas": 1, "users": [{ "name": USER, "permissions": "~* &* +@all",
        "passwordSecret": { "name": LOGIN, "keys": [USER] } }] });
    let mut cluster = Cluster::apply(stage, namespace, name, spec).await?;
    cluster.login = Credentials { user: Some(USER.to_owned()), password: Some(password(namespace)) };
    Ok(cluster)
}

fn password(namespace: &str) -> String {
    format!("password-of-{namespace}")
}

async fn write_password(stage: &Stage, namespace: &str) -> Result<()> {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": LOGIN },
        "stringData": { USER: password(namespace) } });
    let api: Api<Secret> = Api::namespaced(stage.client.clone(), namespace);
    api.patch(LOGIN, &PatchParams::apply("story").force(), &Patch::Apply(&secret)).await?;
    Ok(())
}

/// Replicas of one cluster go, and Pods of its namesake get their addresses, again and again in both directions.
async fn used_addresses(stage: &Stage, sandbox: &Sandbox, one: &Cluster, other: &Cluster) -> Result<()> {
    for cluster in [one, other] {
        write(cluster).await?;
    }
    let loads = [(one, Load::start(stage, one).await?), (other, Load::start(stage, other).await?)];
    let apart = async {
        loop {
            strangers(one, other).await?;
            tokio::time::sleep(TICK).await;
        }
    };
    let changes = async {
        let mut reused = 0;
        for (from, to) in [(one, other), (other, one)].repeat(stage.times(1, 4)) {
            reused += handed_on(sandbox, from, to).await?;
        }
        Ok::<_, anyhow::Error>(reused)
    };
    let reused = tokio::select! {
        met = apart => return met,
        reused = changes => reused?,
    };
    strangers(one, other).await?;
    for (cluster, load) in loads {
        let (report, _) = load.end(stage, &format!("used addresses, {}", cluster.namespace)).await?;
        ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
        let gap = report.longest_gap();
        ensure!(gap < stage.bound(GAP), "no write for {gap:?}: {}", report.summary());
        own_keys(cluster, &report.run).await?;
    }
    stage.say(format_args!(
        "{reused} addresses of a namesake used again: never an id, a link, a key or a write of the other"
    ));
    Ok(())
}

/// All replicas of `from` are replaced; then all of `to`, whose new Pods get the addresses that became free. How many did.
async fn handed_on(sandbox: &Sandbox, from: &Cluster, to: &Cluster) -> Result<usize> {
    let freed = replaced(from).await?;
    for (worker, address) in &freed {
        sandbox.give_next(worker.parse().map_err(anyhow::Error::msg)?, *address)?;
    }
    replaced(to).await?;
    let now: BTreeSet<IpAddr> = to.addresses().await?.values().map(SocketAddr::ip).collect();
    let reused = freed.iter().filter(|(_, address)| now.contains(&IpAddr::V4(*address))).count();
    ensure!(reused > 0, "no address was used again: {freed:?} and {now:?}");
    Ok(reused)
}

/// Deletes every replica and waits for the cluster to be whole with others; the address of each, and its worker.
async fn replaced(cluster: &Cluster) -> Result<Vec<(String, Ipv4Addr)>> {
    let (primaries, workers, all) =
        tokio::try_join!(cluster.primaries(), cluster.workers(), cluster.addresses())?;
    let mut freed = Vec::new();
    for (pod, at) in all.iter().filter(|(pod, _)| !primaries.contains(pod)) {
        cluster.delete_pod(pod).await?;
        let worker = workers.get(pod).with_context(|| format!("{pod} is on no worker"))?;
        if let IpAddr::V4(address) = at.ip() {
            freed.push((worker.clone(), address));
        }
    }
    eventually("the deleted Pods to be gone", LIMIT, async || {
        let left = cluster.pods().await?;
        let old = all.keys().find(|pod| !primaries.contains(pod) && left.contains_key(*pod));
        ensure!(old.is_none(), "{old:?} is left");
        Ok(())
    })
    .await?;
    cluster.whole(3, 1, LIMIT).await?;
    Ok(freed)
}

/// No node of either lists a node of the other, and none copies from or to one.
async fn strangers(one: &Cluster, other: &Cluster) -> Result<()> {
    let (mine, theirs) = tokio::try_join!(one.truth(), other.truth())?;
    let (mine_ids, their_ids) = (ids(&mine), ids(&theirs));
    let shared: Vec<_> = mine_ids.intersection(&their_ids).collect();
    ensure!(shared.is_empty(), "{} and {} share nodes: {shared:?}", one.namespace, other.namespace);
    at_home(one, &mine, other).await?;
    at_home(other, &theirs, one).await
}

/// Every replica copies from a Pod of its own cluster, and no node passes writes on to a Pod of the other.
async fn at_home(cluster: &Cluster, truth: &Truth, other: &Cluster) -> Result<()> {
    let (here, there) = tokio::try_join!(cluster.addresses(), other.addresses())?;
    let is_of = |all: &BTreeMap<String, SocketAddr>, ip: IpAddr| all.values().any(|at| at.ip() == ip);
    let whose = &cluster.namespace;
    for (at, facts, _) in truth.answered() {
        let from = facts.replication.copies_from.as_ref().and_then(|host| host.parse::<IpAddr>().ok());
        let strange = from.filter(|ip| !is_of(&here, *ip));
        ensure!(strange.is_none(), "{at} of {whose} copies from {strange:?}, which is none of its own");
        let to = facts.replication.replicas.iter().filter_map(|r| r.ip.parse::<IpAddr>().ok());
        let foreign: Vec<_> = to.filter(|ip| is_of(&there, *ip)).collect();
        ensure!(foreign.is_empty(), "{at} of {whose} passes writes on to {foreign:?} of {}", other.namespace);
    }
    Ok(())
}

/// A hundred keys that say whose they are: each node takes those of its own slots.
async fn write(cluster: &Cluster) -> Result<()> {
    let name = &cluster.namespace;
    let sets: Vec<[String; 3]> =
        (0..100).map(|n| ["SET".to_owned(), format!("{name}:{n}"), name.clone()]).collect();
    let (access, mut taken) = (application(cluster).await?, 0);
    for at in cluster.addresses().await?.into_values() {
        let mut node = Connection::open(&access, at, ASK).await?;
        for set in &sets {
            taken += usize::from(node.call(set, ASK).await?.error().is_none());
        }
    }
    ensure!(taken == sets.len(), "{taken} of {} keys were taken", sets.len());
    Ok(())
}

/// Every key of every node is the cluster's own, and all are there twice: on the primary and its replica. What the run of its ledger
/// has written may not be gone yet from the replicas.
async fn own_keys(cluster: &Cluster, run: &str) -> Result<()> {
    let (own, ledger) = (format!("{}:", cluster.namespace), format!("valkey-ledger:{run}:"));
    let (access, mut found) = (application(cluster).await?, 0);
    for (pod, at) in cluster.addresses().await? {
        let mut node = Connection::open(&access, at, ASK).await?;
        let keys = node.call(&["KEYS", "*"], ASK).await?;
        for key in keys.items().with_context(|| format!("{pod}: {keys:?}"))? {
            let key = key.text().unwrap_or_default();
            let mine = key.starts_with(&own);
            ensure!(mine || key.starts_with(&ledger), "{pod} has the key {key} of another cluster");
            found += usize::from(mine);
        }
    }
    ensure!(found == 200, "{found} copies of a hundred keys");
    Ok(())
}

/// Every id that any node lists.
fn ids(truth: &Truth) -> BTreeSet<String> {
    truth.answered().flat_map(|(_, facts, _)| facts.view.lines.iter().map(|line| line.id.clone())).collect()
}
