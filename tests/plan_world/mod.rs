//! Worlds in a few lines: a cluster in a usual state, then what differs.
//!
//! ```text
//! cluster 3x1 healthy            # new | pending | fresh | latched | healthy
//! spec replicas=2 paused=true    # shards, replicas, paused, purge, deleting, image, config.<key>
//! status whole=false             # formed, whole, served, shape
//! member 0-2                    # one replica more, in sync
//! pod 1-0 terminating            # by shard and index; absent, phase, ip, worker, gate, revision, failures, trouble, age,
//!                               # asked, pinned, counted, instead-of=<s>-<i>
//! spread node.shard=Required     # node|zone . shard|primaries|pods; pinned=a,b
//! worker w4 open zone=a          # closed, cordoned, shunned, room=<n>, lost=<ms ago>, out-of-service, removed
//! node 1-0 silent=Timeout        # role, slots, epoch, keys, link, isolated, admitted, state, loading, version, config.<key>,
//!                               # says=<id>: what it claims to be
//! peer 0-0 1-0 failed            # how the first lists the second: absent, handshake, failed, suspected, slots, ip, epoch
//! tls wanted=b/m given=a+b/l before=a/l    # <ca>+<ca>/<certificate>; refused, auth=required; node 0-0 tls=a/l
//! tls off                        # the spec does not ask for it any more; pod 0-1 bare: made without certificates
//! node 0-0 speaks=plain          # tls, half
//! node 0-0 data=1000 used=2000 limit=4000    # bytes; out=<s>-<i>:<slots>, in=…, job=<s>-<i>:<slots>[:failed]
//! dead 1-0 Refused              # no Pod, no process: everybody has lost it, and its replicas' links are down
//! user app on nopass +get        # a user of the spec, which every node has; user app missing: its Secret is not there
//! node 1-0 lacks=app has=eve     # users of a node; takes=old,new login=new: passwords of the system users; users=hidden
//! passwords new                  # those that the system users have now; passwords new former, passwords asked
//! unpodded 1-0                  # its Pod object is gone, its process answers as before
//! past lost                      # the process has just started: nothing is remembered
//! past home 1-0 w2               # the worker that a node is known to be on
//! suspected 1-0                  # by everybody
//! vouched n1-0                   # a person says that this process does not run any more
//! ghost dead ip=10.0.9.9 slots=0-99 seen=Refused by=0-0,1-0    # an id that no Pod accounts for
//! ```
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod apply;
#[path = "../bare/mod.rs"]
pub(crate) mod bare;
mod certificates;
mod memory;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use valkey_cluster_operator::model::settings;
use valkey_cluster_operator::model::users::{Accounts, Shown, described};
use valkey_cluster_operator::model::{
    Link, Moment, NodeId, NodeReport, OpenSlots, Past, Peer, Peers, Phase, Pod, PodName, PodUid, Revision,
    Role, Seen, Shard, Slots, Snapshot, Version, Worker, WorkerName,
};

use valkey_cluster_operator::plan::users;

/// The clock of every case, in milliseconds.
const NOW: i64 = 1_000_000;

/// How far the cluster is before anything differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    New,
    Pending,
    Fresh,
    Latched,
    Healthy,
}

/// Reads the lines of a case.
pub(crate) fn world(lines: &[&str]) -> Result<Snapshot, String> {
    let (first, rest) =
        lines.split_first().ok_or("a world begins with: cluster <shards>x<replicas> <state>")?;
    let mut s = cluster(first)?;
    for line in rest {
        apply::line(&mut s, line).map_err(|why| format!("{line:?}: {why}"))?;
    }
    Ok(s)
}

fn cluster(line: &str) -> Result<Snapshot, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["cluster", size, state] = words.as_slice() else {
        return Err(format!("cluster <shards>x<replicas> <state>, not {line:?}"));
    };
    let (shards, replicas) = size.split_once('x').ok_or("<shards>x<replicas>")?;
    let count = |t: &str| t.parse::<u16>().map_err(|_| format!("not a number: {t:?}"));
    let state = match *state {
        "new" => State::New,
        "pending" => State::Pending,
        "fresh" => State::Fresh,
        "latched" => State::Latched,
        "healthy" => State::Healthy,
        other => return Err(format!("unknown state {other:?}")),
    };
    let mut s = empty(count(shards)?, count(replicas)?);
    s.formed = state >= State::Latched;
    s.whole = state == State::Healthy;
    s.served = if s.whole { s.desired.shards().collect() } else { BTreeSet::new() };
    if state > State::New {
        let all: Vec<(Shard, u16)> =
            s.desired.shards().flat_map(|sh| (0..=s.desired.replicas).map(move |i| (sh, i))).collect();
        for (shard, index) in all {
            member(&mut s, shard, index, state);
        }
    }
    if state == State::Healthy {
        acquaint(&mut s);
        let mut past = Past::default();
        past.see(&s);
        s.past = past;
    }
    Ok(s)
}

fn empty(shards: u16, replicas: u16) -> Snapshot {
    Snapshot {
        now: Moment(NOW),
        desired: bare::desired(shards, replicas),
        revision: Revision::new("now"),
        formed: false,
        whole: false,
        served: BTreeSet::new(),
        shape: None,
        drifted: BTreeSet::new(),
        foreign: None,
        credentials_known: true,
        certificates: None,
        accounts: Some(accounts("old")),
        passwords: BTreeMap::new(),
        pods: BTreeMap::new(),
        taken: BTreeSet::new(),
        workers: (1..=3).map(|i| worker(&format!("w{i}"))).collect(),
        nodes: BTreeMap::new(),
        ghosts: BTreeMap::new(),
        low_timeout_budget: 40,
        applied: BTreeMap::new(),
        request: None,
        vouched: BTreeSet::new(),
        past: Past::default(),
    }
}

