//! The worlds that are told of, and how what is said of them is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use valkey_cluster_operator::{
    api::ValkeyClusterStatus,
    model::{
        ClusterKey, Desired, Done, Link, Moment, NodeId, NodeReport, OpenSlots, Outcome, Past, Peer, Phase,
        Plan, Pod, PodName, PodUid, Revision, Role, Seen, Shard, Slots, Snapshot, Version, WorkerName,
        plan::Attempts,
    },
    plan::plan,
    report::{Report, report},
};

use super::plan_world::bare;

/// 2026-01-02T03:04:05Z.
pub(crate) const START: i64 = 1_767_323_045_000;

pub(crate) fn golden(name: &str, report: &Report) {
    let mut text = serde_saphyr::to_string(&serde_json::to_value(&report.status).unwrap()).unwrap();
    for event in &report.events {
        let kind = if event.warning { "Warning" } else { "Normal" };
        writeln!(text, "# {kind} {}: {}", event.reason, event.note).unwrap();
    }
    let (shards, members, spread) =
        (&report.gauges.shards, &report.gauges.members, report.gauges.worker_spread);
    writeln!(text, "# shards {shards:?} members {members:?} spread {spread}").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report").join(format!("{name}.yaml"));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{name} differs; look at it, then run `UPDATE=1 cargo test --test report_golden`\n{text}"
    );
}

/// Three shards with this many replicas, on three workers, nothing there yet.
pub(crate) fn empty(replicas: u16) -> Snapshot {
    let workers = (0..3).map(|i| bare::worker(&format!("w{i}"), None));
    Snapshot {
        now: Moment(START),
        desired: Desired {
            key: ClusterKey { namespace: "ns".into(), name: "c".into(), uid: "u".into() },
            ..bare::desired(3, replicas)
        },
        revision: Revision::new("r1"),
        formed: false,
        whole: false,
        drifted: BTreeSet::new(),
        pods: BTreeMap::new(),
        taken: BTreeSet::new(),
        workers: workers.map(|w| (w.name.clone(), w)).collect(),
        nodes: BTreeMap::new(),
        ghosts: BTreeMap::new(),
        low_timeout_budget: 40,
        past: Past::default(),
        served: (0..3).map(Shard).collect(),
        shape: None,
        applied: BTreeMap::new(),
        credentials_known: true,
        certificates: None,
        accounts: None,
        passwords: BTreeMap::new(),
        foreign: None,
        request: None,
        vouched: BTreeSet::new(),
    }
}

pub(crate) fn pod_uid(shard: u16, index: u16) -> PodUid {
    PodUid::new(format!("uid-{shard}-{index}"))
}

pub(crate) fn pod_name(shard: u16, index: u16) -> PodName {
    PodName::new(format!("valkey-c-{shard}-{index}"))
}

pub(crate) fn ip(shard: u16, index: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, shard.try_into().unwrap(), index.try_into().unwrap()))
}

pub(crate) fn id(shard: u16, index: u16) -> NodeId {
    NodeId::new(format!("{shard}{index}").repeat(20))
}

pub(crate) fn pod(shard: u16, index: u16, phase: Phase) -> Pod {
    Pod {
        worker: Some(WorkerName::new(format!("w{}", (shard + index) % 3))),
        ip: (phase == Phase::Running).then(|| ip(shard, index)),
        phase,
        created: Moment(START),
        ..Pod::new(pod_name(shard, index), pod_uid(shard, index), (Shard(shard), index), Revision::new("r1"))
    }
}

/// Every pod exists and has not started.
pub(crate) fn pending(replicas: u16) -> Snapshot {
    let mut s = empty(replicas);
    for (shard, index) in places(replicas) {
        s.pods.insert(pod_name(shard, index), pod(shard, index, Phase::Pending));
    }
    s
}

pub(crate) fn places(replicas: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..3).flat_map(move |shard| (0..=replicas).map(move |index| (shard, index)))
}

pub(crate) fn node(replicas: u16, shard: u16, index: u16) -> NodeReport {
    let slots_of = |shard: u16| Slots::share(shard, 3);
    let peers = places(replicas).filter(|at| *at != (shard, index)).map(|(s, i)| {
        let peer = Peer {
            ip: Some(ip(s, i)),
            replica_of: (i > 0).then(|| id(s, 0)),
            slots: if i == 0 { slots_of(s) } else { Slots::none() },
            epoch: u64::from(s * 10 + i + 1),
            handshake: false,
            failed: false,
            suspected: false,
            connected: true,
        };
        (id(s, i), peer)
    });
    let link = Link { up: true, syncing: false, offset: 100 };
    NodeReport {
        id: id(shard, index),
        version: Version::new(9, 1, 2),
        uptime_ms: 60_000,
        role: if index == 0 {
            Role::Primary { slots: slots_of(shard) }
        } else {
            Role::Replica { of: id(shard, 0), link }
        },
        open_slots: OpenSlots::default(),
        jobs: Vec::new(),
        memory: None,
        state_ok: true,
        epoch: u64::from(shard * 10 + index + 1),
        peers: peers.collect(),
        online_replicas: if index == 0 {
            (1..=replicas).map(|i| ip(shard, i)).collect()
        } else {
            BTreeSet::new()
        },
        keys: 0,
        loading: false,
        admitted: true,
        users: Some([("default".to_owned(), "on nopass ~* &* +@all".to_owned())].into()),
        primary_password: None,
        config: [
            ("cluster-node-timeout", "2000"),
            ("cluster-manual-failover-timeout", "1000"),
            ("cluster-replica-no-failover", "no"),
            ("shutdown-on-sigterm", "failover"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
    }
}

/// Formed and in sync.
pub(crate) fn formed(replicas: u16) -> Snapshot {
    let mut s = empty(replicas);
    s.formed = true;
    s.whole = true;
    for (shard, index) in places(replicas) {
        let mut running = pod(shard, index, Phase::Running);
        running.gate = Some(true);
        running.leads = index == 0;
        s.pods.insert(pod_name(shard, index), running);
        s.nodes.insert(pod_uid(shard, index), Seen::Now(node(replicas, shard, index)));
    }
    s
}

pub(crate) fn lose(s: &mut Snapshot, shard: u16, index: u16) {
    s.pods.remove(&pod_name(shard, index));
    s.nodes.remove(&pod_uid(shard, index));
}

pub(crate) fn change(s: &mut Snapshot, shard: u16, index: u16, change: impl Fn(&mut NodeReport)) {
    let Some(Seen::Now(node)) = s.nodes.get_mut(&pod_uid(shard, index)) else { panic!("no such node") };
    change(node);
}

pub(crate) fn planned(s: &Snapshot) -> Plan {
    plan(s, &Attempts::default())
}

pub(crate) fn done(plan: &Plan) -> Vec<Done> {
    plan.steps.iter().map(|p| Done { proposal: p.clone(), outcome: Outcome::Done }).collect()
}

pub(crate) fn said(s: &Snapshot, previous: Option<&ValkeyClusterStatus>) -> Report {
    let plan = planned(s);
    report(s, &plan, &done(&plan), previous)
}

pub(crate) fn healthy() -> ValkeyClusterStatus {
    said(&formed(1), None).status
}
