//! The join of Pods and Valkey nodes into shards, and the questions that rules ask about it.
//! This is the only place where the two worlds meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ids::{NodeId, PodUid, Shard, WorkerName};
use super::lists::{List, Lists};
use super::plan::Why;
use super::slots::Slots;
use super::snapshot::{Link, NodeReport, Peer, Phase, Pod, Role, Seen, Silence, Snapshot};
use super::step::Target;

/// A Pod and the node in it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// What answered at its address.
    pub seen: &'a Seen<NodeReport>,
    /// Why it is to be replaced, wherever the others are.
    outdated: Option<Why>,
}

impl<'a> Member<'a> {
    /// The node's report, when it answered.
    pub fn node(&self) -> Option<&'a NodeReport> {
        self.seen.now()
    }

    /// The Pod is meant to stay and its server has not ended.
    pub fn stays(&self) -> bool {
        !self.told_to_go() && !matches!(self.pod.phase, Phase::Finished { .. })
    }

    /// Somebody wants the Pod to end: a person, an eviction, the operator, or a worker that shuts down.
    pub fn told_to_go(&self) -> bool {
        self.pod.terminating || self.pod.disrupted
    }

    /// Its Pod is going, and nobody listens at its address any more. Containers beside the server may take the whole grace period to
    /// end, and until then the kubelet says nothing of the server (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>).
    pub fn has_ended(&self) -> bool {
        self.pod.terminating && *self.seen == Seen::Silent(Silence::Refused)
    }

    /// Where and to whom to send a command.
    pub fn target(&self) -> Option<Target> {
        let node = self.node()?;
        Some(Target {
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            shard: self.pod.shard,
            node: node.id.clone(),
            ip: self.pod.ip?,
        })
    }

    /// Its node answers, knows nobody, owns nothing and holds nothing: nothing is lost with it.
    pub fn is_unused(&self) -> bool {
        self.node().is_some_and(|n| n.is_isolated() && n.slots().is_empty() && n.keys == 0)
    }

    /// The replication link, when it is a replica.
    pub fn link(&self) -> Option<(&'a NodeId, Link)> {
        match &self.node()?.role {
            Role::Replica { of, link } => Some((of, *link)),
            Role::Primary { .. } => None,
        }
    }
}

/// A member that works and would be better off elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misplaced {
    /// Its Pod.
    pub uid: PodUid,
    /// Where it should be.
    pub to: WorkerName,
}

/// The members of every shard that is wanted or has Pods.
#[derive(Debug)]
pub struct View<'a> {
    /// The facts it was made from.
    pub s: &'a Snapshot,
    shards: BTreeMap<Shard, Vec<Member<'a>>>,
    leaders: BTreeMap<Shard, (Member<'a>, &'a NodeReport)>,
    in_sync: BTreeMap<Shard, Vec<Member<'a>>>,
    ids: BTreeMap<&'a NodeId, Member<'a>>,
    /// The member that is to be moved to a better place, if one is; decided once a pass.
    pub misplaced: Option<Misplaced>,
    addresses: BTreeMap<IpAddr, Vec<Member<'a>>>,
    followers: BTreeMap<&'a NodeId, Vec<Member<'a>>>,
    lists: Lists<'a>,
    owned: Slots,
    leading: BTreeMap<&'a WorkerName, usize>,
    unaccounted: BTreeSet<&'a NodeId>,
    missing: Vec<(&'a NodeId, Slots)>,
    /// By the primary that somebody lists them under.
    silent_copies: BTreeMap<&'a NodeId, BTreeSet<&'a NodeId>>,
}

