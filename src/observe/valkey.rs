//! Asks every node for itself: one connection and one burst of commands each, all in parallel and in bounded time.
//!
//! Reads only. A node that does not answer is recorded with the kind of its silence; nothing here is an error, so that
//! one silent node never stops work on the others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::build::credentials::{IMPORT_RIGHT, REPLICATION_USER, digest};
use crate::model::peers;
use crate::model::settings::JOBS_SINCE;
use crate::model::users::Digest;
use crate::model::{
    Job, Link, NodeId, NodeReport, Numbers, OpenSlots, Peer, Peers, PodUid, Role, Seen, Silence, SlotRange,
    Slots,
};
use crate::parallel;
use crate::valkey::error::WireError;
use crate::valkey::node::{Access, Connector, Limits, Node};
use crate::valkey::parse::{
    AclUser, ClusterInfo, Direction, Flag, Info, NodeLine, OpenSlot, Replication, cluster_nodes, jobs, shown,
};
use crate::valkey::reply::Reply;

/// Where in the burst the jobs are asked for.
const JOBS: usize = 4;
/// Where in the burst the users are asked for.
const USERS: usize = 5;
/// The setting that shows with which password a node logs in to its primary. Only its digest is kept.
const PRIMARY_PASSWORD: &str = "primaryauth";

/// How long, and how many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// For a connection; a node whose worker is gone costs this long.
    pub connect: Duration,
    /// For the answers; a node that is stuck costs this long.
    pub reply: Duration,
    /// For a connection to a node that did not answer the last time, either: it must not hold up every pass.
    pub again: Duration,
    /// Nodes that are asked at one time.
    pub parallel: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(500),
            reply: Duration::from_secs(1),
            again: Duration::from_millis(150),
            parallel: 32,
        }
    }
}

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The Pod whose node it is.
    pub uid: PodUid,
    /// Its address and port for clients.
    pub addr: SocketAddr,
    /// It did not answer the last time.
    pub silent: bool,
}

/// What every node says of itself and of the others; `asked` are the settings it is asked for.
pub async fn observe_nodes(
    probes: &[Probe],
    asked: &[String],
    access: &Access,
    connector: &dyn Connector,
    bounds: &Bounds,
) -> BTreeMap<PodUid, Seen<NodeReport>> {
    let targets: Vec<_> = probes.iter().map(|p| (&p.uid, p.addr, p.silent)).collect();
    let mut seen = all(&targets, asked, access, connector, bounds).await;
    peers::share(seen.values_mut());
    seen
}

/// What answers at the addresses of ids that no Pod accounts for. When somebody else answers, the process of that id
/// is as gone as if the connection had been refused.
pub async fn observe_ghosts(
    addresses: &BTreeMap<NodeId, SocketAddr>,
    access: &Access,
    connector: &dyn Connector,
    bounds: &Bounds,
) -> BTreeMap<NodeId, Seen<NodeReport>> {
    let targets: Vec<_> = addresses.iter().map(|(id, addr)| (id, *addr, true)).collect();
    let mut seen = all(&targets, &[], access, connector, bounds).await;
    for (id, what) in &mut seen {
        if what.now().is_some_and(|report| report.id != *id) {
            *what = Seen::Silent(Silence::Refused);
        }
    }
    seen
}

async fn all<K: Ord + Clone + Send + Sync>(
    targets: &[(&K, SocketAddr, bool)],
    asked: &[String],
    access: &Access,
    connector: &dyn Connector,
    bounds: &Bounds,
) -> BTreeMap<K, Seen<NodeReport>> {
    let access = bounded(access, bounds);
    let brief = again(&access, bounds);
    let mut asks: Vec<BoxFuture<'_, Seen<NodeReport>>> = Vec::with_capacity(targets.len());
    for (_, addr, silent) in targets {
        asks.push(seen(*addr, asked, if *silent { &brief } else { &access }, connector).boxed());
    }
    let seen = parallel::all(asks, bounds.parallel).await;
    targets.iter().map(|(key, ..)| (*key).clone()).zip(seen).collect()
}

