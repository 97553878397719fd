//! Adopt newcomers: turns the replication user on, after which a node may copy and be copied.
//!
//! A process starts fenced. While another id is still listed under its address, some replica may reconnect to that
//! address and would copy emptiness (measured on 8.0.1 and 9.1.2: with the fence it keeps its data).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::forget::short;
use crate::model::{Blocked, Code, Member, NodeId, NodeReport, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let new: Vec<_> = v.answering().filter(|(m, n)| m.stays() && !n.admitted && !n.loading).collect();
    if new.is_empty() {
        return plan;
    }
    let listed = listed(v);
    for (member, node) in new {
        if let Some(other) = former_owner(&listed, member, node) {
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

/// Who is listed under which address.
fn listed<'a>(v: &View<'a>) -> BTreeMap<IpAddr, Vec<&'a NodeId>> {
    let mut out: BTreeMap<IpAddr, Vec<&NodeId>> = BTreeMap::new();
    for (id, peer) in v.lists().lines().filter(|(_, p)| !p.handshake) {
        if let Some(ip) = peer.ip {
            out.entry(ip).or_default().push(id);
        }
    }
    out
}

/// Another id that somebody lists under this member's address.
fn former_owner<'a>(
    listed: &BTreeMap<IpAddr, Vec<&'a NodeId>>,
    member: &Member<'_>,
    node: &NodeReport,
) -> Option<&'a NodeId> {
    listed.get(&member.pod.ip?)?.iter().copied().find(|id| **id != node.id)
}
