//! The same facts in another order: what a plan is made from is a set of facts, and none of them comes first.

use std::collections::BTreeMap;

use valkey_cluster_operator::model::snapshot::{NODENAME, RELEASED};
use valkey_cluster_operator::model::{Lane, NodeReport, Plan, PodUid, Seen, Snapshot};

/// The snapshot with its Pods' UIDs the other way round (whatever goes through nodes by UID meets them in another order), no two
/// nodes sharing a list, and the changes of roles in another order. UIDs are names alone: no plan shows them.
pub(crate) fn reordered(s: &Snapshot) -> Snapshot {
    let uids: Vec<&PodUid> =
        s.pods.values().map(|p| &p.uid).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let other: BTreeMap<&PodUid, PodUid> =
        uids.iter().copied().zip(uids.iter().rev().map(|u| (*u).clone())).collect();
    let of = |uid: &PodUid| other.get(uid).unwrap_or(uid).clone();
    let mut out = s.clone();
    for pod in out.pods.values_mut() {
        pod.uid = of(&pod.uid);
        pod.place.instead_of = pod.place.instead_of.as_ref().map(of);
    }
    out.nodes = s.nodes.iter().map(|(uid, seen)| (of(uid), seen.clone())).collect();
    for seen in out.nodes.values_mut().chain(out.ghosts.values_mut()) {
        if let Seen::Now(node) = seen {
            alone(node);
            marked(node, of);
        }
    }
    out.past.silent = s.past.silent.iter().map(|(uid, since)| (of(uid), *since)).collect();
    out.past.changes.reverse();
    out
}

/// It has a list of its own.
fn alone(node: &mut NodeReport) {
    node.peers.lines_mut();
}

/// The mark of a release names the Pod.
fn marked(node: &mut NodeReport, of: impl Fn(&PodUid) -> PodUid) {
    if let Some(mark) = node.config.get_mut(NODENAME)
        && let Some(uid) = mark.strip_prefix(RELEASED)
    {
        *mark = format!("{RELEASED}{}", of(&PodUid::new(uid)));
    }
}

/// A plan without what its order does not say: lanes run side by side, the steps of each one after another.
pub(crate) fn essence(plan: &Plan) -> (Vec<Vec<String>>, Plan) {
    let mut lanes: BTreeMap<Lane, Vec<String>> = BTreeMap::new();
    for p in &plan.steps {
        lanes.entry(p.step.lane()).or_default().push(format!("{} | {:?}: {}", p.step, p.why, p.note));
    }
    let mut lanes: Vec<Vec<String>> = lanes.into_values().collect();
    lanes.sort();
    (lanes, Plan { steps: Vec::new(), ..plan.clone() })
}
