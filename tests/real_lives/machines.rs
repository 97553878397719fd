//! The workers, and what their kubelets do: Pods become processes, processes that end are told of, and what was told to go holds on in its
//! own hook.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use valkey_cluster_operator::model::Version;

use super::NAMESPACE;
use super::addresses::Addresses;
use super::kubelet::Guest;
use super::scheduler::{self, Place};
use crate::sim::world::Start;
use crate::support::apiserver::ApiServer;

/// After so long without a sign of its kubelet a worker is not ready.
const GRACE: Duration = Duration::from_secs(4);
/// The time that a kubelet gives its Pods when its worker shuts down.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(20);
/// Room for all.
const ROOM: usize = 100;
/// A kubelet looks at the files of its Pods this often: sooner than the real one, which takes up to 90 s.
const FILES: Duration = Duration::from_secs(1);

/// A worker.
#[derive(Default)]
pub(crate) struct Machine {
    zone: Option<String>,
    pub cordoned: bool,
    pub fenced: bool,
    pub room: usize,
    /// Nobody hears it since then: its network is cut, or it has no power.
    pub(super) away: Option<Instant>,
    off: bool,
    /// The operators alone cannot reach it.
    pub hidden: bool,
    pub(super) shutdown: Option<Instant>,
    /// It starts again as soon as it has shut down.
    boots: bool,
    /// What its object says: whether it is ready, since when, and whether it is cordoned or vouched for.
    shown: Option<(&'static str, bool, bool)>,
    since: Option<Timestamp>,
}

/// Everything that runs.
pub(crate) struct Machines {
    pub(super) api: ApiServer,
    pods: Api<Pod>,
    pub workers: BTreeMap<String, Machine>,
    pub(super) guests: BTreeMap<String, Guest>,
    pub(super) programs: BTreeMap<Version, String>,
    /// What an image runs whose tag is no full version.
    pub(super) version: Version,
    pub(super) addresses: Addresses,
    pub(super) rng: StdRng,
    looked: Instant,
}

impl Machines {
    pub(crate) fn new(api: ApiServer, start: &Start, programs: &BTreeMap<Version, String>) -> Self {
        let zone = |i: usize| (start.zones > 0).then(|| format!("z{}", (i - 1) % start.zones + 1));
        let machine =
            |i: usize| (format!("w{i}"), Machine { zone: zone(i), room: ROOM, ..Machine::default() });
        Self {
            pods: Api::namespaced(api.client(NAMESPACE), NAMESPACE),
            api,
            workers: (1..=start.workers).map(machine).collect(),
            guests: BTreeMap::new(),
            programs: programs.clone(),
            version: start.version,
            addresses: Addresses::new(start.reuse_addresses),
            rng: StdRng::seed_from_u64(start.seed),
            looked: Instant::now(),
        }
    }

    /// Nothing is wrong with any worker.
    pub(crate) fn at_peace(&self) -> bool {
        let well = |m: &Machine| {
            !m.cordoned && !m.hidden && m.room == ROOM && m.away.is_none() && m.shutdown.is_none()
        };
        self.workers.values().all(well)
    }

    /// The addresses on workers that the operators cannot reach.
    pub(crate) fn hidden(&self) -> BTreeSet<IpAddr> {
        let hidden = self.guests.values().filter(|g| self.workers[&g.worker].hidden);
        hidden.filter_map(|g| g.server.as_ref().map(|s| s.ip)).collect()
    }

    /// Where servers run that somebody can reach: Pod, process and address.
    pub(crate) fn running(&self) -> Vec<(String, SocketAddr)> {
        let reached = |g: &&Guest| self.workers[&g.worker].away.is_none();
        let at = |(uid, g): (&String, &Guest)| {
            g.server.as_ref().map(|s| (uid.clone(), SocketAddr::new(s.ip, 6379)))
        };
        self.guests.iter().filter(|(_, g)| reached(g)).filter_map(at).collect()
    }

    /// SIGKILL of these Pods' servers, all at one moment.
    pub(crate) fn kill(&mut self, uids: &BTreeSet<String>) {
        for (_, guest) in self.guests.iter_mut().filter(|(uid, _)| uids.contains(*uid)) {
            if let Some(server) = &mut guest.server {
                server.kill();
            }
        }
    }

    /// Nobody hears the worker any more. Its processes stand still: that they live on behind a cut is the one thing that is not shown.
    pub(crate) fn silence(&mut self, worker: &str, off: bool) {
        let Some(machine) = self.workers.get_mut(worker) else { return };
        machine.away = machine.away.or(Some(Instant::now()));
        machine.off |= off;
        self.signal(worker, "STOP");
    }

    /// Its network is back, if it was that.
    pub(crate) fn heal(&mut self, worker: &str) {
        let Some(machine) = self.workers.get_mut(worker).filter(|m| !m.off) else { return };
        machine.away = None;
        self.signal(worker, "CONT");
    }

    fn signal(&self, worker: &str, name: &str) {
        for server in self.guests.values().filter(|g| g.worker == worker).filter_map(|g| g.server.as_ref()) {
            server.signal(name);
        }
    }

