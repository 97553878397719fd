//! A step is one effect, safe to do twice, and carries what must still be true when it is done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::certificates::Given;
use super::demands::Demands;
pub use super::grounds::{Promotion, Proof, Removable};
use super::ids::{Fingerprint, NodeId, PodName, PodUid, Shard, WorkerName};
use super::shape::Shape;
use super::slots::Slots;
use super::wire::Mode;

/// A node to talk to: the address is only good while this Pod UID and this node id are behind it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// The Pod's name.
    pub pod: PodName,
    /// The Pod's UID.
    pub uid: PodUid,
    /// The Pod's shard, which names the lane.
    pub shard: Shard,
    /// The id that answered there.
    pub node: NodeId,
    /// The Pod's address.
    pub ip: IpAddr,
}

/// The objects beside the Pods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Object {
    /// The passwords of the system users and what is derived from them.
    Secret,
    /// `valkey.conf`.
    ConfigMap,
    /// The headless Service.
    Service,
    /// The `NetworkPolicy`: who may connect to members.
    Policy,
    /// The `PodDisruptionBudget`: how many members an eviction may take at one moment.
    Budget,
}

/// One effect.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Writes `status.formed` (and its mirror on the Secret) before the first slot is given out.
    Latch,
    /// Brings one object to what the spec asks.
    Apply(Object),
    /// Gives nodes the certificates that they are to load, in the Secret that their Pods mount.
    Certify(Given),
    /// Creates a member's Pod.
    CreatePod {
        /// Its name.
        name: PodName,
        /// Its shard.
        shard: Shard,
        /// Its number in the shard.
        index: u16,
        /// The worker that the placement wants; the scheduler has the last word.
        worker: Option<WorkerName>,
        /// What it demands of the scheduler.
        demands: Demands,
        /// Quick failures of its predecessors in a row.
        failures: u16,
    },
    /// Deletes a Pod, bound to its UID.
    DeletePod {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// What must still be true of the node in it.
        only_if: Removable,
    },
    /// Writes the member gate of a Pod.
    SetGate {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// The value.
        ready: bool,
    },
    /// Notes on a Pod what its server showed before `spec.config` first set it live, or takes the note away.
    Note {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// The setting.
        key: String,
        /// What it showed; none takes the note away. A note that is there already is left as it is.
        before: Option<String>,
    },
    /// Has the kubelet of a Pod bring the files that have changed: it answers a change of the Pod at once, that of a mounted Secret
    /// within a minute or more.
    Nudge {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// The certificates.
        of: Fingerprint,
    },
    /// Labels a Pod as the one that leads its shard, or takes the label away.
    SetRole {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// It leads.
        leads: bool,
    },
    /// Counts a member among the copies of its shard that are apart, or no longer: the scheduler goes by a label.
    SetApart {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// It counts.
        counts: bool,
    },
    /// Puts the spec's labels and annotations on a Pod, and takes away those that it does not want any more.
    SetMetadata {
        /// Its name.
        name: PodName,
        /// Its UID.
        uid: PodUid,
        /// Its shard.
        shard: Shard,
        /// The note of what is given.
        given: String,
    },
    /// Begins a job that moves slots as a whole (both ends 9.0 or newer).
    Migrate {
        /// The owner.
        on: Target,
        /// Whose they will be.
        to: Target,
        /// The slots.
        slots: Slots,
    },
    /// Moves slots key by key for a bounded time: takes up what is half way, then opens the next (one end is 8.x).
    Carry {
        /// The owner.
        on: Target,
        /// Whose they will be.
        to: Target,
        /// The slots.
        slots: Slots,
    },
    /// Gives a node the slots that were on their way to it key by key from one that is dead with every copy: what has come is all
    /// that is left of them, and forgetting the dead one would close them.
    Inherit {
        /// The node that they were going to.
        on: Target,
        /// The dead one.
        from: NodeId,
        /// Where it was heard last.
        at: Option<IpAddr>,
        /// The slots.
        slots: Slots,
    },
    /// Ends what only copies of a primary have half way: it passed the command on to them and, its client gone, did not carry it out
    /// itself (measured on 8.0.1, 8.1.1 and 9.1.2).
    Close {
        /// The primary.
        on: Target,
        /// The slots.
        slots: Slots,
    },
    /// Drops all keys of the cluster, because its spec says so, and records that it was done for this shape.
    Purge {
        /// All primaries.
        on: Vec<Target>,
        /// What the data is spread for from then on.
        shape: Shape,
    },
    /// Makes nodes speak plain text or TLS, all in one burst: in between they do not hear each other.
    Switch {
        /// The nodes.
        on: Vec<Target>,
        /// What they shall speak.
        to: Mode,
    },
    /// Sets configuration live and reads it back.
    Configure {
        /// The node.
        on: Target,
        /// Key and value.
        settings: BTreeMap<String, String>,
        /// Only while the node holds no key: the values suit an empty cluster alone.
        only_empty: bool,
    },
    /// Turns the replication user on: the process is ours and may copy and be copied.
    Admit {
        /// The node.
        on: Target,
    },
    /// Sets a user live, by rules that replace all it had, and reads it back. Either all are taken or none.
    SetUser {
        /// The node.
        on: Target,
        /// The user.
        user: String,
        /// The rules, passwords as SHA-256.
        rules: Vec<String>,
    },
    /// Removes a user; its connections are closed.
    RemoveUser {
        /// The node.
        on: Target,
        /// The user.
        user: String,
    },
    /// Makes a node log in to its primary with the password of now; open connections stay.
    LogIn {
        /// The node.
        on: Target,
    },
    /// Writes new passwords of the system users into the Secret, or what is missing there.
    Renew,
    /// Takes the operator's former password out of the Secret.
    Settle,
    /// Gives unowned slots to a node.
    AssignSlots {
        /// The node.
        on: Target,
        /// The slots.
        slots: Slots,
    },
    /// Gives an isolated node its first config epoch.
    SetEpoch {
        /// The node.
        on: Target,
        /// The epoch, unique in the cluster.
        epoch: u64,
    },
    /// Introduces a node to others.
    Meet {
        /// The node that is told.
        on: Target,
        /// Whom it shall meet.
        with: Vec<Target>,
    },
    /// Makes a node copy from a primary.
    Replicate {
        /// The node.
        on: Target,
        /// Its primary.
        primary: NodeId,
    },
    /// Asks a replica to leave: it must not be elected any more. Can be taken back.
    Retire {
        /// The node.
        on: Target,
    },
    /// Takes a retirement back.
    Keep {
        /// The node.
        on: Target,
    },
    /// Makes a replica the primary of its shard while the old primary holds the writes back: nothing is lost.
    HandOver {
        /// The replica that takes over.
        on: Target,
        /// The present primary.
        from: Target,
    },
    /// Lets the process of a Pod that was told to go end: its preStop hook waits for this. Final.
    Release {
        /// The node.
        on: Target,
        /// What must still be true of it; nothing when the whole cluster goes.
        only_if: Option<Removable>,
    },
    /// Makes a replica take the place of its dead primary at once, instead of waiting for Valkey's own election.
    Promote {
        /// The replica.
        on: Target,
        /// Its primary.
        dead: NodeId,
        /// The address that the primary is listed under.
        at: Option<IpAddr>,
        /// What the effect rests on.
        by: Promotion,
        /// How far it had come when it was last seen in sync: less means that its data was replaced since.
        offset: u64,
        /// The other nodes that are asked again: all other replicas of that primary among them.
        witnesses: Vec<Target>,
    },
    /// Removes a dead id that is still listed with slots: no copy of their data is left.
    Abandon {
        /// The id.
        id: NodeId,
        /// The address that it is listed under.
        at: Option<IpAddr>,
        /// Where.
        on: Vec<Target>,
    },
    /// Gives slots that nobody lists any more to a member, and makes all others believe it.
    Restore {
        /// The node.
        on: Target,
        /// The slots.
        slots: Slots,
    },
    /// Removes a dead id from every node's list.
    Forget {
        /// The id.
        id: NodeId,
        /// Where. Shared: in a large cluster the same nodes list many that are gone.
        on: Arc<[Target]>,
    },
}

