//! The API server, the scheduler and the kubelets: Pods with UIDs, workers, addresses that are used again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::{
    Demands, Moment, NodeId, Object, Phase, Place, Pod, PodName, PodUid, Revision, Shard, Trouble, Worker,
    WorkerName, Zone,
};

use super::bare;
use super::certificates::Secrets;
use super::{TICK_MS, ticks};

/// The node controller's patience with a kubelet, in milliseconds (shorter than the default of 40 s, so that lives stay
/// short).
const GRACE_MS: i64 = 4000;

/// A Pod as the API server has it, and what the kubelet is about to do with it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PodObject {
    pub pod: Pod,
    pub image: String,
    /// The worker that its affinity asks for.
    pub wanted: Option<WorkerName>,
    /// What it demands of the scheduler.
    pub demands: Demands,
    /// It carries the term that keeps it off workers with copies of its shard that count.
    pub strict: bool,
    /// It carries the constraint that copies of its shard that count are even over the zones.
    pub even: bool,
    /// When the kubelet starts the server.
    pub starts_at: Option<i64>,
    /// When its server ends, after it was told to go.
    pub stops_at: Option<i64>,
    /// Its preStop hook has ended.
    pub let_go: bool,
    /// When the object leaves the API server.
    pub gone_at: Option<i64>,
    pub started_at: Option<i64>,
    pub process: Option<NodeId>,
}

impl PodObject {
    pub(crate) fn told_to_go(&self) -> bool {
        self.pod.terminating || self.pod.disrupted
    }

    /// Its server ends in a moment, whatever happens.
    pub(crate) fn is_ending(&self) -> bool {
        self.let_go || (self.pod.terminating && self.gone_at.is_some())
    }
}

/// For how many ticks a preStop hook holds on at most: the default grace period less 15 s.
const HOLD: i64 = 2850;

/// The time that a kubelet gives its Pods when its worker shuts down (`shutdownGracePeriod`), in milliseconds.
const SHUTDOWN_MS: i64 = 20_000;

/// A worker that shuts down.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Shutdown {
    /// At this tick it has no power any more.
    pub off_at: i64,
    /// It starts again then.
    pub boots: bool,
}

/// A worker, and how many Pods of this cluster it has room for.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct WorkerObject {
    pub worker: Worker,
    pub capacity: usize,
    /// Without power.
    pub off: bool,
    /// Its kubelet ends all Pods, or has done so.
    pub shutdown: Option<Shutdown>,
    /// Its kubelet has not been heard since this tick.
    pub away_since: Option<i64>,
    /// Since this tick it would have taken any Pod.
    pub free_since: Option<i64>,
}

/// Room for so many Pods is room for all.
const ROOM: usize = 100;

impl WorkerObject {
    /// As the API server shows it: nothing is placed on one that is not Ready.
    pub(crate) fn seen(&self) -> Worker {
        Worker { open: self.is_open(), ..self.worker.clone() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.worker.open && self.worker.lost_since.is_none() && self.shutdown.is_none()
    }
}

/// What the API server holds, and what the machines do.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Kubernetes {
    pub pods: BTreeMap<PodName, PodObject>,
    pub workers: BTreeMap<WorkerName, WorkerObject>,
    pub drifted: BTreeSet<Object>,
    pub secrets: Secrets,
    /// New Pods get the address that was freed last, not the one that was free longest.
    pub reuse_addresses: bool,
    /// The API server is away: nothing is scheduled, written or removed.
    pub unreachable: bool,
    next_uid: u64,
    next_ip: u32,
    free_ips: Vec<IpAddr>,
}

/// What the kubelets ask of the world after a tick.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Kubelet {
    /// The server of this Pod starts.
    Start(PodName),
    /// The server of this Pod crashes.
    Crash(PodName),
    /// The server of this Pod has been told to end and does so now.
    Stop(PodName),
    /// The object of this Pod is removed.
    Gone(PodName),
}

