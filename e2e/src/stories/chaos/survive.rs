//! Decides what a cluster can survive at this moment: a fault that would take the last copy in sync is left out, so that
//! every acknowledged write has to be there at the end, without an exception. Pure.
//!
//! And a cut behind which the majority of the slot owners would be: they elect replacements for the primaries on the near
//! side, which take writes until they notice that they are few (a node-timeout). Two copies of such a write may be near,
//! and yet it goes when the far side's primary comes back: no election can know better (docs/failure-modes.md).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::truth::Truth;

/// Every shard keeps a copy of all its data when these nodes go, those in `doomed` being about to go anyway.
pub(super) fn survives(truth: &Truth, gone: &BTreeSet<SocketAddr>, doomed: &BTreeSet<SocketAddr>) -> bool {
    let stays = |addr: &SocketAddr| !gone.contains(addr) && !doomed.contains(addr);
    let shards = truth.shards();
    !shards.is_empty()
        && shards.iter().all(|shard| {
            let untouched = shard.primary_addr.is_none_or(|addr| stays(&addr))
                && shard.replicas.iter().all(|r| !gone.contains(&r.addr));
            let primary = shard.primary_addr.is_some_and(|addr| stays(&addr));
            let replica = shard.replicas.iter().any(|r| r.behind.is_none() && stays(&r.addr));
            // A write counts when two have it: of a primary that stays its replica may be the other one, but not both go.
            untouched || primary || (shard.primary_addr.is_some() && replica)
        })
}

/// The nodes on the near side of a cut keep their say when these are behind it.
pub(super) fn near_side_decides(truth: &Truth, behind: &BTreeSet<SocketAddr>) -> bool {
    let shards = truth.shards();
    let far = shards.iter().filter_map(|s| s.primary_addr).filter(|addr| behind.contains(addr)).count();
    far * 2 <= shards.len()
}
