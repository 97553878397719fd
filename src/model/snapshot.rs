//! The facts of one pass, and nothing else. What could not be seen is a value, not an error and not zero.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::certificates::Certificates;
use super::desired::Desired;
use super::ids::{Fingerprint, Moment, NodeId, PodName, PodUid, Revision, Shard, Version, WorkerName, Zone};
use super::moves::{Job, JobState, Memory, OpenSlots};
use super::past::Past;
use super::peers::Peers;
use super::shape::Shape;
use super::slots::Slots;
use super::step::Object;
use super::users::{Accounts, Applied, Digest, Shown};

/// Everything the planner may know.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// The one clock reading of the pass.
    pub now: Moment,
    /// What is wanted.
    pub desired: Desired,
    /// The revision that Pods of this spec have.
    pub revision: Revision,
    /// The latch `status.formed`: slots may have been assigned once, so "nobody owns slots" is not "new".
    pub formed: bool,
    /// The formation was seen complete once (`status.topology` is recorded): from here on data may exist.
    pub whole: bool,
    /// The shards that have slots, as far as `status.topology` records: a silent owner still leaves a shard. Empty before the
    /// formation is complete.
    pub served: BTreeSet<Shard>,
    /// What the data was last spread for, as `status.shape` records: none before the formation is complete.
    pub shape: Option<Shape>,
    /// Service, `ConfigMap` and Secret that are missing or differ from what is wanted.
    pub drifted: BTreeSet<Object>,
    /// Who else manages objects of this cluster's names, as a sentence: then nothing is touched.
    pub foreign: Option<String>,
    /// The passwords of the system users are at hand.
    pub credentials_known: bool,
    /// The certificates of a cluster that speaks TLS; none of one that does not.
    pub certificates: Option<Certificates>,
    /// What servers may know of them; none when they are not at hand.
    pub accounts: Option<Accounts>,
    /// The passwords of each user of the spec that has some, or what is missing, as a sentence.
    pub passwords: BTreeMap<String, Result<Vec<Digest>, String>>,
    /// The Pods controlled by this custom resource's UID.
    pub pods: BTreeMap<PodName, Pod>,
    /// Names that other Pods hold: they cannot be created.
    pub taken: BTreeSet<PodName>,
    /// The workers.
    pub workers: BTreeMap<WorkerName, Worker>,
    /// What answered at each Pod's address.
    pub nodes: BTreeMap<PodUid, Seen<NodeReport>>,
    /// What answered at the address of ids that nodes still list and that no Pod accounts for.
    pub ghosts: BTreeMap<NodeId, Seen<NodeReport>>,
    /// How many nodes of this cluster may run with the lowest node-timeout while it forms (a budget of the operator).
    pub low_timeout_budget: usize,
    /// Settings and users that were set and read back.
    pub applied: Applied,
    /// The hand-over that a person asks for, if one is.
    pub request: Option<Request>,
    /// Ids of which a person says that their processes do not run any more.
    pub vouched: BTreeSet<NodeId>,
    /// What this process remembers of earlier looks; empty after a restart.
    pub past: Past,
}

/// A hand-over that a person asks for by an annotation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the annotation says: a Pod that shall lead, or a shard by its number.
    pub wanted: String,
    /// Who led when the request was noted in the status; none: it is not noted yet.
    pub from: Option<PodName>,
    /// The status says that it was done.
    pub done: bool,
}

impl Snapshot {
    /// Members that clients can use and that nobody has told to go.
    pub fn serving(&self) -> usize {
        serving(&self.pods)
    }
}

/// The Pods whose gate is open, that run, and that nobody has told to go.
pub fn serving(pods: &BTreeMap<PodName, Pod>) -> usize {
    let serves =
        |p: &&Pod| p.gate == Some(true) && p.phase == Phase::Running && !p.terminating && !p.disrupted;
    pods.values().filter(serves).count()
}

/// A value as seen in this pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen<T> {
    /// It answered.
    Now(T),
    /// It did not, and why.
    Silent(Silence),
    /// It was not asked: there is no address yet.
    Never,
}

impl<T> Seen<T> {
    /// The value, when it was seen now.
    pub fn now(&self) -> Option<&T> {
        match self {
            Seen::Now(value) => Some(value),
            Seen::Silent(_) | Seen::Never => None,
        }
    }
}

impl Seen<NodeReport> {
    /// What somebody else says at the Pod's address is nothing of this Pod: its own process is not there any more.
    pub fn only_of(&mut self, pod: &PodName) {
        if self.now().is_some_and(|n| n.is_elsewhere(pod)) {
            *self = Seen::Silent(Silence::Refused);
        }
    }
}

/// Why a node gave no report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Silence {
    /// Nobody listens at the address: the process is not there (yet, or any more).
    Refused,
    /// No answer in time: worker, network or process is stuck, or the address is gone.
    Timeout,
    /// The connection broke in the middle.
    Reset,
    /// It does not accept the operator's credentials (WRONGPASS, NOAUTH, NOPERM).
    Auth,
    /// It answers, but cannot serve yet (LOADING, BUSY).
    Busy,
    /// It answered something that is not understood.
    Garbled,
}

