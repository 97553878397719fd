//! Decides what one lane's writes amount to: what was acknowledged, what of it is lost, where the gaps are. Pure: it
//! is told what happened and when.
//!
//! A lane increments counters, one write at a time. Each connection counts in a field of its own, so a field holds at
//! most one write whose fate is unknown: its last. Replication and failover keep prefixes of what a node did, and a
//! counter that reads less than its last acknowledged value therefore lost exactly the difference; a write that was
//! applied without being acknowledged cannot fill the hole of a lost one on another connection.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

use super::errors::{ErrorKind, Errors};

/// Gaps that are kept one by one; of further ones only the number and the longest are known.
const MAX_GAPS: usize = 10_000;
/// The longest latency that can be told apart, in microseconds: one hour.
const MAX_LATENCY: u64 = 3_600_000_000;

/// One hole in a lane's acknowledged writes. Offsets are from the start of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// When the last write before it was acknowledged.
    pub start: Duration,
    /// How much longer than the lane's interval it took until the next one.
    pub length: Duration,
    /// The lane had not come back when the ledger stopped.
    pub open: bool,
    /// What the lane met during it.
    pub errors: Errors,
}

/// A counter that was seen to have gone backwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regression {
    /// When it was seen, from the start of the ledger.
    pub at: Duration,
    /// The value that had been acknowledged.
    pub acknowledged: u64,
    /// The value found in its place.
    pub found: u64,
}

/// What one connection wrote into its field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    /// Acknowledged writes that the counter should still hold.
    alive: u64,
    /// The counter's last acknowledged value.
    last: u64,
    /// Writes whose fate is unknown.
    uncertain: u64,
    /// Acknowledged writes that are gone.
    lost: u64,
    /// Writes that were applied without having been acknowledged.
    unacknowledged: u64,
}

/// The account of one lane.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    interval: Duration,
    floor: Duration,
    segments: BTreeMap<u32, Segment>,
    last_ack: Duration,
    acked: u64,
    since_ack: Errors,
    /// Gaps longer than the floor, the first ten thousand.
    pub gaps: Vec<Gap>,
    /// How many gaps there were.
    pub gap_count: u64,
    /// The longest gap, also one below the floor.
    pub longest_gap: Duration,
    /// All errors.
    pub errors: Errors,
    /// Counters that went backwards during the run.
    pub regressions: Vec<Regression>,
    /// From the first attempt of a write to its acknowledgement, in microseconds.
    pub latency: Histogram<u64>,
    /// Acknowledged writes in each second since the start of the ledger.
    pub per_second: Vec<u64>,
}

/// What the account says in the end about the writes themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Writes that the lane was told were done.
    pub acked: u64,
    /// Of these, the ones proven to be gone.
    pub lost: u64,
    /// The most that can be gone: more than `lost` only if a counter that lost writes also had one of unknown fate.
    pub lost_at_most: u64,
    /// Writes that were done although the lane was not told so (a time-out, a broken connection). No loss.
    pub unacknowledged: u64,
    /// Writes that the lane was not told about, done or not.
    pub uncertain: u64,
}

impl Account {
    /// An account that starts at `start` (from the start of the ledger); writes are due every `interval`, and gaps
    /// shorter than `floor` are not kept.
    ///
    /// # Errors
    /// If the histogram cannot be made; its bounds are constants.
    pub(crate) fn new(start: Duration, interval: Duration, floor: Duration) -> Result<Self, CreationError> {
        Ok(Self {
            interval,
            floor,
            segments: BTreeMap::new(),
            last_ack: start,
            acked: 0,
            since_ack: Errors::default(),
            gaps: Vec::new(),
            gap_count: 0,
            longest_gap: Duration::ZERO,
            errors: Errors::default(),
            regressions: Vec::new(),
            latency: Histogram::new_with_bounds(1, MAX_LATENCY, 3)?,
            per_second: Vec::new(),
        })
    }

