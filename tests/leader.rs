//! Leader election against an in-process API server, on virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use support::apiserver::{ApiServer, Fault};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::lease::{Election, Ended, Leadership, Settings};
use valkey_cluster_operator::telemetry::Metrics;

struct Candidate {
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
    metrics: Metrics,
}

fn candidate(server: &ApiServer, identity: &str) -> Candidate {
    let metrics = Metrics::new().unwrap();
    let api = Api::namespaced(server.client("ns"), "ns");
    let (election, leadership) = Election::new(api, Settings::new("operator", identity), metrics.clone());
    let stop = CancellationToken::new();
    let task = tokio::spawn(election.run(stop.clone()));
    Candidate { leadership, stop, task, metrics }
}

fn holder(server: &ApiServer) -> String {
    let lease: Lease = server.find("ns", "operator").expect("a lease");
    lease.spec.unwrap().holder_identity.unwrap()
}

fn leaders(candidates: &[Candidate]) -> usize {
    candidates.iter().filter(|c| c.leadership.valid_now()).count()
}

#[tokio::test(start_paused = true)]
async fn one_of_twenty_wins_and_keeps_it() {
    let server = ApiServer::default();
    let candidates: Vec<_> = (0..20).map(|i| candidate(&server, &format!("p{i}"))).collect();
    for second in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(leaders(&candidates), 1, "leaders after {second} s");
    }
    let lease: Lease = server.find("ns", "operator").unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn takeover_only_after_own_observation_of_the_whole_duration() {
    let server = ApiServer::default();
    let dead = candidate(&server, "dead");
    sleep(Duration::from_secs(5)).await;
    dead.task.abort();
    // The candidates come when the record is old already, by its own timestamps; that must not count.
    sleep(Duration::from_mins(1)).await;
    let candidates: Vec<_> = (0..20).map(|i| candidate(&server, &format!("p{i}"))).collect();
    sleep(Duration::from_secs(15)).await;
    assert_eq!(leaders(&candidates), 0, "nobody may take over within 15 s");
    sleep(Duration::from_secs(4)).await;
    assert_eq!(leaders(&candidates), 1);
    let lease: Lease = server.find("ns", "operator").unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(1), "one write won, nineteen met a newer version");
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_no_lease() {
    let server = ApiServer::default();
    // Each write meets a record that another has just changed.
    server.fault(|call| (call.verb == "create").then_some(Fault::Refuse(409, "AlreadyExists")));
    let candidate = candidate(&server, "a");
    sleep(Duration::from_secs(30)).await;
    assert!(!candidate.leadership.valid_now());
    assert!(!candidate.task.is_finished(), "it tries on");
    server.heal();
    sleep(Duration::from_secs(3)).await;
    assert!(candidate.leadership.valid_now());
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_server_ends_the_right_to_act_but_not_the_process() {
    for fault in [Fault::Silence, Fault::Break, Fault::Refuse(500, "InternalError")] {
        let server = ApiServer::default();
        let candidate = candidate(&server, "a");
        sleep(Duration::from_secs(5)).await;
        assert!(candidate.leadership.valid_now());

        let broken = fault.clone();
        server.fault(move |_| Some(broken.clone()));
        sleep(Duration::from_secs(7)).await;
        assert!(candidate.leadership.valid_now(), "{fault:?}: renewed at most 2 s before, valid for 10 s");
        sleep(Duration::from_secs(4)).await;
        assert!(!candidate.leadership.valid_now(), "{fault:?}: the deadline of 10 s is over");
        sleep(Duration::from_hours(1)).await;
        assert!(!candidate.task.is_finished(), "{fault:?}: an hour later the process is still there");
        assert!(candidate.metrics.encode().unwrap().contains("valkey_operator_leader 0"), "{fault:?}");

        server.heal();
        sleep(Duration::from_secs(7)).await;
        assert!(candidate.leadership.valid_now(), "{fault:?}: nobody took it, so it goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn the_cut_off_holder_stops_acting_before_anyone_else_begins_and_ends_when_it_sees_the_other() {
    let server = ApiServer::default();
    let old = candidate(&server, "old");
    sleep(Duration::from_secs(5)).await;
    // The same objects through a second door: only the old holder's is shut.
    let other_door = server.second_door();
    let new = candidate(&other_door, "new");
    sleep(Duration::from_secs(5)).await;
    server.fault(|_| Some(Fault::Silence));
    let mut gap = Duration::ZERO;
    let tick = Duration::from_millis(100);
    while !new.leadership.valid_now() {
        sleep(tick).await;
        gap += tick;
        assert!(!(old.leadership.valid_now() && new.leadership.valid_now()), "two leaders after {gap:?}");
        assert!(gap < Duration::from_secs(25), "no takeover within 25 s");
    }
    assert!(!old.task.is_finished(), "unreachable is no reason to end");
    server.heal();
    let ended = timeout(Duration::from_secs(10), old.task)
        .await
        .expect("it sees the other within one attempt")
        .unwrap();
    assert_eq!(ended, Ended::Lost { holder: "new".into() });
    assert!(!old.leadership.valid_now());
    assert!(new.leadership.valid_now());
}

#[tokio::test(start_paused = true)]
async fn stopping_gives_the_lease_back_at_once() {
    let server = ApiServer::default();
    let first = candidate(&server, "first");
    sleep(Duration::from_secs(1)).await;
    let mut second = candidate(&server, "second");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(holder(&server), "first");

    first.stop.cancel();
    assert_eq!(first.task.await.unwrap(), Ended::Stopped);
    assert!(!first.leadership.valid_now());
    assert_eq!(holder(&server), "");
    timeout(Duration::from_millis(2100), second.leadership.acquired())
        .await
        .expect("within one retry of 2 s");
    assert_eq!(holder(&server), "second");
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_stops_touches_nothing() {
    let server = ApiServer::default();
    let _leader = candidate(&server, "leader");
    sleep(Duration::from_secs(1)).await;
    let standby = candidate(&server, "standby");
    sleep(Duration::from_secs(3)).await;
    standby.stop.cancel();
    assert_eq!(standby.task.await.unwrap(), Ended::Stopped);
    assert_eq!(holder(&server), "leader");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_found_again() {
    let server = ApiServer::default();
    // The write arrives, its answer does not.
    let mut first = true;
    server.fault(move |call| {
        (call.verb == "create" && std::mem::take(&mut first)).then_some(Fault::BreakAfter)
    });
    let candidate = candidate(&server, "a");
    sleep(Duration::from_secs(3)).await;
    assert!(candidate.leadership.valid_now());
    assert_eq!(holder(&server), "a");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again() {
    let server = ApiServer::default();
    let candidate = candidate(&server, "a");
    sleep(Duration::from_secs(1)).await;
    server.remove::<Lease>("ns", "operator");
    sleep(Duration::from_secs(3)).await;
    assert!(candidate.leadership.valid_now());
    assert_eq!(holder(&server), "a");
}
