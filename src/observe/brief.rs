//! Looks at a large cluster: its own state of every node, and everything of a few (`model::looks` says of whom and why).
//!
//! Over connections that are kept between looks: to open one takes longer than to ask for all that is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::valkey::{Bounds, Probe, again, bounded, observe_nodes, primary_password, settings, whole};
use crate::model::looks::{Looks, Sampling, Shards};
use crate::model::{Answer, Brief, Link, Moment, NodeId, NodeReport, PodUid, Seen, Slots, peers};
use crate::parallel;
use crate::valkey::error::WireError;
use crate::valkey::kept::Kept;
use crate::valkey::node::{Access, Connector, Node};
use crate::valkey::parse::{ClusterInfo, Info, Replication, slots_of_stats};
use crate::valkey::reply::Reply;

/// What asks a primary for its own slots.
const OWN_SLOTS: [&str; 5] = ["CLUSTER", "SLOT-STATS", "SLOTSRANGE", "0", "16383"];

/// How the nodes of a cluster are asked.
pub struct Asking<'a> {
    /// The settings that each is asked for.
    pub settings: &'a [String],
    /// As whom.
    pub access: &'a Access,
    /// What opens connections.
    pub connector: &'a dyn Connector,
    /// The connections that are kept.
    pub kept: &'a Kept,
    /// How long, and how many at once.
    pub bounds: Bounds,
    /// From which size on, and how many for everything.
    pub sampling: Sampling,
    /// Primaries are asked what lies in them, too: slots are about to move.
    pub memory: bool,
}

/// What this look rests on beside the nodes.
pub struct Around<'a> {
    /// The one clock reading of the pass.
    pub now: Moment,
    /// Which Pod is of which shard.
    pub shards: &'a Shards,
    /// Pods whose nodes have been silent for long.
    pub long_silent: &'a BTreeSet<PodUid>,
}

/// What every node says of itself and of the others, as far as that has to be asked.
pub async fn observe(
    probes: &[Probe],
    looks: &mut Looks,
    around: &Around<'_>,
    asking: &Asking<'_>,
) -> BTreeMap<PodUid, Seen<NodeReport>> {
    let asked: BTreeSet<PodUid> = probes.iter().map(|p| p.uid.clone()).collect();
    let Some(first) = looks.first(&asked, asking.sampling, around.now) else {
        asking.kept.only(&BTreeSet::new());
        let Asking { settings, access, connector, bounds, .. } = asking;
        return observe_nodes(probes, settings, access, *connector, bounds).await;
    };
    asking.kept.only(&probes.iter().map(|p| p.addr).collect());
    let how = |uid: &PodUid| {
        if first.whole.contains(uid) { Depth::Whole } else { Depth::Brief { leads: looks.leads(uid) } }
    };
    let answers = asking.all(probes.iter().map(|p| (p, how(&p.uid))).collect()).await;
    let second = looks.second(&first, &answers, around.shards, |uid| around.long_silent.contains(uid));
    let more = probes.iter().filter(|p| second.whole.contains(&p.uid));
    let more = asking.all(more.map(|p| (p, Depth::Whole)).collect()).await;
    let mut seen = looks.end(second, answers, more);
    peers::share(seen.values_mut());
    seen
}

/// How much is asked.
#[derive(Clone, Copy)]
enum Depth {
    Whole,
    /// Only its own state; of one that leads its slots, too.
    Brief {
        leads: bool,
    },
}

impl Asking<'_> {
    async fn all(&self, whom: Vec<(&Probe, Depth)>) -> BTreeMap<PodUid, Answer> {
        let access = bounded(self.access, &self.bounds);
        let silent = again(&access, &self.bounds);
        let mut asks: Vec<BoxFuture<'_, Answer>> = Vec::with_capacity(whom.len());
        for (probe, depth) in &whom {
            asks.push(self.one(probe.addr, if probe.silent { &silent } else { &access }, *depth).boxed());
        }
        let answers = parallel::all(asks, self.bounds.parallel).await;
        whom.iter().map(|(probe, _)| probe.uid.clone()).zip(answers).collect()
    }

    async fn one(&self, addr: SocketAddr, access: &Access, depth: Depth) -> Answer {
        let answer = match self.ask(addr, access, depth).await {
            // The process behind a kept connection has ended: whether another one listens says a new connection.
            Err(WireError::Reset) => self.ask(addr, access, depth).await,
            answer => answer,
        };
        answer.unwrap_or_else(|why| {
            tracing::debug!(%addr, %why, "node gives no report");
            Answer::Silent(why.silence())
        })
    }

    async fn ask(&self, addr: SocketAddr, access: &Access, depth: Depth) -> Result<Answer, WireError> {
        let node = self.kept.over(self.connector).connect(addr, access).await?;
        if let Depth::Brief { leads } = depth {
            match brief(node.as_ref(), self.settings, leads, leads && self.memory).await {
                Ok(brief) => return Ok(Answer::Brief(Box::new(brief))),
                Err(why) if why.is_connection() => return Err(why),
                // One that does not know the short way, or does not let this user take it.
                Err(_) => {}
            }
        }
        let (report, numbers) = whole(node.as_ref(), self.settings).await?;
        Ok(Answer::Whole(Box::new(report), numbers))
    }
}

/// A node's own state, in one burst.
async fn brief(node: &dyn Node, asked: &[String], leads: bool, memory: bool) -> Result<Brief, WireError> {
    let mut burst =
        vec![vec!["CLUSTER", "MYID"], vec!["CLUSTER", "INFO"], vec!["INFO", "replication", "keyspace"]];
    if memory {
        burst.push(vec!["INFO", "memory"]);
    }
    if leads {
        burst.push(OWN_SLOTS.to_vec());
    }
    burst.push(settings(asked));
    let answers: Result<Vec<Reply>, WireError> = node.call_many(&burst).await.into_iter().collect();
    let mut answers = answers?.into_iter();
    let mut next = || answers.next().ok_or_else(|| WireError::Protocol("an answer is missing".to_owned()));
    let id = NodeId::new(next()?.text()?);
    let cluster = ClusterInfo::parse(next()?.text()?)?;
    let info = Info::parse(next()?.text()?)?;
    let memory = if memory { Info::parse(next()?.text()?)?.memory() } else { None };
    let slots = if leads { slots_of_stats(&next()?)? } else { Slots::none() };
    let mut config = next()?.texts()?;
    let replication = info.replication()?;
    Ok(Brief {
        id,
        numbers: cluster.numbers(),
        state_ok: cluster.ok,
        epoch: cluster.my_epoch,
        online_replicas: replication.online().into_iter().collect(),
        copies: copies(&replication)?,
        slots,
        keys: info.keys()?,
        memory,
        primary_password: primary_password(&mut config),
        config,
    })
}

fn copies(replication: &Replication) -> Result<Option<(std::net::IpAddr, Link)>, WireError> {
    match replication {
        Replication::Primary { .. } => Ok(None),
        Replication::Replica { host, up, syncing, offset, .. } => {
            let at = host.parse().map_err(|_| WireError::Protocol(format!("master_host is {host:?}")))?;
            Ok(Some((at, Link { up: *up, syncing: *syncing, offset: *offset })))
        }
    }
}
