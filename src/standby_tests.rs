use super::*;
use crate::model::step::{Proof, Target};
use crate::model::{NodeId, PodName, PodUid, Proposal, Shard, Why};

const NOW: Moment = Moment(100_000);

fn target() -> Target {
    let (pod, uid) = (PodName::new("heir"), PodUid::new("heir"));
    Target { pod, uid, shard: Shard(0), node: NodeId::new("b".repeat(40)), ip: [10, 0, 0, 1].into() }
}

fn plan(by: Promotion) -> Plan {
    let dead = NodeId::new("a".repeat(40));
    let promote = Step::Promote { on: target(), dead, at: None, by, offset: 0, witnesses: Vec::new() };
    let steps = [promote, Step::Latch].map(|step| Proposal::new(step, Why::Repair, ""));
    Plan { steps: steps.into(), ..Plan::default() }
}

/// What is left of such a plan when the slots have had no owner for so long.
fn left(standing: Standing, by: Promotion, headless_ms: i64) -> (usize, bool) {
    let past = Past { headless: Some(NOW.plus_ms(-headless_ms)), ..Past::default() };
    let mut plan = plan(by);
    let held = restrict(&mut plan, standing, &past, NOW);
    (plan.steps.len(), held)
}

#[test]
fn the_leader_does_everything() {
    assert_eq!(left(Standing::Leads, Promotion::Refused, 0), (2, false));
}

#[test]
fn without_a_valid_lease_only_what_votes_decide() {
    assert_eq!(left(Standing::Expired, Promotion::Refused, 0), (1, false));
    assert_eq!(left(Standing::Expired, Promotion::Takeover(Proof::Ended), 0), (0, false));
}

#[test]
fn a_standby_leaves_the_leader_a_moment() {
    assert_eq!(left(Standing::StandsBy, Promotion::Suspected, 0), (0, true));
    assert_eq!(left(Standing::StandsBy, Promotion::Suspected, FIRST_MS), (1, false));
    assert_eq!(left(Standing::StandsBy, Promotion::Takeover(Proof::Ended), FIRST_MS), (0, false));
}

#[test]
fn a_standby_looks_less_often() {
    let often = Duration::from_millis(20);
    assert_eq!(pause(Standing::Leads, false, often), often);
    assert_eq!(pause(Standing::Expired, false, often), often);
    assert_eq!(pause(Standing::StandsBy, false, often), LOOK);
    assert!(pause(Standing::StandsBy, true, Duration::from_secs(30)) < LOOK);
}

#[test]
fn a_standby_that_is_woken_rests_unless_something_was_lost() {
    let a_moment = Some(Duration::from_millis(400));
    assert_eq!(rest(Standing::StandsBy, a_moment, false), Some(Duration::from_millis(600)));
    assert_eq!(rest(Standing::StandsBy, a_moment, true), None);
    assert_eq!(rest(Standing::StandsBy, None, false), None);
    assert_eq!(rest(Standing::StandsBy, Some(LOOK), false), None);
    assert_eq!(rest(Standing::Leads, a_moment, false), None);
    assert_eq!(rest(Standing::Expired, a_moment, false), None);
}
