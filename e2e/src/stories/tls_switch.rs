//! TLS is given to a cluster that runs, and taken from it again, under writes of a client that changes with it: every Pod is replaced by
//! one that can, all nodes are switched at once, nothing acknowledged is lost, and no shard is short of a copy but while links are opened anew. Neither side waits
//! for the other half.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::select_ok;
use serde_json::json;
use tokio::sync::watch;
use valkey_cluster_operator::build::pod::CERTIFICATES;

use super::Story;
use super::cluster::{CLIENT_PORT, Cluster};
use super::pki::Pki;
use super::secrets;
use super::stage::{Stage, eventually};
use super::tls::nothing_in_plain_text;
use crate::ledger::AddressMap;
use crate::resp::{Access, Connection, Reply, SlotMap, either, key_slot};
use crate::truth::{Sampler, SamplerHandle};

pub(super) const STORY: Story = Story {
    name: "tls-switch",
    about: "TLS on and off on a cluster that runs and is written to: nothing is lost, and clients wait a moment at the switch",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(5);
/// From the first refused write to the next acknowledged one of a client that tries the other way at once: nodes hear of each other's new
/// ports within about a second and a half.
const SWITCH: Duration = Duration::from_secs(3);
/// At the switch replicas open their links anew: the data stays, and what they lack is sent.
const RELINK: Duration = Duration::from_millis(1500);
const SHARDS: u16 = 3;
/// Counters, spread over all slots.
const KEYS: u16 = 60;
/// For an answer, and for the handshake.
const PATIENCE: Duration = Duration::from_secs(1);

async fn run(stage: &Stage) -> Result<()> {
    stage.sandbox("speaks TLS to nodes from outside of their Kubernetes")?;
    let namespace = stage.namespace().await?;
    let plain = Cluster::existing(stage.reach(), &stage.client, &namespace, "demo");
    let pki = Arc::new(Pki::new(&namespace, "demo")?);
    let mut secured = plain.clone();
    secured.pki = Some(Arc::clone(&pki));
    let spec = || json!({ "shards": SHARDS, "replicas": 1 });
    plain.change(spec()).await?;
    plain.ready(Instant::now(), LIMIT).await?;
    plain.whole(usize::from(SHARDS), 1, LIMIT).await?;
    let seeds: Vec<IpAddr> = plain.addresses().await?.into_values().map(|at| at.ip()).collect();
    let sampler = sampler(&plain, &secured).await?;
    let (stop, stopped) = watch::channel(seeds);
    let writer = Writer::new([plain.open_access(), secured.open_access()], stopped);
    let client = tokio::spawn(writer.run());

    secured.change(spec()).await?;
    refused(&plain).await?;
    ensure!(certified(&plain).await? == 0, "Pods were replaced without a certificate");
    for (what, cluster, tls) in [("on", &secured, true), ("off", &plain, false)] {
        let began = Instant::now();
        if tls {
            pki.issue(&stage.client, pki.first()).await?;
        } else {
            plain.change(spec()).await?;
        }
        arrived(stage, (&stop, &sampler), cluster, tls).await?;
        stage.say(format_args!("TLS {what}: {:.1} s", began.elapsed().as_secs_f64()));
        if tls {
            nothing_in_plain_text(stage, cluster).await?;
        }
    }
    drop(stop);
    let (done, history) = (client.await??, sampler.stop().await?);
    stage.say(format_args!(
        "{} writes acknowledged, {} lost; at the two switches the client waited {:?}, otherwise {:?} at most",
        done.acked, done.lost, done.switches, done.longest
    ));
    ensure!(done.lost == 0, "{} acknowledged writes are lost", done.lost);
    ensure!(done.switches.len() == 2, "the client changed its way {} times", done.switches.len());
    let longest = done.switches.iter().max().copied().unwrap_or_default();
    ensure!(longest < stage.bound(SWITCH), "a client had to wait for {longest:?}");
    let short = history.longest_below(2).into_values().max().unwrap_or_default();
    stage.say(format_args!("a shard had fewer than 2 copies in sync for {} ms at most", short.as_millis()));
    ensure!(short < stage.bound(RELINK), "a shard had fewer than 2 copies in sync for {short:?}");
    secrets::kept(stage, &plain, &pki.keys()?).await
}

/// Looks at the redundancy, whichever way each node speaks at the time.
async fn sampler(plain: &Cluster, secured: &Cluster) -> Result<SamplerHandle> {
    let access = plain.access().await?;
    let connector = either(access.connector.clone(), secured.open_access().connector);
    let nodes = plain.addresses().await?.into_values().collect();
    // The port that a node announces is that of the other way for a while.
    let follow: AddressMap = Arc::new(|place| Some(SocketAddr::new(place.host.parse().ok()?, CLIENT_PORT)));
    Ok(Sampler::start(Access { connector, ..access }, nodes, Some(follow)))
}

/// A certificate that is not there yet leaves the cluster as it is, and is asked for.
async fn refused(cluster: &Cluster) -> Result<()> {
    let told = |cr: &valkey_cluster_operator::api::ValkeyCluster| {
        let conditions = cr.status.iter().flat_map(|s| &s.conditions);
        conditions.into_iter().any(|c| {
            c.reason == "CertificateRefused" && c.message.contains("the cluster goes on in plain text")
        })
    };
    cluster.says("the status to ask for the certificate", LIMIT, told).await.map(drop)
}

/// How many Pods have certificates.
async fn certified(cluster: &Cluster) -> Result<usize> {
    let pods = cluster.pods().await?;
    let has = |p: &&k8s_openapi::api::core::v1::Pod| {
        p.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.name == CERTIFICATES)
    };
    Ok(pods.values().filter(has).count())
}

