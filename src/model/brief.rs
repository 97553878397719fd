//! A brief look: a node's own state in a few hundred bytes, and how the rest of its report is inferred.
//!
//! In a large cluster a node is not asked for its list of all others in every pass: two nodes that give the same numbers of the
//! whole say, but for moments, the same of everybody. Its list is then what all of a sample say who give these numbers. Nobody is suspected in an
//! inferred list, whatever the sample says: only a node's own word testifies that another one is dead.
//!
//! What changes only by a command (users, open slots, jobs) is as it was when the node was seen whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::ids::NodeId;
use super::moves::{Job, Memory};
use super::peers::Peers;
use super::slots::Slots;
use super::snapshot::{Link, NodeReport, Peer, Role, Silence};
use super::users::Digest as PasswordDigest;

/// The lines of a list, that about the node itself included.
pub type Lines = Arc<BTreeMap<NodeId, Peer>>;

/// How a node sees its cluster, in numbers (`CLUSTER INFO`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Numbers {
    /// Nodes that it lists, itself and handshakes included.
    pub known_nodes: u32,
    /// Primaries that own slots.
    pub size: u32,
    /// The highest epoch seen.
    pub current_epoch: u64,
    /// Slots that somebody owns.
    pub slots_assigned: u16,
}

/// What a node says of itself when it is asked briefly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Brief {
    /// Its id.
    pub id: NodeId,
    /// How it sees the whole.
    pub numbers: Numbers,
    /// `cluster_state` is ok.
    pub state_ok: bool,
    /// Its own config epoch; that of its primary for a replica.
    pub epoch: u64,
    /// Whom it copies, by address, with the state of the copying; none: it is a primary.
    pub copies: Option<(IpAddr, Link)>,
    /// The slots that it says it owns.
    pub slots: Slots,
    /// Addresses of replicas that it reports as `state=online`.
    pub online_replicas: BTreeSet<IpAddr>,
    /// Keys it holds.
    pub keys: u64,
    /// What lies in it, where that was asked.
    pub memory: Option<Memory>,
    /// The password that it shows to its primary.
    pub primary_password: Option<PasswordDigest>,
    /// Configuration values it was asked for.
    pub config: BTreeMap<String, String>,
}

/// What came of asking a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// All that it says, its list of the others included.
    Whole(Box<NodeReport>, Numbers),
    /// Its own state.
    Brief(Box<Brief>),
    /// Nothing.
    Silent(Silence),
}

impl Brief {
    /// The report of this node, when its own words agree with what all others say of it and nothing about it is odd: then its list is
    /// these lines. `last` is what it said when it was seen whole, so many milliseconds ago.
    pub fn report(&self, last: &NodeReport, ago_ms: i64, lines: &Lines) -> Option<NodeReport> {
        if last.id != self.id {
            return None;
        }
        let listed = lines.get(&self.id).filter(|l| !l.handshake && l.epoch == self.epoch)?;
        let role = self.role(listed, lines)?;
        let older = |job: &Job| Job { age_ms: job.age_ms.saturating_add(ago_ms), ..job.clone() };
        let report = NodeReport {
            role,
            uptime_ms: last.uptime_ms.saturating_add(ago_ms),
            jobs: last.jobs.iter().map(older).collect(),
            memory: self.memory.or(last.memory),
            state_ok: self.state_ok,
            epoch: self.epoch,
            peers: Peers::inferred(Arc::clone(lines), self.id.clone()),
            online_replicas: self.online_replicas.clone(),
            keys: self.keys,
            primary_password: self.primary_password.clone(),
            config: self.config.clone(),
            ..last.clone()
        };
        is_settled(&report).then_some(report)
    }

    fn role(&self, listed: &Peer, lines: &Lines) -> Option<Role> {
        match (&self.copies, &listed.replica_of) {
            (None, None) => (self.slots == listed.slots).then(|| Role::Primary { slots: self.slots.clone() }),
            (Some((at, link)), Some(of)) => (lines.get(of)?.ip == Some(*at) && listed.slots.is_empty())
                .then(|| Role::Replica { of: of.clone(), link: *link }),
            (None, Some(_)) | (Some(_), None) => None,
        }
    }
}

/// It leads slots or copies somebody who does, and nothing about it is under way: a brief look at such a node is enough.
pub fn is_settled(n: &NodeReport) -> bool {
    let has_its_place = match &n.role {
        Role::Primary { slots } => !slots.is_empty(),
        Role::Replica { link, .. } => link.in_sync(),
    };
    has_its_place
        && n.state_ok
        && n.admitted
        && n.users.is_some()
        && !n.loading
        && !n.is_moving_slots()
        && !n.is_retiring()
}

/// What both lists say: who is on one alone is on neither, and what they say differently of somebody is left open.
pub fn agreed(a: &Lines, b: &Lines) -> Lines {
    if a == b {
        return Arc::clone(a);
    }
    let both = a.iter().filter_map(|(id, line)| Some((id.clone(), same(line, b.get(id)?))));
    Arc::new(both.collect())
}

fn same(a: &Peer, b: &Peer) -> Peer {
    Peer {
        ip: a.ip.or(b.ip),
        replica_of: a.replica_of.clone().filter(|of| b.replica_of.as_ref() == Some(of)),
        slots: a.slots.and(&b.slots),
        epoch: a.epoch.min(b.epoch),
        handshake: a.handshake || b.handshake,
        ..a.clone()
    }
}

/// The same lines without a suspicion.
pub fn without_suspicion(lines: &Lines) -> Lines {
    let clear = |p: &Peer| p.connected && !p.suspected && !p.failed;
    if lines.values().all(clear) {
        return Arc::clone(lines);
    }
    let lines = lines.iter().map(|(id, line)| {
        (id.clone(), Peer { connected: true, suspected: false, failed: false, ..line.clone() })
    });
    Arc::new(lines.collect())
}

#[cfg(test)]
#[path = "brief_tests.rs"]
mod tests;
