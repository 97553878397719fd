//! The guard: before an effect that cannot be taken back, the few facts that it rests on are read again, and these
//! functions say whether they still hold. Only [`Facts::read`] touches the wire.
//!
//! Each check answers `Ok(Some(what))` to go on, `Ok(None)` when it is done already (every step is safe to do twice),
//! and `Err(sentence)` when the ground has moved: then nothing is done and the next pass plans anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{NodeId, Pod, PodName, PodUid, Slots, Target};
use crate::valkey::error::WireError;
use crate::valkey::node::Node;
use crate::valkey::parse::{Direction, Flag, Info, NodeLine, OpenSlot, Replication, cluster_nodes};

/// What a node says of itself and of the others, read just now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Its own line.
    pub own: NodeLine,
    /// The others it lists, handshakes included.
    pub others: Vec<NodeLine>,
    /// Keys it holds, in all databases.
    pub keys: u64,
}

impl Facts {
    /// Reads them in one burst.
    pub async fn read(node: &dyn Node) -> Result<Self, WireError> {
        let burst = [vec!["CLUSTER", "NODES"], vec!["INFO", "keyspace"]];
        let answers = node.call_many(&burst).await;
        let [Ok(nodes), Ok(keyspace)] = answers.as_slice() else {
            let why = answers.into_iter().find_map(Result::err);
            return Err(why.unwrap_or_else(|| WireError::Protocol("an answer is missing".to_owned())));
        };
        Self::new(cluster_nodes(nodes.text()?)?, Info::parse(keyspace.text()?)?.keys()?)
    }

    /// The facts in a whole view of the cluster.
    pub fn new(view: Vec<NodeLine>, keys: u64) -> Result<Self, WireError> {
        let (own, others): (Vec<NodeLine>, Vec<NodeLine>) =
            view.into_iter().partition(|n| n.is(Flag::Myself));
        let own = own.into_iter().next();
        let own =
            own.ok_or_else(|| WireError::Protocol("CLUSTER NODES has no line of its own".to_owned()))?;
        Ok(Self { own, others, keys })
    }

    /// The others that it really knows: with their own ids.
    fn known(&self) -> impl Iterator<Item = &NodeLine> {
        self.others.iter().filter(|n| !n.is(Flag::Handshake))
    }

    fn knows(&self, id: &NodeId) -> Option<&NodeLine> {
        self.known().find(|n| n.id == *id)
    }

    /// Addresses that nodes are listed or being introduced under.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.others.iter().filter_map(|n| n.ip)
    }

    /// Slots that it lists for somebody who is not one of these two.
    fn slots_of_others(&self, not: [&NodeId; 2]) -> Slots {
        let others = self.known().filter(|n| !not.contains(&&n.id));
        Slots::from_ranges(others.flat_map(|n| n.slots.ranges().iter().copied()))
    }

    /// It knows nobody, owns nothing and holds nothing.
    fn is_unused(&self) -> bool {
        self.others.is_empty() && self.own.slots.is_empty() && self.keys == 0
    }
}

/// The node that answers is the one that the step was planned for.
pub fn identity(facts: &Facts, on: &Target) -> Result<(), String> {
    if facts.own.id == on.node {
        return Ok(());
    }
    Err(format!("another node answers at the address of {}: {}, not {}", on.pod, facts.own.id, on.node))
}

/// Slots may be given to an empty primary, and only such as it lists for nobody. Answers which are still to be added.
pub fn assign(facts: &Facts, slots: &Slots) -> Result<Option<Slots>, String> {
    let missing = slots.minus(&facts.own.slots);
    if missing.is_empty() {
        return Ok(None);
    }
    if let Some(primary) = &facts.own.primary {
        return Err(format!("it has become a replica of {primary}"));
    }
    if facts.keys > 0 {
        return Err(format!("it holds {} keys, so it is not new", facts.keys));
    }
    match facts.known().find(|n| n.slots.overlaps(&missing)) {
        Some(owner) => Err(format!("it lists slots {} for node {}", owner.slots.and(&missing), owner.id)),
        None => Ok(Some(missing)),
    }
}

/// A first epoch is accepted only by a node that knows nobody.
pub fn epoch(facts: &Facts, epoch: u64) -> Result<Option<u64>, String> {
    match (facts.own.epoch, facts.others.len()) {
        (own, _) if own == epoch => Ok(None),
        (0, 0) => Ok(Some(epoch)),
        (0, known) => Err(format!("it knows {known} other nodes already")),
        (own, _) => Err(format!("it has epoch {own} already")),
    }
}

