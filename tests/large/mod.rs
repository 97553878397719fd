//! Large clusters as the operator sees them: every node answers for itself, and there are few different lists of the others.
#![allow(dead_code, reason = "each test binary and benchmark uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../bare/mod.rs"]
mod bare;
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use valkey_cluster_operator::model::settings;
use valkey_cluster_operator::model::users::Accounts;
use valkey_cluster_operator::model::{
    Link, Moment, NodeId, NodeReport, OpenSlots, Past, Peer, Peers, Phase, Pod, PodName, PodUid, Revision,
    Role, Seen, Shard, Silence, Slots, Snapshot, Synced, Version, Worker, WorkerName, Zone,
};
use valkey_cluster_operator::plan::users::of_file;

const NOW: i64 = 1_000_000;
/// How many different lists there are while news spreads.
const LISTS: usize = 4;
const WORKERS: u16 = 60;
/// How many members come at one time.
const NEWCOMERS: u16 = 125;

/// Everything as the spec asks.
pub(crate) fn settled(shards: u16, replicas: u16) -> Snapshot {
    let mut s = empty(shards, replicas);
    for shard in (0..shards).map(Shard) {
        for index in 0..=replicas {
            member(&mut s, shard, index, "now");
        }
    }
    acquaint(&mut s);
    s
}

/// The spec has changed: a third of the shards is done, in one a successor is in sync, all others wait their turn.
pub(crate) fn upgrading(shards: u16, replicas: u16) -> Snapshot {
    let mut s = settled(shards, replicas);
    for pod in s.pods.values_mut().filter(|p| p.shard.0 >= shards / 3) {
        pod.revision = Revision::new("before");
    }
    let shard = Shard(shards / 3);
    member(&mut s, shard, replicas + 1, "now");
    acquaint(&mut s);
    s
}

/// Every second member has ended: half of the primaries among them.
pub(crate) fn half_dead(shards: u16, replicas: u16) -> Snapshot {
    let mut s = settled(shards, replicas);
    let gone = |p: &Pod| (p.shard.0 + p.index).is_multiple_of(2);
    let dead: Vec<(PodUid, NodeId)> =
        s.pods.values().filter(|p| gone(p)).map(|p| (p.uid.clone(), id(p.shard, p.index))).collect();
    let at = Moment(NOW - 3000);
    for pod in s.pods.values_mut().filter(|p| gone(p)) {
        pod.phase = Phase::Finished { at, ran_ms: 500_000 };
    }
    for (uid, _) in &dead {
        s.nodes.insert(uid.clone(), Seen::Silent(Silence::Refused));
        s.past.silent.insert(uid.clone(), at);
    }
    let ids: BTreeSet<NodeId> = dead.into_iter().map(|(_, id)| id).collect();
    for id in &ids {
        s.ghosts.insert(id.clone(), Seen::Silent(Silence::Refused));
    }
    mark_failed(&mut s, &ids);
    s
}

/// In each of up to 125 shards one member was lost, and the new one in its place knows nobody yet.
pub(crate) fn joining(shards: u16, replicas: u16) -> Snapshot {
    let mut s = empty(shards, replicas);
    for shard in (0..shards).map(Shard) {
        for index in 0..=replicas - u16::from(shard.0 < NEWCOMERS) {
            member(&mut s, shard, index, "now");
        }
    }
    acquaint(&mut s);
    for shard in (0..shards.min(NEWCOMERS)).map(Shard) {
        let pod = Pod { gate: None, ..pod(shard, replicas, "now") };
        let mut node = report(&s, shard, replicas);
        node.role = Role::Primary { slots: Slots::none() };
        (node.keys, node.epoch, node.state_ok, node.uptime_ms) = (0, 0, false, 100);
        s.nodes.insert(pod.uid.clone(), Seen::Now(node));
        s.pods.insert(pod.name.clone(), pod);
    }
    s
}

/// The links to these are down, and everybody lists them as failed: a primary with its slots, a replica with its primary.
fn mark_failed(s: &mut Snapshot, ids: &BTreeSet<NodeId>) {
    for seen in s.nodes.values_mut() {
        if let Seen::Now(node) = seen
            && let Role::Replica { of, link } = &mut node.role
            && ids.contains(of)
        {
            link.up = false;
        }
    }
    let mut lines = whole_list(s);
    for id in ids {
        let (shard, index) = place(id);
        let dead = Peer { failed: true, connected: false, ..line(id) };
        let dead = match index {
            0 => Peer { slots: Slots::share(shard.0, s.desired.shards), ..dead },
            _ => Peer { replica_of: Some(self::id(shard, 0)), ..dead },
        };
        lines.insert(id.clone(), dead);
    }
    share(s, &lines, LISTS);
}

/// How a node without slots is listed.
fn line(id: &NodeId) -> Peer {
    let (shard, index) = place(id);
    Peer {
        ip: Some(ip(shard, index)),
        replica_of: None,
        slots: Slots::none(),
        epoch: u64::from(shard.0) + 1,
        handshake: false,
        failed: false,
        suspected: false,
        connected: true,
    }
}

