//! What every world of a test begins with: a worker that nothing is said against, and a spec that asks for nothing special.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use valkey_cluster_operator::model::{ClusterKey, Desired, Worker, WorkerName, Zone};

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
