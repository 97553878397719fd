//! Decides what can be seen of a lane while it runs: a few counters, written by the lane, read by whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::account::Account;
use super::errors::ErrorKind;
use super::options::{Lane, LaneKind};

/// One lane's counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    acked: AtomicU64,
    failures: AtomicU64,
    regressed: AtomicBool,
    longest_gap_us: AtomicU64,
}

/// A lane, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct LiveLane {
    pub lane: Lane,
    pub counters: Arc<Counters>,
}

/// All lanes of a kind at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// Acknowledged writes.
    pub acked: u64,
    /// Errors, redirects not counted.
    pub failures: u64,
    /// Lanes that have seen a counter go backwards.
    pub regressed: u64,
    /// The longest gap that has ended.
    pub longest_gap: Duration,
}

/// One lane at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneGlance {
    /// Plain or client.
    pub kind: LaneKind,
    /// The slot that it writes to.
    pub slot: u16,
    /// Its key.
    pub key: String,
    /// Acknowledged writes.
    pub acked: u64,
}

/// An account whose writes are shown as they come.
pub(crate) struct Book {
    pub account: Account,
    counters: Arc<Counters>,
    zero: Instant,
}

impl Book {
    pub(crate) fn new(account: Account, counters: Arc<Counters>, zero: Instant) -> Self {
        Self { account, counters, zero }
    }

    pub(crate) fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    pub(crate) fn acknowledged(&mut self, field: u32, value: i64, latency: Duration) {
        let value = u64::try_from(value).unwrap_or_default();
        self.account.acknowledged(field, value, self.now(), latency);
        self.counters.acked.fetch_add(1, Ordering::Relaxed);
        self.show();
    }

    pub(crate) fn failed(&mut self, kind: ErrorKind, sentence: &str, sent: Option<u32>) {
        self.account.failed(kind, sentence, sent);
        if !kind.is_redirect() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn glimpsed(&mut self, field: u32, found: u64) {
        self.account.glimpsed(field, found, self.now());
        self.show();
    }

    fn show(&self) {
        let longest = u64::try_from(self.account.longest_gap.as_micros()).unwrap_or(u64::MAX);
        self.counters.longest_gap_us.store(longest, Ordering::Relaxed);
        self.counters.regressed.store(!self.account.regressions.is_empty(), Ordering::Relaxed);
    }
}

impl LiveLane {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, counters: Arc::default() }
    }

    pub(crate) fn acked(&self) -> u64 {
        self.counters.acked.load(Ordering::Relaxed)
    }
}

impl From<&LiveLane> for LaneGlance {
    fn from(live: &LiveLane) -> Self {
        let Lane { kind, slot, key, .. } = live.lane.clone();
        Self { kind, slot, key, acked: live.acked() }
    }
}

impl Glance {
    pub(crate) fn of(lanes: &[LiveLane], kind: LaneKind) -> Self {
        lanes.iter().filter(|live| live.lane.kind == kind).fold(Self::default(), |sum, live| Self {
            acked: sum.acked + live.acked(),
            failures: sum.failures + live.counters.failures.load(Ordering::Relaxed),
            regressed: sum.regressed + u64::from(live.counters.regressed.load(Ordering::Relaxed)),
            longest_gap: sum
                .longest_gap
                .max(Duration::from_micros(live.counters.longest_gap_us.load(Ordering::Relaxed))),
        })
    }
}
