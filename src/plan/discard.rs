//! Discard Pods that hold nothing: servers that ended, and Pods of an earlier spec that never became members.
//!
//! A server that keeps ending right after its start is replaced after a growing delay, and said so.

use crate::model::{
    Blocked, Code, Member, Phase, Plan, Proposal, Seen, Stage, Step, View, Waiting, Why, step::Removable,
};

/// A server that ran for less than this many milliseconds failed quickly.
pub const QUICK_FAILURE_MS: i64 = 10_000;

/// The delay after the first quick failure in a row, in milliseconds; it doubles with each further one.
const DELAY_MS: i64 = 1_000;

/// The longest delay, in milliseconds: that of the kubelet's own back-off for containers.
const LONGEST_DELAY_MS: i64 = 300_000;

/// How long a Pod whose predecessors failed `failures` times in a row waits for its replacement, in milliseconds.
pub fn delay_ms(failures: u16) -> i64 {
    match failures {
        0 => 0,
        n => DELAY_MS
            .checked_shl(u32::from(n - 1))
            .map_or(LONGEST_DELAY_MS, |d| d.clamp(DELAY_MS, LONGEST_DELAY_MS)),
    }
}

/// Quick failures in a row, this Pod's own end included.
pub fn failures_with(failures: u16, ran_ms: i64) -> u16 {
    if ran_ms < QUICK_FAILURE_MS { failures.saturating_add(1) } else { 0 }
}

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for m in v.all().filter(|m| !m.pod.terminating) {
        match m.pod.phase {
            Phase::Finished { .. } => ended(v, m, &mut plan),
            Phase::Pending if m.pod.revision != v.s.revision => {
                plan.steps.push(delete(
                    m,
                    Removable::NotRunning,
                    "it was made from an earlier spec and never started",
                ));
            }
            Phase::Running if m.pod.revision != v.s.revision && m.is_unused() => {
                plan.steps.push(delete(
                    m,
                    Removable::Unused,
                    "it was made from an earlier spec and never joined",
                ));
            }
            Phase::Running
                if !v.s.whole && m.pod.revision != v.s.revision && !matches!(m.seen, Seen::Now(_)) =>
            {
                plan.waiting.push(Waiting {
                    shard: Some(m.pod.shard),
                    stage: Stage::AddingPods,
                    message: format!("{} was made from an earlier spec and does not answer yet", m.pod.name),
                });
            }
            Phase::Pending | Phase::Running => {}
        }
    }
    plan
}

/// How many milliseconds a member that ended still waits for its replacement, and its quick failures in a row.
/// The first failure is replaced at once; a changed spec is worth a try at once, too.
pub(super) fn due(v: &View<'_>, m: &Member<'_>) -> Option<(i64, u16)> {
    let Phase::Finished { at, ran_ms } = m.pod.phase else { return None };
    let failures = failures_with(m.pod.failures, ran_ms);
    let delay = if m.pod.revision == v.s.revision { delay_ms(failures.saturating_sub(1)) } else { 0 };
    Some(((delay - v.s.now.since(at)).max(0), failures))
}

/// The Pod that ended goes once its successor is there: until then it is what tells of its failures.
fn ended(v: &View<'_>, m: &Member<'_>, plan: &mut Plan) {
    let Some((left, failures)) = due(v, m) else { return };
    let words = m.pod.trouble.as_ref().map_or_else(String::new, |t| format!(": {} {}", t.reason, t.message));
    let replaced = v.staying(m.pod.shard).count() >= v.s.desired.copies();
    if replaced || !v.s.desired.wants(m.pod.shard) {
        plan.steps.push(delete(m, Removable::NotRunning, &format!("its server has ended{words}")));
        return;
    }
    if failures > 1 {
        plan.blocked.push(Blocked {
            code: Code::CrashLoop,
            shard: Some(m.pod.shard),
            message: format!("{} ended right after its start, {failures} times in a row{words}", m.pod.name),
        });
    }
    if left > 0 {
        plan.waiting.push(Waiting {
            shard: Some(m.pod.shard),
            stage: Stage::AddingPods,
            message: format!("{} is replaced in {} s", m.pod.name, (left + 999) / 1000),
        });
    }
}

fn delete(m: &Member<'_>, only_if: Removable, note: &str) -> Proposal {
    Proposal::new(
        Step::DeletePod { name: m.pod.name.clone(), uid: m.pod.uid.clone(), shard: m.pod.shard, only_if },
        Why::Repair,
        note,
    )
}