/// A Pod as the API server shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are facts of their own")]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// Its UID.
    pub uid: PodUid,
    /// The shard it was created for.
    pub shard: Shard,
    /// Its number in the shard (`valkey.io/node-index`).
    pub index: u16,
    /// The revision it was created with.
    pub revision: Revision,
    /// Quick failures of its predecessors in a row (`valkey.io/failures`), for the growing delay.
    pub failures: u16,
    /// The worker it is bound to.
    pub worker: Option<WorkerName>,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// How far its life is.
    pub phase: Phase,
    /// `deletionTimestamp` is set.
    pub terminating: bool,
    /// Its worker shuts down, or the condition `DisruptionTarget` is true: it ends soon, and there may be no `deletionTimestamp`.
    pub disrupted: bool,
    /// The member gate's value, when it was ever written.
    pub gate: Option<bool>,
    /// What its server showed for each setting before `spec.config` first set it live (`before.valkey.io/KEY`).
    pub before: BTreeMap<String, String>,
    /// It was made for TLS: certificates are mounted.
    pub encrypted: bool,
    /// An exporter runs in it, which logs in with the password that it was made with.
    pub exporting: bool,
    /// The certificates that its kubelet was told of.
    pub nudged: Option<Fingerprint>,
    /// The label of its role says that it leads its shard. Nothing is decided by it.
    pub leads: bool,
    /// What it was asked about its place.
    pub place: Place,
    /// The note of the labels and annotations that the spec has given it.
    pub given: String,
    /// When it was created.
    pub created: Moment,
    /// What keeps it from starting, in the words of Kubernetes.
    pub trouble: Option<Trouble>,
}

impl Pod {
    /// One that was just made: nothing has happened to it, and it asks for nothing. For worlds without Kubernetes.
    pub fn new(name: PodName, uid: PodUid, (shard, index): (Shard, u16), revision: Revision) -> Self {
        Self {
            name,
            uid,
            shard,
            index,
            revision,
            failures: 0,
            worker: None,
            ip: None,
            phase: Phase::Pending,
            terminating: false,
            disrupted: false,
            gate: None,
            before: BTreeMap::new(),
            encrypted: false,
            exporting: false,
            nudged: None,
            leads: false,
            place: Place::default(),
            given: String::new(),
            created: Moment::default(),
            trouble: None,
        }
    }

    /// The scheduler finds no worker for it.
    pub fn is_unschedulable(&self) -> bool {
        self.worker.is_none() && self.trouble.as_ref().is_some_and(|t| t.reason == "Unschedulable")
    }
}

/// What a Pod's labels and annotations say of its place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The worker that it was asked for; it may be on another.
    pub asked: Option<WorkerName>,
    /// The zone that it is pinned to.
    pub pinned: Option<Zone>,
    /// It counts among the copies of its shard that the scheduler keeps apart.
    pub counted: bool,
    /// The member that it was made to take the place of, when that was only to be moved.
    pub instead_of: Option<PodUid>,
}

/// How far a Pod's life is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Its server has not started.
    Pending,
    /// Its server runs.
    Running,
    /// Its server has ended, and by `restartPolicy: Never` stays ended.
    Finished {
        /// When the server ended.
        at: Moment,
        /// How long it ran, in milliseconds.
        ran_ms: i64,
    },
}

/// A reason of Kubernetes, kept in its own words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Trouble {
    /// `ImagePullBackOff`, `Unschedulable`, `OOMKilled`, …
    pub reason: String,
    /// The sentence that came with it.
    pub message: String,
}

/// A worker (Kubernetes Node).
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that Kubernetes says of it")]
pub struct Worker {
    /// Its name.
    pub name: WorkerName,
    /// Its `kubernetes.io/hostname` label, which a Pod's node affinity asks for.
    pub hostname: String,
    /// Its zone, if it has one.
    pub zone: Option<Zone>,
    /// It is Ready, not cordoned, and has no taint that ordinary Pods do not tolerate.
    pub open: bool,
    /// Somebody empties it: it is cordoned, or tainted by an autoscaler that removes it.
    pub leaving: bool,
    /// Since when its kubelet has not been heard (condition Ready is Unknown).
    pub lost_since: Option<Moment>,
    /// A person or a controller vouches with the taint `node.kubernetes.io/out-of-service` that it is off.
    pub out_of_service: bool,
    /// An autoscaler would like to remove it, or a taint asks to be left alone: others are better.
    pub shunned: bool,
    /// How many members its allocatable amounts could hold at most, were there nothing else; none: unknown.
    pub room: Option<usize>,
}

impl Worker {
    /// Kubernetes does not hear it any more, or somebody vouches that it is off.
    pub fn is_given_up(&self) -> bool {
        self.lost_since.is_some() || self.out_of_service
    }
}

