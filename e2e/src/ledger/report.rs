//! Decides what a finished ledger says: per lane, in sum, within a window, and whether it keeps given limits. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::account::{Account, Balance, Gap, Regression};
use super::errors::Errors;
use super::options::{Lane, LaneKind, Limits};
use super::pulse::Control;

/// A finished run. All times in it are milliseconds, offsets from its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// The name of this run, part of every key.
    pub run: String,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    /// How long it wrote.
    pub duration_ms: f64,
    /// Moments that were named during the run.
    pub marks: Vec<Mark>,
    /// The plain lanes in sum: what is judged.
    pub judged: Totals,
    /// The client library's lanes in sum, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Totals>,
    /// How long the ledger itself stood still: the part of a gap that says nothing about the cluster.
    pub control: Control,
    /// Every lane.
    pub lanes: Vec<LaneReport>,
}

/// A named moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// When.
    pub at_ms: f64,
}

/// Lanes of one kind in sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How many lanes.
    pub lanes: usize,
    /// Acknowledged writes.
    pub acked: u64,
    /// Acknowledged writes that are proven to be gone.
    pub lost: u64,
    /// The most that can be gone: a counter that lost writes may hide one of unknown fate.
    pub lost_at_most: u64,
    /// Applied without having been acknowledged. No loss.
    pub unacknowledged: u64,
    /// Writes that got no answer, applied or not.
    pub uncertain: u64,
    /// Acknowledged writes of lanes that could not be read back: nobody knows.
    pub unread: u64,
    /// How many gaps.
    pub gaps: u64,
    /// The longest gap of any lane.
    pub longest_gap_ms: f64,
    /// Errors by kind.
    pub errors: Errors,
    /// From the first attempt of a write to its acknowledgement.
    pub latency: Latency,
    /// Acknowledged writes in each second.
    pub per_second: Vec<u64>,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 99 % are below.
    pub p99_ms: f64,
    /// 99.9 % are below.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// Its number among its kind.
    pub lane: u16,
    /// Plain or client.
    pub kind: LaneKind,
    /// The slot that it writes to.
    pub slot: u16,
    /// Its key: a hash with a counter for each connection.
    pub key: String,
    /// Acknowledged writes.
    pub acked: u64,
    /// Acknowledged writes that are proven to be gone.
    pub lost: u64,
    /// The most that can be gone.
    pub lost_at_most: u64,
    /// Applied without having been acknowledged.
    pub unacknowledged: u64,
    /// Got no answer, applied or not.
    pub uncertain: u64,
    /// Why its counters could not be read back; then `lost` says only what the run itself showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// The longest gap.
    pub longest_gap_ms: f64,
    /// How many gaps there were; the first ten thousand are in `gaps`.
    pub gap_count: u64,
    /// The gaps.
    pub gaps: Vec<GapReport>,
    /// When counters were seen to have gone backwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regressions: Vec<RegressionReport>,
    /// Errors by kind.
    pub errors: Errors,
    /// From the first attempt of a write to its acknowledgement.
    pub latency: Latency,
}

/// One gap: nothing was acknowledged on this lane although writes were due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GapReport {
    /// The last acknowledged write before it.
    pub start_ms: f64,
    /// How much longer than the lane's interval the next one took.
    pub length_ms: f64,
    /// The lane had not come back at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// What the lane met during it.
    pub errors: Errors,
}

/// A counter that went backwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegressionReport {
    /// When it was seen.
    pub at_ms: f64,
    /// The value that had been acknowledged.
    pub acknowledged: u64,
    /// The value found in its place.
    pub found: u64,
}

/// The judged lanes between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// The longest gap that touches the window, in milliseconds; its whole length counts.
    pub longest_gap_ms: f64,
    /// How many gaps touch it.
    pub gaps: usize,
}

impl LedgerReport {
    /// Acknowledged writes that are proven to be gone, on any lane. What a library repeats on its own can hide a lost one, and
    /// never makes one up: the server has counted to what the lane was told.
    pub fn lost(&self) -> u64 {
        self.judged.lost + self.client.as_ref().map_or(0, |client| client.lost)
    }

    /// The longest gap of any plain lane.
    pub fn longest_gap(&self) -> Duration {
        from_ms(self.judged.longest_gap_ms)
    }

