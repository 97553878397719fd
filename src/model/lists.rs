//! How the answering nodes list each other, each shared list looked at once: what rules ask about "the others" is answered here,
//! in time that grows with the number of nodes and not with its square.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ids::NodeId;
use super::slots::Slots;
use super::snapshot::{NodeReport, Peer};
use super::view::Member;

/// Answering nodes that list the others in the same way.
#[derive(Debug)]
pub struct List<'a> {
    lines: &'a BTreeMap<NodeId, Peer>,
    /// The nodes that it is the list of.
    pub of: Vec<(Member<'a>, &'a NodeReport)>,
    /// How many of them own slots.
    owners: usize,
    /// How many of those were asked for it in this pass.
    witnesses: usize,
    /// How many of those can vote.
    voters: usize,
    /// How many ids it lists with slots.
    listed_owners: usize,
    /// To how many of those the links are open.
    reached_owners: usize,
}

impl<'a> List<'a> {
    /// The line about a node.
    pub fn line(&self, id: &NodeId) -> Option<&'a Peer> {
        self.lines.get(id)
    }

    /// The lines, but that of the only node that has this list about itself.
    pub fn lines(&self) -> impl Iterator<Item = (&'a NodeId, &'a Peer)> {
        let own = match self.of.as_slice() {
            [(_, only)] => Some(&only.id),
            _ => None,
        };
        self.lines.iter().filter(move |(id, _)| Some(*id) != own)
    }

    /// What is kept under those of these ids, given in their order, that it does not list by their real names. Walks both side by side:
    /// cheaper than to look each up.
    pub fn lacks<'k, T>(&self, ids: impl Iterator<Item = (&'k NodeId, T)>) -> Vec<T> {
        let mut lines = self.lines.iter().filter(|(_, p)| !p.handshake).map(|(id, _)| id).peekable();
        let absent = ids.filter(|(id, _)| {
            while lines.next_if(|line| line < id).is_some() {}
            lines.peek() != Some(id)
        });
        absent.map(|(_, kept)| kept).collect()
    }

    /// Slot owners that gave it in this pass: what is inferred of others is no word of theirs.
    pub fn witnesses(&self) -> usize {
        self.witnesses
    }

    /// Slot owners that it is the list of, and that do not load their data.
    pub fn voters(&self) -> usize {
        self.voters
    }

    /// Somebody else than this node has the list.
    fn is_of_others(&self, id: &NodeId) -> bool {
        !matches!(self.of.as_slice(), [(_, only)] if only.id == *id)
    }
}

/// All lists.
#[derive(Debug)]
pub struct Lists<'a> {
    all: Vec<List<'a>>,
    /// Where the slot owners among the answering nodes are: the place of their list.
    owners: BTreeMap<&'a NodeId, usize>,
    /// How many ids answer, or are listed, with slots.
    voters: usize,
}

impl<'a> Lists<'a> {
    pub(super) fn new(answering: impl Iterator<Item = (Member<'a>, &'a NodeReport)>) -> Self {
        let mut all: Vec<List<'a>> = Vec::new();
        let mut at: BTreeMap<*const BTreeMap<NodeId, Peer>, usize> = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for (member, node) in answering {
            let i = *at.entry(node.peers.list()).or_insert(all.len());
            let owns = !node.slots().is_empty();
            if owns {
                owners.insert(&node.id, i);
            }
            if let Some(list) = all.get_mut(i) {
                list.of.push((member, node));
            } else {
                let (lines, of) = (node.peers.lines(), vec![(member, node)]);
                let listed_owners = lines.values().filter(|p| is_owner(p)).count();
                let reached_owners = lines.values().filter(|p| is_reached_owner(p)).count();
                all.push(List {
                    lines,
                    of,
                    owners: 0,
                    witnesses: 0,
                    voters: 0,
                    listed_owners,
                    reached_owners,
                });
            }
            if let Some(list) = all.get_mut(i) {
                list.owners += usize::from(owns);
                list.witnesses += usize::from(owns && !node.peers.is_inferred());
                list.voters += usize::from(owns && !node.loading);
            }
        }
        let listed = all.iter().flat_map(List::lines).filter(|(_, p)| !p.handshake && !p.slots.is_empty());
        let voters: BTreeSet<&NodeId> = owners.keys().copied().chain(listed.map(|(id, _)| id)).collect();
        let voters = voters.len();
        Self { all, owners, voters }
    }

