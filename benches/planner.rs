//! How long one plan takes: `just bench` (with the dependencies as tests have them, so that they are compiled once).
//! The goals are 3 ms for 100 shards and 20 ms for 500, of three copies
//! each, and growth no worse than n log n. Where 125 members come at one time, the plan itself has a name for each pair.
#![allow(missing_docs, reason = "a benchmark")]

use valkey_cluster_operator::model::{Attempts, Plan, Snapshot};
use valkey_cluster_operator::plan::plan;

#[path = "../tests/large/mod.rs"]
mod large;

const SHARDS: [u16; 3] = [100, 500, 1000];
const REPLICAS: u16 = 2;

fn main() {
    divan::main();
}

fn run(bencher: divan::Bencher<'_, '_>, snapshot: &Snapshot) {
    bencher.bench(|| -> Plan { plan(divan::black_box(snapshot), &Attempts::default()) });
}

#[divan::bench(args = SHARDS)]
fn settled(bencher: divan::Bencher<'_, '_>, shards: u16) {
    run(bencher, &large::settled(shards, REPLICAS));
}

#[divan::bench(args = SHARDS)]
fn upgrading(bencher: divan::Bencher<'_, '_>, shards: u16) {
    run(bencher, &large::upgrading(shards, REPLICAS));
}

#[divan::bench(args = SHARDS)]
fn half_dead(bencher: divan::Bencher<'_, '_>, shards: u16) {
    run(bencher, &large::half_dead(shards, REPLICAS));
}

#[divan::bench(args = SHARDS)]
fn joining(bencher: divan::Bencher<'_, '_>, shards: u16) {
    run(bencher, &large::joining(shards, REPLICAS));
}
