//! The watches and the controller against an in-process API server, on virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use serde_json::json;
use support::apiserver::{ApiServer, Fault};
use support::rig::{cluster, control, pod, rest, secret, watching, worker};
use tokio::time::{sleep, timeout};
use valkey_cluster_operator::api::spec::DisruptionBudgetMode;
use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::error::{Error, Result};
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::hints::Hints;
use valkey_cluster_operator::model::{PodName, Template, Trouble};
use valkey_cluster_operator::observe;
use valkey_cluster_operator::reconcile::reconcile;
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

/// Whole passes, with the real observe, plan, execute and report: no Pod of theirs ever gets an address.
#[tokio::test(start_paused = true)]
async fn secrets_are_watched_without_contents_and_read_by_the_names_that_a_spec_knows() {
    let server = ApiServer::default();
    server.put(&worker("w1"));
    let mut users = cluster("ns", "users");
    users.spec.users = serde_json::from_value(json!([
        { "name": "app", "passwordSecret": { "name": "app-password", "keys": ["pw"] } }
    ]))
    .unwrap();
    let mut encrypted = cluster("ns", "tls");
    encrypted.spec.networking =
        serde_json::from_value(json!({ "tls": { "certificates": { "server": { "secretName": "certs" } } } }))
            .unwrap();
    for name in ["app-password", "certs", "somebody-elses", "internal-affairs"] {
        let data = json!({ "pw": "c2VjcmV0", "tls.crt": "", "tls.key": "", "ca.crt": "" });
        let secret = json!({ "metadata": { "namespace": "ns", "name": name }, "data": data });
        server.put(&serde_json::from_value::<Secret>(secret).unwrap());
    }
    server.put(&users);
    server.put(&encrypted);
    let ctx = watching(&server, &Namespaces::All).await;
    let controlled = control(&ctx, reconcile);
    sleep(Duration::from_secs(5)).await;
    // Another version of each is one more reason to read.
    for mut secret in server.all::<Secret>() {
        secret.labels_mut().insert("touched".into(), "yes".into());
        server.put(&secret);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(controlled.passes.take().len() > 2);
    let calls = server.calls();
    let of_secrets = || calls.iter().filter(|c| c.resource == "secrets");
    let told: Vec<_> = of_secrets().filter(|c| c.name.is_empty() && c.verb != "create").collect();
    assert!(told.iter().any(|c| c.verb == "watch") && told.iter().all(|c| c.metadata_only), "{told:?}");
    let mut read: Vec<&str> = of_secrets().filter(|c| c.verb == "get").map(|c| c.name.as_str()).collect();
    read.sort_unstable();
    read.dedup();
    let named = [
        "app-password",
        "certs",
        "internal-tls-certificates",
        "internal-tls-system-passwords",
        "internal-users-system-passwords",
    ];
    assert_eq!(read, named);
}

#[tokio::test(start_paused = true)]
async fn a_disruption_budget_is_kept_until_it_is_not_wanted_any_more() {
    let server = ApiServer::default();
    server.put(&worker("w1"));
    let mut a = server.put(&cluster("ns", "a"));
    let ctx = watching(&server, &Namespaces::All).await;
    let _controlled = control(&ctx, reconcile);
    let budget = || server.find::<PodDisruptionBudget>("ns", "valkey-a");
    sleep(Duration::from_secs(3)).await;
    let least = |budget: PodDisruptionBudget| budget.spec.unwrap().min_available;
    assert_eq!(budget().map(least), Some(Some(IntOrString::Int(0))), "nobody serves yet");
    a.spec.pod_disruption_budget.mode = DisruptionBudgetMode::Disabled;
    server.put(&a);
    sleep(Duration::from_secs(3)).await;
    assert!(budget().is_none());
    a.spec.pod_disruption_budget.mode = DisruptionBudgetMode::Cluster;
    server.put(&a);
    sleep(Duration::from_secs(3)).await;
    assert!(budget().is_some());
}

/// A Pod of `owner` in a shard, of which nothing has started yet, and that is so old.
fn waiting(owner: &ValkeyCluster, shard: u16, age: SignedDuration) -> Pod {
    let mut pod = pod(owner, &format!("valkey-a-{shard}-0"));
    for (key, value) in [("valkey.io/shard-index", shard.to_string()), ("valkey.io/node-index", "0".into())] {
        pod.labels_mut().insert(key.into(), value);
    }
    pod.metadata.uid = Some(format!("pod-{shard}"));
    pod.metadata.creation_timestamp = Some(Time(Timestamp::now() - age));
    pod
}

/// An Event about a Pod, so many seconds old.
fn event(uid: &str, type_: &str, reason: &str, age: i64) -> Event {
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": format!("{uid}-{reason}") }, "type": type_, "reason": reason,
        "message": format!("{reason} it is"), "involvedObject": { "uid": uid },
        "lastTimestamp": Time(Timestamp::now() - SignedDuration::from_secs(age)),
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_start_is_explained_by_its_newest_warning() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    let (old, young) = (SignedDuration::from_secs(11), SignedDuration::from_secs(5));
    for (shard, age) in [(0, old), (1, old), (2, young)] {
        server.put(&waiting(&a, shard, age));
    }
    for told in [
        event("pod-0", "Warning", "FailedScheduling", 9),
        event("pod-0", "Warning", "FailedMount", 6),
        event("pod-0", "Normal", "Pulled", 3),
        event("pod-1", "Normal", "Pulled", 3),
        event("pod-2", "Warning", "TooSoon", 3),
        event("pod-9", "Warning", "AnotherPod", 1),
    ] {
        server.put(&told);
    }
    let ctx = watching(&server, &Namespaces::All).await;
    let hints = Mutex::new(Hints::default());
    let troubles = async || {
        let seen = observe::observe(&ctx, &a, api::desired(&a).unwrap(), &hints).await.unwrap();
        (0..3)
            .map(|shard| seen.pods[&PodName::new(format!("valkey-a-{shard}-0"))].trouble.clone())
            .collect::<Vec<_>>()
    };
    let trouble = |reason: &str, message: &str| {
        Some(Trouble { reason: reason.to_owned(), message: message.to_owned() })
    };
    let slow = trouble("SlowStart", "it has not started after 10 s");
    let asked = || server.calls().iter().filter(|c| c.resource == "events").count();
    assert_eq!(troubles().await, [trouble("FailedMount", "FailedMount it is"), slow.clone(), None]);
    assert_eq!(asked(), 2, "who has not waited for long is not asked about");
    server.fault(|call| (call.resource == "events").then_some(Fault::Refuse(403, "Forbidden")));
    assert_eq!(troubles().await, [slow.clone(), slow, None], "a failed read keeps no pass from going on");
}
