//! What a process remembers of earlier looks at a cluster: hints that may be lost at any moment.
//!
//! Nothing is decided by what is missing here but to wait: a replica that is not known to have been in sync is left to
//! Valkey's own election, and a member whose silence has only just begun is given more time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ids::{Moment, NodeId, PodUid, WorkerName};
use super::snapshot::{NodeReport, Role, Seen, Snapshot};
use super::step::Step;

/// How long a forced failover may be under way without a sign of it, in milliseconds: the `cluster-manual-failover-timeout`
/// that every node from 8.1 on runs with. On 8.0 it is 5 s, and a second attempt meanwhile does no harm: the replica
/// answers OK and goes on.
pub const FLIGHT_MS: i64 = 1000;

/// How long a worker that had no room for a member is not tried again, in milliseconds.
const REFUSED_MS: i64 = 600_000;

/// The hints of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Past {
    /// Replica → with whom it was last seen in sync, while it still follows that one.
    pub synced: BTreeMap<NodeId, Synced>,
    /// Dead primary → when a failover for it was last forced.
    pub flights: BTreeMap<NodeId, Moment>,
    /// Pod → since when its node has not answered.
    pub silent: BTreeMap<PodUid, Moment>,
    /// Since when somebody lists slots under an id that does not answer.
    pub headless: Option<Moment>,
    /// Worker → when the scheduler last refused to move a member there.
    pub refused: BTreeMap<WorkerName, Moment>,
}

/// A replica was seen in sync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synced {
    /// With this primary.
    pub primary: NodeId,
    /// Bytes of the replication stream that it had then.
    pub offset: u64,
}

impl Past {
    /// Adds what this look shows.
    pub fn see(&mut self, s: &Snapshot) {
        let reports: Vec<&NodeReport> =
            s.nodes.values().chain(s.ghosts.values()).filter_map(Seen::now).collect();
        // A look that shows nobody says nothing about anybody.
        if !reports.is_empty() {
            let listed: BTreeSet<&NodeId> =
                reports.iter().flat_map(|n| n.peers.keys().chain([&n.id])).collect();
            self.synced.retain(|id, _| listed.contains(id));
        }
        let addresses: BTreeMap<&NodeId, IpAddr> =
            s.pods.values().filter_map(|p| Some((&s.nodes.get(&p.uid)?.now()?.id, p.ip?))).collect();
        for node in &reports {
            let Role::Replica { of, link } = &node.role else {
                self.synced.remove(&node.id);
                continue;
            };
            let online = |p: &&&NodeReport| {
                p.id == *of && addresses.get(&node.id).is_some_and(|ip| p.online_replicas.contains(ip))
            };
            if link.in_sync() && !node.loading && reports.iter().any(|p| online(&p)) {
                let now = Synced { primary: of.clone(), offset: link.offset };
                self.synced.insert(node.id.clone(), now);
            } else if self.synced.get(&node.id).is_some_and(|last| last.primary != *of) {
                self.synced.remove(&node.id);
            }
        }
        self.silent.retain(|uid, _| matches!(s.nodes.get(uid), Some(Seen::Silent(_))));
        for (uid, seen) in &s.nodes {
            if matches!(seen, Seen::Silent(_)) {
                self.silent.entry(uid.clone()).or_insert(s.now);
            }
        }
        let there: BTreeSet<&NodeId> = s.nodes.values().filter_map(Seen::now).map(|n| &n.id).collect();
        let missing =
            |n: &&NodeReport| n.peers.iter().any(|(id, p)| !p.slots.is_empty() && !there.contains(id));
        self.headless = reports.iter().any(missing).then(|| self.headless.unwrap_or(s.now));
        for pod in s.pods.values().filter(|p| p.place.instead_of.is_some() && p.is_unschedulable()) {
            self.refused.extend(pod.place.asked.clone().map(|w| (w, s.now)));
        }
        self.refused.retain(|_, at| s.now < at.plus_ms(REFUSED_MS));
        self.flights.retain(|_, at| s.now < at.plus_ms(FLIGHT_MS));
    }

    /// Notes an effect whose success shows only later.
    pub fn done(&mut self, step: &Step, now: Moment) {
        if let Step::Promote { dead, .. } = step {
            self.flights.insert(dead.clone(), now);
        }
    }

    /// The replica completed a full sync of this very primary: how far it had come when that was last seen.
    pub fn synced_with(&self, replica: &NodeId, primary: &NodeId) -> Option<u64> {
        self.synced.get(replica).filter(|s| s.primary == *primary).map(|s| s.offset)
    }

    /// Milliseconds for which the node of this Pod has not answered.
    pub fn silent_for(&self, uid: &PodUid, now: Moment) -> i64 {
        self.silent.get(uid).map_or(0, |since| now.since(*since))
    }
}
