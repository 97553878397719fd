//! Small worlds searched exhaustively: no state that a fault leads to breaks an invariant, and from every one the end is reached.
//!
//! `FAULTS=<n>` says how many faults may come one after another (default 1), `STATES=<n>` where a search ends without having seen
//! everything (default: it does not). `WORLD=<shards>x<replicas>` searches one of the worlds alone.

use std::io::Write as _;
use std::time::Instant;

use crate::number;
use crate::sim::search::{every_fault, search};
use crate::sim::world::Start;
use valkey_cluster_operator::model::Version;

const WORLDS: [(u16, u16); 4] = [(2, 1), (3, 1), (1, 2), (2, 0)];

#[test]
fn no_single_fault_at_any_point_leads_astray() {
    let deep = number("FAULTS").unwrap_or(1);
    let most = number("STATES").unwrap_or(usize::MAX);
    let only = std::env::var("WORLD").ok();
    let wanted = |(s, r): &&(u16, u16)| only.as_ref().is_none_or(|w| *w == format!("{s}x{r}"));
    std::thread::scope(|scope| {
        for (shards, replicas) in WORLDS.iter().filter(wanted).copied() {
            scope.spawn(move || one(shards, replicas, deep, most));
        }
    });
}

fn one(shards: u16, replicas: u16, deep: usize, most: usize) {
    let began = Instant::now();
    let version = Version::new(9, 1, 2);
    let start = Start {
        shards,
        replicas,
        workers: 3,
        version,
        seed: 1,
        reuse_addresses: true,
        brief: false,
        zones: 0,
        strict: false,
        strict_zones: false,
    };
    let found = search(&start, deep, most, every_fault);
    let seen = if found.complete { "all" } else { "not all" };
    let states: Vec<String> =
        found.states.iter().enumerate().map(|(n, states)| format!("{states} after {n} faults")).collect();
    let took = began.elapsed().as_secs_f64();
    // Past the test harness, which keeps the words of a test that passes to itself.
    let line = format!(
        "| {shards}x{replicas} | {} ({seen}) | {} lives | {took:.1} s |\n",
        states.join(", "),
        found.lives
    );
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    if let Some((path, why)) = found.failure {
        panic!("{shards}x{replicas}: {}: {why}", path.join(", "));
    }
}
