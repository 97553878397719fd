//! Scale in: shards beyond the wanted number give all their slots away, each slot directly to its final owner.
//!
//! Refused while the data would not fit into the shards that stay; then the cluster goes on as it is.

use super::{even_out, fill, migrate};
use crate::model::{Blocked, Code, Memory, Plan, Shard, View};

/// Free bytes that must be there for each byte that comes, in percent: buffers and fragmentation come with it.
const ROOM_PERCENT: u64 = 150;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole {
        return plan;
    }
    plan.blocked.extend(would_not_fit(v));
    let wanted = even_out::wanted_moves(v);
    let (leaving, _): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|m| !v.s.desired.wants(m.from));
    migrate::propose(v, &leaving, "its shard is not wanted any more", &mut plan);
    plan
}

/// How many shards there shall be: as many as the spec says, or as there are while fewer would not hold the data.
pub(super) fn wanted_shards(v: &View<'_>) -> u16 {
    match would_not_fit(v) {
        Some(_) => fill::served_shards(v).max(v.s.desired.shards),
        None => v.s.desired.shards,
    }
}

/// A full server gives up keys of its own choice.
fn evicts(v: &View<'_>) -> bool {
    v.s.desired.config.get("maxmemory-policy").is_some_and(|policy| policy.trim() != "noeviction")
}

/// The refusal, when the free memory of the shards that stay is less than one and a half times what must move.
fn would_not_fit(v: &View<'_>) -> Option<Blocked> {
    // Nothing that is there has to be kept, or a cache makes room by itself.
    if v.s.desired.purge || evicts(v) {
        return None;
    }
    let served = fill::served_shards(v);
    let (stay, leave) = (v.s.desired.shards.min(served), served);
    let memory = |shard: u16| v.primary(Shard(shard)).and_then(|(_, n)| n.memory);
    let moves: u64 = (stay..leave).filter_map(memory).map(|m| m.data).sum();
    // A shard that cannot be seen counts as full; one without a limit takes everything.
    let rooms: Vec<Memory> = (0..v.s.desired.shards).filter_map(memory).collect();
    if moves == 0 || rooms.iter().any(|m| m.limit == 0) {
        return None;
    }
    let free: u64 = rooms.iter().map(|m| m.limit.saturating_sub(m.used)).sum();
    let needed = moves / 100 * ROOM_PERCENT + moves % 100 * ROOM_PERCENT / 100;
    (free < needed).then(|| Blocked {
        code: Code::WouldNotFit,
        shard: None,
        message: format!(
            "spec.shards {}: {moves} bytes would move and need {needed} bytes of free memory, and the shards that stay \
             have {free} bytes free under maxmemory; raise the memory limits, delete keys, or set spec.shards back to {served}",
            v.s.desired.shards
        ),
    })
}