/// Two nodes may be introduced when one of them knows nobody and holds nothing, when they share an acquaintance, or when both hold
/// nothing and know of owners of different slots (the pieces of a formation that was cut in two):
/// a MEET between two grown clusters merges them and destroys the data of one (measured on 8.0.1 and 9.1.2).
///
/// `ours` are the addresses whose nodes this step has just identified: a handshake with one of them is no stranger.
pub fn introduce(a: &Facts, b: &Facts, ours: &BTreeSet<IpAddr>) -> Result<Option<()>, String> {
    let (a_knows, b_knows) = (a.knows(&b.own.id).is_some(), b.knows(&a.own.id).is_some());
    if a_knows && b_knows {
        return Ok(None);
    }
    if a_knows || b_knows || a.known().any(|n| b.knows(&n.id).is_some()) {
        return Ok(Some(()));
    }
    if !newcomer(a, b, ours) && !newcomer(b, a, ours) && !pieces(a, b) {
        return Err(format!(
            "nodes {} and {} each know nodes that the other does not know: to introduce them could merge two clusters",
            a.own.id, b.own.id
        ));
    }
    let ids = [&a.own.id, &b.own.id];
    let contested = a.own.slots.and(&b.slots_of_others(ids)).or(&b.own.slots.and(&a.slots_of_others(ids)));
    let contested = contested.or(&a.own.slots.and(&b.own.slots));
    if contested.is_empty() { Ok(Some(())) } else { Err(format!("slots {contested} would have two owners")) }
}

/// Both hold nothing, and no slot has an owner on both sides.
fn pieces(a: &Facts, b: &Facts) -> bool {
    let known = |f: &Facts| f.own.slots.or(&f.slots_of_others([&f.own.id; 2]));
    a.keys == 0 && b.keys == 0 && !known(a).overlaps(&known(b))
}

/// It holds nothing, shakes hands only with nodes that are ours or that `other` lists, and knows nobody yet but nodes of this step
/// that have no slots, as it has none then.
fn newcomer(n: &Facts, other: &Facts, ours: &BTreeSet<IpAddr>) -> bool {
    let fine = |ip: IpAddr| ours.contains(&ip) || other.addresses().any(|known| known == ip);
    let empty = |k: &NodeLine| k.slots.is_empty() && k.ip.is_some_and(|ip| ours.contains(&ip));
    let mut known = n.known();
    n.keys == 0
        && n.others.iter().all(|h| h.ip.is_some_and(fine))
        && known.all(|k| empty(k) && n.own.slots.is_empty())
}

/// A node may be pointed at a primary when it owns nothing, and when its present primary owns nothing either: else it
/// may be the last good copy of those slots, unless it holds no key at all.
pub fn replicate(facts: &Facts, primary: &NodeId) -> Result<Option<()>, String> {
    if facts.own.primary.as_ref() == Some(primary) {
        return Ok(None);
    }
    if !facts.own.slots.is_empty() {
        return Err(format!("it owns slots {}", facts.own.slots));
    }
    let Some(listed) = facts.knows(primary) else { return Err(format!("it does not know {primary} yet")) };
    if listed.is(Flag::Replica) {
        return Err(format!("it lists {primary} as a replica"));
    }
    match &facts.own.primary {
        None if facts.keys > 0 => Err(format!("it is a primary and holds {} keys", facts.keys)),
        Some(old) if facts.keys > 0 && facts.knows(old).is_some_and(|n| !n.slots.is_empty()) => {
            Err(format!("its present primary {old} still owns slots"))
        }
        None | Some(_) => Ok(Some(())),
    }
}

/// Slots may move when the source owns them and the target is a primary that the source knows as one. Answers those of them that
/// the source still owns.
pub fn move_slots(source: &Facts, target: &Facts, slots: &Slots) -> Result<Option<Slots>, String> {
    if let Some(primary) = &source.own.primary {
        return Err(format!("it has become a replica of {primary}"));
    }
    if let Some(primary) = &target.own.primary {
        return Err(format!("its target has become a replica of {primary}"));
    }
    let left = slots.minus(&target.own.slots);
    if left.is_empty() {
        return Ok(None);
    }
    if !left.is_subset(&source.own.slots) {
        return Err(format!("it does not own slots {} any more", left.minus(&source.own.slots)));
    }
    match (source.knows(&target.own.id), target.knows(&source.own.id)) {
        (Some(listed), Some(_)) if !listed.is(Flag::Replica) && !listed.is(Flag::Failed) => Ok(Some(left)),
        (Some(_), Some(_)) => Err("it does not see its target as a primary that lives".to_owned()),
        (None, _) | (_, None) => Err("the two ends do not know each other".to_owned()),
    }
}