/// Steps of one lane run one after another, lanes run side by side.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Before everything, whatever becomes of it: a dead primary is not kept waiting.
    Urgent,
    /// Before everything else; when a step of it fails, the pass ends.
    First,
    /// Belongs to a node that is gone.
    Gone(NodeId),
    /// Belongs to one shard.
    Shard(Shard),
    /// Nothing else rests on it.
    Aside,
}

impl Step {
    /// The lane it runs in.
    pub fn lane(&self) -> Lane {
        match self {
            Step::Apply(Object::Budget | Object::Policy)
            | Step::Purge { .. }
            | Step::Switch { .. }
            | Step::Renew
            | Step::Settle => Lane::Aside,
            Step::Latch | Step::Apply(_) | Step::Certify(_) => Lane::First,
            Step::Promote { .. } => Lane::Urgent,
            Step::Forget { id, .. } | Step::Abandon { id, .. } => Lane::Gone(id.clone()),
            Step::CreatePod { shard, .. }
            | Step::DeletePod { shard, .. }
            | Step::SetGate { shard, .. }
            | Step::Note { shard, .. }
            | Step::Nudge { shard, .. }
            | Step::SetRole { shard, .. }
            | Step::SetMetadata { shard, .. }
            | Step::SetApart { shard, .. } => Lane::Shard(*shard),
            Step::Configure { on, .. }
            | Step::SetUser { on, .. }
            | Step::RemoveUser { on, .. }
            | Step::LogIn { on }
            | Step::Migrate { on, .. }
            | Step::Carry { on, .. }
            | Step::Close { on, .. }
            | Step::Inherit { on, .. }
            | Step::Admit { on }
            | Step::AssignSlots { on, .. }
            | Step::Restore { on, .. }
            | Step::SetEpoch { on, .. }
            | Step::Meet { on, .. }
            | Step::Replicate { on, .. }
            | Step::Retire { on }
            | Step::Keep { on }
            | Step::HandOver { on, .. }
            | Step::Release { on, .. } => Lane::Shard(on.shard),
        }
    }

