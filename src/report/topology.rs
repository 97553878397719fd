//! Who serves which slots, and where. Recorded once the formation is complete, and kept from then on.

use std::collections::BTreeSet;

use super::health::Health;
use crate::{
    api::{MemberRef, ReplicaRef, ShardTopology, ValkeyClusterStatus},
    model::{Member, Role, Shard},
};

/// The shards in their order. Empty before the formation is complete: that it is not empty says that data may exist.
pub(super) fn topology(
    health: &Health<'_, '_>,
    previous: Option<&ValkeyClusterStatus>,
) -> Vec<ShardTopology> {
    let before = previous.map(|p| p.topology.as_slice()).unwrap_or_default();
    if !health.whole() {
        return before.to_vec();
    }
    let recorded = before.iter().filter_map(|t| u16::try_from(t.shard).ok()).map(Shard);
    let shards: BTreeSet<Shard> = health.view.shards().map(|(shard, _)| shard).chain(recorded).collect();
    let known = shards.into_iter().filter(|s| health.view.s.desired.wants(*s) || serves(health, *s, before));
    known.map(|shard| one(health, shard, before)).collect()
}

/// A shard that is not wanted any more is listed until all slots are owned by others that answer: its primary may merely be
/// silent.
fn serves(health: &Health<'_, '_>, shard: Shard, before: &[ShardTopology]) -> bool {
    let recorded = || before.iter().any(|t| t.shard == i32::from(shard.0) && !t.slots.is_empty());
    health.view.primary(shard).is_some() || (!all_owned(health) && recorded())
}

fn all_owned(health: &Health<'_, '_>) -> bool {
    health.view.owned().is_all()
}

fn one(health: &Health<'_, '_>, shard: Shard, before: &[ShardTopology]) -> ShardTopology {
    let ordinal = i32::from(shard.0);
    let last = before.iter().find(|t| t.shard == ordinal);
    let primary = health.view.primary(shard);
    ShardTopology {
        shard: ordinal,
        // The slots of a lost shard are still its slots.
        slots: match primary {
            Some((_, node)) => node.slots().to_string(),
            None if all_owned(health) => String::new(),
            None => last.map(|t| t.slots.clone()).unwrap_or_default(),
        },
        primary: primary.map(|(m, _)| MemberRef { pod: m.pod.name.to_string(), worker: worker(m) }),
        replicas: replicas(health, shard, last),
    }
}

/// Members that copy; one that is silent for a while stays in the list, out of sync.
fn replicas(health: &Health<'_, '_>, shard: Shard, last: Option<&ShardTopology>) -> Vec<ReplicaRef> {
    let in_sync = health.view.in_sync(shard);
    let known =
        |m: &Member<'_>| last.is_some_and(|t| t.replicas.iter().any(|r| r.pod == m.pod.name.as_str()));
    let copies = |m: &Member<'_>| match m.node() {
        Some(node) => matches!(node.role, Role::Replica { .. }),
        None => known(m),
    };
    let mut replicas: Vec<ReplicaRef> = health
        .view
        .members(shard)
        .iter()
        .filter(|m| copies(m))
        .map(|m| ReplicaRef {
            pod: m.pod.name.to_string(),
            worker: worker(m),
            in_sync: in_sync.iter().any(|s| s.pod.uid == m.pod.uid),
        })
        .collect();
    replicas.sort_by(|a, b| a.pod.cmp(&b.pod));
    replicas
}

fn worker(member: &Member<'_>) -> String {
    member.pod.worker.as_ref().map(ToString::to_string).unwrap_or_default()
}