/// The passwords of the system users, by what their digests end with.
fn accounts(generation: &str) -> Accounts {
    Accounts {
        operator: format!("operator-{generation}"),
        replication: format!("replication-{generation}"),
        exporter: format!("exporter-{generation}"),
        ..Accounts::default()
    }
}

/// The users of a node that takes these passwords.
fn shown(generations: &[&str], version: Version, admitted: bool) -> Shown {
    let mut shown = users::of_file(&accounts("old"));
    for user in ["operator", "replication", "exporter"] {
        let digests: Vec<String> = generations.iter().map(|g| format!("{user}-{g}")).collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        let imports = user == "replication" && admitted && version >= settings::JOBS_SINCE;
        let user = format!("_{user}");
        let rules = users::system_rules(&user, user != "_replication" || admitted, imports, &digests);
        shown.insert(user, described(&rules).unwrap());
    }
    shown
}

fn worker(name: &str) -> (WorkerName, Worker) {
    (WorkerName::new(name), bare::worker(name, None))
}

fn ip(shard: Shard, index: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, u8::try_from(shard.0).unwrap_or(255), u8::try_from(index).unwrap_or(255)))
}

fn node_id(shard: Shard, index: u16) -> NodeId {
    NodeId::new(format!("n{shard}-{index}"))
}

fn pod_name(shard: Shard, index: u16) -> PodName {
    PodName::new(format!("valkey-c-{shard}-{index}"))
}

/// A Pod in the usual place: copies of a shard on neighbouring workers.
fn member(s: &mut Snapshot, shard: Shard, index: u16, state: State) {
    let started = state > State::Pending;
    let pod = Pod {
        worker: Some(WorkerName::new(format!("w{}", 1 + (shard.0 + index) % 3))),
        ip: started.then(|| ip(shard, index)),
        phase: if started { Phase::Running } else { Phase::Pending },
        gate: (state == State::Healthy).then_some(true),
        exporting: true,
        leads: state == State::Healthy && index == 0,
        created: Moment(NOW - 5000),
        ..Pod::new(
            pod_name(shard, index),
            PodUid::new(format!("u{shard}-{index}")),
            (shard, index),
            s.revision.clone(),
        )
    };
    if started {
        s.nodes.insert(pod.uid.clone(), Seen::Now(report(s, shard, index, state)));
    }
    s.pods.insert(pod.name.clone(), pod);
}

/// One replica more than the cluster of this size has, in sync and known by all.
fn one_more(s: &mut Snapshot, (shard, index): (Shard, u16)) {
    member(s, shard, index, State::Healthy);
    let primary = PodUid::new(format!("u{shard}-0"));
    if let Some(Seen::Now(node)) = s.nodes.get_mut(&primary) {
        node.online_replicas.insert(ip(shard, index));
    }
    acquaint(s);
}

fn report(s: &Snapshot, shard: Shard, index: u16, state: State) -> NodeReport {
    let healthy = state == State::Healthy;
    let role = match (healthy, index) {
        (true, 0) => Role::Primary { slots: Slots::share(shard.0, s.desired.shards) },
        (true, _) => {
            Role::Replica { of: node_id(shard, 0), link: Link { up: true, syncing: false, offset: 100 } }
        }
        (false, _) => Role::Primary { slots: Slots::none() },
    };
    let version = Version::new(9, 1, 2);
    let timeout =
        if state == State::Latched { settings::FORMING_TIMEOUT_MS } else { s.desired.node_timeout_ms() };
    let mut config = settings::managed(version, timeout);
    config.insert("cluster-replica-no-failover".into(), "no".into());
    config.insert("maxmemory-policy".into(), "noeviction".into());
    config.insert("maxmemory".into(), "0".into());
    NodeReport {
        id: node_id(shard, index),
        version,
        uptime_ms: 5000,
        role,
        open_slots: OpenSlots::default(),
        jobs: Vec::new(),
        memory: None,
        state_ok: healthy,
        epoch: if healthy { u64::from(shard.0) + 1 } else { 0 },
        peers: Peers::default(),
        online_replicas: if healthy && index == 0 {
            (1..=s.desired.replicas).map(|i| ip(shard, i)).collect()
        } else {
            BTreeSet::new()
        },
        keys: if healthy { 10 } else { 0 },
        loading: false,
        admitted: state >= State::Latched,
        users: Some(shown(&["old"], version, state >= State::Latched)),
        primary_password: Some("replication-old".into()),
        config,
    }
}

/// Everybody lists everybody, as each says of itself.
fn acquaint(s: &mut Snapshot) {
    let reports: Vec<(IpAddr, NodeReport)> =
        s.pods.values().filter_map(|p| Some((p.ip?, s.nodes.get(&p.uid)?.now()?.clone()))).collect();
    for seen in s.nodes.values_mut() {
        let Seen::Now(node) = seen else { continue };
        let others = reports.iter().filter(|(_, r)| r.id != node.id);
        node.peers = others.map(|(ip, r)| (r.id.clone(), listed(*ip, r))).collect();
    }
}

fn listed(ip: IpAddr, r: &NodeReport) -> Peer {
    let replica_of = match &r.role {
        Role::Replica { of, .. } => Some(of.clone()),
        Role::Primary { .. } => None,
    };
    Peer {
        ip: Some(ip),
        replica_of,
        slots: r.slots().clone(),
        epoch: r.epoch,
        handshake: false,
        failed: false,
        suspected: false,
        connected: true,
    }
}