    /// Each list once.
    pub fn iter(&self) -> impl Iterator<Item = &List<'a>> {
        self.all.iter()
    }

    /// The lines of all lists.
    pub fn lines(&self) -> impl Iterator<Item = (&'a NodeId, &'a Peer)> {
        self.all.iter().flat_map(List::lines)
    }

    /// The lines about one node.
    pub fn about(&self, id: &NodeId) -> impl Iterator<Item = &'a Peer> {
        self.all.iter().filter(|list| list.is_of_others(id)).filter_map(|list| list.line(id))
    }

    /// Where the lists have it.
    pub fn address(&self, id: &NodeId) -> Option<IpAddr> {
        self.about(id).find_map(|p| p.ip)
    }

    /// Slots that the lists have under this id.
    pub fn slots(&self, id: &NodeId) -> Slots {
        Slots::from_ranges(self.about(id).flat_map(|p| p.slots.ranges().iter().copied()))
    }

    /// Slots that the lists have under any id, handshakes apart.
    pub fn all_slots(&self) -> Slots {
        let lines = self.lines().filter(|(_, p)| !p.handshake);
        Slots::from_ranges(lines.flat_map(|(_, p)| p.slots.ranges().iter().copied()))
    }

    /// Nodes that own slots, by their own word or by that of others.
    pub fn voters(&self) -> usize {
        self.voters
    }

    /// How many answering slot owners there are, the node itself apart, if every one of them lists it in this way.
    pub fn every_owner(&self, id: &NodeId, listed: impl Fn(Option<&Peer>) -> bool) -> Option<usize> {
        self.owning(id).map(|(count, list)| listed(list.line(id)).then_some(count)).sum()
    }

    /// How many answering slot owners, the node itself apart, list it in this way.
    pub fn owners(&self, id: &NodeId, listed: impl Fn(Option<&Peer>) -> bool) -> usize {
        self.owning(id).filter(|(_, list)| listed(list.line(id))).map(|(count, _)| count).sum()
    }

    /// The lists of slot owners, and of how many beside this node.
    fn owning<'l>(&'l self, id: &NodeId) -> impl Iterator<Item = (usize, &'l List<'a>)> + use<'l, 'a> {
        let itself = self.owners.get(id).copied();
        let beside =
            move |(i, list): (usize, &'l List<'a>)| (list.owners - usize::from(itself == Some(i)), list);
        self.all.iter().enumerate().map(beside).filter(|(count, _)| *count > 0)
    }

    /// How many ids with slots this node lists.
    pub fn listed_owners(&self, node: &NodeReport) -> usize {
        self.counted(node, |list| list.listed_owners, is_owner)
    }

    /// To how many ids with slots this node has open links.
    pub fn reached_owners(&self, node: &NodeReport) -> usize {
        self.counted(node, |list| list.reached_owners, is_reached_owner)
    }

    /// How many of the others this node lists in this way, where its list was counted once for all that have it.
    fn counted(&self, node: &NodeReport, once: fn(&List<'a>) -> usize, counts: fn(&Peer) -> bool) -> usize {
        let list = self.all.iter().find(|list| std::ptr::eq(list.lines, node.peers.lines()));
        let Some(list) = list else { return node.peers.values().filter(|p| counts(p)).count() };
        once(list) - usize::from(node.peers.lines().get(&node.id).is_some_and(counts))
    }
}

fn is_owner(p: &Peer) -> bool {
    !p.slots.is_empty()
}

fn is_reached_owner(p: &Peer) -> bool {
    is_owner(p) && p.connected && !p.handshake
}