/// Access with the limits of a look.
pub(super) fn bounded(access: &Access, bounds: &Bounds) -> Access {
    let limits = Limits { connect: bounds.connect, reply: bounds.reply, ..access.limits };
    Access { limits, ..access.clone() }
}

/// The same for a node that did not answer the last time, either.
pub(super) fn again(access: &Access, bounds: &Bounds) -> Access {
    Access { limits: Limits { connect: bounds.again, ..access.limits }, ..access.clone() }
}

async fn seen(
    addr: SocketAddr,
    asked: &[String],
    access: &Access,
    connector: &dyn Connector,
) -> Seen<NodeReport> {
    match ask(addr, asked, access, connector).await {
        Ok(report) => Seen::Now(report),
        Err(why) => {
            tracing::debug!(%addr, %why, "node gives no report");
            Seen::Silent(why.silence())
        }
    }
}

async fn ask(
    addr: SocketAddr,
    asked: &[String],
    access: &Access,
    connector: &dyn Connector,
) -> Result<NodeReport, WireError> {
    let node = connector.connect(addr, access).await?;
    report(node.as_ref(), asked).await
}

/// One node's report, in one burst.
pub async fn report(node: &dyn Node, asked: &[String]) -> Result<NodeReport, WireError> {
    whole(node, asked).await.map(|(report, _)| report)
}

/// One node's report, in one burst, with the numbers that it gives of the whole.
pub(super) async fn whole(node: &dyn Node, asked: &[String]) -> Result<(NodeReport, Numbers), WireError> {
    let settings = settings(asked);
    let mut burst = vec![
        vec!["CLUSTER", "NODES"],
        vec!["CLUSTER", "INFO"],
        vec!["INFO", "server", "persistence", "replication", "keyspace", "memory"],
        vec!["ACL", "GETUSER", REPLICATION_USER],
        vec!["CLUSTER", "GETSLOTMIGRATIONS"],
        vec!["ACL", "LIST"],
    ];
    if !asked.is_empty() {
        burst.push(settings);
    }
    let mut answers = node.call_many(&burst).await;
    // Before 9.0 there are no jobs; what version it is shows in the same burst.
    if let Some(answer) =
        answers.get_mut(JOBS).filter(|a| a.as_ref().is_err_and(WireError::is_unknown_command))
    {
        *answer = Ok(Reply::List(Vec::new()));
    }
    // A server that an earlier operator has set up does not let this one look at its users yet.
    if let Some(answer) = answers.get_mut(USERS).filter(|a| matches!(a, Err(WireError::Denied(_)))) {
        *answer = Ok(Reply::Nil);
    }
    let answers: Result<Vec<Reply>, WireError> = answers.into_iter().collect();
    let mut answers = answers?.into_iter();
    let mut next = || answers.next().ok_or_else(|| WireError::Protocol("an answer is missing".to_owned()));
    let nodes = cluster_nodes(next()?.text()?)?;
    let cluster = ClusterInfo::parse(next()?.text()?)?;
    let info = Info::parse(next()?.text()?)?;
    let user = AclUser::parse(&next()?)?;
    let admitted = user.is_some_and(|user| user.is_on() && may_import(&user, &info));
    let now_us = info.number::<i64>("server_time_usec")?;
    let jobs = jobs(&next()?, now_us)?;
    let users = match next()? {
        Reply::Nil => None,
        list => Some(shown(&list)?),
    };
    let mut config = if asked.is_empty() { BTreeMap::new() } else { next()?.texts()? };
    let primary_password = primary_password(&mut config);
    let report = assemble(nodes, cluster, &info, jobs, admitted, config)?;
    Ok((NodeReport { users, primary_password, ..report }, cluster.numbers()))
}