    /// Whether it is an effect on the API server; the others are commands to Valkey nodes.
    pub fn is_of_kubernetes(&self) -> bool {
        matches!(
            self,
            Step::Latch
                | Step::Apply(_)
                | Step::Certify(_)
                | Step::Renew
                | Step::Settle
                | Step::CreatePod { .. }
                | Step::DeletePod { .. }
                | Step::SetGate { .. }
                | Step::Note { .. }
                | Step::Nudge { .. }
                | Step::SetRole { .. }
                | Step::Purge { .. }
                | Step::SetApart { .. }
                | Step::SetMetadata { .. }
        )
    }

    /// What a failure of it is remembered under: the effect and its object, not the values that change with each pass.
    pub fn subject(&self) -> String {
        match self {
            Step::CreatePod { shard, .. } => format!("create in shard {shard}"),
            Step::Configure { on, settings, .. } => {
                let list: Vec<String> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("configure {} {}", on.uid, list.join(" "))
            }
            Step::Note { uid, key, .. } => format!("note {uid} {key}"),
            Step::Nudge { uid, .. } => format!("nudge {uid}"),
            Step::SetUser { on, user, rules } => format!("user {} {user} {}", on.uid, rules.join(" ")),
            Step::Meet { on, .. } => format!("meet {}", on.uid),
            Step::Forget { id, .. } => format!("forget {id}"),
            Step::Migrate { on, to, .. } => format!("migrate {} to {}", on.uid, to.uid),
            Step::Carry { on, to, .. } => format!("carry {} to {}", on.uid, to.uid),
            Step::Close { on, .. } => format!("close on {}", on.uid),
            Step::Inherit { on, from, .. } => format!("inherit on {} from {from}", on.uid),
            Step::Promote { dead, .. } => format!("promote for {dead}"),
            Step::Abandon { id, .. } => format!("abandon {id}"),
            Step::Restore { on, .. } => format!("restore {}", on.uid),
            Step::Certify(_) => "certify".to_owned(),
            Step::Purge { shape, .. } => format!("purge for {shape}"),
            Step::Switch { on, to } => {
                let list: Vec<&str> = on.iter().map(|t| t.uid.as_str()).collect();
                format!("switch {} to {to}", list.join(" "))
            }
            Step::Latch
            | Step::Apply(_)
            | Step::Renew
            | Step::Settle
            | Step::RemoveUser { .. }
            | Step::LogIn { .. }
            | Step::DeletePod { .. }
            | Step::SetGate { .. }
            | Step::SetRole { .. }
            | Step::SetApart { .. }
            | Step::SetMetadata { .. }
            | Step::Admit { .. }
            | Step::AssignSlots { .. }
            | Step::SetEpoch { .. }
            | Step::Replicate { .. }
            | Step::Retire { .. }
            | Step::Keep { .. }
            | Step::HandOver { .. }
            | Step::Release { .. } => self.to_string(),
        }
    }
}
