//! Properties of the moves of slots (`plan::shares`), on usual owners and on random ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use valkey_cluster_operator::model::{SLOTS, Shard, SlotRange, Slots};
use valkey_cluster_operator::plan::shares::{Move, moves};

fn even(shards: u16) -> BTreeMap<Shard, Slots> {
    (0..shards).map(|i| (Shard(i), Slots::share(i, shards))).collect()
}

fn after(owners: &BTreeMap<Shard, Slots>, moves: &[Move]) -> BTreeMap<Shard, Slots> {
    let mut out = owners.clone();
    for m in moves {
        let from = out.entry(m.from).or_default();
        assert!(m.slots.is_subset(from) && !m.slots.is_empty() && m.from != m.to, "{m:?}");
        *from = from.minus(&m.slots);
        let to = out.entry(m.to).or_default();
        *to = to.or(&m.slots);
    }
    out
}

/// Even, complete, and with no more slots moved than those that somebody has too many of.
fn good(owners: &BTreeMap<Shard, Slots>, wanted: u16) -> BTreeMap<Shard, Slots> {
    let found = moves(owners, wanted);
    let out = after(owners, &found);
    let total: u16 = owners.values().map(Slots::len).sum();
    let sizes: Vec<u16> = (0..wanted).map(|i| out.get(&Shard(i)).map_or(0, Slots::len)).collect();
    let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(max - min <= 1, "{wanted}: {sizes:?}");
    assert_eq!(sizes.iter().sum::<u16>(), total);
    assert!(out.iter().all(|(s, slots)| s.0 < wanted || slots.is_empty()));
    // The fewest: as many shards as the remainder says keep one slot more, those that have the most.
    let mut have: Vec<u16> = (0..wanted).map(|i| owners.get(&Shard(i)).map_or(0, Slots::len)).collect();
    have.sort_unstable_by(|a, b| b.cmp(a));
    let larger = usize::from(total % wanted);
    let size = |i: usize| total / wanted + u16::from(i < larger);
    let kept: u16 = have.iter().enumerate().map(|(i, n)| (*n).min(size(i))).sum();
    assert_eq!(found.iter().map(|m| m.slots.len()).sum::<u16>(), total - kept);
    assert!(moves(&out, wanted).is_empty(), "a second look moves nothing");
    out
}

#[test]
fn usual_changes_move_the_fewest_slots_in_whole_ranges() {
    for (from, to) in [(3, 4), (4, 3), (3, 6), (6, 3), (1, 3), (3, 1), (1, 1000), (1000, 1), (5, 7)] {
        good(&even(from), to);
    }
    let three = moves(&even(3), 4);
    assert_eq!(
        three.iter().map(|m| m.slots.to_string()).collect::<Vec<_>>(),
        ["4096-5460", "9557-10921", "15018-16383"]
    );
    let six = moves(&even(3), 6);
    assert!(six.iter().all(|m| m.slots.ranges().len() == 1) && six.len() <= 5, "{six:?}");
}

#[test]
fn there_and_back_again_gives_the_ranges_back() {
    let four = after(&even(3), &moves(&even(3), 4));
    let three = after(&four, &moves(&four, 3));
    // The one slot of the remainder may end up with another shard than before.
    let ranges: usize = three.values().map(|s| s.ranges().len()).sum();
    assert!(ranges <= 4, "{three:?}");
}

#[test]
fn a_part_of_the_moves_done_leaves_the_rest_of_the_same() {
    let all = moves(&even(3), 4);
    let half = after(&even(3), all.get(..1).unwrap());
    let left: u16 = moves(&half, 4).iter().map(|m| m.slots.len()).sum();
    assert_eq!(left, all.iter().skip(1).map(|m| m.slots.len()).sum::<u16>());
}

#[test]
fn random_owners_become_even() {
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..200 {
        let shards = rng.random_range(1..8u16);
        let mut owners: BTreeMap<Shard, Slots> = BTreeMap::new();
        let mut at = 0;
        while at < SLOTS {
            let last = (at + rng.random_range(0..3000)).min(SLOTS - 1);
            let shard = owners.entry(Shard(rng.random_range(0..shards))).or_default();
            // Some slots have no owner that is known.
            if rng.random_bool(0.9) {
                *shard = shard.or(&Slots::from_ranges([SlotRange { first: at, last }]));
            }
            at = last + 1;
        }
        good(&owners, rng.random_range(1..8));
    }
    assert!(moves(&even(3), 0).is_empty());
}