impl Kubernetes {
    pub(crate) fn add_worker(&mut self, name: &str, zone: Option<Zone>, capacity: usize) {
        let worker = bare::worker(name, zone);
        let name = worker.name.clone();
        self.workers.insert(
            name,
            WorkerObject {
                worker,
                capacity,
                off: false,
                shutdown: None,
                away_since: None,
                free_since: Some(0),
            },
        );
    }

    pub(crate) fn create(&mut self, new: NewPod, now: i64) {
        self.next_uid += 1;
        let uid = PodUid::new(format!("u{}", self.next_uid));
        let pod = Pod {
            failures: new.failures,
            encrypted: new.encrypted,
            exporting: true,
            place: Place {
                asked: new.worker.clone(),
                pinned: new.demands.zone.clone(),
                counted: (new.strict || new.even) && !new.demands.uncounted,
                instead_of: new.demands.instead_of.clone(),
            },
            created: Moment(now * TICK_MS),
            ..Pod::new(new.name.clone(), uid, (new.shard, new.index), new.revision)
        };
        let object = PodObject {
            pod,
            image: new.image,
            wanted: new.worker,
            demands: new.demands,
            strict: new.strict,
            even: new.even,
            starts_at: None,
            stops_at: None,
            let_go: false,
            gone_at: None,
            started_at: None,
            process: None,
        };
        self.pods.insert(new.name, object);
    }

    /// Sets `deletionTimestamp`. A server holds on in its preStop hook (`stops_at` is when that gives up); one that has
    /// ended, or never ran, is gone soon.
    pub(crate) fn delete(&mut self, name: &PodName, now: i64, rng: &mut StdRng) {
        if let Some(object) = self.pods.get_mut(name).filter(|o| !o.pod.terminating) {
            object.pod.terminating = true;
            let runs = object.pod.phase == Phase::Running;
            object.stops_at = runs.then(|| object.stops_at.map_or(now + HOLD, |at| at.min(now + HOLD)));
            object.gone_at = (!runs).then(|| now + rng.random_range(1..=5));
        }
    }

    /// Its preStop hook has ended: the server ends within tenths of a second, its object goes about 2 s later (seen on
    /// Kubernetes 1.33).
    pub(crate) fn let_go(&mut self, name: &PodName, now: i64, rng: &mut StdRng) {
        if let Some(object) = self.pods.get_mut(name).filter(|o| o.told_to_go() && !o.is_ending()) {
            object.let_go = true;
            object.stops_at = Some(now + rng.random_range(1..=4));
            if object.pod.terminating {
                object.gone_at = Some(now + rng.random_range(5..=25));
            }
        }
    }

    /// A kubelet shuts its worker down: it says so, and ends all Pods, those at once that have not started.
    pub(crate) fn shut_down(&mut self, worker: &WorkerName, now: i64) {
        let off_at = now + ticks(SHUTDOWN_MS);
        let Some(object) = self.workers.get_mut(worker) else { return };
        object.shutdown = Some(Shutdown { off_at, boots: false });
        let here = self.pods.values_mut().filter(|o| o.pod.worker.as_ref() == Some(worker));
        for object in here.filter(|o| !matches!(o.pod.phase, Phase::Finished { .. })) {
            object.pod.disrupted = true;
            if object.pod.phase == Phase::Running {
                let at = object.stops_at.unwrap_or(off_at);
                object.stops_at = Some(at.min(off_at - 1));
            } else {
                object.pod.phase = Phase::Finished { at: Moment(now * TICK_MS), ran_ms: 0 };
            }
        }
    }

