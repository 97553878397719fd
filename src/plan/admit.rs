//! The one place that says no to what the rules propose: pause, deletion, and steps that failed a moment ago.

use std::collections::BTreeSet;

use crate::model::plan::Attempts;
use crate::model::{Blocked, Code, Lane, Plan, Proposal, Step, View};

/// Admits what may be done now.
pub(super) fn admit(v: &View<'_>, proposed: Plan, attempts: &Attempts) -> Plan {
    let Plan { steps, mut blocked, mut waiting } = proposed;
    // When what everything rests on cannot be done, nothing else is.
    let halted =
        steps.iter().any(|p| p.step.lane() == Lane::First && attempts.held_back(&p.step, v.s.now).is_some());
    let mut seen = BTreeSet::new();
    let mut admitted: Vec<Proposal> = Vec::with_capacity(steps.len());
    for p in steps {
        match refusal(v, &p, attempts) {
            Some(no) => blocked.push(no),
            None if halted && !matches!(p.step.lane(), Lane::First | Lane::Urgent) => {}
            // Two rules may come to the same step; the earlier one's reason stands.
            None if seen.insert(p.step.clone()) => admitted.push(p),
            None => {}
        }
    }
    if v.s.desired.paused || v.s.desired.deleting || v.s.foreign.is_some() {
        waiting.clear();
    }
    blocked.sort();
    blocked.dedup_by(|a, b| a.code == b.code && a.message == b.message);
    waiting.sort();
    Plan { steps: admitted, blocked, waiting }
}

fn refusal(v: &View<'_>, p: &Proposal, attempts: &Attempts) -> Option<Blocked> {
    let blocked = |code, message| Some(Blocked { code, shard: None, message });
    if let Some(sentence) = &v.s.foreign {
        return blocked(Code::ForeignOperator, sentence.clone());
    }
    if v.s.desired.deleting {
        return blocked(
            Code::Deleting,
            "the cluster is being deleted: nothing is changed any more".to_owned(),
        );
    }
    if v.s.desired.paused && !matches!(p.step, Step::SetGate { .. }) {
        return blocked(
            Code::Paused,
            "spec.paused is true: nothing is changed until it is set to false".to_owned(),
        );
    }
    let (until, error) = attempts.held_back(&p.step, v.s.now)?;
    blocked(
        Code::BackingOff,
        format!(
            "{} failed: {error} (tried again in {} s)",
            p.step.kind(),
            (until.since(v.s.now) + 999) / 1000
        ),
    )
}