    /// Power again, or as soon as it has shut down: its kubelet says which servers have ended.
    pub(crate) fn boot(&mut self, worker: &str) {
        let Some(machine) = self.workers.get_mut(worker) else { return };
        if !machine.off {
            machine.boots = machine.shutdown.is_some();
            return;
        }
        (machine.away, machine.off, machine.shutdown, machine.boots) = (None, false, None, false);
        for guest in self.guests.values_mut().filter(|g| g.worker == worker) {
            if let Some(server) = &mut guest.server {
                server.kill();
                guest.lost = true;
            }
        }
    }

    pub(crate) fn shut_down(&mut self, worker: &str) {
        if let Some(machine) = self.workers.get_mut(worker) {
            machine.shutdown = Some(Instant::now());
        }
    }

    /// What scheduler, node controller and kubelets do now.
    pub(crate) async fn tick(&mut self) {
        self.shutdowns();
        self.show_workers();
        let all: Vec<Pod> = self.api.all();
        self.schedule(&all).await;
        let files = self.looked.elapsed() >= FILES;
        if files {
            self.looked = Instant::now();
        }
        for pod in &all {
            self.kubelet(pod, files).await;
        }
        let known: BTreeSet<String> = all.iter().filter_map(ResourceExt::uid).collect();
        self.orphans(&known);
    }

    fn shutdowns(&mut self) {
        let runs = |guests: &BTreeMap<String, Guest>, name: &str| {
            guests.values().any(|g| g.worker == name && g.server.is_some())
        };
        let over = |(name, machine): &(&String, &Machine)| {
            let since = machine.shutdown.filter(|_| !machine.off);
            since.is_some_and(|since| !runs(&self.guests, name) || since.elapsed() > SHUTDOWN)
        };
        let down: Vec<String> = self.workers.iter().filter(over).map(|(name, _)| name.clone()).collect();
        for name in down {
            self.silence(&name, true);
        }
        let up: Vec<String> =
            self.workers.iter().filter(|(_, m)| m.off && m.boots).map(|(n, _)| n.clone()).collect();
        for name in up {
            self.boot(&name);
        }
    }

    fn show_workers(&mut self) {
        for (name, machine) in &mut self.workers {
            let lost = machine.away.is_some_and(|since| since.elapsed() >= GRACE);
            let (status, message) = match (lost, machine.shutdown.is_some()) {
                (true, _) => ("Unknown", "Kubelet stopped posting node status."),
                (false, true) => ("False", "node is shutting down"),
                (false, false) => ("True", "kubelet is posting ready status"),
            };
            let shown = (status, machine.cordoned, machine.fenced);
            if machine.shown == Some(shown) {
                continue;
            }
            machine.since = machine.since.filter(|_| machine.shown.is_some_and(|(s, ..)| s == status));
            let since = *machine.since.get_or_insert_with(Timestamp::now);
            machine.shown = Some(shown);
            let taint = |key: &str, effect: &str| json!({ "key": key, "effect": effect });
            let cordon = machine.cordoned.then(|| taint("node.kubernetes.io/unschedulable", "NoSchedule"));
            let fence = machine.fenced.then(|| taint("node.kubernetes.io/out-of-service", "NoExecute"));
            let taints: Vec<Value> = cordon.into_iter().chain(fence).collect();
            let mut labels = json!({ "kubernetes.io/hostname": name });
            if let Some(zone) = &machine.zone {
                labels["topology.kubernetes.io/zone"] = json!(zone);
            }
            let node = json!({
                "metadata": { "name": name, "labels": labels },
                "spec": { "unschedulable": machine.cordoned, "taints": taints },
                "status": {
                    "conditions": [{ "type": "Ready", "status": status, "message": message,
                        "lastTransitionTime": since.to_string() }],
                    "allocatable": { "pods": "110" },
                },
            });
            self.api.put(&serde_json::from_value::<Node>(node).unwrap());
        }
    }

    async fn schedule(&mut self, all: &[Pod]) {
        let takes = |m: &Machine| {
            !m.cordoned
                && !m.fenced
                && m.shutdown.is_none()
                && m.away.is_none_or(|since| since.elapsed() < GRACE)
        };
        let place =
            |(name, m): (&String, &Machine)| Place { name: name.clone(), zone: m.zone.clone(), room: m.room };
        let open: Vec<Place> = self.workers.iter().filter(|(_, m)| takes(m)).map(place).collect();
        let unbound = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.node_name.is_none());
        let mut all = all.to_vec();
        for i in 0..all.len() {
            let pod = &all[i];
            if !unbound(pod) || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if let Some(place) = scheduler::choose(pod, &open, &all) {
                self.patch(pod, json!({ "spec": { "nodeName": place.name } }), false).await;
                // The next one counts it.
                all[i].spec.get_or_insert_default().node_name = Some(place.name.clone());
            } else {
                let message = format!("0/{} nodes are available", self.workers.len());
                let condition = json!({ "type": "PodScheduled", "status": "False",
                    "reason": "Unschedulable", "message": message });
                self.patch(pod, json!({ "status": { "conditions": [condition] } }), true).await;
            }
        }
    }

    /// As a kubelet does: of what others write at the same time nothing is undone.
    pub(super) async fn patch(&self, pod: &Pod, mut body: Value, status: bool) {
        body["metadata"]["uid"] = json!(pod.uid());
        let (name, params) = (pod.name_any(), PatchParams::default());
        let body = Patch::Strategic(body);
        // It may be gone by now.
        let _ = if status {
            self.pods.patch_status(&name, &params, &body).await
        } else {
            self.pods.patch(&name, &params, &body).await
        };
    }
}
