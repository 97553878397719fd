//! A Valkey process: what it knows of itself and of the others, and the commands it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::users::Shown;
use valkey_cluster_operator::model::{NodeId, PodUid, Slots, Version, WorkerName};

/// Who ended a process: what the environment takes may be lost, what the operator takes may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Environment,
    Operator,
}

/// A line of a node's own `CLUSTER NODES` about another.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are the flags of a line of CLUSTER NODES")]
pub(crate) struct Entry {
    pub ip: Option<IpAddr>,
    pub replica_of: Option<NodeId>,
    pub slots: Slots,
    pub epoch: u64,
    /// The id is a placeholder until the other has said its own.
    pub handshake: bool,
    /// The handshake was asked for by CLUSTER MEET here.
    pub meets: bool,
    pub suspected: bool,
    pub failed: bool,
    pub failed_at: i64,
    /// The bus link to it is open.
    pub connected: bool,
    pub since: i64,
    pub heard: i64,
    /// Which primaries said that it is gone, and when.
    pub reports: BTreeMap<NodeId, i64>,
}

impl Entry {
    pub(crate) fn new(ip: IpAddr, now: i64) -> Self {
        Self {
            ip: Some(ip),
            replica_of: None,
            slots: Slots::none(),
            epoch: 0,
            handshake: false,
            meets: false,
            suspected: false,
            failed: false,
            failed_at: 0,
            connected: true,
            since: now,
            heard: now,
            reports: BTreeMap::new(),
        }
    }
}

/// The replication link of a replica.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Replication {
    /// The process at the other end: found by address, not by id.
    pub partner: Option<NodeId>,
    pub up: bool,
    /// A full sync ends at this tick.
    pub sync_until: Option<i64>,
    pub loading: bool,
    pub down_since: i64,
    /// A full sync was completed once: without one, Valkey does not elect it.
    pub synced: bool,
}

/// A process.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Node {
    pub id: NodeId,
    /// 0 is the cluster of the life; others are strangers.
    pub cluster: u8,
    pub uid: PodUid,
    pub worker: WorkerName,
    pub ip: IpAddr,
    pub started: i64,
    pub version: Version,
    /// Whom it copies; a primary has none.
    pub of: Option<NodeId>,
    pub slots: Slots,
    /// Slots half way: whether they leave, and who is at the other end.
    pub open: BTreeMap<u16, (bool, NodeId)>,
    pub epoch: u64,
    pub current_epoch: u64,
    pub last_vote: u64,
    pub view: BTreeMap<NodeId, Entry>,
    /// Ids that were forgotten here, and until when gossip does not bring them back.
    pub banned: BTreeMap<NodeId, i64>,
    pub state_ok: bool,
    pub minority_at: i64,
    pub config: BTreeMap<String, String>,
    pub admitted: bool,
    /// What `ACL LIST` shows.
    pub users: Shown,
    /// What it logs in to its primary with.
    pub primary_password: String,
    /// Key number by slot: one counter in each slot that clients write to.
    pub data: BTreeMap<u16, u64>,
    /// Writes that were dropped with their keys: the replication stream goes on.
    pub dropped: u64,
    /// The history its data belongs to: equal ones can continue without a full sync.
    pub lineage: u64,
    pub repl: Replication,
    pub election_at: Option<i64>,
    pub dies_at: Option<(i64, Cause)>,
}

impl Node {
    pub(crate) fn timeout_ms(&self) -> i64 {
        self.config.get("cluster-node-timeout").and_then(|v| v.parse().ok()).unwrap_or(15_000)
    }

    pub(crate) fn retiring(&self) -> bool {
        self.config.get("cluster-replica-no-failover").is_some_and(|v| v == "yes")
    }

    /// On the bus and towards its primary. Two of different kinds do not hear each other.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.config.get("tls-cluster").is_some_and(|v| v == "yes")
    }

    pub(crate) fn leads(&self) -> bool {
        self.of.is_none() && !self.slots.is_empty()
    }

    /// It lists this id, by its real name.
    pub(crate) fn knows(&self, id: &NodeId) -> bool {
        self.view.get(id).is_some_and(|e| !e.handshake)
    }

    /// Slot owners that it knows of, itself included: the voters.
    pub(crate) fn voters(&self) -> usize {
        self.view.values().filter(|e| !e.slots.is_empty()).count() + usize::from(self.leads())
    }
}

