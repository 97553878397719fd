//! The operator's own network fails: nodes that it alone cannot reach, or the API server is away for a while.
//!
//! Without the API server nobody changes anything there: no person, no scheduler, no kubelet. An operator that runs goes on with
//! what its watches have told it, until its lease has ended; one that starts meanwhile knows nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use valkey_cluster_operator::lease::Standing;
use valkey_cluster_operator::model::{Plan, Pod, PodName, Snapshot, Worker, WorkerName};
use valkey_cluster_operator::standby;

use super::operator::Operator;
use super::script::Action;
use super::ticks;
use super::valkey::Node;
use super::world::World;

/// For so long after its last renewal a lease is good, in milliseconds (`renew_deadline`).
const LEASE_MS: i64 = 10_000;

/// What the watches have told before the API server went away.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Away {
    since: i64,
    pods: BTreeMap<PodName, Pod>,
    workers: BTreeMap<WorkerName, Worker>,
}

impl World {
    /// It goes away, or is back.
    pub(crate) fn api(&mut self, back: bool) {
        self.kube.unreachable = !back;
        if back {
            self.away = None;
            self.operators.iter_mut().for_each(|o| o.blind = false);
            self.wake();
        } else if self.away.is_none() {
            let pods = self.kube.pods.iter().map(|(n, o)| (n.clone(), o.pod.clone())).collect();
            let workers = self.kube.workers.iter().map(|(n, w)| (n.clone(), w.seen())).collect();
            self.away = Some(Away { since: self.now, pods, workers });
        }
    }

    /// What is done through the API server, and cannot be done while that is away.
    pub(crate) fn cannot_be_asked(&self, action: &Action) -> bool {
        self.away.is_some()
            && matches!(
                action,
                Action::Shards(_)
                    | Action::Replicas(_)
                    | Action::Image(_)
                    | Action::Config(..)
                    | Action::Paused(_)
                    | Action::Purge(_)
                    | Action::User(..)
                    | Action::Disrupted(_)
                    | Action::Delete(_)
                    | Action::ForceDelete(_)
                    | Action::Cordon(_)
                    | Action::Uncordon(_)
                    | Action::Fence(_)
                    | Action::Vouch
                    | Action::Shutdown(_)
                    | Action::Boot(_)
                    | Action::Operators(_)
                    | Action::Certificate(..)
                    | Action::Rotate
                    | Action::Drift
            )
    }

    /// A look at the nodes through what the watches have told last; none of an operator that was not there then.
    pub(crate) fn look_without_api(&self, operator: &mut Operator) -> Option<Snapshot> {
        let away = self.away.as_ref()?;
        let seen = self.snapshot_with(
            away.pods.clone(),
            &operator.applied,
            &operator.past_looks,
            &mut operator.looks,
        );
        Some(Snapshot { workers: away.workers.clone(), ..seen })
    }

    /// Leaves in the plan what may be done without a lease, once that has ended.
    pub(crate) fn restrict(&self, plan: &mut Plan, operator: &Operator, s: &Snapshot) {
        if self.away.as_ref().is_some_and(|away| self.now - away.since >= ticks(LEASE_MS)) {
            standby::restrict(plan, Standing::Expired, &operator.past_looks, s.now);
        }
    }

    /// The process at an address, if it answers the operator.
    pub(crate) fn heard(&self, ip: IpAddr) -> Option<&Node> {
        self.valkey.listening(ip, None).filter(|n| !self.valkey.hidden.contains(&n.worker))
    }

    /// Nothing comes back from this address: it is on a worker that the operator cannot reach.
    pub(crate) fn is_hidden(&self, ip: IpAddr) -> bool {
        let hidden = &self.valkey.hidden;
        let there = |o: &&super::kubernetes::PodObject| o.pod.ip == Some(ip);
        !hidden.is_empty()
            && (self.valkey.nodes.values().any(|n| n.ip == ip && hidden.contains(&n.worker))
                || self
                    .kube
                    .pods
                    .values()
                    .filter(there)
                    .any(|o| o.pod.worker.as_ref().is_some_and(|w| hidden.contains(w))))
    }
}
