//! Answers and specs that nobody meant to write: recorded ones, changed at random, never make a parser panic, work long, or
//! return more than there is. `MUTATIONS=1000000 cargo test --test mutations` for more, `FIRST=<seed>` for others.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "../fuzz/src/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// What numbers and words of the protocol look like when somebody means harm.
const POISON: &[&str] = &[
    "18446744073709551616",
    "-1",
    "99999999999999999999999999999999",
    "0-16384",
    "16383-0",
    "[0->-",
    "[",
    "]",
    "-",
    "myself,",
    "\n",
    "\r\n",
    "\0",
    " ",
    "::1",
    "@",
    ",",
    "=",
    ":",
    "~*",
    "+@all",
    "(",
    ")",
    "#",
    "\u{202e}",
    "é",
];
/// No single input may take longer: a parser that is quadratic in its input shows here.
const SLOW: Duration = Duration::from_secs(1);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn mutate(text: &str, others: &[String], rng: &mut StdRng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=chars.len());
        let end = (at + rng.random_range(0..40)).min(chars.len());
        match rng.random_range(0..6) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let again: Vec<char> = chars[at..end].to_vec();
                let times = rng.random_range(1..50);
                chars.splice(at..at, (0..times).flat_map(|_| again.clone()));
            }
            2 => chars.truncate(at),
            3 if at < chars.len() => chars[at] = char::from(rng.random_range(0_u8..128)),
            4 => {
                let other: Vec<char> = others[rng.random_range(0..others.len())].chars().collect();
                let from = rng.random_range(0..=other.len());
                chars.truncate(at);
                chars.extend(&other[from..]);
            }
            _ => {
                let poison = POISON[rng.random_range(0..POISON.len())];
                chars.splice(at..end, poison.chars());
            }
        }
    }
    chars.into_iter().collect()
}

/// Feeds the seeds, and then changed ones; a panic names the seed of the generator.
fn feed(target: Target, seeds: &[String]) {
    for text in seeds {
        (target.run)(text);
    }
    let (first, count) = (number("FIRST", 0), number("MUTATIONS", 4000));
    for seed in first..first + count {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = mutate(&seeds[rng.random_range(0..seeds.len())], seeds, &mut rng);
        let began = Instant::now();
        let ended = std::panic::catch_unwind(|| (target.run)(&text));
        assert!(ended.is_ok(), "{}: FIRST={seed} MUTATIONS=1: {text:?}", target.name);
        let took = began.elapsed();
        assert!(took < SLOW, "{}: FIRST={seed} MUTATIONS=1: {took:?} for {} bytes", target.name, text.len());
    }
}

#[test]
fn whatever_comes_is_read_or_refused() {
    for target in TARGETS {
        let files = target.seeds(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let seeds: Vec<String> = files.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
        assert!(seeds.len() >= 2, "{} begins with {} files", target.name, seeds.len());
        feed(target, &seeds);
    }
}