/// Slots may be closed on copies while their primary does not have them half way itself: what it has is carried on.
pub fn close(primary: &Facts, slots: &Slots) -> Result<(), String> {
    if let Some(other) = &primary.own.primary {
        return Err(format!("it has become a replica of {other}"));
    }
    let open = primary.own.open.iter().find(|o| slots.contains(o.slot));
    open.map_or(Ok(()), |o| Err(format!("it has slot {} half way itself", o.slot)))
}

/// What has come of slots whose source is dead belongs to the node that they were going to. Answers which it does not own yet.
pub fn inherit(facts: &Facts, from: &NodeId, slots: &Slots) -> Result<Slots, String> {
    if let Some(other) = &facts.own.primary {
        return Err(format!("it has become a replica of {other}"));
    }
    let comes = |slot: u16| {
        let here = |o: &OpenSlot| o.slot == slot && o.direction == Direction::Importing && o.other == *from;
        facts.own.open.iter().any(here)
    };
    let missing = slots.minus(&facts.own.slots);
    let other = missing.iter().find(|slot| !comes(*slot));
    match other {
        Some(slot) => Err(format!("slot {slot} is not on its way to it from {from}")),
        None => Ok(missing),
    }
}

/// A job moves slots as a whole: the server refuses it while slots are half way at either end.
pub fn migrate(source: &Facts, target: &Facts, slots: &Slots) -> Result<Option<Slots>, String> {
    if !source.own.open.is_empty() || !target.own.open.is_empty() {
        return Err("slots are half way at one of the two ends".to_owned());
    }
    move_slots(source, target, slots)
}

/// Keys are dropped by a primary; its replicas do as it does.
pub fn drop_keys(facts: &Facts) -> Result<(), String> {
    match &facts.own.primary {
        Some(primary) => Err(format!("it has become a replica of {primary}")),
        None => Ok(()),
    }
}

/// Only a replica is asked to leave; a primary hands over first.
pub fn retire(facts: &Facts) -> Result<(), String> {
    if facts.own.primary.is_some() { Ok(()) } else { Err("it has become a primary".to_owned()) }
}

/// One node may drop an id that is not its own primary. `all_empty` says that no node of the step holds a key: only then
/// may an id go that is still listed with slots, because then no data goes with them.
pub fn forget(facts: &Facts, id: &NodeId, all_empty: bool) -> Result<Option<()>, String> {
    if facts.own.id == *id {
        return Err("it is that node".to_owned());
    }
    if facts.own.primary.as_ref() == Some(id) {
        return Err("it still copies from that node".to_owned());
    }
    match facts.others.iter().find(|n| n.id == *id) {
        None => Ok(None),
        Some(listed) if !listed.slots.is_empty() && !all_empty => {
            Err(format!("it lists that node with slots {}", listed.slots))
        }
        Some(_) => Ok(Some(())),
    }
}

/// A node without which nothing is lost.
pub fn unused(facts: &Facts) -> Result<(), String> {
    if facts.is_unused() {
        return Ok(());
    }
    Err(format!(
        "its node is in use: it knows {} other nodes, owns {} slots and holds {} keys",
        facts.others.len(),
        facts.own.slots.len(),
        facts.keys
    ))
}

/// A node that nobody can reach through another one, and that holds nothing, whatever it claims.
pub fn alone(facts: &Facts) -> Result<(), String> {
    if facts.others.is_empty() && facts.keys == 0 {
        return Ok(());
    }
    Err(format!("its node knows {} other nodes and holds {} keys", facts.others.len(), facts.keys))
}

/// A member without which no slot and no key is lost.
pub fn empty(facts: &Facts) -> Result<(), String> {
    if facts.own.slots.is_empty() && facts.keys == 0 {
        return Ok(());
    }
    Err(format!("its node owns {} slots and holds {} keys", facts.own.slots.len(), facts.keys))
}

/// A member whose keys are others': it owns no slots, and whomever it copies owns none either.
pub fn stranded(facts: &Facts) -> Result<(), String> {
    let of = facts.own.primary.as_ref();
    let owner = facts.others.iter().find(|line| Some(&line.id) == of && !line.slots.is_empty());
    if let Some(owner) = owner {
        return Err(format!("its node copies {}, which owns {} slots", owner.id, owner.slots.len()));
    }
    if facts.own.slots.is_empty() {
        return Ok(());
    }
    Err(format!("its node owns {} slots", facts.own.slots.len()))
}