    /// The counter of connection `field` was acknowledged with `value` at `at`, `latency` after the first attempt.
    pub(crate) fn acknowledged(&mut self, field: u32, value: u64, at: Duration, latency: Duration) {
        self.close_gap(at, false);
        self.last_ack = at;
        self.acked += 1;
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.count_second(at);
        let segment = self.segments.entry(field).or_default();
        let before = value.saturating_sub(1);
        if before < segment.last {
            self.regressions.push(Regression { at, acknowledged: segment.last, found: before });
            segment.lose_down_to(before);
        } else {
            segment.unacknowledged += before - segment.last;
        }
        segment.alive += 1;
        segment.last = value;
    }

    /// A write failed. `sent` is the connection on which it may have been carried out nevertheless.
    pub(crate) fn failed(&mut self, kind: ErrorKind, sentence: &str, sent: Option<u32>) {
        self.errors.add(kind, sentence);
        self.since_ack.add(kind, sentence);
        if let Some(field) = sent {
            self.segments.entry(field).or_default().uncertain += 1;
        }
    }

    /// During the run the counter of an earlier connection was read: notes it if acknowledged writes are missing.
    /// They are charged at the read-back, which has the last word.
    pub(crate) fn glimpsed(&mut self, field: u32, found: u64, at: Duration) {
        if let Some(acknowledged) =
            self.segments.get(&field).map(|segment| segment.last).filter(|last| found < *last)
        {
            self.regressions.push(Regression { at, acknowledged, found });
        }
    }

    /// The lane ends at `at`: if nothing has been acknowledged for longer than the floor, that is a gap too.
    pub(crate) fn ended(&mut self, at: Duration) {
        self.close_gap(at, true);
    }

    /// The final values of all counters; one that is not there has the value 0.
    pub(crate) fn read_back(&mut self, counters: &BTreeMap<u32, u64>) {
        for (field, segment) in &mut self.segments {
            let found = counters.get(field).copied().unwrap_or_default();
            if found < segment.last {
                segment.lose_down_to(found);
            } else {
                segment.unacknowledged += found - segment.last;
            }
            segment.last = found;
        }
    }

    /// The sums over all connections.
    pub(crate) fn balance(&self) -> Balance {
        let mut balance = Balance { acked: self.acked, ..Balance::default() };
        for segment in self.segments.values() {
            balance.lost += segment.lost;
            balance.lost_at_most += segment.lost + if segment.lost > 0 { segment.uncertain } else { 0 };
            balance.unacknowledged += segment.unacknowledged;
            balance.uncertain += segment.uncertain;
        }
        balance
    }

    fn close_gap(&mut self, at: Duration, open: bool) {
        let length = at.saturating_sub(self.last_ack).saturating_sub(self.interval);
        let errors = std::mem::take(&mut self.since_ack);
        self.longest_gap = self.longest_gap.max(length);
        if length < self.floor {
            return;
        }
        self.gap_count += 1;
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push(Gap { start: self.last_ack, length, open, errors });
        }
    }

    fn count_second(&mut self, at: Duration) {
        let second = usize::try_from(at.as_secs()).unwrap_or(usize::MAX);
        if second >= self.per_second.len() && second < usize::MAX {
            self.per_second.resize(second + 1, 0);
        }
        if let Some(count) = self.per_second.get_mut(second) {
            *count += 1;
        }
    }
}