/// What asks for these settings.
pub(super) fn settings(asked: &[String]) -> Vec<&str> {
    ["CONFIG", "GET", PRIMARY_PASSWORD].into_iter().chain(asked.iter().map(String::as_str)).collect()
}

/// Of the password only the digest is kept.
pub(super) fn primary_password(config: &mut BTreeMap<String, String>) -> Option<Digest> {
    config.remove(PRIMARY_PASSWORD).map(|p| digest(p.as_bytes()))
}

fn assemble(
    nodes: Vec<NodeLine>,
    cluster: ClusterInfo,
    info: &Info,
    jobs: Vec<Job>,
    admitted: bool,
    config: BTreeMap<String, String>,
) -> Result<NodeReport, WireError> {
    let (own, others): (Vec<NodeLine>, Vec<NodeLine>) = nodes.into_iter().partition(|n| n.is(Flag::Myself));
    let [own] = <[NodeLine; 1]>::try_from(own).map_err(|lines| {
        WireError::Protocol(format!("CLUSTER NODES has {} lines of its own", lines.len()))
    })?;
    let replication = info.replication()?;
    let online_replicas = replication.online().into_iter().collect();
    let lines = others.into_iter().chain([own.clone()]).map(|n| (n.id.clone(), peer(n)));
    Ok(NodeReport {
        peers: Peers::shared(Arc::new(lines.collect()), own.id.clone()),
        open_slots: open_slots(&own.open),
        jobs,
        memory: info.memory(),
        role: role(&own, &replication),
        id: own.id,
        version: info.version()?,
        uptime_ms: info.uptime_ms()?,
        state_ok: cluster.ok,
        epoch: cluster.my_epoch,
        online_replicas,
        keys: info.keys()?,
        loading: info.is_loading(),
        admitted,
        users: None,
        primary_password: None,
        config,
    })
}

/// From 9.0 on the replication user has the rights that a job needs, too (an older server does not know the words).
fn may_import(user: &AclUser, info: &Info) -> bool {
    info.version().is_ok_and(|v| v < JOBS_SINCE) || user.commands.contains(IMPORT_RIGHT)
}

fn open_slots(open: &[OpenSlot]) -> OpenSlots {
    let with = |direction| {
        let mut by_node: BTreeMap<NodeId, Vec<SlotRange>> = BTreeMap::new();
        for o in open.iter().filter(|o| o.direction == direction) {
            by_node.entry(o.other.clone()).or_default().push(SlotRange { first: o.slot, last: o.slot });
        }
        by_node.into_iter().map(|(id, ranges)| (id, Slots::from_ranges(ranges))).collect()
    };
    OpenSlots { outgoing: with(Direction::Migrating), incoming: with(Direction::Importing) }
}

/// The cluster's view of the role leads. The two sides of the server can differ for a moment around a failover: then the
/// link is not up.
fn role(own: &NodeLine, replication: &Replication) -> Role {
    match (&own.primary, replication) {
        (None, _) => Role::Primary { slots: own.slots.clone() },
        (Some(of), Replication::Replica { up, syncing, offset, .. }) => {
            Role::Replica { of: of.clone(), link: Link { up: *up, syncing: *syncing, offset: *offset } }
        }
        (Some(of), Replication::Primary { offset, .. }) => {
            Role::Replica { of: of.clone(), link: Link { up: false, syncing: false, offset: *offset } }
        }
    }
}

fn peer(line: NodeLine) -> Peer {
    Peer {
        handshake: line.is(Flag::Handshake),
        failed: line.is(Flag::Failed),
        suspected: line.is(Flag::Suspected),
        connected: line.connected,
        ip: line.ip.filter(|_| !line.is(Flag::NoAddress)),
        replica_of: line.primary,
        slots: line.slots,
        epoch: line.epoch,
    }
}

#[cfg(test)]
#[path = "valkey_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
