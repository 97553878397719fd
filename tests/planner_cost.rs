//! Planning stays cheap in large clusters: the time for one plan, and how it grows with the number of nodes.
//!
//! The figures are those of `benches/planner.rs`; this test runs without optimisation on busy machines and allows ten times as much.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod large;

use std::time::Duration;

use valkey_cluster_operator::model::{Attempts, Snapshot};
use valkey_cluster_operator::plan::plan;

const REPLICAS: u16 = 2;

/// Time that this thread has been on a processor: what the machine does beside it does not count.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Processor time of one plan, as one row of some shows it.
fn row(snapshot: &Snapshot) -> Duration {
    const ROW: u32 = 5;
    let began = on_processor();
    for _ in 0..ROW {
        drop(std::hint::black_box(plan(snapshot, &Attempts::default())));
    }
    on_processor().saturating_sub(began) / ROW
}

/// How much longer four times as many nodes may take: a square of them would take sixteen times as long, and what no longer fits into the
/// caches of a busy machine takes up to twice as long again.
const MOST_TIMES: f64 = 9.0;

/// Rows at the most: neighbours on the machine only add, also through the caches that they share, so that the least counts.
const ROWS: usize = 40;

/// The least cost of both, as soon as they are as they should be.
fn costs(
    small: &Snapshot,
    large: &Snapshot,
    fine: impl Fn(Duration, Duration) -> bool,
) -> (Duration, Duration) {
    let mut least = (row(small), row(large));
    for n in 1..ROWS {
        if n >= 5 && fine(least.0, least.1) {
            break;
        }
        least = (least.0.min(row(small)), least.1.min(row(large)));
    }
    least
}

#[test]
fn planning_grows_with_the_number_of_nodes_and_not_with_its_square() {
    for (what, world, most) in worlds() {
        let ratio = |small: Duration, large: Duration| large.as_secs_f64() / small.as_secs_f64();
        let fine = |small, large| ratio(small, large) < MOST_TIMES && large < most;
        let (small, large) = costs(&world(125, REPLICAS), &world(500, REPLICAS), fine);
        let ratio = ratio(small, large);
        println!("{what}: {small:?} for 125 shards, {large:?} for 500, {ratio:.2} times");
        assert!(
            ratio < MOST_TIMES,
            "{what}: four times as many nodes take {ratio:.2} times as long ({small:?}, {large:?})"
        );
        assert!(large < most, "{what}: {large:?} for 500 shards");
    }
}

#[test]
fn worlds_are_what_they_say() {
    let settled = plan(&large::settled(100, REPLICAS), &Attempts::default());
    assert!(settled.quiet() && settled.blocked.is_empty(), "{settled}");
    let upgrading = plan(&large::upgrading(100, REPLICAS), &Attempts::default()).to_string();
    assert!(upgrading.contains("waits its turn"), "{upgrading}");
    let half_dead = plan(&large::half_dead(100, REPLICAS), &Attempts::default()).to_string();
    assert!(half_dead.contains("promote "), "{half_dead}");
    let joining = plan(&large::joining(100, REPLICAS), &Attempts::default()).to_string();
    assert!(joining.contains("299 members do not know it yet"), "{joining}");
}

type World = fn(u16, u16) -> Snapshot;

/// With the most that a plan of 500 shards may take. Those who join are introduced to everybody: 180,000 names in one plan.
fn worlds() -> [(&'static str, World, Duration); 4] {
    let (usual, names) = (Duration::from_millis(200), Duration::from_secs(1));
    [
        ("settled", large::settled, usual),
        ("upgrading", large::upgrading, usual),
        ("half dead", large::half_dead, usual),
        ("joining", large::joining, names),
    ]
}
