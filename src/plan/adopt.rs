//! Adopt newcomers: turns the replication user on, after which a node may copy and be copied.
//!
//! A process starts fenced. While another id is still listed under its address, some replica may reconnect to that
//! address and would copy emptiness (measured on 8.0.1 and 9.1.2: with the fence it keeps its data).

use super::forget::short;
use crate::model::{Blocked, Code, Member, NodeId, NodeReport, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (member, node) in v.answering().filter(|(m, n)| m.stays() && !n.admitted && !n.loading) {
        if let Some(other) = former_owner(v, member, node) {
            plan.blocked.push(Blocked {
                code: Code::AddressInUse,
                shard: Some(member.pod.shard),
                message: format!(
                    "{} waits: its address is still listed for node {}, which must be forgotten first",
                    member.pod.name,
                    short(other)
                ),
            });
        } else if let Some(on) = member.target() {
            let why = if v.s.whole { Why::Capacity } else { Why::Form };
            plan.steps.push(Proposal::new(
                Step::Admit { on },
                why,
                "nobody else is listed under its address",
            ));
        }
    }
    plan
}

/// Another id that somebody lists under this member's address.
fn former_owner<'a>(v: &View<'a>, member: &Member<'_>, node: &NodeReport) -> Option<&'a NodeId> {
    let ip = member.pod.ip?;
    v.answering()
        .flat_map(|(_, n)| n.peers.iter())
        .find(|(id, p)| p.ip == Some(ip) && !p.handshake && **id != node.id)
        .map(|(id, _)| id)
}
