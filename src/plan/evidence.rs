//! What is known of a node that others list with slots and that does not answer: how its silence looks, who else has
//! lost it, and what would prove that it is dead.
//!
//! Votes are no evidence: a replica that had never synced won against its living primary in 2 ms and emptied it (measured
//! on 9.1.2, `CLUSTER FAILOVER FORCE`). So whoever acts on the silence of a slot owner asks here first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::vouch;
use crate::model::step::Proof;
use crate::model::{
    List, Member, NodeId, NodeReport, Peer, Phase, PodUid, Role, Seen, Shard, Silence, Slots, View,
    WorkerName,
};

/// How the silence of a node looks to the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// Nobody listens at its address, somebody else does, or its container has ended.
    Closed,
    /// No answer in time: the process, its worker or the network is stuck.
    Silent,
    /// It answers, although no Pod accounts for it.
    Alive,
    /// Anything else: nothing follows from it.
    Unclear,
}

/// A slot owner in the eyes of others that does not answer.
#[derive(Debug)]
pub(super) struct Absent<'v, 'a> {
    pub id: &'a NodeId,
    /// The address that it is listed under.
    pub at: Option<IpAddr>,
    /// The slots that it is listed with.
    pub slots: Slots,
    pub how: How,
    /// The Pod at its address, when there is one.
    pub pod: Option<&'v Member<'a>>,
    /// The members that answer and copy from it.
    pub heirs: Vec<&'v Member<'a>>,
}

/// The slot owners that do not answer, in the order of their ids.
pub(super) fn absent<'v, 'a>(v: &'v View<'a>) -> Vec<Absent<'v, 'a>> {
    v.missing().iter().map(|(id, slots)| about(v, id, slots.clone())).collect()
}

/// What is known of an id that no answering member has.
pub(super) fn about<'v, 'a>(v: &'v View<'a>, id: &'a NodeId, slots: Slots) -> Absent<'v, 'a> {
    let at = v.lists().address(id);
    let pod = at.and_then(|ip| pod_at(v, ip));
    let heirs = v.followers(id).iter().collect();
    Absent { id, at, slots, how: how(v, id, at, pod), pod, heirs }
}

/// While slots have no owner that answers, the Pods that ended tell who is dead: nobody else does.
pub(super) fn proofs<'a>(v: &View<'a>) -> BTreeSet<&'a PodUid> {
    if v.missing().is_empty() {
        return BTreeSet::new();
    }
    let addresses = v.unaccounted().iter().filter_map(|id| v.lists().address(id));
    addresses.filter_map(|ip| pod_at(v, ip)).map(|m| &m.pod.uid).collect()
}

/// The Pod that has this address and whose node does not answer; of several the youngest.
pub(super) fn pod_at<'v, 'a>(v: &'v View<'a>, ip: IpAddr) -> Option<&'v Member<'a>> {
    let here = v.at(ip).iter().filter(|m| m.node().is_none() && *m.seen != Seen::Never);
    let ended = v.at(ip).iter().filter(|m| matches!(m.pod.phase, Phase::Finished { .. }));
    here.chain(ended).max_by_key(|m| m.pod.created)
}

fn how(v: &View<'_>, id: &NodeId, at: Option<IpAddr>, pod: Option<&Member<'_>>) -> How {
    let silence = match (pod, v.s.ghosts.get(id)) {
        (Some(m), _) if matches!(m.pod.phase, Phase::Finished { .. }) => return How::Closed,
        (Some(Member { seen: Seen::Silent(why), .. }), _) | (None, Some(Seen::Silent(why))) => *why,
        (_, Some(Seen::Now(_))) => return How::Alive,
        // Nodes take an address away from an id when somebody else answers there.
        (None, None) if at.is_none() => return How::Closed,
        _ => return How::Unclear,
    };
    match silence {
        Silence::Refused => How::Closed,
        // At the address of a Pod that is gone somebody else may not know our passwords.
        Silence::Timeout | Silence::Auth => How::Silent,
        Silence::Reset | Silence::Busy | Silence::Garbled => How::Unclear,
    }
}

