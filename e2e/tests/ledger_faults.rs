//! The ledger is proven by faults whose loss is known: real Valkey processes, and for each fault a count of what must
//! be lost that does not come from the ledger.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{THREE, alone, call, cluster, counted, slack, until};
use e2e::ledger::{
    ErrorKind, LaneGlance, LaneKind, LaneReport, Ledger, LedgerHandle, LedgerReport, Limits, Options,
};
use e2e::processes::{Processes, Shape};
use e2e::resp::{Access, direct};
use tokio::time::sleep;

/// An undisturbed writer's gaps are the machine's noise: below this.
const NOISE: Duration = Duration::from_millis(100);

async fn ledger(processes: &Processes) -> LedgerHandle {
    start(Options::new(vec![processes.addr(0).to_string()])).await
}

async fn start(options: Options) -> LedgerHandle {
    let handle = Ledger::start(options).await.unwrap();
    handle.wait_flowing().await.unwrap();
    handle
}

fn in_shard(slot: u16, shape: Shape, shard: usize) -> bool {
    let (first, last) = shape.slots(shard);
    (first..=last).contains(&slot)
}

/// The plain lanes of a shard.
fn of_shard(report: &LedgerReport, shape: Shape, shard: usize) -> Vec<&LaneReport> {
    report.plain().filter(|lane| in_shard(lane.slot, shape, shard)).collect()
}

fn lanes_of_shard(handle: &LedgerHandle, shape: Shape, shard: usize) -> Vec<LaneGlance> {
    handle.lanes().into_iter().filter(|lane| in_shard(lane.slot, shape, shard)).collect()
}

async fn counted_all(addr: SocketAddr, lanes: &[LaneGlance]) -> u64 {
    let mut sum = 0;
    for lane in lanes {
        sum += counted(addr, &lane.key).await;
    }
    sum
}

fn longest(lanes: &[&LaneReport]) -> Duration {
    let longest = lanes.iter().map(|lane| lane.longest_gap_ms).fold(0.0, f64::max);
    Duration::from_secs_f64(longest / 1000.0)
}

fn assert_gap(report: &LedgerReport, lanes: &[&LaneReport], figure: Duration) {
    // On a machine that does not let the ledger itself run, no lane can flow.
    let limit = figure * slack() + Duration::from_secs_f64(report.control.longest_stall_ms / 1000.0);
    assert!(longest(lanes) <= limit, "longest gap {:?} > {limit:?}\n{}", longest(lanes), report.summary());
}

