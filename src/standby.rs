//! What a process may do that does not lead: replace dead primaries, and nothing else.
//!
//! A forced failover rests on Valkey's evidence alone, the votes of the other primaries decide, and asking twice is safe. So the
//! death of the leading operator together with a primary costs no election. A process that never led leaves the leader a
//! moment first: two that ask different replicas at one time could share the votes between them.

use std::time::Duration;

use crate::lease::Standing;
use crate::model::step::Promotion;
use crate::model::{Moment, Past, Plan, Step};

/// How long the leader is left alone with a dead primary, in milliseconds: it needs about a tenth of a second.
const FIRST_MS: i64 = 300;
/// The shortest time between two looks at a cluster that somebody else changes. It is looked at all the same: how long a member
/// has been silent is known when the leader changes.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks while a dead primary is left to the leader.
const SOON: Duration = Duration::from_millis(50);

/// Whether the votes of the other primaries decide about this step, and nothing but what the nodes say is its evidence.
pub fn votes_decide(step: &Step) -> bool {
    matches!(step, Step::Promote { by: Promotion::Refused | Promotion::Suspected, .. })
}

/// Leaves in the plan what this process may do. Says whether a dead primary is left to the leader for now.
pub fn restrict(plan: &mut Plan, standing: Standing, past: &Past, now: Moment) -> bool {
    if standing == Standing::Leads {
        return false;
    }
    plan.steps.retain(|p| votes_decide(&p.step));
    let alone = past.headless.is_some_and(|since| now.since(since) >= FIRST_MS);
    let held = standing == Standing::StandsBy && !alone && !plan.steps.is_empty();
    if held {
        plan.steps.clear();
    }
    held
}

/// For how long a process that is woken leaves a cluster alone: the leader's own changes wake everybody. None where a link was lost or
/// a slot owner is missing, and for who leads or cannot know whether somebody does.
pub fn rest(standing: Standing, since: Option<Duration>, missing: bool) -> Option<Duration> {
    let at_ease = standing == Standing::StandsBy && !missing;
    since.filter(|_| at_ease).and_then(|since| LOOK.checked_sub(since)).filter(|rest| !rest.is_zero())
}

/// How soon to look again, where a process that leads would after `pause`.
pub fn pause(standing: Standing, held: bool, pause: Duration) -> Duration {
    match standing {
        _ if held => SOON,
        Standing::StandsBy => pause.max(LOOK),
        Standing::Leads | Standing::Expired => pause,
    }
}

#[cfg(test)]
#[path = "standby_tests.rs"]
mod tests;