/// All processes, and which workers are cut off from the others.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Valkey {
    pub nodes: BTreeMap<NodeId, Node>,
    pub cut: BTreeSet<WorkerName>,
    /// Workers that the operator alone cannot reach.
    pub hidden: BTreeSet<WorkerName>,
    /// When the last worker was connected again.
    pub healed_at: i64,
    /// Primaries behind a cut with slots half way, whose heirs were elected a moment ago.
    pub left_behind: Vec<NodeId>,
    /// Jobs, the newest first.
    pub transfers: Vec<super::migration::Transfer>,
    /// Addresses on workers without power: nobody there even refuses.
    pub dark: BTreeSet<IpAddr>,
    next: u64,
}

/// What the server answers to a command that it does not take.
pub(crate) type Refusal = String;

impl Valkey {
    /// A name that no other node has; the order of the names is random, as that of real ids is.
    pub(crate) fn fresh_id(&mut self, rng: &mut StdRng) -> NodeId {
        self.next += 1;
        let letter = char::from(b'a' + rng.random_range(0..26u8));
        NodeId::new(format!("{letter}{:03}", self.next))
    }

    /// The process that listens at an address, as seen from a worker (`None` = from the operator and the clients).
    pub(crate) fn listening(&self, ip: IpAddr, from: Option<&WorkerName>) -> Option<&Node> {
        self.nodes.values().find(|n| n.ip == ip).filter(|n| self.reach(&n.worker, from))
    }

    pub(crate) fn reach(&self, to: &WorkerName, from: Option<&WorkerName>) -> bool {
        from == Some(to) || !(self.cut.contains(to) || from.is_some_and(|w| self.cut.contains(w)))
    }

    /// It can reach the majority of the slot owners that it knows.
    pub(crate) fn hears_majority(&self, id: &NodeId) -> bool {
        let node = &self.nodes[id];
        let owners = node.view.iter().filter(|(_, e)| !e.slots.is_empty());
        let reached = |(peer, e): &(&NodeId, &Entry)| {
            e.ip.and_then(|ip| self.listening(ip, Some(&node.worker))).is_some_and(|n| n.id == **peer)
        };
        owners.filter(reached).count() + usize::from(node.leads()) > node.voters() / 2
    }

    pub(crate) fn get_mut(&mut self, id: &NodeId) -> &mut Node {
        self.nodes.get_mut(id).expect("the caller has just seen it")
    }

    // === the commands ===

    pub(crate) fn meet(&mut self, on: &NodeId, ip: IpAddr, now: i64, rng: &mut StdRng) {
        let placeholder = self.fresh_id(rng);
        let node = self.get_mut(on);
        if node.ip == ip || node.view.values().any(|e| e.handshake && e.ip == Some(ip)) {
            return;
        }
        let entry = Entry { handshake: true, meets: true, ..Entry::new(ip, now) };
        node.view.insert(NodeId::new(format!("?{placeholder}")), entry);
    }

    pub(crate) fn add_slots(&mut self, on: &NodeId, slots: &Slots) -> Result<(), Refusal> {
        let node = self.get_mut(on);
        let busy = node.view.values().fold(node.slots.clone(), |all, e| all.or(&e.slots)).and(slots);
        if !busy.is_empty() {
            return Err(format!("Slot {} is already busy", busy.ranges()[0].first));
        }
        if node.of.is_some() {
            return Err("a replica owns no slots".to_owned());
        }
        node.slots = node.slots.or(slots);
        Ok(())
    }

    pub(crate) fn set_config_epoch(&mut self, on: &NodeId, epoch: u64) -> Result<(), Refusal> {
        let node = self.get_mut(on);
        if !node.view.is_empty() {
            return Err(
                "The user can assign a config epoch only when the node does not know any other node".into()
            );
        }
        if node.epoch != 0 {
            return Err("Node config epoch is already non-zero".into());
        }
        node.epoch = epoch;
        node.current_epoch = node.current_epoch.max(epoch);
        Ok(())
    }

