//! The world of a life: the spec, Kubernetes, the processes, the clients, and one clock for all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use valkey_cluster_operator::api::ValkeyClusterStatus;
use valkey_cluster_operator::build;
use valkey_cluster_operator::model::snapshot::{NODENAME, RELEASED};
use valkey_cluster_operator::model::{
    Desired, Moment, NodeId, Object, Phase, PodName, PodUid, Revision, Sampling, Scheduling, Shape, Shard,
    Slots, Spread, SpreadMode, Template, Version, WorkerName, Zone,
};

use valkey_cluster_operator::plan::users::of_file;

use super::away::Away;
use super::bare;
use super::clients::Clients;
use super::invariants::Watch;
use super::kubernetes::{Kubelet, Kubernetes, PodObject};
use super::mutant::Mutant;
use super::operator::Operator;
use super::tally::Tally;
use super::trace::Trace;
use super::users::Vault;
use super::valkey::{Cause, Node, Replication, Valkey};
use super::{TICK_MS, ticks};

/// The custom resource: the spec, and what its status keeps.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Resource {
    pub desired: Desired,
    pub formed: bool,
    pub whole: bool,
    /// The shards that `status.topology` lists with slots.
    pub served: BTreeSet<Shard>,
    /// What `status.shape` records.
    pub shape: Option<Shape>,
    /// What the operator has written last.
    pub status: Option<ValkeyClusterStatus>,
    /// The annotation by which a person vouches for the end of processes.
    pub vouched: BTreeSet<NodeId>,
}

/// What the next passes are made to suffer.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Mischief {
    /// The next pass that has more steps than this dies after so many.
    pub crash_after: Option<usize>,
    /// So many passes see the world as it was `age` ticks ago.
    pub stale: Option<(usize, usize)>,
    /// So many passes see the Pods as they were `age` ticks ago, and the nodes as they are.
    pub stale_pods: Option<(usize, usize)>,
    /// So many steps are refused.
    pub refuse: usize,
    /// So many steps are done, and their answers never come.
    pub lose: usize,
    /// So many passes take a tick for each step.
    pub slow: usize,
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub now: i64,
    pub rng: StdRng,
    pub resource: Resource,
    pub kube: Kubernetes,
    pub valkey: Valkey,
    pub clients: Clients,
    pub operators: Vec<Operator>,
    /// While the API server is away.
    pub away: Option<Away>,
    pub mischief: Mischief,
    pub vault: Vault,
    /// What an image runs whose tag is no full version.
    pub version: Version,
    pub watch: Watch,
    pub trace: Trace,
    pub tally: Tally,
    /// What of the operator is left out.
    pub mutant: Mutant,
    /// From how many nodes on the operator looks briefly.
    pub sampling: Sampling,
    /// When each event of the script came.
    pub happened: Vec<i64>,
    lineages: u64,
}

fn template(strict: bool, strict_zones: bool) -> Template {
    let of = |required| if required { SpreadMode::Required } else { SpreadMode::Preferred };
    let spread = |required| Spread { shard: of(required), ..Spread::default() };
    let scheduling = Scheduling { node: spread(strict), zone: spread(strict_zones), ..Scheduling::default() };
    Template { image: "valkey:9".into(), scheduling, ..Template::default() }
}

/// What the image runs, by a tag such as `8.1.1`.
fn version_of(image: &str) -> Option<Version> {
    let (_, tag) = image.split_once(':')?;
    (tag.split('.').count() == 3).then(|| tag.parse().ok())?
}

/// How a life begins.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Start {
    pub shards: u16,
    pub replicas: u16,
    pub workers: usize,
    /// In so many zones, by turns; 0: in none.
    pub zones: usize,
    /// Copies of a shard must be on different workers.
    pub strict: bool,
    /// Copies of a shard must be even over the zones.
    pub strict_zones: bool,
    pub version: Version,
    pub seed: u64,
    pub reuse_addresses: bool,
    /// The operator looks briefly, as it does at large clusters.
    pub brief: bool,
}

