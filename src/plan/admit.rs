//! The one place that says no to what the rules propose: pause, deletion, and steps that failed a moment ago.

use std::collections::BTreeSet;

use crate::model::plan::Attempts;
use crate::model::{Blocked, Code, Lane, Plan, PodUid, Proposal, Step, View};

/// Admits what may be done now.
pub(super) fn admit(v: &View<'_>, proposed: Plan, attempts: &Attempts) -> Plan {
    let Plan { steps, mut blocked, mut waiting } = proposed;
    // When what everything rests on cannot be done, nothing else is.
    let halted =
        steps.iter().any(|p| p.step.lane() == Lane::First && attempts.held_back(&p.step, v.s.now).is_some());
    let unnoted = unnoted(&steps, v, attempts);
    let mut seen = BTreeSet::new();
    let mut admitted: Vec<Proposal> = Vec::with_capacity(steps.len());
    for p in steps {
        match refusal(v, &p, attempts) {
            Some(no) => blocked.push(no),
            None if halted && p.step.lane() != Lane::First => {}
            None if needs_note(&p.step, &unnoted) => {}
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

/// Settings by Pod whose earlier value is not noted yet, because the note failed a moment ago.
fn unnoted(steps: &[Proposal], v: &View<'_>, attempts: &Attempts) -> BTreeSet<(PodUid, String)> {
    let held = steps.iter().filter(|p| attempts.held_back(&p.step, v.s.now).is_some());
    let notes = held.filter_map(|p| match &p.step {
        Step::Note { uid, key, .. } => Some((uid.clone(), key.clone())),
        _ => None,
    });
    notes.collect()
}

/// What is set without a note could never be taken back.
fn needs_note(step: &Step, unnoted: &BTreeSet<(PodUid, String)>) -> bool {
    match step {
        Step::Configure { on, settings, .. } => {
            settings.keys().any(|key| unnoted.contains(&(on.uid.clone(), key.clone())))
        }
        _ => false,
    }
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
