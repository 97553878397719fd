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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::truth::{Facts, Replication, Seen, View};

    fn addr(n: usize) -> SocketAddr {
        format!("127.0.1.{n}:7000").parse().unwrap()
    }

    fn behind(nodes: &[usize]) -> BTreeSet<SocketAddr> {
        nodes.iter().map(|n| addr(*n)).collect()
    }

    /// So many primaries, numbered from 1, each with a replica in sync: that of `n` is `10 + n`. These do not answer.
    fn cluster(primaries: usize, silent: &[usize]) -> Truth {
        let all: Vec<usize> = (1..=primaries).flat_map(|n| [n, 10 + n]).collect();
        let line = |n: usize, viewer: usize| {
            let myself = if n == viewer { "myself," } else { "" };
            let at = format!("id{n} 127.0.1.{n}:7000@17000 {myself}");
            match n.checked_sub(10) {
                Some(of) => format!("{at}slave id{of} 0 0 {of} connected\n"),
                None => format!("{at}master - 0 0 {n} connected {}-{}\n", n * 1000, n * 1000 + 999),
            }
        };
        let facts = |viewer: usize| {
            let text: String = all.iter().map(|n| line(*n, viewer)).collect();
            let replication = if viewer > 10 {
                "role:slave\nmaster_link_status:up\nmaster_sync_in_progress:0\nloading:0\n".to_owned()
            } else {
                let replica = 10 + viewer;
                format!("role:master\nslave0:ip=127.0.1.{replica},port=7000,state=online,offset=1,lag=0\n")
            };
            Facts {
                shard: format!("shard{}", viewer % 10),
                view: View::read(&text).unwrap(),
                state_ok: true,
                replication: Replication::read(&replication),
                node_timeout_ms: Some(2000),
            }
        };
        let seen = |n: &usize| {
            let seen = if silent.contains(n) {
                Seen::Silent("connection refused".to_owned())
            } else {
                Seen::Answered(Box::new(facts(*n)))
            };
            (addr(*n), seen)
        };
        Truth { seen: all.iter().map(seen).collect::<BTreeMap<_, _>>() }
    }

    #[test]
    fn the_near_side_decides_unless_most_of_the_slot_owners_are_behind_the_cut() {
        let three = cluster(3, &[]);
        assert!(near_side_decides(&three, &behind(&[])));
        assert!(near_side_decides(&three, &behind(&[1, 12])), "one of three, and a replica");
        assert!(!near_side_decides(&three, &behind(&[1, 2])), "two of three");
        assert!(near_side_decides(&three, &behind(&[11, 12, 13])), "replicas have no vote");
        let four = cluster(4, &[]);
        assert!(near_side_decides(&four, &behind(&[1, 2])), "two of four: nobody has the majority");
        assert!(!near_side_decides(&four, &behind(&[1, 2, 3])));
    }

    #[test]
    fn an_owner_that_is_dead_counts_and_votes_on_neither_side() {
        let truth = cluster(3, &[3]);
        assert!(near_side_decides(&truth, &behind(&[1, 3])), "one of three can vote there");
        assert!(!near_side_decides(&truth, &behind(&[1, 2])), "two of three can");
    }

    #[test]
    fn a_blow_is_survived_while_each_shard_keeps_a_copy() {
        let truth = cluster(3, &[]);
        assert!(survives(&truth, &behind(&[1, 12]), &behind(&[])));
        assert!(!survives(&truth, &behind(&[1, 11]), &behind(&[])), "both copies");
        assert!(!survives(&truth, &behind(&[1]), &behind(&[11])), "the other one is doomed");
        assert!(survives(&truth, &behind(&[2]), &behind(&[11])), "another shard's is");
        assert!(!survives(&Truth::default(), &behind(&[]), &behind(&[])), "nobody answers: nothing is known");
    }
}
