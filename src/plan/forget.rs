//! Forget the gone: an id that no Pod accounts for leaves every node's list.
//!
//! Never a slot owner before its replica is promoted (measured: its slots vanish everywhere and no election can
//! start), never a node that still answers (8.1 and newer meet it again every few seconds), and never a node
//! that a live replica still follows, never what may be the last copy of a silent owner's slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::evidence::about;
use crate::model::{
    Member, NodeId, NodeReport, Plan, Proposal, Role, Silence, Slots, Stage, Step, Target, View, Waiting, Why,
};

/// Ids that are forgotten in one pass at the most: each asks every node, and the next pass follows at once.
const MOST: usize = 64;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut listing = Listing::default();
    for id in v.unaccounted() {
        let obstacle = match obstacle(v, id) {
            None if plan.steps.len() < MOST => None,
            None => Some("others are forgotten first".to_owned()),
            Some(what) => Some(what),
        };
        match obstacle {
            // Listed by nobody but members that are leaving: it goes with them.
            _ if !is_listed(v, id) => {}
            None => plan.steps.push(Proposal::new(
                Step::Forget { id: (*id).clone(), on: listing.of(v, id) },
                Why::Repair,
                "no Pod has this node any more",
            )),
            Some(what) => plan.waiting.push(Waiting {
                shard: None,
                stage: Stage::Agreeing,
                message: format!("node {} is still listed: {what}", short(id)),
            }),
        }
    }
    plan
}

/// The first eight digits: enough for a person to find it.
pub(super) fn short(id: &NodeId) -> &str {
    id.as_str().get(..8).unwrap_or(id.as_str())
}

/// Where it is to be forgotten. A node does not forget whom it follows: it gets its turn when it has been pointed elsewhere.
fn who_lists<'v, 'a>(v: &'v View<'a>, id: &'v NodeId) -> impl Iterator<Item = &'v Member<'a>> {
    let lists = v.lists().iter().filter(move |list| list.line(id).is_some()).flat_map(|list| &list.of);
    let may = move |(m, n): &&'v (Member<'a>, &'a NodeReport)| m.stays() && n.id != *id && !follows(n, id);
    lists.filter(may).map(|(m, _)| m).filter(|m| m.pod.ip.is_some())
}

/// Those who list one id are nearly always those who list the next one, too: they are written down once.
#[derive(Default)]
struct Listing(BTreeMap<Vec<usize>, Arc<[Target]>>);

impl Listing {
    fn of(&mut self, v: &View<'_>, id: &NodeId) -> Arc<[Target]> {
        let collect = || who_lists(v, id).filter_map(Member::target).collect();
        // Who follows it is left out.
        if !v.followers(id).is_empty() {
            return collect();
        }
        let lists = v.lists().iter().enumerate().filter(|(_, list)| list.line(id).is_some());
        Arc::clone(self.0.entry(lists.map(|(place, _)| place).collect()).or_insert_with(collect))
    }
}

fn is_listed(v: &View<'_>, id: &NodeId) -> bool {
    who_lists(v, id).next().is_some()
}

fn follows(node: &NodeReport, id: &NodeId) -> bool {
    matches!(&node.role, Role::Replica { of, .. } if of == id)
}

/// Why the id has to stay listed for now.
fn obstacle<'a>(v: &View<'a>, id: &'a NodeId) -> Option<String> {
    if let Some(pod) = pod_at_its_address(v, id) {
        return Some(format!("Pod {pod} exists at its address and does not answer"));
    }
    match v.s.ghosts.get(id) {
        Some(crate::model::Seen::Now(_)) => return Some("its process still answers".to_owned()),
        // Somebody who does not know our passwords has the address now.
        Some(crate::model::Seen::Silent(Silence::Refused | Silence::Timeout | Silence::Auth)) => {}
        Some(_) => return Some("its process has not ended".to_owned()),
        None if v.lists().address(id).is_some() => return Some("its address was not asked yet".to_owned()),
        None => {}
    }
    if !v.listed_slots(id).is_empty() && !nothing_to_lose(v) {
        return Some("it owns slots until a replica is promoted".to_owned());
    }
    if let Some(owner) = last_copy_of(v, id) {
        return Some(format!("it may have the last copy of the slots of node {}", short(owner)));
    }
    // A replacement with its slots is not introduced to nodes that list the dead owner, and its follower cannot be
    // pointed at a replacement that it does not know: while nothing can be lost the others forget first.
    let others = || v.answering().any(|(_, n)| n.peers.contains_key(id) && !follows(n, id));
    if nothing_to_lose(v) && others() {
        return None;
    }
    v.followers(id).first().map(|m| format!("{} still follows it", m.pod.name))
}

/// The slot owner that does not answer, none of whose replicas does, and of which this one may be a copy: who forgets it takes
/// what is merely cut off for lost.
fn last_copy_of<'a>(v: &View<'a>, id: &'a NodeId) -> Option<&'a NodeId> {
    let owner = v.lists().about(id).find_map(|p| p.replica_of.as_ref())?;
    let nobodys = || !v.listed_slots(owner).minus(v.owned()).is_empty();
    let alone = v.s.whole && v.by_id(owner).is_none() && v.followers(owner).is_empty();
    let dead = || about(v, id, Slots::none()).proof(v).is_some();
    (alone && nobodys() && !dead()).then_some(owner)
}

/// Before the formation is complete, and with no key anywhere, even a slot owner is only a name.
fn nothing_to_lose(v: &View<'_>) -> bool {
    !v.s.whole && v.answering().all(|(_, n)| n.keys == 0)
}

/// A silent Pod at the listed address may well be the node: what cannot be seen is not gone.
fn pod_at_its_address<'a>(v: &View<'a>, id: &NodeId) -> Option<&'a str> {
    let ip = v.lists().address(id)?;
    v.at(ip)
        .iter()
        .filter(|m| m.node().is_none())
        .find(|m| !m.has_ended() && !matches!(m.pod.phase, crate::model::Phase::Finished { .. }))
        .map(|m| m.pod.name.as_str())
}
