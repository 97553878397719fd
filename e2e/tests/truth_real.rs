//! The truth check on real Valkey processes of every version: a whole cluster, and what it says when it is not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::time::Duration;

use common::{THREE, alone, call, cluster, roots, until};
use e2e::processes::{Config, Processes, Shape};
use e2e::resp::{Access, Credentials};
use e2e::truth::{Expected, Sampler, Truth};

const WHOLE: Expected = Expected { shards: Some(3), replicas: Some(1), node_timeout_ms: Some(2000) };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_formed_cluster_of_every_version_is_whole_and_a_lone_node_is_not() {
    let _alone = alone().await;
    for root in roots() {
        let mut processes = Processes::cluster(root, THREE, "").await.unwrap();
        let access = Access::default();
        let truth = Truth::look(&access, &processes.addrs()).await;
        assert_eq!(truth.problems_against(&WHOLE), Vec::<String>::new(), "Valkey {}", root.version);
        let shards = truth.shards();
        for number in 0..3 {
            let shard =
                shards.iter().find(|shard| shard.primary_addr == Some(processes.addr(number))).unwrap();
            let (first, last) = THREE.slots(number);
            assert_eq!(shard.slots, usize::from(last - first) + 1);
            assert_eq!(shard.replicas[0].addr, processes.addr(THREE.replica(number, 0)));
        }
        let lone = processes.add(1).unwrap();
        let problems = Truth::look(&access, &processes.addrs()).await.problems();
        let ignorance = format!("{} does not know {}", processes.addr(0), processes.addr(lone));
        assert!(problems.contains(&ignorance), "Valkey {}: {problems:?}", root.version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sampler_states_redundancy_through_a_failover_and_a_death() {
    let _alone = alone().await;
    let mut processes = cluster(THREE).await;
    let access = Access::default();
    let sampler = Sampler::start(access.clone(), vec![processes.addr(0)], Some(Sampler::as_announced()));
    until("all nodes are followed", async || sampler.latest().seen.len() == 6 && sampler.latest().formed())
        .await;

    // Shard 0 changes roles and keeps two copies, under the same shard id; shard 1 loses its replica for good.
    let replica = processes.addr(THREE.replica(0, 0));
    call(replica, &["CLUSTER", "FAILOVER"]).await;
    let all = processes.addrs();
    Truth::wait(&access, &all, &WHOLE, Duration::from_secs(10)).await.unwrap();
    // Its own last look may be from the middle of the failover.
    let whole = || sampler.latest().formed() && sampler.latest().shards().len() == 3;
    until("the sampler sees three shards again", async || whole()).await;
    let steady = sampler.latest().shards();
    processes.kill(THREE.replica(1, 0)).unwrap();
    let killed = sampler.elapsed();
    let hit = steady.iter().find(|shard| shard.primary_addr == Some(processes.addr(1))).unwrap().id.clone();
    until("the sampler sees the loss", async || {
        sampler.latest().shards().iter().any(|shard| shard.id == hit && shard.copies() == 1)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let history = sampler.stop().await.unwrap();

    let below = history.below(2);
    let stated = below[&hit];
    let real = history.end.saturating_sub(killed);
    assert!(stated <= real + Duration::from_millis(200), "{stated:?} below two copies, dead for {real:?}");
    assert!(stated + Duration::from_secs(1) > real, "{stated:?} below two copies, dead for {real:?}");
    assert_eq!(steady.len(), 3);
    // The answers of one look are not of one moment: one that meets the failover may find the slots with both, or with neither.
    assert!(history.uncovered() < Duration::from_millis(200), "{}", history.summary());
    assert_eq!(history.by_second().last().unwrap().copies[&hit], 1, "{}", history.summary());
    assert!(history.first_formed().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_asks_for_a_login_is_read_with_one() {
    let _alone = alone().await;
    let acl = "user default off\nuser judge on >open ~* &* +@all\n".to_owned();
    let config = Config { acl: Some(acl), ..Config::default() };
    let processes = Processes::start_with(common::newest(), 1, config).unwrap();
    let silent = Truth::look(&Access::default(), &processes.addrs()).await.problems();
    assert!(silent[0].contains("NOAUTH"), "{silent:?}");
    let login = |password: &str| {
        let credentials = Credentials { user: Some("judge".into()), password: Some(password.into()) };
        Access::default().with_login(credentials)
    };
    let refused = Truth::look(&login("wrong"), &processes.addrs()).await.problems();
    assert!(refused[0].contains("login refused: WRONGPASS"), "{refused:?}");
    let truth = Truth::look(&login("open"), &processes.addrs()).await;
    assert_eq!(truth.answered().count(), 1);
    assert!(truth.problems()[0].contains("16384 slots have no owner"), "{:?}", truth.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shard_without_replicas_is_a_whole_cluster_too() {
    let _alone = alone().await;
    let shape = Shape { shards: 1, replicas: 0 };
    let mut processes = cluster(shape).await;
    let expected = Expected { shards: Some(1), replicas: Some(0), node_timeout_ms: Some(2000) };
    let access = Access::default();
    let truth = Truth::look(&access, &processes.addrs()).await;
    assert_eq!(truth.problems_against(&expected), Vec::<String>::new());
    processes.restart_empty(0).unwrap();
    let truth = Truth::look(&access, &processes.addrs()).await;
    assert_eq!(truth.covered(), 0);
}
