//! Shards that are wanted and own nothing yet: who will lead them, and when they are full.

use super::discard;
use super::leads::leads;
use crate::model::{Member, NodeReport, Role, Shard, View, settings, view::in_sync_with};

/// A wanted shard of a whole cluster that has never had slots, or has none any more.
pub fn is_new(v: &View<'_>, shard: Shard) -> bool {
    v.s.whole && v.s.desired.wants(shard) && !super::fill::is_served(v, shard)
}

/// Whom the members of the shard copy: its slot owner, or the one that will own its slots.
pub(super) fn head<'v, 'a>(v: &'v View<'a>, shard: Shard) -> Option<(&'v Member<'a>, &'a NodeReport)> {
    v.primary(shard).or_else(|| {
        let member = if is_new(v, shard) { future(v, shard) } else { None }?;
        Some((member, member.node()?))
    })
}

/// Who is followed already stays; among equals the one that spreads the primaries evenly over the workers.
fn future<'v, 'a>(v: &'v View<'a>, shard: Shard) -> Option<&'v Member<'a>> {
    let followers = |id: &crate::model::NodeId| {
        v.members(shard).iter().filter(|m| m.link().is_some_and(|(of, _)| of == id)).count()
    };
    let empty = |m: &&Member<'a>| m.node().is_some_and(|n| is_empty_primary(n) && followers(&n.id) > 0);
    let followed = v.staying(shard).filter(empty);
    followed
        .max_by_key(|m| (m.node().map_or(0, |n| followers(&n.id)), std::cmp::Reverse(m.pod.index)))
        .or_else(|| leads(v).remove(&shard))
}

/// It owns no slots, holds no key and follows nobody.
pub(super) fn is_empty_primary(n: &NodeReport) -> bool {
    matches!(&n.role, Role::Primary { slots } if slots.is_empty()) && n.keys == 0
}

/// Why the shard cannot be given slots now: only a full one may hold data.
pub(super) fn not_full(v: &View<'_>, shard: Shard) -> Option<String> {
    let Some((member, node)) = head(v, shard) else { return Some("no primary of it answers".to_owned()) };
    if let Some(m) = v.staying(shard).find(|m| discard::is_made_anew(v, m)) {
        return Some(format!("{} is made anew first, to read the keys of newer servers", m.pod.name));
    }
    if !member.stays() || !node.admitted || node.loading {
        return Some(format!("{} is not ready", member.pod.name));
    }
    let in_sync = v.staying(shard).filter(|m| in_sync_with(m, node)).count();
    if in_sync < usize::from(v.s.desired.replicas) {
        return Some(format!("{in_sync} of {} replicas are in sync", v.s.desired.replicas));
    }
    if !node.state_ok {
        return Some(format!("{} does not say yet that the cluster is ok", member.pod.name));
    }
    let real = v.s.desired.node_timeout_ms().to_string();
    if !settings::holds(node, "cluster-node-timeout", &real, &v.s.applied) {
        return Some(format!("{} runs with the node-timeout of an empty node", member.pod.name));
    }
    let members = v.staying(shard).filter_map(Member::node);
    let mut strangers = members.filter(|n| !known_by_owners(v, n));
    strangers.next().map(|_| "not every slot owner knows its members".to_owned())
}

/// Every slot owner knows the node, and it knows them: else it has no vote, or is not heard when it claims its slots.
fn known_by_owners(v: &View<'_>, node: &NodeReport) -> bool {
    let mut owners = v.answering().filter(|(_, n)| !n.slots().is_empty() && n.id != node.id);
    let role_is_known = |n: &NodeReport| {
        let listed = n.peers.get(&node.id).map(|p| p.replica_of.as_ref());
        match &node.role {
            Role::Primary { .. } => listed == Some(None),
            Role::Replica { of, .. } => listed == Some(Some(of)),
        }
    };
    owners.all(|(_, n)| View::acquainted(n, node) && role_is_known(n))
}
