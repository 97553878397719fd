//! Forget the gone: an id that no Pod accounts for leaves every node's list.
//!
//! Never a slot owner before its replica is promoted (measured: its slots vanish everywhere and no election can
//! start), never a node that still answers (8.1 and newer meet it again every few seconds), and never a node
//! that a live replica still follows.

use crate::model::{NodeId, Plan, Proposal, Role, Silence, Stage, Step, Target, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for id in v.unaccounted() {
        let on = who_lists(v, id);
        // Listed by nobody but members that are leaving: it goes with them.
        if on.is_empty() {
            continue;
        }
        match obstacle(v, id) {
            None => plan.steps.push(Proposal::new(
                Step::Forget { id: id.clone(), on },
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

fn who_lists(v: &View<'_>, id: &NodeId) -> Vec<Target> {
    let stays = v.answering().filter(|(m, n)| m.stays() && n.peers.contains_key(id));
    stays.filter_map(|(m, _)| m.target()).collect()
}

/// Why the id has to stay listed for now.
fn obstacle(v: &View<'_>, id: &NodeId) -> Option<String> {
    if let Some(pod) = pod_at_its_address(v, id) {
        return Some(format!("Pod {pod} exists at its address and does not answer"));
    }
    match v.s.ghosts.get(id) {
        Some(crate::model::Seen::Now(_)) => return Some("its process still answers".to_owned()),
        // Somebody who does not know our passwords has the address now.
        Some(crate::model::Seen::Silent(Silence::Refused | Silence::Timeout | Silence::Auth)) => {}
        Some(_) => return Some("its process has not ended".to_owned()),
        None if listed_address(v, id).is_some() => return Some("its address was not asked yet".to_owned()),
        None => {}
    }
    if !v.listed_slots(id).is_empty() && !nothing_to_lose(v) {
        return Some("it owns slots until a replica is promoted".to_owned());
    }
    let follower = v.answering().find(|(_, n)| matches!(&n.role, Role::Replica { of, .. } if of == id));
    follower.map(|(m, _)| format!("{} still follows it", m.pod.name))
}

/// Before the formation is complete, and with no key anywhere, even a slot owner is only a name.
fn nothing_to_lose(v: &View<'_>) -> bool {
    !v.s.whole && v.answering().all(|(_, n)| n.keys == 0)
}

fn listed_address(v: &View<'_>, id: &NodeId) -> Option<std::net::IpAddr> {
    v.answering().find_map(|(_, n)| n.peers.get(id).and_then(|p| p.ip))
}

/// A silent Pod at the listed address may well be the node: what cannot be seen is not gone.
fn pod_at_its_address<'a>(v: &View<'a>, id: &NodeId) -> Option<&'a str> {
    let ip = listed_address(v, id)?;
    v.all()
        .filter(|m| m.pod.ip == Some(ip) && m.node().is_none())
        .find(|m| !matches!(m.pod.phase, crate::model::Phase::Finished { .. }))
        .map(|m| m.pod.name.as_str())
}
