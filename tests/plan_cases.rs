//! Plan cases as text: a world in a few lines, then the plan that the rules make of it (`tests/plan/*.txt`).
//!
//! `BLESS=1 cargo test --test plan_cases` writes the plans anew: read the difference before it is committed.
// The world of a test is a bag of flags and short names, and its one match over all steps is best read as a whole.
#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::many_single_char_names,
    clippy::too_many_lines
)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod plan_world;
mod text;

use std::fmt::Write as _;

use valkey_cluster_operator::model::Attempts;
use valkey_cluster_operator::plan::plan;

/// Between a case and its plan.
const RULER: &str = "----\n";

#[test]
fn every_case_gives_its_plan() {
    text::answered_anew("plan", |_, text| {
        let mut parts = text.split("\ncase ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let question = part.split_once(RULER).map_or(part, |(question, _)| question).trim_end();
            let mut lines = question.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
            let title = lines.next().unwrap_or_default();
            let lines: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
            let snapshot = plan_world::world(&lines).map_err(|why| format!("case {title}: {why}"))?;
            let got = plan(&snapshot, &Attempts::default());
            write!(out, "\ncase {question}\n{RULER}{got}").unwrap();
        }
        Ok(out)
    });
}