    /// The plain lanes.
    pub fn plain(&self) -> impl Iterator<Item = &LaneReport> {
        self.lanes.iter().filter(|lane| lane.kind == LaneKind::Plain)
    }

    /// When a mark was set (the first of that name), in milliseconds.
    pub fn mark_ms(&self, name: &str) -> Option<f64> {
        self.marks.iter().find(|mark| mark.name == name).map(|mark| mark.at_ms)
    }

    /// The plain lanes between two offsets in milliseconds. Gaps below the listing floor are not seen here.
    pub fn window(&self, from_ms: f64, to_ms: f64) -> Window {
        let inside = |gap: &&GapReport| gap.start_ms <= to_ms && gap.start_ms + gap.length_ms >= from_ms;
        let gaps: Vec<_> = self.plain().flat_map(|lane| lane.gaps.iter().filter(inside)).collect();
        let longest_gap_ms = gaps.iter().map(|gap| gap.length_ms).fold(0.0, f64::max);
        Window { longest_gap_ms, gaps: gaps.len() }
    }

    /// What of the limits is not kept, in sentences; empty means good. Lanes that could not be read back break any
    /// limit on losses.
    pub fn verdict(&self, limits: &Limits) -> Vec<String> {
        let mut broken = Vec::new();
        let judged = &self.judged;
        if let Some(max) = limits.max_lost {
            if self.lost() > max {
                broken.push(format!("{} acknowledged writes are lost, allowed are {max}", self.lost()));
            }
            for lane in self.plain() {
                if let Some(why) = &lane.unread {
                    let LaneReport { lane, slot, acked, .. } = lane;
                    broken.push(format!(
                        "lane {lane} (slot {slot}, {acked} acknowledged) could not be read back: {why}"
                    ));
                }
            }
        }
        if let Some(max) = limits.max_gap.filter(|max| self.longest_gap() > *max) {
            let longest = judged.longest_gap_ms;
            broken.push(format!("the longest gap is {longest:.1} ms, allowed are {} ms", max.as_millis()));
        }
        if let Some(max) = limits.max_errors.filter(|max| judged.errors.failures() > *max) {
            broken.push(format!(
                "{} errors, allowed are {max}: {}",
                judged.errors.failures(),
                judged.errors.summary()
            ));
        }
        broken
    }
}

/// A lane that has ended and, if it could be, was read back.
pub(crate) struct EndedLane {
    pub lane: Lane,
    pub account: Account,
    pub unread: Option<String>,
}

/// The lanes of one kind in sum.
pub(crate) fn totals(lanes: &[EndedLane], kind: LaneKind) -> Totals {
    let mut totals = Totals::default();
    let mut latency: Option<Histogram<u64>> = None;
    for EndedLane { account, unread, .. } in lanes.iter().filter(|ended| ended.lane.kind == kind) {
        let Balance { acked, lost, lost_at_most, unacknowledged, uncertain } = account.balance();
        totals.lanes += 1;
        totals.acked += acked;
        totals.lost += lost;
        totals.lost_at_most += lost_at_most;
        totals.unacknowledged += unacknowledged;
        totals.uncertain += uncertain;
        totals.unread += if unread.is_some() { acked - lost.min(acked) } else { 0 };
        totals.gaps += account.gap_count;
        totals.longest_gap_ms = totals.longest_gap_ms.max(ms(account.longest_gap));
        totals.errors.merge(&account.errors);
        if account.per_second.len() > totals.per_second.len() {
            totals.per_second.resize(account.per_second.len(), 0);
        }
        for (sum, count) in totals.per_second.iter_mut().zip(&account.per_second) {
            *sum += count;
        }
        match &mut latency {
            // Histograms of the same bounds always add up.
            Some(sum) => drop(sum.add(&account.latency)),
            None => latency = Some(account.latency.clone()),
        }
    }
    totals.latency = latency.as_ref().map(Latency::of).unwrap_or_default();
    totals
}