/// Every Pod that there is was among the facts. What nodes trust is taken away from those only that were looked at, and a watch may
/// lag behind: a server that nobody has seen yet starts with the files of before.
pub fn all_seen<'a>(
    seen: &BTreeMap<PodName, Pod>,
    live: impl IntoIterator<Item = (&'a PodName, &'a PodUid)>,
) -> Result<(), String> {
    let unseen = live.into_iter().find(|(name, uid)| seen.get(name).is_none_or(|pod| pod.uid != **uid));
    unseen.map_or(Ok(()), |(name, _)| Err(format!("{name} was not looked at yet")))
}

/// A replica that was asked to leave and has not taken over meanwhile. Answers its primary's id and address, for the
/// proof that the data is elsewhere.
pub fn retired(facts: &Facts) -> Result<(NodeId, IpAddr), String> {
    if facts.own.primary.is_some() && !facts.own.is(Flag::NoFailover) {
        return Err("its node was not asked to leave, or is wanted again".to_owned());
    }
    replica(facts)
}

/// A replica that has not taken over meanwhile, with its primary's id and address.
pub fn replica(facts: &Facts) -> Result<(NodeId, IpAddr), String> {
    let Some(primary) = &facts.own.primary else { return Err("its node has become a primary".to_owned()) };
    let listed =
        facts.knows(primary).ok_or_else(|| format!("its node does not know its primary {primary}"))?;
    let ip = listed.ip.ok_or_else(|| format!("its node has lost the address of its primary {primary}"))?;
    Ok((primary.clone(), ip))
}

/// Settings of an empty cluster (a low node-timeout) never reach a node that holds keys.
pub fn configure(facts: &Facts, only_empty: bool) -> Result<(), String> {
    if only_empty && facts.keys > 0 {
        return Err(format!("it holds {} keys by now", facts.keys));
    }
    Ok(())
}

/// The replica may be asked to take over from this very primary: both say so, and no slot is half way.
pub fn hand_over(replica: &Facts, primary: &Facts) -> Result<(), String> {
    if replica.own.primary.as_ref() != Some(&primary.own.id) {
        return Err(format!("it does not copy from {} any more", primary.own.id));
    }
    if primary.own.slots.is_empty() {
        return Err(format!("{} owns no slots", primary.own.id));
    }
    if replica.own.is(Flag::NoFailover) {
        return Err("it was asked to leave".to_owned());
    }
    let listed = replica.knows(&primary.own.id);
    if listed.is_none_or(|p| !p.connected || p.is(Flag::Failed) || p.is(Flag::Suspected)) {
        return Err("it has lost its primary on the cluster bus".to_owned());
    }
    let listed = primary.knows(&replica.own.id).filter(|r| r.primary.as_ref() == Some(&primary.own.id));
    let listed = listed.ok_or_else(|| "its primary does not list it as its replica yet".to_owned())?;
    if !listed.connected {
        return Err("its primary has no link to it yet: its vote would be lost".to_owned());
    }
    if primary.own.open.is_empty() { Ok(()) } else { Err("its primary has slots half way".to_owned()) }
}

/// Bytes of the replication stream that a replica may be behind when it is asked to take over: the writes are held
/// until it has them.
const BEHIND: u64 = 1 << 20;

/// The replica's link is up and it is close behind its primary.
pub fn close_behind(primary: &Replication, replica: &Replication) -> Result<(), String> {
    match (primary, replica) {
        (Replication::Primary { offset: sent, .. }, Replication::Replica { up, syncing, offset, .. }) => {
            let behind = sent.saturating_sub(*offset);
            match (*up && !*syncing, behind <= BEHIND) {
                (false, _) => Err("its replication link is down".to_owned()),
                (true, false) => Err(format!("it is {behind} bytes behind its primary")),
                (true, true) => Ok(()),
            }
        }
        _ => Err("the two have changed their roles".to_owned()),
    }
}

/// Copies that keep the shard whole without the one that leaves.
pub fn enough_others(online: usize, wanted: u16) -> Result<(), String> {
    if online >= usize::from(wanted) {
        return Ok(());
    }
    Err(format!("its primary has {online} other replicas online, and {wanted} have to stay"))
}

/// The primary answers and owns its slots: the replica that leaves is not the last copy.
pub fn holds_data(primary: &Facts, id: &NodeId) -> Result<(), String> {
    if primary.own.id != *id {
        return Err(format!("another node answers at the address of its primary {id}"));
    }
    if primary.own.slots.is_empty() {
        return Err(format!("its primary {id} owns no slots"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "guard_testing.rs"]
pub(crate) mod testing;

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