impl<'a> View<'a> {
    /// Joins Pods with what answered in them.
    pub fn new(s: &'a Snapshot) -> Self {
        const NEVER: &Seen<NodeReport> = &Seen::Never;
        let mut shards: BTreeMap<Shard, Vec<Member<'a>>> =
            s.desired.shards().map(|sh| (sh, Vec::new())).collect();
        for pod in s.pods.values() {
            let seen = s.nodes.get(&pod.uid).unwrap_or(NEVER);
            let member = Member { pod, seen, outdated: outdated(s, pod) };
            shards.entry(pod.shard).or_default().push(member);
        }
        // In the order of the shards: what is found first does not depend on the names of the Pods.
        let answering = || shards.values().flatten().filter_map(|m| m.node().map(|n| (*m, n)));
        let mut followers: BTreeMap<&NodeId, Vec<Member<'a>>> = BTreeMap::new();
        for (member, _) in answering() {
            if let Some((of, _)) = member.link() {
                followers.entry(of).or_default().push(member);
            }
        }
        let mut addresses: BTreeMap<IpAddr, Vec<Member<'a>>> = BTreeMap::new();
        for member in shards.values().flatten() {
            if let Some(ip) = member.pod.ip {
                addresses.entry(ip).or_default().push(*member);
            }
        }
        let lists = Lists::new(answering());
        let ids = by_id(answering(), &lists);
        let owned = Slots::from_ranges(answering().flat_map(|(_, n)| n.slots().ranges().iter().copied()));
        let unknown: Vec<_> = lists.iter().flat_map(|list| unknown(list, &ids)).collect();
        let unaccounted: BTreeSet<&NodeId> = unknown.iter().map(|(id, _)| *id).collect();
        let mut silent_copies: BTreeMap<&NodeId, BTreeSet<&NodeId>> = BTreeMap::new();
        for (id, of) in unknown.into_iter().filter_map(|(id, p)| Some((id, p.replica_of.as_ref()?))) {
            silent_copies.entry(of).or_default().insert(id);
        }
        let missing = unaccounted.iter().map(|id| (*id, lists.slots(id).minus(&owned)));
        let missing = missing.filter(|(_, slots)| !slots.is_empty()).collect();
        let leaders: BTreeMap<Shard, (Member<'a>, &NodeReport)> =
            shards.iter().filter_map(|(shard, members)| Some((*shard, leader(members)?))).collect();
        let mut leading: BTreeMap<&WorkerName, usize> = BTreeMap::new();
        for worker in leaders.values().filter_map(|(m, _)| m.pod.worker.as_ref()) {
            *leading.entry(worker).or_default() += 1;
        }
        let members = |shard: &Shard| shards.get(shard).map_or(&[][..], Vec::as_slice);
        let in_sync = leaders.iter().map(|(shard, (_, n))| (*shard, synced(members(shard), n))).collect();
        let misplaced = None;
        Self {
            s,
            shards,
            leaders,
            in_sync,
            ids,
            misplaced,
            addresses,
            followers,
            lists,
            owned,
            leading,
            unaccounted,
            missing,
            silent_copies,
        }
    }

    /// How many shards have their primary on this worker.
    pub fn leading(&self, worker: &WorkerName) -> usize {
        self.leading.get(worker).copied().unwrap_or(0)
    }

    /// How the answering nodes list each other.
    pub fn lists(&self) -> &Lists<'a> {
        &self.lists
    }

    /// The members whose Pods have this address, or had it until they ended.
    pub fn at(&self, ip: IpAddr) -> &[Member<'a>] {
        self.addresses.get(&ip).map_or(&[], Vec::as_slice)
    }

    /// The members that answer and copy from this node.
    pub fn followers(&self, id: &NodeId) -> &[Member<'a>] {
        self.followers.get(id).map_or(&[], Vec::as_slice)
    }

    /// The shards with their members, by ordinal.
    pub fn shards(&self) -> impl Iterator<Item = (Shard, &[Member<'a>])> {
        self.shards.iter().map(|(shard, members)| (*shard, members.as_slice()))
    }

    /// The members of one shard.
    pub fn members(&self, shard: Shard) -> &[Member<'a>] {
        self.shards.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// All members.
    pub fn all(&self) -> impl Iterator<Item = &Member<'a>> {
        self.shards.values().flatten()
    }

    /// The members whose node answers.
    pub fn answering(&self) -> impl Iterator<Item = (&Member<'a>, &'a NodeReport)> {
        self.all().filter_map(|m| m.node().map(|n| (m, n)))
    }

    /// The member whose node has this id.
    pub fn by_id(&self, id: &NodeId) -> Option<&Member<'a>> {
        self.ids.get(id)
    }

    /// Why a member is to be replaced although it works: its worker is being emptied, it was made from an earlier spec, or it is
    /// in the wrong place.
    pub fn unfit(&self, member: &Member<'_>) -> Option<Why> {
        let is_misplaced = || self.misplaced.as_ref().is_some_and(|m| m.uid == member.pod.uid);
        member.outdated.or_else(|| is_misplaced().then_some(Why::Placement))
    }

