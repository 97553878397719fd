//! Plan cases as text: a world in a few lines, then the plan that the rules make of it (`tests/plan/*.txt`). And what
//! evictions leave of such worlds.
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

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use valkey_cluster_operator::build;
use valkey_cluster_operator::model::{Attempts, PodUid, Seen, Snapshot, Step};
use valkey_cluster_operator::plan::plan;

/// Between a case and its plan.
const RULER: &str = "----\n";

#[test]
fn every_case_gives_its_plan() {
    text::answered_anew("plan", |file, text| {
        let mut parts = text.split("\ncase ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let question = part.split_once(RULER).map_or(part, |(question, _)| question).trim_end();
            let mut lines = question.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
            let title = lines.next().unwrap_or_default();
            let lines: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
            let snapshot = plan_world::world(&lines).map_err(|why| format!("case {title}: {why}"))?;
            let got = plan(&snapshot, &Attempts::default());
            if let Some(harm) = got.steps.iter().find(|p| file == LIES && !is_harmless(&p.step, &snapshot)) {
                return Err(format!("case {title}: {} is done because of a lie", harm.step));
            }
            write!(out, "\ncase {question}\n{RULER}{got}").unwrap();
        }
        Ok(out)
    });
}

/// The cases of nodes that lie.
const LIES: &str = "lies.txt";

/// What may follow from a lie: introductions and marks that are taken back, and the end of an id that the liar itself disowns.
fn is_harmless(step: &Step, s: &Snapshot) -> bool {
    match step {
        Step::Meet { .. } | Step::SetGate { .. } | Step::SetRole { .. } => true,
        Step::Forget { id, .. } => {
            let its_pod = PodUid::new(id.as_str().replacen('n', "u", 1));
            s.nodes.get(&its_pod).and_then(Seen::now).is_some_and(|report| report.id != *id)
        }
        _ => false,
    }
}

/// A world, and how many members evictions leave in it.
type Left = (&'static str, &'static [&'static str], i32);

/// Of those that are wanted and serve, all but one: who is not ready, is told to go, or is one too many protects nobody.
#[test]
fn evictions_leave_all_but_one_of_those_that_serve() {
    let cases: &[Left] = &[
        ("cluster 3x1 new", &[], 0),
        ("cluster 3x1 pending", &[], 0),
        ("cluster 3x1 healthy", &[], 5),
        ("cluster 3x0 healthy", &[], 2),
        ("cluster 1x0 healthy", &[], 0),
        // More is wanted than is there yet: those that do not serve are not counted on.
        ("cluster 3x1 healthy", &["spec shards=4"], 5),
        ("cluster 3x1 healthy", &["spec replicas=2", "pod 0-2 pending"], 5),
        ("cluster 3x1 healthy", &["spec replicas=2", "member 0-2"], 6),
        // Less is wanted: what is about to be removed anyway holds no eviction back.
        ("cluster 3x1 healthy", &["spec shards=2"], 3),
        ("cluster 3x1 healthy", &["spec replicas=0"], 2),
        // A successor beside the member that it replaces, before and after it serves, and when that one was told to go.
        ("cluster 3x1 healthy", &["pod 0-2 pending"], 5),
        ("cluster 3x1 healthy", &["member 0-2"], 5),
        ("cluster 3x1 healthy", &["member 0-2", "pod 0-1 terminating"], 5),
        ("cluster 1x0 healthy", &["member 0-1"], 0),
        ("cluster 3x1 healthy", &["pod 0-1 terminating"], 4),
        ("cluster 3x1 healthy", &["pod 0-1 disrupted"], 4),
        ("cluster 3x1 healthy", &["pod 0-1 gate=false"], 4),
        ("cluster 3x1 healthy", &["pod 0-1 gate=none", "pod 1-1 finished=1000:10"], 3),
        ("cluster 2x0 healthy", &["all pods gate=false"], 0),
    ];
    for (cluster, lines, left) in cases {
        let world: Vec<&str> = [*cluster].into_iter().chain(lines.iter().copied()).collect();
        let s = plan_world::world(&world).unwrap();
        let budget = build::budget(&s.desired, s.serving()).spec.unwrap();
        assert_eq!(budget.min_available, Some(IntOrString::Int(*left)), "{world:?}");
    }
}
