//! The spread of primaries over workers and zones against trying every choice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::similar_names, clippy::unnecessary_wraps)] // a test

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use valkey_cluster_operator::model::Shard;
use valkey_cluster_operator::plan::even::{Over, Seat, even};
use valkey_cluster_operator::plan::leads::spread;

type Choices = BTreeMap<Shard, Vec<Seat<'static>>>;
type Chosen = BTreeMap<Shard, usize>;

const BOTH: Over = Over { workers: true, zones: true };

/// Every way to choose.
fn all(choices: &Choices) -> impl Iterator<Item = Chosen> + '_ {
    let total: usize = choices.values().map(Vec::len).product();
    (0..total).map(|mut code| {
        choices
            .iter()
            .map(|(shard, seats)| {
                let i = code % seats.len();
                code /= seats.len();
                (*shard, i)
            })
            .collect()
    })
}

/// How many seats each place has, of all places that could have one.
fn loads(
    choices: &Choices,
    chosen: &Chosen,
    place: fn(&Seat<'static>) -> Option<&'static str>,
) -> Vec<usize> {
    let mut loads: BTreeMap<&str, usize> =
        choices.values().flatten().filter_map(place).map(|p| (p, 0)).collect();
    chosen
        .iter()
        .filter_map(|(shard, i)| place(&choices[shard][*i]))
        .for_each(|p| *loads.get_mut(p).unwrap() += 1);
    loads.into_values().collect()
}

fn worker(seat: &Seat<'static>) -> Option<&'static str> {
    Some(seat.worker)
}

fn zone(seat: &Seat<'static>) -> Option<&'static str> {
    seat.zone
}

fn difference(loads: &[usize]) -> usize {
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
}

fn squares(loads: &[usize]) -> usize {
    loads.iter().map(|n| n * n).sum()
}

/// How uneven, workers first, and how many shards were moved.
fn cost(choices: &Choices, chosen: &Chosen, from: &Chosen) -> (usize, usize, usize) {
    let moved = chosen.iter().filter(|(shard, i)| from[shard] != **i).count();
    (squares(&loads(choices, chosen, worker)), squares(&loads(choices, chosen, zone)), moved)
}

fn random(rng: &mut StdRng) -> Choices {
    let workers = ["w1", "w2", "w3", "w4", "w5"];
    let zoned = rng.random_bool(0.8);
    let zones: Vec<&'static str> = workers.iter().map(|_| ["a", "b", "c"][rng.random_range(0..3)]).collect();
    let seat = |w: usize| Seat { worker: workers[w], zone: zoned.then_some(zones[w]) };
    (0..rng.random_range(1..=6))
        .map(|s| (Shard(s), (0..rng.random_range(1..=3)).map(|_| seat(rng.random_range(0..5))).collect()))
        .collect()
}

#[test]
fn as_even_as_trying_everything_over_workers_and_zones() {
    for seed in 0..3000 {
        let choices = random(&mut StdRng::seed_from_u64(seed));
        let chosen = spread(&choices, BOTH);
        let got =
            (difference(&loads(&choices, &chosen, worker)), difference(&loads(&choices, &chosen, zone)));
        let even = |c: &Chosen| {
            difference(&loads(&choices, c, worker)) <= 1 && difference(&loads(&choices, c, zone)) <= 1
        };
        if all(&choices).any(|c| even(&c)) {
            assert!(got.0 <= 1 && got.1 <= 1, "seed {seed}: {got:?} for {choices:?}");
        }
        let least = all(&choices).map(|c| difference(&loads(&choices, &c, worker))).min().unwrap();
        assert!(got.0 <= least.max(1), "seed {seed}: {got:?} instead of {least} for {choices:?}");
    }
}

#[test]
fn the_fewest_hand_overs_and_none_back() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let choices = random(&mut rng);
        let mut now: Chosen = choices.iter().map(|(s, o)| (*s, rng.random_range(0..o.len()))).collect();
        let best = all(&choices).map(|c| cost(&choices, &c, &now)).min().unwrap();
        let wanted = even(&choices, &now, BOTH);
        assert_eq!(cost(&choices, &wanted, &now), best, "seed {seed}: {choices:?} from {now:?}");
        // One hand-over at a time, each planned anew: as many as were needed at first, then quiet.
        for left in (0..best.2).rev() {
            let (shard, to) =
                even(&choices, &now, BOTH).into_iter().find(|(s, i)| now[s] != *i).expect("one is left");
            now.insert(shard, to);
            assert_eq!(cost(&choices, &even(&choices, &now, BOTH), &now).2, left, "seed {seed}");
        }
        assert_eq!(even(&choices, &now, BOTH), now, "seed {seed}: quiet");
    }
}

#[test]
fn what_is_not_to_be_even_moves_nobody() {
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let choices = random(&mut rng);
        let now: Chosen = choices.iter().map(|(s, o)| (*s, rng.random_range(0..o.len()))).collect();
        assert_eq!(even(&choices, &now, Over { workers: false, zones: false }), now, "seed {seed}");
    }
}