    /// Workers that have shut down by now: all their Pods have ended, or their time is over.
    pub(crate) fn shut(&self, now: i64) -> Vec<WorkerName> {
        let runs = |w: &WorkerName| {
            self.pods.values().any(|o| o.pod.worker.as_ref() == Some(w) && o.process.is_some())
        };
        let due = |o: &&WorkerObject| {
            !o.off && o.shutdown.is_some_and(|s| s.off_at <= now || !runs(&o.worker.name))
        };
        self.workers.values().filter(due).map(|o| o.worker.name.clone()).collect()
    }

    /// The node controller marks a worker whose kubelet has not been heard for a while.
    pub(crate) fn heartbeats(&mut self, now: i64, cut: &BTreeSet<WorkerName>) {
        for object in self.workers.values_mut() {
            let away = object.off || cut.contains(&object.worker.name);
            object.away_since = if away { Some(object.away_since.unwrap_or(now)) } else { None };
            if self.unreachable {
                continue;
            }
            let late = object.away_since.is_some_and(|since| now - since >= ticks(GRACE_MS));
            object.worker.lost_since =
                if late { object.worker.lost_since.or(Some(Moment(now * TICK_MS))) } else { None };
            let free = object.is_open() && !away && object.capacity >= ROOM;
            object.free_since = if free { object.free_since.or(Some(now)) } else { None };
        }
    }

    pub(crate) fn by_uid(&self, uid: &PodUid) -> Option<&PodObject> {
        self.pods.values().find(|o| o.pod.uid == *uid)
    }

    pub(crate) fn free(&mut self, ip: IpAddr) {
        self.free_ips.push(ip);
    }