fn empty(shards: u16, replicas: u16) -> Snapshot {
    Snapshot {
        now: Moment(NOW),
        desired: bare::desired(shards, replicas),
        revision: Revision::new("now"),
        formed: true,
        whole: true,
        served: (0..shards).map(Shard).collect(),
        shape: None,
        accounts: None,
        passwords: BTreeMap::new(),
        certificates: None,
        request: None,
        vouched: BTreeSet::new(),
        drifted: BTreeSet::new(),
        foreign: None,
        credentials_known: true,
        pods: BTreeMap::new(),
        taken: BTreeSet::new(),
        workers: (0..WORKERS).map(worker).collect(),
        nodes: BTreeMap::new(),
        ghosts: BTreeMap::new(),
        low_timeout_budget: 40,
        applied: BTreeMap::new(),
        past: Past::default(),
    }
}

fn worker(n: u16) -> (WorkerName, Worker) {
    let name = format!("w{n:03}");
    let worker = bare::worker(&name, Some(Zone::new(format!("z{}", n % 3))));
    (worker.name.clone(), worker)
}

/// As long as real ids are, and in no order that means anything.
fn id(shard: Shard, index: u16) -> NodeId {
    let n = u32::from(shard.0) << 4 | u32::from(index);
    NodeId::new(format!("{:08x}{n:032x}", n.wrapping_mul(2_654_435_761)))
}

fn uid(shard: Shard, index: u16) -> PodUid {
    PodUid::new(format!("{shard}-{index}-5b1f9a3e-7f6d-4c58-9f5e"))
}

fn place(id: &NodeId) -> (Shard, u16) {
    let n = u32::from_str_radix(&id.as_str()[32..], 16).unwrap();
    (Shard(u16::try_from(n >> 4).unwrap()), u16::try_from(n & 15).unwrap())
}

fn ip(shard: Shard, index: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + (u32::from(shard.0) << 4) + u32::from(index)))
}

/// Copies of a shard on three neighbouring workers, which are in three zones; the primaries in turn on each of them.
fn pod(shard: Shard, index: u16, revision: &str) -> Pod {
    Pod {
        worker: Some(WorkerName::new(format!("w{:03}", (3 * shard.0 + (shard.0 + index) % 3) % WORKERS))),
        ip: Some(ip(shard, index)),
        phase: Phase::Running,
        gate: Some(true),
        leads: index == 0,
        created: Moment(NOW - 500_000),
        ..Pod::new(
            PodName::new(format!("valkey-c-{shard}-{index}")),
            uid(shard, index),
            (shard, index),
            Revision::new(revision),
        )
    }
}

fn member(s: &mut Snapshot, shard: Shard, index: u16, revision: &str) {
    let pod = pod(shard, index, revision);
    s.nodes.insert(pod.uid.clone(), Seen::Now(report(s, shard, index)));
    s.pods.insert(pod.name.clone(), pod);
    let own = id(shard, index);
    if index > 0 {
        s.past.synced.insert(own, Synced { primary: id(shard, 0), offset: 100 });
        if let Some(Seen::Now(primary)) = s.nodes.get_mut(&uid(shard, 0)) {
            primary.online_replicas.insert(ip(shard, index));
        }
    }
}

fn report(s: &Snapshot, shard: Shard, index: u16) -> NodeReport {
    let version = Version::new(9, 1, 2);
    let mut config = settings::managed(version, s.desired.node_timeout_ms());
    config.insert("cluster-replica-no-failover".into(), "no".into());
    NodeReport {
        id: id(shard, index),
        version,
        uptime_ms: 500_000,
        role: match index {
            0 => Role::Primary { slots: Slots::share(shard.0, s.desired.shards) },
            _ => Role::Replica { of: id(shard, 0), link: Link { up: true, syncing: false, offset: 100 } },
        },
        open_slots: OpenSlots::default(),
        jobs: Vec::new(),
        memory: None,
        state_ok: true,
        epoch: u64::from(shard.0) + 1,
        peers: Peers::default(),
        online_replicas: BTreeSet::new(),
        keys: 10,
        loading: false,
        admitted: true,
        users: Some(of_file(&Accounts::default())),
        primary_password: None,
        config,
    }
}

/// What every node says of itself, as others list it.
fn whole_list(s: &Snapshot) -> BTreeMap<NodeId, Peer> {
    let reports = s.nodes.values().filter_map(Seen::now);
    let listed = |n: &NodeReport| {
        let replica_of = match &n.role {
            Role::Replica { of, .. } => Some(of.clone()),
            Role::Primary { .. } => None,
        };
        (n.id.clone(), Peer { slots: n.slots().clone(), replica_of, ..line(&n.id) })
    };
    reports.map(listed).collect()
}

fn acquaint(s: &mut Snapshot) {
    let lines = whole_list(s);
    share(s, &lines, 1);
}

/// So many lists, each shared by its part of the nodes.
fn share(s: &mut Snapshot, lines: &BTreeMap<NodeId, Peer>, lists: usize) {
    let lists: Vec<_> = (0..lists).map(|_| Arc::new(lines.clone())).collect();
    for (i, seen) in s.nodes.values_mut().enumerate() {
        if let Seen::Now(node) = seen {
            node.peers = Peers::shared(Arc::clone(&lists[i % lists.len()]), node.id.clone());
        }
    }
}
