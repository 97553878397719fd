//! Random lives: hundreds of clusters that are formed, changed and hurt at random moments, invariants after every tick.
//!
//! `LIVES=<n>` says how many (default 300), `FIRST=<seed>` where to begin, `THREADS=<n>` how many at a time. At the end stands
//! what was done to them, by kind. A failing life prints its seed, a script made as small as possible, and how to see it again:
//! `LIFE=<seed> cargo test --test worlds random_lives -- --nocapture` (with `WHOLE=1` as it is, not made smaller first).

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::number;
use crate::sim::life::live;
use crate::sim::random::{script, shrink};
use crate::sim::tally::Tally;
use crate::sim::trace::Trace;

#[test]
fn every_life_ends_well() {
    if let Some(seed) = number("LIFE") {
        replay(seed);
        return;
    }
    let (first, lives) = (number("FIRST").unwrap_or(0), number("LIVES").unwrap_or(300));
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let threads = number("THREADS").unwrap_or(all).max(1);
    let lanes: Vec<Lane> = std::thread::scope(|scope| {
        let seeds = |lane| (first..first + lives).filter(move |s| s % threads == lane);
        let lanes: Vec<_> = (0..threads).map(|lane| scope.spawn(move || several(seeds(lane)))).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let mut tally = Tally::default();
    let mut failures: Vec<(u64, String)> = Vec::new();
    for lane in lanes {
        tally.add(&lane.tally);
        failures.extend(lane.failures);
    }
    // Past the test harness, which keeps the words of a test that passes to itself.
    write!(std::io::stdout(), "{tally}").unwrap();
    for (seed, why) in failures.iter().take(5) {
        println!("life {seed}: {why}\n{}", shrink(&script(*seed)));
    }
    let mut seeds: Vec<u64> = failures.iter().map(|(s, _)| *s).collect();
    seeds.sort_unstable();
    assert!(
        failures.is_empty(),
        "{} of {lives} lives failed: {seeds:?}; see one with LIFE={} cargo test --test worlds random_lives -- --nocapture",
        failures.len(),
        seeds.first().unwrap_or(&0)
    );
}

/// What a thread lived through.
#[derive(Default)]
struct Lane {
    tally: Tally,
    failures: Vec<(u64, String)>,
}

/// After so many lives a long run says how far it is; what fails it says at once.
const REPORTED: u64 = 1000;

fn several(seeds: impl Iterator<Item = u64>) -> Lane {
    static LIVED: AtomicU64 = AtomicU64::new(0);
    let (mut lane, mut out) = (Lane::default(), std::io::stdout());
    for seed in seeds {
        let end = live(&script(seed), Trace::default());
        lane.tally.add(&end.world.tally);
        if let Some(why) = end.failure {
            writeln!(out, "life {seed} failed: {why}").unwrap();
            lane.failures.push((seed, why));
        }
        let lived = LIVED.fetch_add(1, Ordering::Relaxed) + 1;
        if lived.is_multiple_of(REPORTED) {
            writeln!(out, "{lived} lives").unwrap();
        }
    }
    lane
}

fn replay(seed: u64) {
    let whole = script(seed);
    // A life that never becomes quiet takes long to be made smaller.
    let as_it_is = std::env::var_os("WHOLE").is_some();
    let small =
        if !as_it_is && live(&whole, Trace::default()).failure.is_some() { shrink(&whole) } else { whole };
    let end = live(&small, Trace::on());
    println!("{small}\n{}", end.world.trace.text);
    if let Some(why) = end.failure {
        panic!("life {seed}: {why}");
    }
}