    /// Addresses that the next Pods may get.
    pub(crate) fn free_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.free_ips.iter().copied()
    }

    /// An address for a sandbox.
    pub(crate) fn take_ip(&mut self) -> IpAddr {
        if self.reuse_addresses
            && let Some(ip) = self.free_ips.pop()
        {
            return ip;
        }
        self.next_ip += 1;
        IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + self.next_ip))
    }

    /// What scheduler and kubelets do in one tick.
    pub(crate) fn tick(&mut self, now: i64, rng: &mut StdRng) -> Vec<Kubelet> {
        if !self.unreachable {
            self.schedule(now, rng);
        }
        let unreachable = self.unreachable;
        let mut asks = Vec::new();
        let away: BTreeSet<WorkerName> =
            self.workers.values().filter(|w| w.away_since.is_some()).map(|w| w.worker.name.clone()).collect();
        for (name, object) in &mut self.pods {
            let ended = matches!(object.pod.phase, Phase::Finished { .. });
            // Nobody is there to do anything; the object of one that has ended needs nobody.
            if !ended && object.pod.worker.as_ref().is_some_and(|w| away.contains(w)) {
                continue;
            }
            if object.pod.terminating {
                if object.stops_at.take_if(|at| *at <= now).is_some() {
                    asks.push(Kubelet::Stop(name.clone()));
                    object.gone_at = object.gone_at.or(Some(now + rng.random_range(5..=25)));
                }
                if !unreachable && object.gone_at.is_some_and(|at| at <= now) {
                    asks.push(Kubelet::Gone(name.clone()));
                }
                continue;
            }
            if object.pod.disrupted && object.stops_at.take_if(|at| *at <= now).is_some() {
                asks.push(Kubelet::Stop(name.clone()));
                continue;
            }
            if object.pod.phase == Phase::Pending && object.starts_at.is_some_and(|at| at <= now) {
                if object.image.contains("missing") {
                    object.pod.trouble = Some(trouble("ImagePullBackOff", "Back-off pulling image"));
                } else {
                    asks.push(Kubelet::Start(name.clone()));
                }
            }
            let crashes = object.image.contains("crashing") && object.pod.phase == Phase::Running;
            if crashes && object.started_at.is_some_and(|at| now - at >= ticks(1000)) {
                asks.push(Kubelet::Crash(name.clone()));
            }
        }
        asks
    }

    /// What the Pod's own terms, and those of Pods that are there, say of a worker.
    fn accepted(&self, object: &PodObject, w: &Worker) -> bool {
        let demands = &object.demands;
        let here = self.pods.values().filter(|o| o.pod.worker.as_ref() == Some(&w.name));
        let mut copies = here
            .filter(|o| o.pod.shard == object.pod.shard && !matches!(o.pod.phase, Phase::Finished { .. }));
        let repels =
            |o: &PodObject| (object.strict && o.pod.place.counted) || (o.strict && object.pod.place.counted);
        !demands.not_on.contains(&w.name)
            && w.zone.as_ref().is_none_or(|z| !demands.not_in.contains(z))
            && demands.zone.as_ref().is_none_or(|z| w.zone.as_ref() == Some(z))
            && (!demands.only || object.wanted.as_ref() == Some(&w.name))
            && !copies.any(repels)
            && (!object.even || self.keeps_even(object, w))
    }

    /// `maxSkew: 1` over the zones, `DoNotSchedule`, `nodeTaintsPolicy: Honor`: a worker without a zone takes nobody, zones without
    /// an open worker are not counted, and neither are Pods that are told to go.
    fn keeps_even(&self, object: &PodObject, w: &Worker) -> bool {
        let open = self.workers.values().filter(|o| o.is_open());
        let zones: BTreeSet<&Zone> = open.filter_map(|o| o.worker.zone.as_ref()).collect();
        let zone_of = |o: &PodObject| self.workers.get(o.pod.worker.as_ref()?)?.worker.zone.as_ref();
        let counts = |o: &&PodObject| {
            o.pod.shard == object.pod.shard
                && o.pod.place.counted
                && !o.pod.terminating
                && !matches!(o.pod.phase, Phase::Finished { .. })
        };
        let copies =
            |zone: &Zone| self.pods.values().filter(counts).filter(|o| zone_of(o) == Some(zone)).count();
        let least = zones.iter().map(|z| copies(z)).min().unwrap_or(0);
        let itself = usize::from(object.pod.place.counted);
        w.zone.as_ref().is_some_and(|zone| copies(zone) + itself <= least + 1)
    }

    /// Affinity is a wish: any open worker with room will do, the emptiest first.
    fn schedule(&mut self, now: i64, rng: &mut StdRng) {
        let waiting: Vec<PodName> = self
            .pods
            .iter()
            .filter(|(_, o)| o.pod.worker.is_none() && !o.pod.terminating)
            .map(|(n, _)| n.clone())
            .collect();
        for name in waiting {
            let load =
                |w: &WorkerName| self.pods.values().filter(|o| o.pod.worker.as_ref() == Some(w)).count();
            let open = self.workers.values().filter(|w| {
                w.is_open()
                    && load(&w.worker.name) < w.capacity
                    && self.accepted(&self.pods[&name], &w.worker)
            });
            let wanted = self.pods[&name].wanted.clone();
            let best = open.min_by_key(|w| (Some(&w.worker.name) != wanted.as_ref(), load(&w.worker.name)));
            let chosen = best.map(|w| w.worker.name.clone());
            let Some(object) = self.pods.get_mut(&name) else { continue };
            match chosen {
                Some(worker) => {
                    object.pod.worker = Some(worker);
                    object.pod.trouble = None;
                    object.starts_at = Some(now + rng.random_range(3..=12));
                }
                None => object.pod.trouble = Some(trouble("Unschedulable", "0 workers are available")),
            }
        }
    }
}

/// What a CREATE carries.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct NewPod {
    pub name: PodName,
    pub shard: Shard,
    pub index: u16,
    pub revision: Revision,
    pub image: String,
    pub worker: Option<WorkerName>,
    pub demands: Demands,
    pub strict: bool,
    pub even: bool,
    pub failures: u16,
    pub encrypted: bool,
}

fn trouble(reason: &str, message: &str) -> Trouble {
    Trouble { reason: reason.to_owned(), message: message.to_owned() }
}