/// Waits until all Pods are of the kind that is wanted, the nodes say that they are one whole cluster, and the operator has no more to do.
async fn arrived(
    stage: &Stage,
    (seeds, sampler): (&watch::Sender<Vec<IpAddr>>, &SamplerHandle),
    cluster: &Cluster,
    tls: bool,
) -> Result<()> {
    let all = usize::from(SHARDS) * 2;
    eventually("all Pods to be of the kind that is wanted", LIMIT, async || {
        let nodes: Vec<SocketAddr> = cluster.addresses().await?.into_values().collect();
        seeds.send_replace(nodes.iter().map(SocketAddr::ip).collect());
        sampler.set_nodes(nodes);
        let (have, pods) = (certified(cluster).await?, cluster.pods().await?.len());
        ensure!(pods == all && have == if tls { all } else { 0 }, "{have} of {pods} Pods have certificates");
        Ok(())
    })
    .await?;
    cluster.whole(usize::from(SHARDS), 1, LIMIT).await?;
    cluster.ready(Instant::now(), LIMIT).await?;
    let idle = |cr: &valkey_cluster_operator::api::ValkeyCluster| {
        cr.status.as_ref().is_some_and(|s| s.operation.is_none())
    };
    cluster.says("the operator to have no more to do", LIMIT, idle).await?;
    stage.say(format_args!("{all} Pods, {} with certificates", certified(cluster).await?));
    Ok(())
}

/// What became of the writes.
struct Done {
    acked: u64,
    lost: u64,
    /// How long no write was acknowledged when the client changed its way.
    switches: Vec<Duration>,
    /// The longest that it had to wait otherwise.
    longest: Duration,
}

/// A client that writes counters one after another, and tries the other way when the one that it uses is refused.
struct Writer {
    ways: [Access; 2],
    way: usize,
    seeds: watch::Receiver<Vec<IpAddr>>,
    map: Option<SlotMap>,
    open: BTreeMap<SocketAddr, Connection>,
    acked: BTreeMap<String, u64>,
    done: Done,
}

impl Writer {
    fn new(ways: [Access; 2], seeds: watch::Receiver<Vec<IpAddr>>) -> Self {
        let done = Done { acked: 0, lost: 0, switches: Vec::new(), longest: Duration::ZERO };
        let keys = (0..KEYS).map(|i| (format!("counter:{i}"), 0)).collect();
        Self { ways, way: 0, seeds, map: None, open: BTreeMap::new(), acked: keys, done }
    }

    /// Until the other end is dropped; then everything is read back.
    async fn run(mut self) -> Result<Done> {
        let keys: Vec<String> = self.acked.keys().cloned().collect();
        let (mut last, mut way) = (Instant::now(), self.way);
        for key in keys.iter().cycle() {
            if self.seeds.has_changed().is_err() {
                break;
            }
            let value = self.acked.get(key).copied().unwrap_or_default() + 1;
            while self.ask(&["SET", key, &value.to_string()]).await.is_none_or(|r| r.error().is_some()) {
                self.look_again().await;
                if self.seeds.has_changed().is_err() && last.elapsed() > LIMIT {
                    break;
                }
            }
            if way == self.way {
                self.done.longest = self.done.longest.max(last.elapsed());
            } else {
                self.done.switches.push(last.elapsed());
            }
            (last, way) = (Instant::now(), self.way);
            self.acked.insert(key.clone(), value);
            self.done.acked += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for (key, value) in self.acked.clone() {
            let found = self.ask(&["GET", &key]).await.and_then(|r| r.text()?.parse::<u64>().ok());
            self.done.lost += value - found.unwrap_or_default().min(value);
        }
        Ok(self.done)
    }

    /// One command to the owner of its key; none when there was no usable answer.
    async fn ask(&mut self, command: &[&str]) -> Option<Reply> {
        let slot = key_slot(command.get(1)?);
        let owner = self.map.as_ref()?.of(slot)?.primary.clone();
        let at = SocketAddr::new(owner.host.parse().ok()?, owner.port);
        if !self.open.contains_key(&at) {
            let opened = Connection::open(self.ways.get(self.way)?, at, PATIENCE).await.ok()?;
            self.open.insert(at, opened);
        }
        self.open.get_mut(&at)?.call(command, PATIENCE).await.ok()
    }

    /// Asks all nodes both ways who owns what, and takes the first answer: a server in plain text waits for the end of what is no command
    /// to it, so that the wrong way is only told by its silence.
    async fn look_again(&mut self) {
        self.open.clear();
        let seeds = self.seeds.borrow().clone();
        let ways = self.ways.iter().enumerate();
        let asked =
            ways.flat_map(|(way, access)| seeds.iter().map(move |ip| owners(way, access, *ip).boxed()));
        match select_ok(asked).await {
            Ok(((map, way), _)) => (self.map, self.way) = (Some(map), way),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Who owns what, as this node says it when it is asked this way.
async fn owners(way: usize, access: &Access, ip: IpAddr) -> Result<(SlotMap, usize)> {
    let mut node = Connection::open(access, SocketAddr::new(ip, CLIENT_PORT), PATIENCE).await?;
    let reply = node.call(&["CLUSTER", "SLOTS"], PATIENCE).await?;
    Ok((SlotMap::read(&reply, &ip.to_string()).map_err(anyhow::Error::msg)?, way))
}