impl World {
    pub(crate) fn new(start: &Start, trace: Trace) -> Self {
        let mut kube = Kubernetes::default();
        kube.reuse_addresses = start.reuse_addresses;
        for i in 1..=start.workers {
            let zone = |zones: usize| Zone::new(format!("z{}", (i - 1) % zones + 1));
            kube.add_worker(&format!("w{i}"), (start.zones > 0).then(|| zone(start.zones)), 100);
        }
        kube.drifted.extend([Object::Secret, Object::ConfigMap, Object::Service, Object::Policy]);
        let desired = Desired {
            template: template(start.strict, start.strict_zones),
            ..bare::desired(start.shards, start.replicas)
        };
        Self {
            now: 0,
            rng: StdRng::seed_from_u64(start.seed),
            resource: Resource {
                desired,
                formed: false,
                whole: false,
                served: BTreeSet::new(),
                shape: None,
                status: None,
                vouched: BTreeSet::new(),
            },
            kube,
            valkey: Valkey::default(),
            clients: Clients::default(),
            operators: vec![Operator::default()],
            away: None,
            mischief: Mischief::default(),
            vault: Vault::default(),
            version: start.version,
            watch: Watch::default(),
            trace,
            tally: Tally::default(),
            mutant: Mutant::None,
            sampling: Sampling { above: if start.brief { 1 } else { usize::MAX }, owners: 1, others: 1 },
            happened: Vec::new(),
            lineages: 0,
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment(self.now * TICK_MS)
    }

    /// Hashed anew only when the spec is another one: every look asks.
    pub(crate) fn revision(asked: &Desired) -> Revision {
        thread_local!(static LAST: RefCell<(Desired, Revision)> = {
            let spec = Desired::default();
            RefCell::new((spec.clone(), build::revision(&spec)))
        });
        LAST.with_borrow_mut(|(spec, revision)| {
            if spec != asked {
                spec.clone_from(asked);
                *revision = build::revision(spec);
            }
            revision.clone()
        })
    }

    /// One tick: machines, processes, clients, then whether everything still holds.
    pub(crate) fn tick(&mut self) {
        self.now += 1;
        self.holds();
        self.kubelets_bring_files();
        for worker in self.kube.shut(self.now) {
            self.power_off(&worker);
            if self.kube.workers[&worker].shutdown.is_some_and(|s| s.boots) {
                self.boot(&worker);
            }
        }
        self.kube.heartbeats(self.now, &self.valkey.cut);
        for ask in self.kube.tick(self.now, &mut self.rng) {
            match ask {
                Kubelet::Start(name) => self.start(&name),
                Kubelet::Crash(name) => self.end(&name),
                Kubelet::Stop(name) => {
                    if let Some(id) = self.process(&name).map(|n| n.id.clone()) {
                        self.valkey.hand_over(&id, self.now, &mut self.rng);
                    }
                    self.end(&name);
                }
                Kubelet::Gone(name) => {
                    self.end(&name);
                    self.kube.pods.remove(&name);
                    self.wake();
                }
            }
        }
        let due: Vec<(NodeId, Cause)> = self
            .valkey
            .nodes
            .values()
            .filter_map(|n| n.dies_at.filter(|(at, _)| *at <= self.now).map(|(_, c)| (n.id.clone(), c)))
            .collect();
        for (id, cause) in due {
            self.die(&id, cause);
        }
        self.valkey.transfers(self.now, &mut self.rng);
        self.valkey.replication(self.now, &mut self.rng);
        self.valkey.bus(self.now, &mut self.rng);
        self.valkey.elections(self.now, &mut self.rng);
        for old in std::mem::take(&mut self.valkey.left_behind) {
            self.clients.excuse_half_way(&self.valkey, &old);
        }
        let open = self.kube.pods.values().filter(|o| o.pod.gate == Some(true));
        let open: BTreeSet<&NodeId> = open.filter_map(|o| o.process.as_ref()).collect();
        self.clients.writing |= !open.is_empty();
        self.clients.write(&mut self.valkey, &open, &mut self.rng);
        // A write is acknowledged after the link has taken it: what is lost in a crash is lost for want of copies.
        self.valkey.replication(self.now, &mut self.rng);
        self.check();
    }

    /// What the preStop hooks see: the mark of the operator, or that nothing hangs on the node.
    fn holds(&mut self) {
        let ends = |n: &Node, uid: &PodUid| {
            n.config.get(NODENAME).is_some_and(|v| *v == format!("{RELEASED}{uid}"))
                || (n.view.is_empty() && n.slots.is_empty())
        };
        let held = self.kube.pods.iter().filter(|(_, o)| o.told_to_go() && !o.is_ending());
        let free: Vec<PodName> = held
            .filter(|(name, o)| self.process(name).is_none_or(|n| ends(n, &o.pod.uid)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in free {
            self.kube.let_go(&name, self.now, &mut self.rng);
        }
    }

    fn start(&mut self, name: &PodName) {
        let Some(object) = self.kube.pods.get(name) else { return };
        let (uid, worker) = (object.pod.uid.clone(), object.pod.worker.clone());
        let version = version_of(&object.image).unwrap_or(self.version);
        let Some(worker) = worker else { return };
        let ip = self.kube.take_ip();
        let id = self.spawn(0, uid, worker, ip);
        let node = self.valkey.nodes.get_mut(&id).expect("just made");
        node.version = version;
        node.config.insert(NODENAME.to_owned(), name.to_string());
        let object = self.kube.pods.get_mut(name).expect("just seen");
        object.pod.phase = Phase::Running;
        object.pod.ip = Some(ip);
        object.pod.trouble = None;
        object.started_at = Some(self.now);
        object.process = Some(id);
        self.wake();
    }

    /// A new process: knows nobody, owns nothing, and its replication user is off.
    pub(crate) fn spawn(&mut self, cluster: u8, uid: PodUid, worker: WorkerName, ip: IpAddr) -> NodeId {
        let id = self.valkey.fresh_id(&mut self.rng);
        self.lineages += 1;
        let mut config = self.first_config();
        config.extend(self.first_files(&uid));
        let node = Node {
            id: id.clone(),
            cluster,
            uid,
            worker,
            ip,
            started: self.now,
            version: self.version,
            of: None,
            slots: Slots::none(),
            open: BTreeMap::new(),
            epoch: 0,
            current_epoch: 0,
            last_vote: 0,
            view: BTreeMap::new(),
            banned: BTreeMap::new(),
            state_ok: false,
            minority_at: self.now,
            config,
            admitted: false,
            users: of_file(&self.vault.accounts()),
            primary_password: self.vault.accounts().replication,
            data: BTreeMap::new(),
            dropped: 0,
            lineage: self.lineages,
            repl: Replication { down_since: self.now, ..Replication::default() },
            election_at: None,
            dies_at: None,
        };
        self.valkey.nodes.insert(id.clone(), node);
        id
    }

    /// `valkey.conf` carries the real node-timeout; the person's other settings come when the node is adopted.
    pub(crate) fn first_config(&self) -> BTreeMap<String, String> {
        let desired = &self.resource.desired;
        let mut config: BTreeMap<String, String> = [
            ("cluster-replica-no-failover", "no"),
            ("cluster-manual-failover-timeout", "1000"),
            (NODENAME, "pod"),
            ("shutdown-on-sigterm", "failover"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("timeout", "0"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        config.insert("cluster-node-timeout".into(), desired.node_timeout_ms().to_string());
        config
    }

    /// Watches and links wake the operators at once.
    pub(crate) fn wake(&mut self) {
        for operator in &mut self.operators {
            operator.next_pass = operator.next_pass.min(self.now + 1);
        }
    }

    /// The server of a Pod ends.
    fn end(&mut self, name: &PodName) {
        let Some(object) = self.kube.pods.get(name) else { return };
        if let Some(id) = object.process.clone() {
            let cause = if self.watch.deleted_by_operator(&object.pod.uid) {
                Cause::Operator
            } else {
                Cause::Environment
            };
            self.die(&id, cause);
        }
    }

    /// A process ends; its address is free for others, its Pod stays ended.
    pub(crate) fn die(&mut self, id: &NodeId, cause: Cause) {
        if !self.valkey.nodes.contains_key(id) {
            return;
        }
        if cause == Cause::Environment {
            self.environment_takes(id);
        }
        let Some(node) = self.valkey.nodes.remove(id) else { return };
        self.forgotten_with(&node);
        self.wake();
        self.kube.free(node.ip);
        let (at, now) = (self.moment(), self.now);
        if let Some(object) = self.kube.pods.values_mut().find(|o| o.pod.uid == node.uid) {
            let ran = now - object.started_at.unwrap_or(now);
            object.pod.phase = Phase::Finished { at, ran_ms: ran * TICK_MS };
            object.process = None;
        }
    }

    /// A worker loses its power: its processes are gone, and nobody says so.
    pub(crate) fn power_off(&mut self, worker: &WorkerName) {
        if let Some(object) = self.kube.workers.get_mut(worker) {
            object.off = true;
        }
        let here: Vec<NodeId> =
            self.valkey.nodes.values().filter(|n| n.worker == *worker).map(|n| n.id.clone()).collect();
        // All at one moment: none of them is a copy of another.
        for id in &here {
            self.valkey.get_mut(id).dies_at = Some((i64::MAX, Cause::Environment));
        }
        for id in here {
            self.environment_takes(&id);
            if let Some(node) = self.valkey.nodes.remove(&id) {
                self.valkey.dark.insert(node.ip);
                self.forgotten_with(&node);
            }
        }
    }

    /// It has power again, or is to have it as soon as it has shut down: its kubelet says which servers have ended, and ends what nobody wants any more.
    pub(crate) fn boot(&mut self, worker: &WorkerName) {
        let Some(object) = self.kube.workers.get_mut(worker) else { return };
        if let Some(shutdown) = object.shutdown.as_mut().filter(|_| !object.off) {
            shutdown.boots = true;
        }
        if !object.off {
            return;
        }
        (object.off, object.shutdown) = (false, None);
        let (at, now) = (self.moment(), self.now);
        let here = self.kube.pods.values_mut().filter(|o| o.pod.worker.as_ref() == Some(worker));
        for object in here.filter(|o| o.pod.phase == Phase::Running) {
            let ran = now - object.started_at.unwrap_or(now);
            object.pod.phase = Phase::Finished { at, ran_ms: ran * TICK_MS };
            object.process = None;
            // It does not tell the address any more; the gate's message does.
            if object.pod.gate.is_none() {
                object.pod.ip = None;
            }
            if object.pod.terminating {
                object.gone_at = Some(now + 10);
            }
        }
        let still_off = self.kube.workers.values().any(|o| o.off);
        if !still_off {
            for ip in std::mem::take(&mut self.valkey.dark) {
                self.kube.free(ip);
            }
        }
        self.wake();
    }

    /// The network of a worker is back: its kubelet ends processes whose Pods are gone.
    pub(crate) fn heal(&mut self, worker: &WorkerName) {
        if !self.valkey.cut.remove(worker) {
            return;
        }
        self.valkey.healed_at = self.now;
        let known: BTreeSet<NodeId> = self.kube.pods.values().filter_map(|o| o.process.clone()).collect();
        let zombies = self.valkey.nodes.values_mut().filter(|n| n.worker == *worker && n.cluster == 0);
        for zombie in zombies.filter(|n| !known.contains(&n.id) && n.dies_at.is_none()) {
            zombie.dies_at = Some((self.now + self.rng.random_range(10..=30), Cause::Operator));
        }
    }

    /// Slots of which only this process knew an owner go with it.
    fn forgotten_with(&mut self, gone: &Node) {
        let knows = |n: &Node| n.view.values().fold(n.slots.clone(), |all, e| all.or(&e.slots));
        let others = self.valkey.nodes.values().filter(|n| n.cluster == 0);
        let left = others.fold(knows(gone), |left, n| left.minus(&knows(n)));
        self.watch.abandoned = self.watch.abandoned.or(&left);
    }

    /// What only this process, or processes that are ending, hold is lost by nobody's fault.
    fn environment_takes(&mut self, id: &NodeId) {
        self.watch.upset_at = self.now;
        // A hook that is to end with the next look at the mark has as good as ended.
        let marked = |o: &PodObject| {
            let node = o.process.as_ref().and_then(|p| self.valkey.nodes.get(p));
            node.is_some_and(|n| n.config.get(NODENAME).is_some_and(|v| v.starts_with(RELEASED)))
        };
        let pods = self.kube.pods.values().filter(|o| o.told_to_go());
        let ending = pods.filter(|o| o.is_ending() || marked(o)).filter_map(|o| o.process.clone());
        let mut doomed: BTreeSet<NodeId> = ending.collect();
        doomed.extend(self.valkey.nodes.values().filter(|n| n.dies_at.is_some()).map(|n| n.id.clone()));
        doomed.insert(id.clone());
        self.clients.excuse(&self.valkey, &doomed);
    }

    /// Its process by the Pod's name, when it runs.
    pub(crate) fn process(&self, name: &PodName) -> Option<&Node> {
        self.valkey.nodes.get(self.kube.pods.get(name)?.process.as_ref()?)
    }

    /// Ticks that pass between two looks of the operator.
    pub(crate) fn period(quiet: bool) -> i64 {
        if quiet { ticks(1000) } else { ticks(200) }
    }
}