/// The lanes of the shards that nothing was done to.
fn assert_others_untouched(report: &LedgerReport, shape: Shape, hit: usize) {
    let others: Vec<_> = report.plain().filter(|lane| !in_shard(lane.slot, shape, hit)).collect();
    assert!(!others.is_empty());
    assert_eq!(others.iter().map(|lane| lane.lost).sum::<u64>(), 0, "{}", report.summary());
    assert_gap(report, &others, NOISE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undisturbed_run_loses_nothing_and_removes_its_keys() {
    let _alone = alone().await;
    let processes = cluster(THREE).await;
    let mut options = Options::new(vec![processes.addr(4).to_string()]);
    // Through a connector as into a network namespace: the client library then goes through relays.
    options.access = Access::through(direct());
    options.client_lanes = 3;
    let handle = start(options).await;
    sleep(Duration::from_secs(5)).await;
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert_eq!(
        report.verdict(&Limits { max_lost: Some(0), max_errors: Some(0), max_gap: None }),
        Vec::<String>::new()
    );
    assert_eq!(
        (report.judged.lost_at_most, report.judged.unacknowledged, report.judged.unread),
        (0, 0, 0),
        "{summary}"
    );
    // Half of what is due is what a machine that does other things too must still bring.
    assert!(report.judged.acked > 12 * 250 * 5 / 2, "{summary}");
    let all: Vec<_> = report.plain().collect();
    assert_gap(&report, &all, NOISE);
    let client = report.client.as_ref().unwrap();
    assert_eq!((client.lanes, client.lost, client.errors.failures()), (3, 0, 0), "{summary}");
    assert!(client.acked > 3 * 250 * 5 / 2, "{summary}");
    for addr in processes.addrs().into_iter().take(3) {
        assert_eq!(call(addr, &["DBSIZE"]).await.number(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_node_loses_exactly_what_it_held() {
    let _alone = alone().await;
    let processes = cluster(THREE).await;
    let mut options = Options::new(vec![processes.addr(0).to_string()]);
    options.client_lanes = 3;
    let handle = start(options).await;
    sleep(Duration::from_secs(1)).await;
    handle.mark("flush");
    // Counting and flushing are one step for the server, so nothing comes between.
    let script = "#!lua flags=allow-cross-slot-keys\n\
                  local sum = 0\n\
                  for _, key in ipairs(server.call('KEYS', 'valkey-ledger:*')) do\n\
                    for _, value in ipairs(server.call('HVALS', key)) do sum = sum + value end\n\
                  end\n\
                  server.call('FLUSHALL')\n\
                  return sum";
    let held = call(processes.addr(1), &["EVAL", script, "0"]).await.number().unwrap();
    handle.wait_flowing().await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let seen_live = handle.glance(LaneKind::Plain).regressed;
    let report = handle.stop().await.unwrap();
    assert!(held > 100, "only {held} were held");
    let client = report.client.as_ref().unwrap();
    assert_eq!(report.lost(), u64::try_from(held).unwrap(), "{}", report.summary());
    assert_eq!((report.judged.lost_at_most, client.lost_at_most), (report.judged.lost, client.lost));
    assert!(client.lost > 0, "what a library was told counts like anything else: {}", report.summary());
    assert_eq!(seen_live, 4, "the loss is seen while the ledger runs");
    let flushed = of_shard(&report, THREE, 1);
    let at = report.mark_ms("flush").unwrap();
    assert!(flushed.iter().all(|lane| lane.regressions.len() == 1 && lane.regressions[0].at_ms >= at));
    assert_others_untouched(&report, THREE, 1);
    assert!(!report.verdict(&Limits { max_lost: Some(0), ..Limits::default() }).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_process_is_a_gap_of_its_length_and_no_loss() {
    let _alone = alone().await;
    let mut processes = cluster(THREE).await;
    let handle = ledger(&processes).await;
    sleep(Duration::from_millis(500)).await;
    processes.pause(0).unwrap();
    let begun = Instant::now();
    sleep(Duration::from_millis(700)).await;
    let paused = begun.elapsed();
    processes.resume(0).unwrap();
    handle.wait_flowing().await.unwrap();
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert_eq!((report.lost(), report.judged.lost_at_most, report.judged.unread), (0, 0, 0), "{summary}");
    let hit = of_shard(&report, THREE, 0);
    for lane in &hit {
        let gap = Duration::from_secs_f64(lane.longest_gap_ms / 1000.0);
        // At most one interval of 4 ms of the pause belongs to the schedule.
        assert!(gap + Duration::from_millis(5) > paused, "gap {gap:?} in a pause of {paused:?}\n{summary}");
        // With time-outs of 250 ms, a pause of 700 ms is met by two or three.
        assert!(lane.errors.of(ErrorKind::Timeout) >= 2, "{summary}");
    }
    assert!(longest(&hit) < paused + Duration::from_millis(50) * slack(), "paused {paused:?}\n{summary}");
    // What was sent into the pause was carried out after it: applied, unacknowledged, and no loss.
    let timeouts: u64 = hit.iter().map(|lane| lane.errors.of(ErrorKind::Timeout)).sum();
    assert!(report.judged.unacknowledged > 0 && report.judged.unacknowledged <= timeouts, "{summary}");
    assert_others_untouched(&report, THREE, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_at_a_hanging_primary_ends_when_its_replica_takes_over() {
    let _alone = alone().await;
    let mut processes = cluster(THREE).await;
    let replica = processes.addr(THREE.replica(0, 0));
    let handle = ledger(&processes).await;
    sleep(Duration::from_millis(500)).await;
    processes.pause(0).unwrap();
    let begun = Instant::now();
    // Long enough for a first time-out, shorter than what Valkey itself needs to replace a primary.
    sleep(Duration::from_millis(600)).await;
    call(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]).await;
    let without_primary = begun.elapsed();
    handle.wait_flowing().await.unwrap();
    // The frozen one must not come back while the counters are read.
    processes.kill(0).unwrap();
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    let hit = of_shard(&report, THREE, 0);
    assert!(
        hit.iter().all(|lane| lane.errors.of(ErrorKind::Timeout) > 0 && lane.unread.is_none()),
        "{summary}"
    );
    let gap = longest(&hit);
    assert!(gap + Duration::from_millis(25) > without_primary, "{gap:?}\n{summary}");
    assert!(
        gap < without_primary + Duration::from_millis(50) * slack(),
        "{gap:?} of {without_primary:?}\n{summary}"
    );
    assert_others_untouched(&report, THREE, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_loses_nothing() {
    let _alone = alone().await;
    let processes = cluster(THREE).await;
    let handle = ledger(&processes).await;
    handle.mark("fail over");
    let replica = processes.addr(THREE.replica(2, 0));
    call(replica, &["CLUSTER", "FAILOVER"]).await;
    until("the replica is primary", async || {
        call(replica, &["ROLE"])
            .await
            .items()
            .and_then(|role| role[0].text().map(|r| r == "master"))
            .unwrap_or(false)
    })
    .await;
    handle.wait_flowing().await.unwrap();
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert_eq!((report.lost(), report.judged.lost_at_most, report.judged.uncertain), (0, 0, 0), "{summary}");
    let hit = of_shard(&report, THREE, 2);
    assert!(hit.iter().all(|lane| lane.errors.of(ErrorKind::Moved) >= 1), "{summary}");
    assert_eq!(report.judged.errors.failures(), 0, "{summary}");
    assert_gap(&report, &hit, NOISE);
    assert_others_untouched(&report, THREE, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_by_a_replica_that_was_cut_off_loses_what_it_lacked() {
    let _alone = alone().await;
    let processes = cluster(THREE).await;
    let (primary, replica) = (processes.addr(0), processes.addr(THREE.replica(0, 0)));
    let handle = ledger(&processes).await;
    let lanes = lanes_of_shard(&handle, THREE, 0);
    sleep(Duration::from_millis(500)).await;
    call(primary, &["ACL", "SETUSER", "default", "-psync", "-sync"]).await;
    call(primary, &["CLIENT", "KILL", "TYPE", "replica"]).await;
    until("the replication link is down", async || {
        let info = call(replica, &["INFO", "replication"]).await;
        info.text().unwrap().contains("master_link_status:down")
    })
    .await;
    let kept = counted_all(replica, &lanes).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(counted_all(replica, &lanes).await, kept, "the link stays down");
    // No write is carried out from here on, so what the primary holds is what it acknowledged.
    call(primary, &["CLIENT", "PAUSE", "3000", "WRITE"]).await;
    let held = counted_all(primary, &lanes).await;
    call(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]).await;
    handle.wait_flowing().await.unwrap();
    until("the old primary follows", async || {
        let info = call(replica, &["INFO", "replication"]).await;
        info.text().unwrap().contains("state=online")
    })
    .await;
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert!(held > kept + 100, "held {held}, kept {kept}");
    assert_eq!(report.lost(), held - kept, "{summary}");
    assert!(
        of_shard(&report, THREE, 0).iter().all(|lane| lane.lost > 0 && !lane.regressions.is_empty()),
        "{summary}"
    );
    assert_others_untouched(&report, THREE, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_without_replica_is_said_to_be_unread() {
    let _alone = alone().await;
    let shape = Shape { shards: 3, replicas: 0 };
    let mut processes = cluster(shape).await;
    let mut options = Options::new(vec![processes.addr(2).to_string()]);
    options.read_back_within = Duration::from_secs(1);
    let handle = start(options).await;
    sleep(Duration::from_millis(300)).await;
    processes.kill(1).unwrap();
    sleep(Duration::from_secs(1)).await;
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    let hit = of_shard(&report, shape, 1);
    assert!(hit.iter().all(|lane| lane.unread.is_some() && lane.gaps.last().unwrap().open), "{summary}");
    assert!(
        hit.iter().all(|lane| lane.errors.of(ErrorKind::Refused) > 50),
        "retried at once and often\n{summary}"
    );
    let at_stake: u64 = hit.iter().map(|lane| lane.acked).sum();
    assert_eq!((report.lost(), report.judged.unread), (0, at_stake), "{summary}");
    let broken = report.verdict(&Limits { max_lost: Some(0), ..Limits::default() });
    assert_eq!(broken.len(), 4, "{broken:?}");
    assert_others_untouched(&report, shape, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_given_to_another_node_after_a_death_lose_all_that_they_held() {
    let _alone = alone().await;
    let shape = Shape { shards: 3, replicas: 0 };
    let mut processes = cluster(shape).await;
    let handle = ledger(&processes).await;
    sleep(Duration::from_millis(500)).await;
    processes.kill(1).unwrap();
    // Nothing of this shard is acknowledged any more until its slots have another owner.
    sleep(Duration::from_millis(100)).await;
    let acked: u64 = lanes_of_shard(&handle, shape, 1).iter().map(|lane| lane.acked).sum();
    let heir = processes.addr(0);
    let (first, last) = shape.slots(1);
    let (first, last) = (first.to_string(), last.to_string());
    call(heir, &["CLUSTER", "DELSLOTSRANGE", &first, &last]).await;
    call(heir, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
    call(heir, &["CLUSTER", "BUMPEPOCH"]).await;
    handle.wait_flowing().await.unwrap();
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert!(acked > 100);
    assert_eq!((report.lost(), report.judged.unread), (acked, 0), "{summary}");
    assert_others_untouched(&report, shape, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_restarts_empty_in_place_loses_all_that_it_held() {
    let _alone = alone().await;
    let mut processes = cluster(THREE).await;
    let handle = ledger(&processes).await;
    sleep(Duration::from_millis(500)).await;
    processes.kill(0).unwrap();
    sleep(Duration::from_millis(100)).await;
    let acked: u64 = lanes_of_shard(&handle, THREE, 0).iter().map(|lane| lane.acked).sum();
    processes.restart_keeping_id(0).unwrap();
    handle.wait_flowing().await.unwrap();
    let report = handle.stop().await.unwrap();
    let summary = report.summary();
    assert!(acked > 100);
    assert_eq!(report.lost(), acked, "{summary}");
    assert_others_untouched(&report, THREE, 0);
}
