//! What a node lists of the others. Nodes that list everybody in the same way share one list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::NodeId;
use super::snapshot::{NodeReport, Peer, Seen};

/// The lines of a node's `CLUSTER NODES` about others, by their ids.
///
/// In a settled cluster all nodes say the same of each other, and share one list; each sees it without the line about itself.
/// What is derived from lists looks at each of them once, so that planning stays linear in the number of nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    lines: Arc<BTreeMap<NodeId, Peer>>,
    /// Whose list it is, where the lines hold one about that node, too.
    own: Option<NodeId>,
    /// The node was not asked for it: others who see the cluster alike say this.
    inferred: bool,
}

impl Peers {
    /// The list of this node, with a line about everybody, itself included.
    #[must_use]
    pub fn shared(lines: Arc<BTreeMap<NodeId, Peer>>, own: NodeId) -> Self {
        Self { lines, own: Some(own), inferred: false }
    }

    /// The list of this node, as those have it who see the cluster alike.
    #[must_use]
    pub fn inferred(lines: Arc<BTreeMap<NodeId, Peer>>, own: NodeId) -> Self {
        Self { lines, own: Some(own), inferred: true }
    }

    /// The node was not asked for it in this pass.
    pub fn is_inferred(&self) -> bool {
        self.inferred
    }

    /// Both have the same line about everybody, each about itself included.
    fn says_the_same_as(&self, other: &Peers) -> bool {
        self.own.is_some() && other.own.is_some() && self.lines == other.lines
    }

    /// The line about this node.
    pub fn get(&self, id: &NodeId) -> Option<&Peer> {
        self.lines.get(id).filter(|_| self.own.as_ref() != Some(id))
    }

    /// It lists this node.
    pub fn contains_key(&self, id: &NodeId) -> bool {
        self.get(id).is_some()
    }

    /// The lines, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.lines.iter().filter(|(id, _)| self.own.as_ref() != Some(id))
    }

    /// The ids that it lists.
    pub fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.iter().map(|(id, _)| id)
    }

    /// The lines without their ids.
    pub fn values(&self) -> impl Iterator<Item = &Peer> {
        self.iter().map(|(_, peer)| peer)
    }

    /// How many nodes it lists.
    pub fn len(&self) -> usize {
        self.lines.len() - usize::from(self.own.as_ref().is_some_and(|own| self.lines.contains_key(own)))
    }

    /// It lists nobody.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The lines as they were read, for whoever changes what a node lists.
    pub fn lines_mut(&mut self) -> &mut BTreeMap<NodeId, Peer> {
        Arc::make_mut(&mut self.lines)
    }

    /// The lines, to be shared.
    pub(super) fn every_line(&self) -> Arc<BTreeMap<NodeId, Peer>> {
        Arc::clone(&self.lines)
    }

    /// The lines, the one about the node itself included where the list is shared.
    pub(super) fn lines(&self) -> &BTreeMap<NodeId, Peer> {
        &self.lines
    }

    /// Equal for those that share a list, and for no others.
    pub(super) fn list(&self) -> *const BTreeMap<NodeId, Peer> {
        Arc::as_ptr(&self.lines)
    }
}

impl FromIterator<(NodeId, Peer)> for Peers {
    fn from_iter<T: IntoIterator<Item = (NodeId, Peer)>>(lines: T) -> Self {
        Self { lines: Arc::new(lines.into_iter().collect()), own: None, inferred: false }
    }
}

/// Nodes that list everybody in the same way share one list.
pub fn share<'a>(seen: impl Iterator<Item = &'a mut Seen<NodeReport>>) {
    let mut lists: Vec<Peers> = Vec::new();
    for seen in seen {
        let Seen::Now(node) = seen else { continue };
        match lists.iter().find(|list| list.says_the_same_as(&node.peers)) {
            Some(list) => node.peers.lines = list.every_line(),
            None => lists.push(node.peers.clone()),
        }
    }
}

/// One node for each list: those that share one say the same of the others.
pub fn distinct<'a>(reports: impl Iterator<Item = &'a NodeReport>) -> impl Iterator<Item = &'a NodeReport> {
    let mut seen = BTreeSet::new();
    reports.filter(move |n| seen.insert(n.peers.list()))
}
