//! The member gate: a Pod is Ready only while its node has joined, is in sync and is known by the slot owners.
//!
//! Silence never turns a gate off, only an answer that says so does: an operator that cannot see must not
//! take a whole cluster out of its Service. That goes for the silence of a primary and the gates of its replicas, too. While the cluster forms no gate is written: some node still runs with the
//! low node-timeout, which must be over before the first client writes.

use super::users::Wishes;
use crate::model::{Member, NodeReport, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    let wishes = Wishes::new(v);
    for (member, node) in v.answering().filter(|(m, _)| m.stays()) {
        if v.primary(member.pod.shard).is_none() {
            continue;
        }
        let verdict = verdict(v, &wishes, member, node);
        let ready = verdict.is_ok();
        if member.pod.gate == Some(ready) || (member.pod.gate.is_none() && !ready) {
            continue;
        }
        let pod = member.pod;
        let (name, uid, shard) = (pod.name.clone(), pod.uid.clone(), pod.shard);
        let note = verdict.err().unwrap_or("joined, in sync and known by the slot owners");
        plan.steps.push(Proposal::new(Step::SetGate { name, uid, shard, ready }, Why::Report, note));
    }
    plan
}

/// Whether the member serves as it should, or what is wrong.
pub fn verdict(
    v: &View<'_>,
    wishes: &Wishes<'_, '_>,
    member: &Member<'_>,
    node: &NodeReport,
) -> Result<(), &'static str> {
    if node.loading {
        return Err("it loads its data");
    }
    if !node.admitted {
        return Err("it is not adopted yet");
    }
    // One that serves already goes on serving while a user changes.
    if member.pod.gate != Some(true) && !wishes.complete(node) {
        return Err("it lacks users of the spec");
    }
    if node.is_retiring() {
        return Err("it was asked to leave");
    }
    if !node.state_ok {
        return Err("it says that the cluster is down");
    }
    let Some((primary, owner)) = v.primary(member.pod.shard) else {
        return Err("its shard has no primary");
    };
    if primary.pod.uid != member.pod.uid && !crate::model::view::in_sync_with(member, owner) {
        return Err("it is not in sync with its primary");
    }
    if v.lists().every_owner(&node.id, |p| p.is_some_and(|p| !p.handshake)).is_some() {
        Ok(())
    } else {
        Err("not every slot owner knows it")
    }
}