impl Segment {
    fn lose_down_to(&mut self, value: u64) {
        let gone = self.alive.saturating_sub(value);
        self.lost += gone;
        self.alive -= gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn account() -> Account {
        Account::new(Duration::ZERO, ms(4), ms(5)).unwrap()
    }

    fn ack(account: &mut Account, field: u32, values: std::ops::RangeInclusive<u64>) {
        for value in values {
            let at = account.last_ack + ms(4);
            account.acknowledged(field, value, at, ms(1));
        }
    }

    #[test]
    fn undisturbed_writes_are_all_there() {
        let mut a = account();
        ack(&mut a, 1, 1..=100);
        a.read_back(&BTreeMap::from([(1, 100)]));
        assert_eq!(a.balance(), Balance { acked: 100, ..Balance::default() });
        assert_eq!((a.longest_gap, a.gap_count, a.errors.failures()), (Duration::ZERO, 0, 0));
    }

    #[test]
    fn a_flush_loses_what_was_acknowledged_and_is_seen_at_once() {
        let mut a = account();
        ack(&mut a, 1, 1..=791);
        ack(&mut a, 1, 1..=9);
        let seen = &a.regressions[0];
        assert_eq!((seen.acknowledged, seen.found), (791, 0));
        a.read_back(&BTreeMap::from([(1, 9)]));
        let b = a.balance();
        assert_eq!((b.acked, b.lost, b.lost_at_most), (800, 791, 791));
    }

    #[test]
    fn a_flush_loses_the_fields_of_earlier_connections_too() {
        let mut a = account();
        ack(&mut a, 1, 1..=10);
        ack(&mut a, 2, 1..=5);
        a.glimpsed(1, 0, ms(70));
        assert_eq!(a.balance().lost, 0);
        a.read_back(&BTreeMap::from([(2, 5)]));
        assert_eq!(a.balance().lost, 10);
        assert_eq!(a.regressions, vec![Regression { at: ms(70), acknowledged: 10, found: 0 }]);
    }

    #[test]
    fn a_write_without_an_answer_that_was_applied_is_no_loss_and_hides_none() {
        let mut a = account();
        ack(&mut a, 1, 1..=10);
        a.failed(ErrorKind::Timeout, "", Some(1));
        ack(&mut a, 2, 1..=5);
        a.read_back(&BTreeMap::from([(1, 11), (2, 4)]));
        let expected = Balance { acked: 15, lost: 1, lost_at_most: 1, unacknowledged: 1, uncertain: 1 };
        assert_eq!(a.balance(), expected);
    }

    #[test]
    fn a_loss_beside_a_write_of_unknown_fate_has_an_upper_bound() {
        let mut a = account();
        ack(&mut a, 1, 1..=10);
        a.failed(ErrorKind::Reset, "", Some(1));
        a.read_back(&BTreeMap::from([(1, 7)]));
        let b = a.balance();
        assert_eq!((b.lost, b.lost_at_most), (3, 4));
    }

    #[test]
    fn what_a_client_library_applied_twice_is_counted_apart() {
        let mut a = account();
        ack(&mut a, 1, 1..=10);
        ack(&mut a, 1, 12..=20);
        a.read_back(&BTreeMap::from([(1, 20)]));
        let b = a.balance();
        assert_eq!((b.acked, b.lost, b.unacknowledged), (19, 0, 1));
    }

    #[test]
    fn gaps_are_what_exceeds_the_schedule_and_name_their_errors() {
        let mut a = account();
        ack(&mut a, 1, 1..=1);
        a.failed(ErrorKind::Refused, "", None);
        a.failed(ErrorKind::ClusterDown, "", None);
        a.acknowledged(1, 2, ms(108), ms(100));
        a.acknowledged(1, 3, ms(115), ms(1));
        assert_eq!(a.gaps.len(), 1, "3 ms beyond the schedule is below the floor");
        let gap = &a.gaps[0];
        assert_eq!((gap.start, gap.length, gap.open), (ms(4), ms(100), false));
        assert_eq!(gap.errors.summary(), "CLUSTERDOWN 1, refused 1");
        a.ended(ms(1119));
        assert_eq!((a.gaps[1].length, a.gaps[1].open, a.longest_gap), (ms(1000), true, ms(1000)));
    }

    #[test]
    fn acknowledged_writes_are_counted_by_second() {
        let mut a = account();
        a.acknowledged(1, 1, ms(10), ms(1));
        a.acknowledged(1, 2, ms(990), ms(1));
        a.acknowledged(1, 3, ms(2500), ms(1));
        assert_eq!(a.per_second, vec![2, 0, 1]);
    }
}
