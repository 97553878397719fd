//! Clients that write counters, and remember what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::{NodeId, SLOTS, Slots};

use super::valkey::{Node, Valkey};

/// How many counters there are, spread evenly over the slots.
const COUNTERS: u16 = 12;

/// The slots that clients write to.
pub(crate) fn written_slots() -> impl Iterator<Item = u16> {
    (0..COUNTERS)
        .map(|i| u16::try_from(u32::from(SLOTS) * u32::from(i) / u32::from(COUNTERS)).expect("below 16384"))
}

/// What the clients know.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Clients {
    /// Slot → the highest value that a server acknowledged.
    pub acknowledged: BTreeMap<u16, u64>,
    /// Slot → the value that was given up because the environment took its last copy.
    pub excused: u64,
    /// The slots that this was about.
    pub taken: BTreeSet<u16>,
    /// The slots whose keys were dropped because the spec says so.
    pub dropped: BTreeSet<u16>,
    pub acknowledged_writes: u64,
    /// Those that lead although their end is under way, since nobody else was left: what is written to them goes with them.
    pub last: BTreeSet<NodeId>,
    /// They write from now on.
    pub writing: bool,
}

impl Clients {
    /// One attempt at each counter: a node says who owns the slot, and that one takes the write if it thinks so too. Who is asked
    /// is `open` to the Service, or was when it got its keys: clients stay connected.
    pub(crate) fn write(&mut self, valkey: &mut Valkey, open: &BTreeSet<&NodeId>, rng: &mut StdRng) {
        if !self.writing {
            return;
        }
        for slot in written_slots() {
            if rng.random_bool(0.5) {
                self.write_one(valkey, open, slot, rng);
            }
        }
    }

    fn write_one(&mut self, valkey: &mut Valkey, open: &BTreeSet<&NodeId>, slot: u16, rng: &mut StdRng) {
        let known = |n: &Node| open.contains(&n.id) || !n.data.is_empty();
        let ours = |n: &&Node| n.cluster == 0 && valkey.reach(&n.worker, None) && known(n);
        let seeds: Vec<&Node> = valkey.nodes.values().filter(ours).collect();
        if seeds.is_empty() {
            return;
        }
        let seed = seeds[rng.random_range(0..seeds.len())];
        let ip = if seed.slots.contains(slot) {
            Some(seed.ip)
        } else {
            seed.view.values().find(|e| e.slots.contains(slot)).and_then(|e| e.ip)
        };
        let Some(owner) = ip.and_then(|ip| valkey.listening(ip, None)).map(|n| n.id.clone()) else { return };
        let Some(owner) = asked_to(valkey, &owner, slot) else { return };
        let node = valkey.get_mut(&owner);
        if node.cluster == 0 && node.state_ok && node.of.is_none() && takes(node, slot) {
            let value = node.data.entry(slot).or_insert(0);
            *value += 1;
            let value = *value;
            self.acknowledged_writes += 1;
            // In a minority it is lost when the others elect: a primary takes a while to notice (measured: 2.1–2.6 s).
            if !valkey.hears_majority(&owner) || self.last.contains(&owner) {
                return;
            }
            // Behind a cut others have elected somebody newer: when it heals this one follows.
            if has_newer_rival(valkey, &owner, slot) {
                return;
            }
            let node = valkey.get_mut(&owner);
            // A write that reached no replica, although there is one, is lost in a crash by Valkey's own terms.
            let lineage = node.lineage;
            let others: Vec<&Node> =
                valkey.nodes.values().filter(|n| n.id != owner && n.lineage == lineage).collect();
            let linked = |n: &&Node| n.repl.up && n.repl.partner.as_ref() == Some(&owner);
            if !others.is_empty() && !others.iter().any(linked) {
                return;
            }
            let known = self.acknowledged.entry(slot).or_insert(0);
            *known = (*known).max(value);
        }
    }

    /// The environment ends a process: what nobody else holds is lost with it, and nobody is to blame.
    pub(crate) fn excuse(&mut self, valkey: &Valkey, doomed: &BTreeSet<NodeId>) {
        let slots: Vec<u16> = self.acknowledged.keys().copied().collect();
        self.excuse_in(slots, valkey, doomed);
    }

    /// Valkey's own failover leaves this one behind: a key of a slot half way that had come, and had not reached its copies yet, is lost
    /// as a write would be.
    pub(crate) fn excuse_half_way(&mut self, valkey: &Valkey, old: &NodeId) {
        let Some(node) = valkey.nodes.get(old) else { return };
        let known = |slot: &u16| self.acknowledged.contains_key(slot);
        let slots: Vec<u16> = node.open.keys().copied().filter(known).collect();
        self.excuse_in(slots, valkey, &BTreeSet::from([old.clone()]));
    }

