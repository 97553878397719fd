//! Slots on their way from one node to another: what servers say of it, and how much lies in a node.

use std::collections::BTreeMap;

use super::ids::NodeId;
use super::slots::Slots;

/// Slots half way to or from other nodes, key by key (`[slot->-id]`, `[slot-<-id]`): the way of 8.x.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenSlots {
    /// Leaving for this node.
    pub outgoing: BTreeMap<NodeId, Slots>,
    /// Arriving from this node.
    pub incoming: BTreeMap<NodeId, Slots>,
}

impl OpenSlots {
    /// All slots that are half way.
    pub fn all(&self) -> Slots {
        self.outgoing.values().chain(self.incoming.values()).fold(Slots::none(), |all, slots| all.or(slots))
    }

    /// Nothing is half way.
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty() && self.incoming.is_empty()
    }
}

/// A job of `CLUSTER MIGRATESLOTS` (9.0 and newer), as one of its two ends tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// This node is where the slots go.
    pub incoming: bool,
    /// The slots.
    pub slots: Slots,
    /// The node at the other end; a replica of the target does not know it.
    pub other: Option<NodeId>,
    /// How far it is.
    pub state: JobState,
    /// What the server says of a job that ended badly.
    pub message: String,
    /// Milliseconds since it last moved on, by the clock of the server, in whole seconds.
    pub age_ms: i64,
}

/// How far a job is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum JobState {
    /// It waits or works.
    Running,
    /// The slots have changed hands.
    Done,
    /// The slots are where they were: failed or cancelled.
    Failed,
}

/// What lies in a node, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// What counts towards `maxmemory`: without replication backlog and buffers.
    pub used: u64,
    /// Keys and values.
    pub data: u64,
    /// `maxmemory`; 0 is without a limit.
    pub limit: u64,
}
