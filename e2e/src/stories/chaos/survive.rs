//! Decides what a cluster can survive at this moment: a fault that would take the last copy in sync is left out, so that
//! every acknowledged write has to be there at the end, without an exception. Pure.

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
