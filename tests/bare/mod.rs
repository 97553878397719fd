//! What every world of a test begins with: a worker that nothing is said against, and a spec that asks for nothing special.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::net::{IpAddr, Ipv4Addr};

use valkey_cluster_operator::model::{
    Answer, Brief, ClusterKey, Desired, NodeId, NodeReport, Numbers, Role, Worker, WorkerName, Zone,
};

/// A worker that takes members.
pub(crate) fn worker(name: &str, zone: Option<Zone>) -> Worker {
    Worker {
        name: WorkerName::new(name),
        hostname: name.to_owned(),
        zone,
        open: true,
        leaving: false,
        lost_since: None,
        out_of_service: false,
        shunned: false,
        room: None,
    }
}

/// The first spec of a cluster of so many shards.
pub(crate) fn desired(shards: u16, replicas: u16) -> Desired {
    Desired {
        key: ClusterKey { namespace: "default".into(), name: "c".into(), uid: "uid-c".into() },
        generation: 1,
        shards,
        replicas,
        max_disrupted_shards: 1,
        budget: true,
        ..Desired::default()
    }
}

/// What a node says in brief that would say all this at length. `address_of` tells where it lists a node.
pub(crate) fn brief(
    report: NodeReport,
    numbers: Numbers,
    address_of: impl Fn(&NodeId) -> Option<IpAddr>,
) -> Answer {
    let copies = match &report.role {
        Role::Primary { .. } => None,
        Role::Replica { of, link } => {
            Some((address_of(of).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), *link))
        }
    };
    Answer::Brief(Box::new(Brief {
        numbers,
        copies,
        slots: report.slots().clone(),
        id: report.id,
        state_ok: report.state_ok,
        epoch: report.epoch,
        online_replicas: report.online_replicas,
        keys: report.keys,
        memory: None,
        primary_password: report.primary_password,
        config: report.config,
    }))
}