/// What one node says of itself and of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReport {
    /// Its id.
    pub id: NodeId,
    /// Its version.
    pub version: Version,
    /// Milliseconds since the process started.
    pub uptime_ms: i64,
    /// Primary with slots, or replica of whom.
    pub role: Role,
    /// Slots half way to or from other nodes, key by key.
    pub open_slots: OpenSlots,
    /// Jobs that move slots as a whole, the newest first: those that run, and the last that ended.
    pub jobs: Vec<Job>,
    /// What lies in it, when it says so.
    pub memory: Option<Memory>,
    /// `cluster_state` is ok.
    pub state_ok: bool,
    /// Its own config epoch.
    pub epoch: u64,
    /// The nodes it lists besides itself.
    pub peers: Peers,
    /// Addresses of replicas that it, as their primary, reports as `state=online`.
    pub online_replicas: BTreeSet<IpAddr>,
    /// Keys it holds.
    pub keys: u64,
    /// It loads a dataset and cannot serve.
    pub loading: bool,
    /// The replication user is on: the operator has adopted this process.
    pub admitted: bool,
    /// Its users; none when the operator may not ask (a server that an earlier operator has set up).
    pub users: Option<Shown>,
    /// The password that it shows to its primary.
    pub primary_password: Option<Digest>,
    /// Configuration values it was asked for, as `CONFIG GET` shows them.
    pub config: BTreeMap<String, String>,
}

/// The setting that gives a node its name for people: the Pod's, until it is released.
pub const NODENAME: &str = "cluster-announce-human-nodename";

/// What [`NODENAME`] begins with once a node was released; the Pod's UID follows. The preStop hook
/// reads it in `nodes.conf`, where Valkey 8.0 to 9.1 write it at once (measured).
pub const RELEASED: &str = "released:";

impl NodeReport {
    /// The slots it owns.
    pub fn slots(&self) -> &Slots {
        const NONE: &Slots = &Slots::none();
        match &self.role {
            Role::Primary { slots } => slots,
            Role::Replica { .. } => NONE,
        }
    }

    /// It knows nobody: neither joined nor met.
    pub fn is_isolated(&self) -> bool {
        self.peers.is_empty()
    }

    /// It was released as the process of this Pod, which ends as soon as that is told to go. A mark for another Pod (one that had
    /// the address before) means nothing to its hook.
    pub fn is_released(&self, pod: &PodUid) -> bool {
        self.config.get(NODENAME).and_then(|v| v.strip_prefix(RELEASED)) == Some(pod.as_str())
    }

    /// It runs in another Pod: the address has changed hands since that Pod was looked at.
    pub fn is_elsewhere(&self, pod: &PodName) -> bool {
        let name = self.config.get(NODENAME).filter(|name| !name.is_empty() && !name.starts_with(RELEASED));
        name.is_some_and(|name| name != pod.as_str())
    }

    /// Slots are on their way to or from it.
    pub fn is_moving_slots(&self) -> bool {
        self.gives_slots() || !self.open_slots.incoming.is_empty()
    }

    /// Slots are on their way from it. What a primary has half way and does not own any more went another way: its heir finished it
    /// while it was cut off. What a copy has half way is its primary's.
    pub fn gives_slots(&self) -> bool {
        let mut half_way = self.open_slots.outgoing.values();
        let gives = match &self.role {
            Role::Primary { slots } => half_way.any(|s| s.overlaps(slots)),
            Role::Replica { .. } => half_way.next().is_some(),
        };
        gives || self.runs_jobs()
    }

    /// A job that moves slots to or from it has not ended.
    pub fn runs_jobs(&self) -> bool {
        self.jobs.iter().any(|j| j.state == JobState::Running)
    }

    /// It was asked to leave: it takes no part in elections as a candidate.
    pub fn is_retiring(&self) -> bool {
        self.config.get("cluster-replica-no-failover").is_some_and(|v| v == "yes")
    }
}

/// What a node is in its shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// It takes writes for these slots (perhaps none).
    Primary {
        /// The slots it owns.
        slots: Slots,
    },
    /// It copies.
    Replica {
        /// The node it copies from.
        of: NodeId,
        /// The state of the copying.
        link: Link,
    },
}

/// The replication link of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// `master_link_status` is up.
    pub up: bool,
    /// A full sync is under way.
    pub syncing: bool,
    /// Bytes of the replication stream received (`slave_repl_offset`).
    pub offset: u64,
}

impl Link {
    /// The data is there: the link is up and no full sync runs.
    pub fn in_sync(self) -> bool {
        self.up && !self.syncing
    }
}

/// A line of `CLUSTER NODES` about somebody else.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of the line")]
pub struct Peer {
    /// The address it is listed under; none when the node has lost it (`noaddr`).
    pub ip: Option<IpAddr>,
    /// The primary it is listed as a replica of.
    pub replica_of: Option<NodeId>,
    /// The slots it is listed with.
    pub slots: Slots,
    /// Its config epoch.
    pub epoch: u64,
    /// The handshake has not ended: the id is a placeholder.
    pub handshake: bool,
    /// `fail`: a majority of primaries agreed that it is gone.
    pub failed: bool,
    /// `fail?`: this node alone suspects it.
    pub suspected: bool,
    /// The bus link from this node to it is open.
    pub connected: bool,
}

impl Peer {
    /// The asked node has no sign of life from it at this moment.
    pub fn unheard(&self) -> bool {
        !self.connected || self.suspected || self.failed || self.ip.is_none()
    }
}
