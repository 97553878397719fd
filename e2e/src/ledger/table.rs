//! Decides how a report looks to a person: one table of lanes, one of sums, the longest gaps. Pure.

use std::fmt::Write as _;

use tabled::builder::Builder;
use tabled::settings::Style;

use super::options::LaneKind;
use super::report::{GapReport, LaneReport, LedgerReport, Totals};

/// Lanes that are shown one by one; of more only those that met something.
const ALL_LANES: usize = 24;
/// Gaps that are shown.
const GAPS: usize = 10;

impl LedgerReport {
    /// A readable summary, several lines.
    pub fn summary(&self) -> String {
        let mut text = format!("{}\n{}\n", self.lane_table(), self.totals_table());
        for line in self.longest_gaps() {
            text.push_str(&line);
            text.push('\n');
        }
        let stall = self.control.longest_stall_ms;
        let _ = writeln!(
            text,
            "the ledger itself stood still for at most {stall:.1} ms: the machine's own part of a gap"
        );
        for sentence in &self.judged.errors.sentences {
            let _ = writeln!(text, "other error: {sentence}");
        }
        text
    }

    fn lane_table(&self) -> String {
        let mut builder = Builder::default();
        builder.push_record([
            "LANE",
            "SLOT",
            "ACKED",
            "LOST",
            "UNACKED",
            "GAPS",
            "LONGEST ms",
            "P99 ms",
            "ERRORS",
        ]);
        let everything = self.lanes.len() <= ALL_LANES;
        for lane in self.lanes.iter().filter(|lane| everything || lane.lost > 0 || lane.errors.failures() > 0)
        {
            builder.push_record([
                name(lane),
                lane.slot.to_string(),
                lane.acked.to_string(),
                loss(lane.lost, lane.lost_at_most, lane.unread.is_some()),
                lane.unacknowledged.to_string(),
                lane.gap_count.to_string(),
                format!("{:.1}", lane.longest_gap_ms),
                format!("{:.2}", lane.latency.p99_ms),
                lane.errors.summary(),
            ]);
        }
        builder.build().with(Style::blank()).to_string()
    }

    fn totals_table(&self) -> String {
        let mut builder = Builder::default();
        builder.push_record([
            "SUM",
            "LANES",
            "ACKED",
            "LOST",
            "UNACKED",
            "GAPS",
            "LONGEST ms",
            "P50 / P99.9 ms",
            "ERRORS",
        ]);
        let mut row = |title: &str, totals: &Totals| {
            builder.push_record([
                title.to_owned(),
                totals.lanes.to_string(),
                totals.acked.to_string(),
                loss(totals.lost, totals.lost_at_most, totals.unread > 0),
                totals.unacknowledged.to_string(),
                totals.gaps.to_string(),
                format!("{:.1}", totals.longest_gap_ms),
                format!("{:.2} / {:.2}", totals.latency.p50_ms, totals.latency.p999_ms),
                totals.errors.summary(),
            ]);
        };
        row("plain (judged)", &self.judged);
        if let Some(client) = &self.client {
            row("client library", client);
        }
        builder.build().with(Style::blank()).to_string()
    }

    fn longest_gaps(&self) -> Vec<String> {
        let of_lane =
            |lane: &'_ LaneReport| lane.gaps.iter().map(|gap| (name(lane), gap.clone())).collect::<Vec<_>>();
        let mut gaps: Vec<(String, GapReport)> = self.lanes.iter().flat_map(of_lane).collect();
        gaps.sort_by(|(_, a), (_, b)| b.length_ms.total_cmp(&a.length_ms));
        gaps.truncate(GAPS);
        let line = |(lane, gap): &(String, GapReport)| {
            let GapReport { start_ms, length_ms, open, errors } = gap;
            let end = if *open { ", not ended" } else { "" };
            format!("gap of {length_ms:.1} ms at {start_ms:.0} ms on {lane}{end} ({})", errors.summary())
        };
        gaps.iter().map(line).collect()
    }
}

fn name(lane: &LaneReport) -> String {
    match lane.kind {
        LaneKind::Plain => format!("plain {}", lane.lane),
        LaneKind::Client => format!("client {}", lane.lane),
    }
}

fn loss(lost: u64, at_most: u64, unread: bool) -> String {
    match (unread, at_most > lost) {
        (true, _) => format!("{lost} + unread"),
        (false, true) => format!("{lost} to {at_most}"),
        (false, false) => lost.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_summary_names_losses_gaps_and_errors() {
        let text = crate::ledger::report::tests::sample().summary();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.lines().any(|line| words(line).starts_with("plain 0 8192 2 1 to 2 0 1 500.0")),
            "{text}"
        );
        assert!(text.contains("gap of 500.0 ms at 4 ms on plain 0 (timeout 1)"), "{text}");
    }
}
