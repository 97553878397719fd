//! Slots that move: what a person is told of them, and what the metrics count.

use valkey_cluster_operator::model::{
    Job, JobState, Moment, Moved, NodeReport, PodUid, Role, Seen, Silence, Slots, Snapshot, Step, Traffic,
};

use super::plan_world;
use super::world::{START, golden, planned, said};

/// The bytes of each slot.
const SLOT: u64 = 192 * 1024;

/// Three shards that have all slots, and a fourth that has none yet.
const OUT: [&str; 4] = ["0-5460", "5461-10921", "10922-16383", ""];
/// Half of what the fourth is to have is there.
const HALF_OUT: [&str; 4] = ["1365-5460", "6144-10921", "10922-16383", "0-1364,5461-6143"];
/// Four even shards, and the same when the fourth has given away half of what it had.
const IN: [&str; 4] = ["0-4095", "4096-8191", "8192-12287", "12288-16383"];
const HALF_IN: [&str; 4] = ["0-4095,12288-13652", "4096-8191,13653-14335", "8192-12287", "14336-16383"];

/// Four full shards with these slots, what else differs, and after how many milliseconds.
fn world(owners: [&str; 4], more: &[&str], ms: i64) -> Snapshot {
    let mut lines = vec!["cluster 4x1 healthy".to_owned()];
    for (shard, slots) in owners.iter().enumerate() {
        let count = slots.replace(',', " ").parse::<Slots>().unwrap().len();
        lines.push(format!("node {shard}-0 primary={slots} data={}", SLOT * u64::from(count)));
    }
    lines.extend(more.iter().map(|line| (*line).to_owned()));
    lines.push("known".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut s = plan_world::world(&lines).unwrap();
    s.now = Moment(START + ms);
    s
}

fn node(s: &mut Snapshot, shard: u16, index: u16) -> &mut NodeReport {
    match s.nodes.get_mut(&PodUid::new(format!("u{shard}-{index}"))) {
        Some(Seen::Now(node)) => node,
        other => panic!("no such node: {other:?}"),
    }
}

/// The jobs of the first shard's owner are in this state.
fn ended(mut s: Snapshot, state: JobState) -> Snapshot {
    node(&mut s, 0, 0).jobs.iter_mut().for_each(|job: &mut Job| job.state = state);
    s
}

#[test]
fn slots_move_to_a_new_shard() {
    let new = &["status served=0,1,2"];
    let begun = said(&world(OUT, new, 0), None).status;
    let told = begun.operation.as_ref().unwrap();
    assert_eq!(told.progress, "MovingSlots 0/4096, 0/768 MiB, 0 MiB/s");
    let half = said(&world(HALF_OUT, &["node 1-0 job=3-0:6144-6825"], 4000), Some(&begun));
    golden("18-moving-out", &half);
    let bytes = half.status.operation.as_ref().unwrap().bytes.unwrap();
    assert_eq!(bytes.done, i64::try_from(2048 * SLOT).unwrap());
    // What clients write meanwhile moves no counter, nor do seconds in which nothing has moved.
    let later = world(HALF_OUT, &["node 1-0 job=3-0:6144-6825", "node 2-0 data=9"], 9000);
    assert_eq!(said(&later, Some(&half.status)).status.operation, half.status.operation);
    assert!(said(&world(IN, &[], 12_000), Some(&half.status)).status.operation.is_none(), "all has moved");
}

#[test]
fn slots_leave_a_shard_that_is_to_go() {
    let fewer = &["spec shards=3"];
    let begun = said(&world(IN, fewer, 0), None).status;
    assert_eq!(begun.operation.as_ref().unwrap().progress, "MovingSlots 0/4096, 0/768 MiB, 0 MiB/s");
    let half = said(&world(HALF_IN, &["spec shards=3", "node 3-0 job=2-0:14336-15017"], 8000), Some(&begun));
    golden("19-moving-in", &half);
}

#[test]
fn what_has_moved_is_counted_once() {
    let mut traffic = Traffic::default();
    let before = world(OUT, &["node 0-0 job=3-0:0-1364"], 0);
    assert_eq!(traffic.see(&before), Moved::default(), "the first look has nothing to compare with");
    let after = ended(world(HALF_OUT, &["node 0-0 job=3-0:0-1364"], 4000), JobState::Done);
    let moved = Moved { slots: 2048, bytes: 2048 * SLOT, jobs_ms: vec![4000], failed: 0 };
    assert_eq!(traffic.see(&after), moved);
    assert_eq!(traffic.see(&after), Moved::default(), "the server tells of its last jobs for long");
}

#[test]
fn a_job_is_timed_from_its_begin() {
    let s = world(OUT, &[], 0);
    let begin = planned(&s).steps.into_iter().find(|p| matches!(p.step, Step::Migrate { .. })).unwrap().step;
    let Step::Migrate { on, slots, .. } = &begin else { panic!("{begin}") };
    let mut traffic = Traffic::default();
    traffic.see(&s);
    traffic.done(&begin, s.now);
    // Over before anybody looked.
    let job = format!("node {}-0 job=3-0:{}", on.shard, slots.to_string().replace(' ', ","));
    let mut next = world(OUT, &[&job], 700);
    node(&mut next, on.shard.0, 0).jobs.iter_mut().for_each(|job| job.state = JobState::Done);
    assert_eq!(traffic.see(&next).jobs_ms, [700]);
}

#[test]
fn a_job_that_fails_or_whose_end_nobody_sees_has_moved_nothing() {
    let running = || world(OUT, &["node 0-0 job=3-0:0-1364"], 0);
    let mut traffic = Traffic::default();
    traffic.see(&running());
    let failed = Moved { failed: 1, ..Moved::default() };
    assert_eq!(traffic.see(&ended(running(), JobState::Failed)), failed);
    assert_eq!(traffic.see(&ended(running(), JobState::Failed)), Moved::default(), "once");
    traffic.see(&running());
    traffic.see(&world(OUT, &["node 0-0 silent=Timeout"], 0));
    assert_eq!(traffic.see(&ended(running(), JobState::Done)), Moved::default(), "its source was away");
}

#[test]
fn slots_that_stay_in_their_shard_have_not_moved() {
    let before = world(OUT, &[], 0);
    let mut taken_over = world(OUT, &[], 0);
    let slots = node(&mut taken_over, 0, 0).slots().clone();
    node(&mut taken_over, 0, 1).role = Role::Primary { slots };
    taken_over.nodes.insert(PodUid::new("u0-0"), Seen::Silent(Silence::Refused));
    let mut claimed_twice = world(OUT, &[], 0);
    node(&mut claimed_twice, 3, 0).role = Role::Primary { slots: "0-99".parse().unwrap() };
    for (what, s) in [("a replica took over", taken_over), ("the giver still claims them", claimed_twice)] {
        let mut traffic = Traffic::default();
        traffic.see(&before);
        assert_eq!(traffic.see(&s), Moved::default(), "{what}");
    }
}

#[test]
fn what_moved_while_the_giver_was_silent_is_counted_when_it_is_seen() {
    let mut traffic = Traffic::default();
    traffic.see(&world(OUT, &[], 0));
    let unseen =
        world(OUT, &["node 0-0 silent=Timeout", "node 1-0 silent=Timeout", "node 3-0 silent=Timeout"], 0);
    assert_eq!(traffic.see(&unseen), Moved::default());
    let arrived = world(HALF_OUT, &["node 0-0 silent=Timeout"], 0);
    assert_eq!(traffic.see(&arrived).slots, 2048);
    assert_eq!(traffic.see(&world(HALF_OUT, &[], 0)), Moved::default(), "and not again when it is back");
}
