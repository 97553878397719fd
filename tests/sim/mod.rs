//! A simulated world for the planner: an API server, kubelets, Valkey nodes with their own views, clients that write.
//!
//! One tick is 100 ms, the period of Valkey's own cluster cron. Everything random comes from one seed, so that a life
//! can be lived again. What the nodes do follows the sources of Valkey 8.1 to 9.1 where a decision can depend on it.
#![allow(dead_code, reason = "each test binary uses its part of the world")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub(crate) mod away;
#[path = "../bare/mod.rs"]
mod bare;
pub(crate) mod bus;
pub(crate) mod canon;
pub(crate) mod certificates;
pub(crate) mod clients;
pub(crate) mod election;
pub(crate) mod execute;
pub(crate) mod faults;
pub(crate) mod guard;
pub(crate) mod invariants;
pub(crate) mod kubernetes;
pub(crate) mod life;
pub(crate) mod migration;
pub(crate) mod mutant;
pub(crate) mod observe;
pub(crate) mod operator;
pub(crate) mod random;
pub(crate) mod reorder;
pub(crate) mod replication;
pub(crate) mod script;
pub(crate) mod search;
pub(crate) mod tally;
pub(crate) mod told;
pub(crate) mod trace;
pub(crate) mod turns;
mod users;
pub(crate) mod valkey;
pub(crate) mod world;

/// Milliseconds of a tick.
pub(crate) const TICK_MS: i64 = 100;

/// Ticks that `ms` milliseconds take, at least one.
pub(crate) fn ticks(ms: i64) -> i64 {
    (ms + TICK_MS - 1).div_euclid(TICK_MS).max(1)
}
