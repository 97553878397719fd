//! Slots that change hands on live data: jobs that move them as a whole, and slots that are carried key by key.
//!
//! As measured on 9.1.2: a job that loses one of its ends, by death or by a failover, leaves the slots where they were, and
//! nothing at the target. As measured on 8.0.1: what is half way survives a failover, and pointers follow the new primary.

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::settings::JOBS_SINCE;
use valkey_cluster_operator::model::{Job, JobState, NodeId, OpenSlots, SlotRange, Slots};

use super::TICK_MS;
use super::valkey::{Node, Refusal, Valkey};

/// A job of `CLUSTER MIGRATESLOTS`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Transfer {
    pub source: NodeId,
    pub target: NodeId,
    pub slots: Slots,
    pub ends_at: i64,
    pub moved_at: i64,
    pub state: JobState,
    pub message: String,
}

/// Slots that one call carries at the most.
const STRETCH: usize = 1500;

impl Valkey {
    pub(crate) fn migrate_slots(
        &mut self,
        on: &NodeId,
        to: &NodeId,
        slots: &Slots,
        now: i64,
        rng: &mut StdRng,
    ) -> Result<(), Refusal> {
        let (node, target) = (&self.nodes[on], &self.nodes[to]);
        if node.version < JOBS_SINCE || target.version < JOBS_SINCE {
            return Err("unknown subcommand 'MIGRATESLOTS'. Try CLUSTER HELP.".into());
        }
        if !slots.is_subset(&node.slots) {
            return Err("Requested slots span multiple shards".into());
        }
        if !node.open.is_empty() || !target.open.is_empty() {
            return Err("Slots are being manually migrated".into());
        }
        let running = |t: &&Transfer| t.state == JobState::Running && t.source == *on;
        if self.transfers.iter().filter(running).any(|t| t.slots.overlaps(slots)) {
            return Err("I am already migrating slot".into());
        }
        // One snapshot at a time: the others wait for it.
        let begins = self.transfers.iter().filter(running).map(|t| t.ends_at).fold(now, i64::max);
        let ends_at = begins + rng.random_range(1..=20);
        let (source, target, slots, message) = (on.clone(), to.clone(), slots.clone(), String::new());
        let state = JobState::Running;
        self.transfers.insert(0, Transfer { source, target, slots, ends_at, moved_at: now, state, message });
        Ok(())
    }

    /// What the jobs do in one tick.
    pub(crate) fn transfers(&mut self, now: i64, rng: &mut StdRng) {
        for i in 0..self.transfers.len() {
            let t = self.transfers[i].clone();
            if t.state != JobState::Running {
                continue;
            }
            let broken =
                self.broken(&t).or_else(|| rng.random_bool(0.01).then_some("the connection was lost"));
            if let Some(why) = broken {
                let t = &mut self.transfers[i];
                (t.state, t.moved_at, t.message) = (JobState::Failed, now, why.to_owned());
            } else if t.ends_at <= now {
                self.hand_over_slots(&t, now, rng);
                let t = &mut self.transfers[i];
                (t.state, t.moved_at) = (JobState::Done, now);
            }
        }
        self.transfers.truncate(64);
    }

