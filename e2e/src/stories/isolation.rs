//! Clusters never meet: born at the same moment, two in one namespace and namesakes in two; and when one gets addresses that the other had.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::stage::{Stage, TICK, eventually};
use crate::resp::Connection;
use crate::sandbox::Sandbox;
use crate::truth::Truth;

pub(super) const STORY: Story = Story {
    name: "isolation",
    about: "clusters never meet: created at the same moment, namesakes, and one at the used addresses of the other",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
const ASK: Duration = Duration::from_secs(5);

async fn run(stage: &Stage) -> Result<()> {
    let (here, there) = (stage.namespace().await?, stage.namespace().await?);
    let spec = || json!({ "shards": 3, "replicas": 1 });
    let (one, two, namesake) = tokio::try_join!(
        Cluster::apply(stage, &here, "one", spec()),
        Cluster::apply(stage, &here, "two", spec()),
        Cluster::apply(stage, &there, "one", spec()),
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

/// Replicas of one cluster go, and Pods of its namesake get their addresses, again and again in both directions.
async fn used_addresses(stage: &Stage, sandbox: &Sandbox, one: &Cluster, other: &Cluster) -> Result<()> {
    for cluster in [one, other] {
        write(cluster).await?;
    }
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
    for (cluster, foreign) in [(one, other), (other, one)] {
        strangers(cluster, foreign).await?;
        own_keys(cluster).await?;
    }
    stage.say(format_args!(
        "{reused} addresses of a namesake used again: never an id, a link or a key of the other"
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

/// No node of either lists a node of the other, and none copies from or to an address that is not its own cluster's.
async fn strangers(one: &Cluster, other: &Cluster) -> Result<()> {
    let (mine, theirs) = tokio::try_join!(one.truth(), other.truth())?;
    let (mine_ids, their_ids) = (ids(&mine), ids(&theirs));
    let shared: Vec<_> = mine_ids.intersection(&their_ids).collect();
    ensure!(shared.is_empty(), "{} and {} share nodes: {shared:?}", one.namespace, other.namespace);
    let elsewhere: BTreeSet<IpAddr> = other.addresses().await?.values().map(SocketAddr::ip).collect();
    for (at, facts, _) in mine.answered() {
        let copies = facts.replication.replicas.iter().filter_map(|r| r.ip.parse::<IpAddr>().ok());
        let foreign: Vec<_> = copies.filter(|ip| elsewhere.contains(ip)).collect();
        ensure!(
            foreign.is_empty(),
            "{at} of {} passes writes on to {foreign:?} of {}",
            one.namespace,
            other.namespace
        );
    }
    Ok(())
}

/// A hundred keys that say whose they are: each node takes those of its own slots.
async fn write(cluster: &Cluster) -> Result<()> {
    let name = &cluster.namespace;
    let sets: Vec<[String; 3]> =
        (0..100).map(|n| ["SET".to_owned(), format!("{name}:{n}"), name.clone()]).collect();
    let mut taken = 0;
    for at in cluster.addresses().await?.into_values() {
        let mut node = Connection::open(&cluster.open_access(), at, ASK).await?;
        for set in &sets {
            taken += usize::from(node.call(set, ASK).await?.error().is_none());
        }
    }
    ensure!(taken == sets.len(), "{taken} of {} keys were taken", sets.len());
    Ok(())
}

/// Every key of every node is the cluster's own, and all are there twice: on the primary and its replica.
async fn own_keys(cluster: &Cluster) -> Result<()> {
    let mut found = 0;
    for (pod, at) in cluster.addresses().await? {
        let mut node = Connection::open(&cluster.open_access(), at, ASK).await?;
        let keys = node.call(&["KEYS", "*"], ASK).await?;
        for key in keys.items().with_context(|| format!("{pod}: {keys:?}"))? {
            let key = key.text().unwrap_or_default();
            ensure!(
                key.starts_with(&format!("{}:", cluster.namespace)),
                "{pod} has the key {key} of another cluster"
            );
            found += 1;
        }
    }
    ensure!(found == 200, "{found} copies of a hundred keys");
    Ok(())
}

/// Every id that any node lists.
fn ids(truth: &Truth) -> BTreeSet<String> {
    truth.answered().flat_map(|(_, facts, _)| facts.view.lines.iter().map(|line| line.id.clone())).collect()
}