    /// The Pods of a shard that count towards its copies.
    pub fn staying(&self, shard: Shard) -> impl Iterator<Item = &Member<'a>> {
        self.members(shard).iter().filter(|m| m.stays())
    }

    /// The slot owner of a shard, when it answers. With several (an earlier accident) the newest epoch leads.
    pub fn primary(&self, shard: Shard) -> Option<(&Member<'a>, &'a NodeReport)> {
        self.leaders.get(&shard).map(|(member, node)| (member, *node))
    }

    /// Replicas of the shard's primary that hold all its data, are seen online by it, and are meant to stay.
    pub fn in_sync(&self, shard: Shard) -> &[Member<'a>] {
        self.in_sync.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Slots that an answering node says it owns.
    pub fn owned(&self) -> &Slots {
        &self.owned
    }

    /// Slots that answering nodes list under this id.
    pub fn listed_slots(&self, id: &NodeId) -> Slots {
        self.lists.slots(id)
    }

    /// Both list each other by their real ids, with the handshake done.
    pub fn acquainted(a: &NodeReport, b: &NodeReport) -> bool {
        let knows = |x: &NodeReport, y: &NodeReport| x.peers.get(&y.id).is_some_and(|p| !p.handshake);
        knows(a, b) && knows(b, a)
    }

    /// Ids that somebody lists and that no answering member has. Handshakes are placeholders, not ids.
    pub fn unaccounted(&self) -> &BTreeSet<&'a NodeId> {
        &self.unaccounted
    }

    /// Those of these ids that are listed with slots, and with which. What somebody who answers owns is his: who lists it otherwise
    /// has not heard the news.
    pub fn missing(&self) -> &[(&'a NodeId, Slots)] {
        &self.missing
    }

    /// Those of these ids that somebody lists as replicas of this one.
    pub fn silent_copies(&self, id: &NodeId) -> impl Iterator<Item = &'a NodeId> {
        self.silent_copies.get(id).into_iter().flatten().copied()
    }
}

/// The members by the ids that they say they have. Of two that say the same the one is believed that others list there.
fn by_id<'a>(
    answering: impl Iterator<Item = (Member<'a>, &'a NodeReport)>,
    lists: &Lists<'_>,
) -> BTreeMap<&'a NodeId, Member<'a>> {
    let mut ids: BTreeMap<&NodeId, Member<'_>> = BTreeMap::new();
    for (member, node) in answering {
        let first = ids.entry(&node.id).or_insert(member);
        if first.pod.uid != member.pod.uid && member.pod.ip == lists.address(&node.id) {
            *first = member;
        }
    }
    ids
}

/// Why a Pod is to be replaced, wherever the others are.
fn outdated(s: &Snapshot, pod: &Pod) -> Option<Why> {
    let worker = pod.worker.as_ref().and_then(|w| s.workers.get(w));
    if worker.is_some_and(|w| w.leaving) {
        return Some(Why::Evacuate);
    }
    (pod.revision != s.revision).then_some(Why::Upgrade)
}

/// Lines of the list about ids that no answering member has. Both are in the order of the ids.
fn unknown<'a>(list: &List<'a>, ids: &BTreeMap<&'a NodeId, Member<'a>>) -> Vec<(&'a NodeId, &'a Peer)> {
    let mut ids = ids.keys().copied().peekable();
    list.lines()
        .filter(|(_, p)| !p.handshake)
        .filter(|(id, _)| {
            while ids.next_if(|known| known < id).is_some() {}
            ids.peek() != Some(id)
        })
        .collect()
}

/// The replicas among these that are in sync with this primary, and meant to stay.
fn synced<'a>(members: &[Member<'a>], primary: &NodeReport) -> Vec<Member<'a>> {
    members.iter().filter(|m| m.stays() && in_sync_with(m, primary)).copied().collect()
}

/// Of the slot owners among these the one with the newest epoch.
fn leader<'a>(members: &[Member<'a>]) -> Option<(Member<'a>, &'a NodeReport)> {
    members
        .iter()
        .filter_map(|m| m.node().map(|n| (*m, n)))
        .filter(|(_, n)| !n.slots().is_empty())
        .max_by_key(|(m, n)| (n.epoch, std::cmp::Reverse(m.pod.index)))
}

/// The replica holds all data of this primary and the primary sends it every write.
pub fn in_sync_with(member: &Member<'_>, primary: &NodeReport) -> bool {
    member.link().is_some_and(|(of, link)| *of == primary.id && link.in_sync())
        && member.pod.ip.is_some_and(|ip| primary.online_replicas.contains(&ip))
        && !member.node().is_some_and(|n| n.loading || n.is_retiring())
}