impl<'a> Absent<'_, 'a> {
    /// An answering node, this one apart, has no sign of life from it or does not list it at all.
    pub(super) fn is_unheard(&self, v: &View<'_>, except: Option<&NodeId>) -> bool {
        let mut lists = v.lists().iter().filter(|list| list.line(self.id).is_none_or(Peer::unheard));
        let other = |n: &NodeReport| Some(&n.id) != except && !n.is_isolated();
        lists.any(|list| list.of.iter().any(|(_, n)| other(n)))
    }

    /// One of its replicas still hears it.
    pub(super) fn is_heard(&self) -> bool {
        self.heirs.iter().any(|m| m.link().is_some_and(|(_, link)| link.up))
    }

    /// The majority of the slot owners suspects it or has agreed that it failed.
    pub(super) fn is_suspected(&self, v: &View<'_>) -> bool {
        let suspects = |p: Option<&Peer>| p.is_some_and(|p| p.suspected || p.failed);
        v.lists().owners(self.id, suspects) >= quorum(v)
    }

    /// What proves that it is dead.
    pub(super) fn proof(&self, v: &View<'_>) -> Option<Proof> {
        if let Some(proof) = self.told(v) {
            return Some(proof);
        }
        let lost = self.how == How::Closed && !self.is_heard() && self.is_unheard(v, None);
        lost.then_some(Proof::Refused)
    }

    /// The proof that somebody else than a node has given: Kubernetes, or a person.
    pub(super) fn told(&self, v: &View<'_>) -> Option<Proof> {
        let proof = match self.pod {
            Some(m) => proof_of(v, m),
            None => self.home(v).and_then(|worker| proof_at(v, worker)),
        };
        proof.or_else(|| vouch::is_believed(v, self.id).then_some(Proof::Vouched))
    }

    /// The worker that its process is on, as far as that is known: the Pod may be gone, and a process never moves.
    pub(super) fn home(&self, v: &View<'a>) -> Option<&'a WorkerName> {
        match self.pod {
            Some(m) => m.pod.worker.as_ref(),
            None => v.s.past.homes.get(self.id),
        }
    }

    /// The shard that it belongs to: that of its Pod, else that of its replicas.
    pub(super) fn shard(&self) -> Option<Shard> {
        self.pod.or_else(|| self.heirs.first().copied()).map(|m| m.pod.shard)
    }
}

/// What Kubernetes proves of the process in this Pod.
pub(super) fn proof_of(v: &View<'_>, m: &Member<'_>) -> Option<Proof> {
    if matches!(m.pod.phase, Phase::Finished { .. }) {
        return Some(Proof::Ended);
    }
    proof_at(v, m.pod.worker.as_ref()?)
}

/// What Kubernetes proves of every process on this worker.
fn proof_at(v: &View<'_>, worker: &WorkerName) -> Option<Proof> {
    match v.s.workers.get(worker) {
        None => Some(Proof::NoWorker),
        Some(w) if w.out_of_service => Some(Proof::OutOfService),
        Some(_) => None,
    }
}

/// Slot owners that answer.
pub(super) fn answering_owners<'a>(v: &View<'a>) -> impl Iterator<Item = &'a NodeReport> {
    v.answering().map(|(_, n)| n).filter(|n| !n.slots().is_empty())
}

/// Votes that an election needs: more than half of all that own slots in anybody's view.
pub(super) fn quorum(v: &View<'_>) -> usize {
    v.lists().voters() / 2 + 1
}

/// Slot owners that can vote for this replica: they know it as one of that primary.
pub(super) fn votes(v: &View<'_>, replica: &NodeId, primary: &NodeId) -> usize {
    votes_of(v, (replica, primary), |_| true)
}

/// Too few of them do: the replica has not heard of its primary's last configuration epoch. Newer servers tell it as they refuse; from
/// older ones, 8.0.1 among them, it never hears, and nobody else can tell it (valkey-io/valkey#2178).
pub(super) fn is_behind(v: &View<'_>, replica: &NodeReport, primary: &NodeId) -> bool {
    let Some(claim) = replica.peers.get(primary).map(|p| p.epoch) else { return false };
    votes_of(v, (&replica.id, primary), |p| p.epoch <= claim) < quorum(v)
}

fn votes_of(v: &View<'_>, (replica, primary): (&NodeId, &NodeId), grants: impl Fn(&Peer) -> bool) -> usize {
    let knows = |p: &Peer| !p.handshake && p.replica_of.as_ref() == Some(primary);
    let lists = v.lists().iter().filter(|list| list.line(replica).is_some_and(knows));
    // Neither of the two votes: the one has no slots, and the other does not answer.
    lists.filter(|list| list.line(primary).is_some_and(&grants)).map(List::voters).sum()
}

/// It copies from this primary and holds nothing of it: it has never completed a sync, or the shard was empty.
pub(super) fn holds_nothing(m: &Member<'_>) -> bool {
    m.node().is_some_and(|n| {
        let done = matches!(n.role, Role::Replica { link, .. } if !link.up && !link.syncing);
        done && !n.loading && n.keys == 0
    })
}
