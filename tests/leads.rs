//! The spread of primaries over workers against trying every choice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test: what is missing ends it

use std::collections::BTreeMap;

use valkey_cluster_operator::model::Shard;
use valkey_cluster_operator::plan::leads::spread;

/// The smallest possible difference between the fullest and the emptiest worker, by trying everything.
fn best(choices: &BTreeMap<Shard, Vec<&str>>) -> usize {
    let shards: Vec<&Vec<&str>> = choices.values().collect();
    let total: usize = shards.iter().map(|o| o.len()).product();
    (0..total)
        .map(|mut code| {
            let picks = shards.iter().map(|o| {
                let w = o[code % o.len()];
                code /= o.len();
                w
            });
            difference(choices, picks)
        })
        .min()
        .unwrap()
}

fn difference<'a>(choices: &BTreeMap<Shard, Vec<&'a str>>, picks: impl Iterator<Item = &'a str>) -> usize {
    let mut loads: BTreeMap<&str, usize> = choices.values().flatten().map(|w| (*w, 0)).collect();
    picks.for_each(|w| *loads.get_mut(w).unwrap() += 1);
    loads.values().max().unwrap() - loads.values().min().unwrap()
}

#[test]
fn never_worse_than_trying_everything() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let names = ["w1", "w2", "w3", "w4"];
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let choices: BTreeMap<Shard, Vec<&str>> = (0..rng.random_range(1..=6))
            .map(|s| {
                (Shard(s), (0..rng.random_range(1..=3)).map(|_| names[rng.random_range(0..4)]).collect())
            })
            .collect();
        let chosen = spread(&choices);
        let got = difference(&choices, chosen.iter().map(|(s, i)| choices[s][*i]));
        let want = best(&choices);
        assert!(got <= want.max(1), "seed {seed}: {got} instead of {want} for {choices:?}");
    }
}