    pub(crate) fn replicate(&mut self, on: &NodeId, primary: &NodeId, now: i64) -> Result<(), Refusal> {
        let node = self.get_mut(on);
        let Some(entry) = node.view.get(primary).filter(|e| !e.handshake) else {
            return Err(format!("Unknown node {primary}"));
        };
        if entry.replica_of.is_some() {
            return Err("I can only replicate a master, not a replica.".into());
        }
        if node.of.is_none() && (!node.slots.is_empty() || !node.data.is_empty()) {
            return Err("To set a master the node must be empty and without assigned slots.".into());
        }
        if node.of.as_ref() != Some(primary) {
            node.follow(primary.clone(), now);
        }
        Ok(())
    }

    pub(crate) fn forget(&mut self, on: &NodeId, id: &NodeId, now: i64) -> Result<(), Refusal> {
        let node = self.get_mut(on);
        if node.id == *id {
            return Err("I tried hard but I can't forget myself...".into());
        }
        if node.of.as_ref() == Some(id) {
            return Err("Can't forget my master!".into());
        }
        if !node.view.contains_key(id) && !node.banned.contains_key(id) {
            return Err(format!("Unknown node {id}"));
        }
        node.drop_entry(id, now);
        // The ban travels with gossip (7.2 and newer): within the second everybody has forgotten it.
        let friends: Vec<NodeId> =
            node.view.iter().filter(|(_, e)| !e.handshake).map(|(i, _)| i.clone()).collect();
        for friend in friends {
            if let Some(other) = self.nodes.get_mut(&friend)
                && other.knows(on)
                && other.id != *id
                && other.of.as_ref() != Some(id)
            {
                other.drop_entry(id, now);
            }
        }
        Ok(())
    }

    /// An epoch above all that it knows.
    pub(crate) fn bump_epoch(&mut self, on: &NodeId) {
        let node = self.get_mut(on);
        let highest = node.view.values().map(|e| e.epoch).max().unwrap_or(0).max(node.current_epoch);
        if node.epoch == 0 || node.epoch < highest {
            node.current_epoch = highest + 1;
            node.epoch = node.current_epoch;
        }
    }

    pub(crate) fn config_set(&mut self, on: &NodeId, key: &str, value: &str) -> Result<(), Refusal> {
        let node = self.get_mut(on);
        if !node.config.contains_key(key) {
            return Err(format!("Unknown option or number of arguments for CONFIG SET - '{key}'"));
        }
        if value == "nonsense" {
            return Err(format!("CONFIG SET failed (possibly related to argument '{key}')"));
        }
        node.config.insert(key.to_owned(), shown(value));
        Ok(())
    }
}

/// How the server shows a value: sizes in bytes.
pub(crate) fn shown(value: &str) -> String {
    match value.strip_suffix("mb").map(str::parse::<u64>) {
        Some(Ok(n)) => (n << 20).to_string(),
        Some(Err(_)) | None => value.to_owned(),
    }
}

impl Node {
    /// Becomes a replica: the link starts anew, the data stays until a sync replaces it.
    pub(crate) fn follow(&mut self, primary: NodeId, now: i64) {
        self.of = Some(primary);
        self.slots = Slots::none();
        self.election_at = None;
        let synced = self.repl.synced;
        self.repl = Replication { down_since: now, synced, ..Replication::default() };
    }

    pub(crate) fn set_open(&mut self, slot: u16, state: Option<&(bool, NodeId)>) {
        match state {
            Some(state) => drop(self.open.insert(slot, state.clone())),
            None => drop(self.open.remove(&slot)),
        }
    }

    pub(crate) fn drop_entry(&mut self, id: &NodeId, now: i64) {
        self.view.remove(id);
        self.open.retain(|_, (_, other)| other != id);
        self.banned.insert(id.clone(), now + super::ticks(60_000));
    }
}
