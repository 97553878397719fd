//! What a person vouches for, by an annotation of the cluster: that the process of a node id does not run any more.
//!
//! For a process whose Pod object is gone nothing else may be left to prove its death: the taint of its worker needs somebody who
//! remembers which worker that was. A person is believed of what nobody hears and no Pod accounts for; of an id that is forgotten the
//! annotation says nothing any more.

use super::evidence::pod_at;
use super::forget::short;
use crate::model::{NodeId, Peer, Seen, Silence, View};

/// What became of a person's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It counts as proof of death.
    Believed,
    /// It cannot be so: why, and what to do instead.
    Refused(String),
    /// Nobody lists such an id.
    Unknown,
}

/// What became of each id that a person vouches for.
pub fn verdicts<'a>(v: &View<'a>) -> impl Iterator<Item = (&'a NodeId, Verdict)> {
    v.s.vouched.iter().map(move |id| {
        let known = v.by_id(id).is_some() || v.unaccounted().contains(id);
        let verdict = match obstacle(v, id) {
            _ if !known => Verdict::Unknown,
            Some(why) => Verdict::Refused(why),
            None => Verdict::Believed,
        };
        (id, verdict)
    })
}

/// A person vouches for its death, and nothing speaks against it.
pub(super) fn is_believed(v: &View<'_>, id: &NodeId) -> bool {
    v.s.vouched.contains(id) && obstacle(v, id).is_none()
}

/// What speaks against the death of this node.
fn obstacle(v: &View<'_>, id: &NodeId) -> Option<String> {
    let node = short(id);
    if let Some(m) = v.by_id(id) {
        return Some(format!("node {node} is in Pod {} and answers", m.pod.name));
    }
    let at = v.lists().address(id);
    if let Some(m) = at.and_then(|ip| pod_at(v, ip)) {
        let instead = match &m.pod.worker {
            Some(worker) => format!("if worker {worker} is off for good, say so: {}", taint(worker.as_str())),
            None => "delete that Pod".to_owned(),
        };
        return Some(format!("Pod {} of node {node} exists; {instead}", m.pod.name));
    }
    match v.s.ghosts.get(id) {
        Some(Seen::Now(_)) => return Some(format!("node {node} answers: it is alive")),
        Some(Seen::Silent(Silence::Refused | Silence::Timeout | Silence::Auth)) => {}
        Some(_) => return Some(format!("something answers at the address of node {node}")),
        None if at.is_some() => return Some(format!("node {node} was not asked yet")),
        None => {}
    }
    let heard = v.lists().about(id).any(|p| !Peer::unheard(p));
    heard.then(|| format!("other nodes still hear node {node}"))
}

/// The command by which a person vouches for everything on a worker.
pub(super) fn taint(worker: &str) -> String {
    format!("kubectl taint node {worker} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
}

/// The command by which a person vouches for these ids; those vouched for so far stay.
pub(super) fn command(v: &View<'_>, ids: &[&NodeId]) -> String {
    let so_far = v.s.vouched.iter().filter(|id| v.unaccounted().contains(id) && !ids.contains(id));
    let all: Vec<&str> = so_far.chain(ids.iter().copied()).map(NodeId::as_str).collect();
    let key = &v.s.desired.key;
    format!(
        "kubectl annotate vkc {} --namespace {} valkey.io/gone={} --overwrite",
        key.name,
        key.namespace,
        all.join(",")
    )
}