impl From<&EndedLane> for LaneReport {
    fn from(ended: &EndedLane) -> Self {
        let EndedLane { lane, account, unread } = ended;
        let Balance { acked, lost, lost_at_most, unacknowledged, uncertain } = account.balance();
        Self {
            lane: lane.index,
            kind: lane.kind,
            slot: lane.slot,
            key: lane.key.clone(),
            acked,
            lost,
            lost_at_most,
            unacknowledged,
            uncertain,
            unread: unread.clone(),
            longest_gap_ms: ms(account.longest_gap),
            gap_count: account.gap_count,
            gaps: account.gaps.iter().map(GapReport::from).collect(),
            regressions: account.regressions.iter().map(RegressionReport::from).collect(),
            errors: account.errors.clone(),
            latency: Latency::of(&account.latency),
        }
    }
}

impl From<&Gap> for GapReport {
    fn from(gap: &Gap) -> Self {
        let Gap { start, length, open, errors } = gap;
        Self { start_ms: ms(*start), length_ms: ms(*length), open: *open, errors: errors.clone() }
    }
}

impl From<&Regression> for RegressionReport {
    fn from(regression: &Regression) -> Self {
        let Regression { at, acknowledged, found } = *regression;
        Self { at_ms: ms(at), acknowledged, found }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| ms(Duration::from_micros(histogram.value_at_quantile(quantile)));
        let max_ms = ms(Duration::from_micros(histogram.max()));
        Self { p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms }
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn from_ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::errors::ErrorKind;

    pub(crate) fn sample() -> LedgerReport {
        let millis = Duration::from_millis;
        let mut account = Account::new(Duration::ZERO, millis(4), millis(10)).unwrap();
        account.acknowledged(1, 1, millis(4), millis(1));
        account.failed(ErrorKind::Timeout, "", Some(1));
        account.acknowledged(2, 1, millis(508), millis(500));
        account.read_back(&BTreeMap::from([(1, 0), (2, 1)]));
        let lane = Lane::spread(LaneKind::Plain, 1, "run").remove(0);
        let ended = [EndedLane { lane, account, unread: None }];
        LedgerReport {
            run: "run".into(),
            started: "2026-01-01T00:00:00Z".into(),
            duration_ms: 1000.0,
            marks: vec![Mark { name: "cut".into(), at_ms: 100.0 }],
            judged: totals(&ended, LaneKind::Plain),
            client: None,
            control: Control::default(),
            lanes: ended.iter().map(LaneReport::from).collect(),
        }
    }

    #[test]
    fn limits_that_are_broken_are_named_and_kept_ones_are_not() {
        let report = sample();
        assert_eq!(report.verdict(&Limits::default()), Vec::<String>::new());
        let limits = |gap, lost, errors| Limits {
            max_gap: Some(Duration::from_millis(gap)),
            max_lost: Some(lost),
            max_errors: Some(errors),
        };
        assert_eq!(report.verdict(&limits(500, 1, 1)), Vec::<String>::new());
        let broken = report.verdict(&limits(499, 0, 0));
        assert!(broken[0].starts_with("1 acknowledged writes are lost"), "{broken:?}");
        assert!(broken[1].contains("500.0 ms, allowed are 499 ms"), "{broken:?}");
        assert!(broken[2].contains("timeout 1"), "{broken:?}");
    }

    #[test]
    fn a_lane_that_was_not_read_back_breaks_a_limit_on_losses() {
        let mut report = sample();
        report.lanes[0].unread = Some("CLUSTERDOWN".into());
        let limits = Limits { max_lost: Some(u64::MAX), ..Limits::default() };
        assert!(report.verdict(&limits)[0].contains("could not be read back: CLUSTERDOWN"));
    }

    #[test]
    fn a_window_sees_the_gaps_that_touch_it() {
        let report = sample();
        assert_eq!(report.mark_ms("cut"), Some(100.0));
        assert_eq!(report.window(100.0, 200.0), Window { longest_gap_ms: 500.0, gaps: 1 });
        assert_eq!(report.window(600.0, 700.0), Window { longest_gap_ms: 0.0, gaps: 0 });
    }

    #[test]
    fn json_says_the_same_after_a_round_trip() {
        let report = sample();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<LedgerReport>(&text).unwrap(), report);
        assert!(text.contains(r#""errors":{"by_kind":{"timeout":1}}"#), "{text}");
    }
}
