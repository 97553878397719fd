//! The watches and the controller against an in-process API server, on virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use support::apiserver::{ApiServer, Fault};
use support::rig::{cluster, control, pod, rest, secret, watching, worker};
use tokio::time::{sleep, timeout};
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::error::{Error, Result};
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::model::Template;
use valkey_cluster_operator::observe;
use valkey_cluster_operator::telemetry::ClusterGauges;

async fn settled(_: Arc<ValkeyCluster>, _: Arc<Ctx>) -> Result<Action> {
    Ok(Action::await_change())
}

#[tokio::test(start_paused = true)]
async fn every_cluster_gets_a_pass_at_the_start_and_a_new_one_at_once() {
    let server = ApiServer::default();
    server.put(&cluster("ns", "a"));
    server.put(&cluster("other", "b"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, settled);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a", "b"]);
    server.put(&cluster("ns", "c"));
    rest().await;
    assert_eq!(controlled.passes.take(), ["c"]);
    sleep(Duration::from_hours(1)).await;
    assert!(controlled.passes.take().is_empty(), "a settled cluster is left alone");
    assert!(server.writes().is_empty(), "{:?}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn a_pass_asks_for_the_next_one_and_failures_wait_longer_each_time() {
    let server = ApiServer::default();
    server.put(&cluster("ns", "good"));
    server.put(&cluster("ns", "bad"));
    server.put(&cluster("ns", "buggy"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, |cluster, _| async move {
        match cluster.name_any().as_str() {
            "good" => Ok(Action::requeue(Duration::from_mins(1))),
            "bad" => Err(Error::valkey("refused")),
            _ => panic!("a bug"),
        }
    });
    sleep(Duration::from_secs(125)).await;
    assert_eq!(controlled.passes.seconds("good"), [0, 60, 120]);
    // After 250 ms, 500 ms, 1 s ... 16 s, then each 30 s.
    let late = [0, 0, 1, 2, 4, 8, 16, 32, 62, 92, 122];
    assert_eq!(controlled.passes.seconds("bad"), late);
    assert_eq!(controlled.passes.seconds("buggy"), late, "a panic delays its own cluster alone");
    let text = ctx.metrics.encode().unwrap();
    assert!(text.contains(r#"valkey_operator_reconcile_errors_total{reason="valkey"} 11"#), "{text}");
    assert!(text.contains(r#"valkey_operator_reconcile_errors_total{reason="panic"} 11"#), "{text}");
    assert!(text.contains("valkey_operator_reconciles_total 25"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_wakes_a_cluster_and_what_does_not() {
    let server = ApiServer::default();
    let (a, _b) = (server.put(&cluster("ns", "a")), server.put(&cluster("ns", "b")));
    server.put(&worker("w1"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, settled);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a", "b"]);

    let mut a1 = server.put(&pod(&a, "valkey-a-0-0"));
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "a new pod wakes its owner");
    a1.status = serde_json::from_str(r#"{"phase": "Running"}"#).unwrap();
    server.put(&a1);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "so does its status");
    server.remove::<Pod>("ns", "valkey-a-0-0");
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "and its end");

    let mut changed = a.clone();
    changed.status = serde_json::from_str(r#"{"message": "ours"}"#).unwrap();
    server.put(&changed);
    rest().await;
    assert!(controlled.passes.take().is_empty(), "our own status wakes nobody");
    changed.spec.shards = 4;
    changed = server.put(&changed);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "a new wish does");
    changed.annotations_mut().insert("note".into(), "x".into());
    server.put(&changed);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "an annotation too");

    let mut config = ConfigMap { metadata: pod(&a, "valkey-a").metadata, ..ConfigMap::default() };
    server.put(&config);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"]);
    config.data = Some([("valkey.conf".to_owned(), "someone's edit".to_owned())].into());
    server.put(&config);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "an edit of what we own is healed");
    server.put(&secret(&a));
    rest().await;
    assert_eq!(controlled.passes.take(), ["a"], "by the label, since it has no owner");

    ctx.wakes.cluster_named("ns", "b");
    rest().await;
    assert_eq!(controlled.passes.take(), ["b"], "a lost link wakes");
}

#[tokio::test(start_paused = true)]
async fn a_worker_wakes_everybody_when_it_matters() {
    let server = ApiServer::default();
    server.put(&cluster("ns", "a"));
    server.put(&cluster("ns", "b"));
    server.put(&worker("w1"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, settled);
    rest().await;
    controlled.passes.take();
    let known = ctx.workers();
    assert!(
        known[0].status.as_ref().is_some_and(|s| s.images.is_none() && s.conditions.is_some()),
        "kept lean"
    );
    let seen = observe::kube::worker(&known[0], &Template::default());
    assert_eq!((seen.open, seen.room), (true, Some(7)), "and with all that a place is chosen by");

    let mut w1 = worker("w1");
    w1.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].message = Some("still alive".into());
    server.put(&w1);
    rest().await;
    assert!(controlled.passes.take().is_empty(), "a heartbeat wakes nobody");
    w1.spec.as_mut().unwrap().unschedulable = Some(true);
    server.put(&w1);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a", "b"], "a cordon wakes everybody");
    server.remove::<Node>("", "w1");
    rest().await;
    assert_eq!(controlled.passes.take(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_cluster_gets_no_pass_and_leaves_nothing_in_memory() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, |cluster, ctx: Arc<Ctx>| async move {
        ctx.metrics.show_cluster(
            "ns",
            &cluster.name_any(),
            &ClusterGauges { worker_spread: 1, ..ClusterGauges::default() },
        );
        // Still under way when the cluster goes.
        sleep(Duration::from_secs(2)).await;
        ctx.metrics.show_cluster("ns", &cluster.name_any(), &ClusterGauges::default());
        Ok(Action::requeue(Duration::from_mins(1)))
    });
    rest().await;
    server.remove::<ValkeyCluster>("ns", "a");
    sleep(Duration::from_mins(5)).await;
    assert_eq!(controlled.passes.take(), ["a"]);
    assert!(!ctx.metrics.encode().unwrap().contains(r#"cluster="a""#));

    // A namesake is a new cluster.
    let again = server.put(&cluster("ns", "a"));
    assert_ne!(a.uid(), again.uid());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(controlled.passes.take(), ["a"]);
    assert!(ctx.metrics.encode().unwrap().contains(r#"cluster="a""#));
}

#[tokio::test(start_paused = true)]
async fn changes_that_no_watch_told_of_are_found_by_the_next_list() {
    let server = ApiServer::default();
    let (a, b) = (server.put(&cluster("ns", "a")), server.put(&cluster("ns", "b")));
    server.put(&pod(&a, "valkey-a-0-0"));
    server.put(&pod(&b, "valkey-b-0-0"));
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, settled);
    rest().await;
    controlled.passes.take();

    server.fault(|call| (call.verb == "watch" || call.verb == "list").then_some(Fault::Break));
    server.compact();
    rest().await;
    server.remove::<Pod>("ns", "valkey-a-0-0");
    server.compact();
    sleep(Duration::from_mins(2)).await;
    assert!(controlled.passes.take().is_empty());
    server.heal();
    // The longest pause between two attempts of a watch is 5 s, and the jitter is part of it.
    sleep(Duration::from_secs(11)).await;
    assert_eq!(controlled.passes.take(), ["a"], "b's pod did not change");
    assert!(ctx.pods_of(&a.uid().unwrap()).is_empty());
    assert_eq!(ctx.pods_of(&b.uid().unwrap()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_named_namespaces_are_looked_after() {
    let server = ApiServer::default();
    server.put(&cluster("n1", "a"));
    server.put(&cluster("n2", "b"));
    server.put(&cluster("n3", "c"));
    let ctx = watching(&server, &Namespaces::Only(vec!["n1".into(), "n3".into()])).await;
    let controlled = control(&ctx, settled);
    rest().await;
    assert_eq!(controlled.passes.take(), ["a", "c"]);
    server.compact();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(ctx.stores.clusters.len(), 2, "one namespace's list does not wipe out the other's objects");
    assert!(
        server
            .calls()
            .iter()
            .all(|c| c.namespace != "n2" && (c.resource == "nodes" || !c.namespace.is_empty()))
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_starts_nothing_and_lets_passes_end() {
    let server = ApiServer::default();
    server.put(&cluster("ns", "a"));
    let ctx = watching(&server, &Namespaces::All).await;
    let (started, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (s, e) = (Arc::clone(&started), Arc::clone(&ended));
    let controlled = control(&ctx, move |_, _| {
        let (s, e) = (Arc::clone(&s), Arc::clone(&e));
        async move {
            s.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_secs(7)).await;
            e.fetch_add(1, Ordering::SeqCst);
            Ok(Action::requeue(Duration::from_secs(1)))
        }
    });
    rest().await;
    controlled.stop.cancel();
    server.put(&cluster("ns", "late"));
    timeout(Duration::from_secs(8), controlled.task).await.expect("ends with the pass under way").unwrap();
    assert_eq!((started.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn two_hundred_clusters_are_taken_in_turn_and_none_twice_at_once() {
    let server = ApiServer::default();
    for i in 0..200 {
        server.put(&cluster("ns", &format!("c{i:03}")));
    }
    let ctx = watching(&server, &Namespaces::All).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (n, m) = (Arc::clone(&now), Arc::clone(&most));
    let controlled = control(&ctx, move |_, _| {
        let (n, m) = (Arc::clone(&n), Arc::clone(&m));
        async move {
            m.fetch_max(n.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            n.fetch_sub(1, Ordering::SeqCst);
            Ok(Action::await_change())
        }
    });
    for _ in 0..5 {
        ctx.wakes.cluster_named("ns", "c007");
    }
    sleep(Duration::from_secs(6)).await;
    assert_eq!(most.load(Ordering::SeqCst), 4, "the bound of the rig");
    let passes = controlled.passes.take();
    assert!((200..=201).contains(&passes.len()), "{} passes", passes.len());
}