    fn excuse_in(&mut self, slots: Vec<u16>, valkey: &Valkey, doomed: &BTreeSet<NodeId>) {
        for slot in slots {
            let best = best_copy(valkey, slot, doomed, true);
            let known = self.acknowledged.get_mut(&slot).expect("just listed");
            if best < *known {
                self.excused += *known - best;
                self.taken.insert(slot);
                *known = best;
            }
        }
    }

    /// The keys of these slots were dropped because the spec says so: nobody waits for them any more.
    pub(crate) fn purged(&mut self, slots: &Slots) {
        self.dropped.extend(self.acknowledged.keys().filter(|slot| slots.contains(**slot)));
        self.acknowledged.retain(|slot, _| !slots.contains(*slot));
    }

    /// The first slot of which no process holds the acknowledged value any more.
    pub(crate) fn lost(&self, valkey: &Valkey) -> Option<(u16, u64, u64)> {
        self.acknowledged
            .iter()
            .map(|(slot, known)| (*slot, *known, best_copy(valkey, *slot, &BTreeSet::new(), false)))
            .find(|(_, known, best)| best < known)
    }

    /// The first slot whose owner does not hold the acknowledged value.
    pub(crate) fn unreadable(&self, valkey: &Valkey) -> Option<(u16, u64, u64)> {
        let owned = |slot: u16| {
            let owners =
                valkey.nodes.values().filter(|n| n.cluster == 0 && n.of.is_none() && n.slots.contains(slot));
            owners.map(|n| n.data.get(&slot).copied().unwrap_or(0)).max().unwrap_or(0)
        };
        self.acknowledged
            .iter()
            .map(|(slot, known)| (*slot, *known, owned(*slot)))
            .find(|(_, known, best)| best < known)
    }
}

/// On the other side of a cut somebody leads the slot by a newer claim.
fn has_newer_rival(valkey: &Valkey, owner: &NodeId, slot: u16) -> bool {
    if valkey.cut.is_empty() {
        return false;
    }
    let (node, away) = (&valkey.nodes[owner], |n: &Node| valkey.cut.contains(&n.worker));
    let mut rivals = valkey.nodes.values().filter(|n| n.cluster == 0 && n.leads() && n.slots.contains(slot));
    rivals.any(|n| n.epoch > node.epoch && away(n) != away(node))
}

/// A key that has left on the way key by key is asked for at the other end (`ASK`), even when nobody is there any more: nobody
/// takes the write then.
fn asked_to(valkey: &Valkey, owner: &NodeId, slot: u16) -> Option<NodeId> {
    let node = &valkey.nodes[owner];
    match node.open.get(&slot) {
        Some((true, other)) if !node.data.contains_key(&slot) => {
            valkey.nodes.contains_key(other).then(|| other.clone())
        }
        _ => Some(owner.clone()),
    }
}

/// It owns the slot, or expects it and holds the key.
fn takes(node: &Node, slot: u16) -> bool {
    node.slots.contains(slot) || node.open.get(&slot).is_some_and(|(outgoing, _)| !outgoing)
}

/// With `lasting` without the replicas that are about to hear that their primary has given the keys away, and without those behind a
/// cut whose primary is not the one that leads the slot by the newest claim: they are nobody's heir.
fn best_copy(valkey: &Valkey, slot: u16, except: &BTreeSet<NodeId>, lasting: bool) -> u64 {
    let leading = valkey.nodes.values().filter(|n| n.cluster == 0 && n.leads() && n.slots.contains(slot));
    let newest = if lasting { leading.max_by_key(|n| n.epoch).map(|n| &n.id) } else { None };
    let lasts = |n: &Node| {
        let primary = n.of.as_ref().and_then(|of| valkey.nodes.get(of));
        primary.is_none_or(|p| p.data.contains_key(&slot))
            && (!valkey.cut.contains(&n.worker)
                || newest.is_none_or(|id| n.id == *id || n.of.as_ref() == Some(id)))
    };
    let holders = valkey.nodes.values().filter(|n| n.cluster == 0 && !except.contains(&n.id));
    let holders = holders.filter(|n| !lasting || lasts(n));
    holders.filter_map(|n| n.data.get(&slot).copied()).max().unwrap_or(0)
}