    fn broken(&self, t: &Transfer) -> Option<&'static str> {
        let (Some(source), Some(target)) = (self.nodes.get(&t.source), self.nodes.get(&t.target)) else {
            return Some("the other end is gone");
        };
        if source.of.is_some() || target.of.is_some() || !t.slots.is_subset(&source.slots) {
            return Some("a failover has taken place");
        }
        let apart = !self.reach(&target.worker, Some(&source.worker));
        (apart || !target.admitted || !source.admitted).then_some("the connection was lost")
    }

    /// In one moment the slots and all their data are the target's, with an epoch above all others.
    fn hand_over_slots(&mut self, t: &Transfer, now: i64, rng: &mut StdRng) {
        let epoch = self.nodes.values().map(|n| n.current_epoch.max(n.epoch)).max().unwrap_or(0) + 1;
        let source = self.get_mut(&t.source);
        let mut data = source.data.clone();
        data.retain(|slot, _| t.slots.contains(*slot));
        source.data.retain(|slot, _| !t.slots.contains(*slot));
        self.take(&t.target, &t.slots, epoch);
        self.get_mut(&t.target).data.extend(data);
        self.announce(&t.target, now, rng);
    }

    /// `FLUSHALL` on a primary: its keys go, and the jobs that it is an end of fail. Answers the slots that are concerned.
    pub(crate) fn drop_keys(&mut self, id: &NodeId, now: i64) -> Slots {
        for t in self.transfers.iter_mut().filter(|t| t.state == JobState::Running) {
            if t.source == *id || t.target == *id {
                (t.state, t.moved_at, t.message) = (JobState::Failed, now, "the data was flushed".to_owned());
            }
        }
        let node = self.get_mut(id);
        let held = node.data.keys().map(|s| SlotRange { first: *s, last: *s });
        let slots = node.slots.or(&Slots::from_ranges(held));
        node.dropped += node.data.values().sum::<u64>();
        node.data.clear();
        slots
    }

    /// The target claims slots.
    fn take(&mut self, target: &NodeId, slots: &Slots, epoch: u64) {
        let node = self.get_mut(target);
        (node.epoch, node.current_epoch) = (epoch, epoch);
        node.slots = node.slots.or(slots);
        for entry in node.view.values_mut() {
            entry.slots = entry.slots.minus(slots);
        }
    }

    fn announce(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) {
        let friends: Vec<NodeId> = self.nodes[id].view.keys().cloned().collect();
        for friend in friends {
            self.ping(id, &friend, now, rng);
        }
    }

    /// One stretch of work key by key: what is open is finished first, and a slot with keys takes several calls.
    pub(crate) fn carry(
        &mut self,
        on: &NodeId,
        to: &NodeId,
        slots: &Slots,
        now: i64,
        rng: &mut StdRng,
    ) -> Result<(), Refusal> {
        // Measured: `MIGRATE` from 9.1.2 to 8.1.1.
        let refuses = self.nodes[on].version >= JOBS_SINCE && self.nodes[to].version < JOBS_SINCE;
        let mut said = Ok(());
        let mut done = 0;
        let mut closed = Vec::new();
        let cut_short = rng.random_bool(0.02);
        for slot in slots.iter().take(STRETCH) {
            let open = self.nodes[on].open.contains_key(&slot) && self.nodes[to].open.contains_key(&slot);
            if !open {
                let arriving = Some((false, on.clone()));
                if cut_short {
                    // Its replicas answer after the operator has gone: the primary does not carry it out.
                    self.pass_on(to, slot, arriving.as_ref());
                    break;
                }
                self.set_slot(to, slot, arriving.as_ref());
                // The operator may die between the two.
                self.set_slot(on, slot, Some(&(true, to.clone())));
            }
            if let Some(value) = self.nodes[on].data.get(&slot).copied() {
                if refuses {
                    said = Err("DUMP payload version or checksum are wrong".into());
                    break;
                }
                done += 1;
                if open && rng.random_bool(0.7) {
                    self.get_mut(on).data.remove(&slot);
                    self.get_mut(to).data.insert(slot, value);
                }
                if done > 3 {
                    break;
                }
                continue;
            }
            self.set_slot(on, slot, None);
            self.set_slot(to, slot, None);
            closed.push(SlotRange { first: slot, last: slot });
        }
        let closed = Slots::from_ranges(closed);
        if closed.is_empty() {
            return said;
        }
        let epoch = self.nodes.values().map(|n| n.current_epoch.max(n.epoch)).max().unwrap_or(0) + 1;
        self.take(to, &closed, epoch);
        let (source, id) = (self.get_mut(on), to.clone());
        source.slots = source.slots.minus(&closed);
        if let Some(entry) = source.view.get_mut(&id) {
            entry.slots = entry.slots.or(&closed);
            entry.epoch = epoch;
        }
        self.announce(to, now, rng);
        said
    }

    /// `CLUSTER SETSLOT`: first its replicas, then the node itself.
    pub(crate) fn set_slot(&mut self, id: &NodeId, slot: u16, state: Option<&(bool, NodeId)>) {
        self.pass_on(id, slot, state);
        self.get_mut(id).set_open(slot, state);
    }

    /// `CLUSTER SETSLOT … NODE` of slots that come, at their target: it and its copies own them, by a new epoch.
    pub(crate) fn inherit(&mut self, on: &NodeId, from: &NodeId, slots: &Slots, now: i64, rng: &mut StdRng) {
        for slot in slots.iter() {
            self.set_slot(on, slot, None);
        }
        let node = self.get_mut(on);
        node.slots = node.slots.or(slots);
        if let Some(entry) = node.view.get_mut(from) {
            entry.slots = entry.slots.minus(slots);
        }
        self.bump_epoch(on);
        self.announce(on, now, rng);
    }

    fn pass_on(&mut self, id: &NodeId, slot: u16, state: Option<&(bool, NodeId)>) {
        for copy in self.nodes.values_mut().filter(|n| n.of.as_ref() == Some(id) && n.repl.up) {
            copy.set_open(slot, state);
        }
    }

    /// A replica has taken over: it has what was half way, and the other ends point to it.
    pub(crate) fn point_to_heir(&mut self, old: &NodeId, heir: &NodeId) {
        for node in self.nodes.values_mut().filter(|n| n.id != *heir) {
            for (_, other) in node.open.values_mut().filter(|(_, other)| other == old) {
                *other = heir.clone();
            }
        }
    }
}

/// What a node says of its open slots.
pub(crate) fn open_slots(node: &Node) -> OpenSlots {
    let mut out = OpenSlots::default();
    for (slot, (outgoing, other)) in &node.open {
        let side = if *outgoing { &mut out.outgoing } else { &mut out.incoming };
        let all = side.entry(other.clone()).or_default();
        *all = all.or(&Slots::from_ranges([SlotRange { first: *slot, last: *slot }]));
    }
    out
}

/// What a node says of its jobs.
pub(crate) fn jobs(valkey: &Valkey, node: &Node, now: i64) -> Vec<Job> {
    let mine = valkey.transfers.iter().filter(|t| t.source == node.id || t.target == node.id);
    mine.map(|t| {
        let incoming = t.target == node.id;
        Job {
            incoming,
            slots: t.slots.clone(),
            other: Some(if incoming { t.source.clone() } else { t.target.clone() }),
            state: t.state,
            message: t.message.clone(),
            age_ms: (now - t.moved_at) * TICK_MS,
        }
    })
    .collect()
}
