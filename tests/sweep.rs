//! Clearing up after deleted clusters against an in-process API server, on virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use support::apiserver::{ApiServer, Fault};
use support::rig::{cluster, pod, secret, watching, watching_as};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::lease::{Election, Settings};
use valkey_cluster_operator::sweep;
use valkey_cluster_operator::telemetry::Metrics;

fn sweeping(ctx: &Arc<Ctx>) {
    tokio::spawn(sweep::run(Arc::clone(ctx), CancellationToken::new()));
}

fn secrets(server: &ApiServer) -> Vec<String> {
    server.all::<Secret>().iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(start_paused = true)]
async fn the_secret_outlives_its_cluster_until_the_last_pod_is_gone() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&cluster("ns", "b"));
    server.put(&secret(&a));
    server.put(&pod(&a, "valkey-a-0-0"));
    server.put(&pod(&a, "valkey-a-1-0"));
    let ctx = watching(&server, &Namespaces::All).await;
    sweeping(&ctx);
    sleep(Duration::from_secs(1300)).await;
    assert!(server.writes().is_empty(), "{:?}", server.writes());
    assert!(server.calls().iter().all(|c| c.name.is_empty()), "a settled cluster is not even read");

    server.remove::<ValkeyCluster>("ns", "a");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(secrets(&server).len(), 1);
    server.remove::<Pod>("ns", "valkey-a-0-0");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(secrets(&server).len(), 1);
    server.remove::<Pod>("ns", "valkey-a-1-0");
    sleep(Duration::from_millis(100)).await;
    assert!(secrets(&server).is_empty(), "at once after the last pod");
    assert_eq!(server.writes(), ["delete secrets ns/internal-a-system-passwords"]);
}

#[tokio::test(start_paused = true)]
async fn pods_that_were_orphaned_on_purpose_keep_the_secret() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&secret(&a));
    let mut orphan = pod(&a, "valkey-a-0-0");
    server.put(&orphan);
    let ctx = watching(&server, &Namespaces::All).await;
    sweeping(&ctx);
    // What `kubectl delete --cascade=orphan` does.
    orphan.metadata.owner_references = None;
    server.put(&orphan);
    server.remove::<ValkeyCluster>("ns", "a");
    sleep(Duration::from_hours(1)).await;
    assert_eq!(secrets(&server).len(), 1);
    server.remove::<Pod>("ns", "valkey-a-0-0");
    sleep(Duration::from_millis(100)).await;
    assert!(secrets(&server).is_empty(), "found by the pod's label");
}

#[tokio::test(start_paused = true)]
async fn a_namesake_keeps_its_own() {
    let server = ApiServer::default();
    let old = server.put(&cluster("ns", "a"));
    server.put(&secret(&old));
    server.put(&pod(&old, "valkey-a-0-0"));
    let ctx = watching(&server, &Namespaces::All).await;
    sweeping(&ctx);
    server.remove::<ValkeyCluster>("ns", "a");
    let new = server.put(&cluster("ns", "a"));
    sleep(Duration::from_secs(2)).await;
    // The new cluster takes the Secret over before the old pod is gone.
    server.put(&secret(&new));
    sleep(Duration::from_secs(2)).await;
    server.remove::<Pod>("ns", "valkey-a-0-0");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(secrets(&server).len(), 1, "it is the new cluster's now");
    assert!(server.writes().is_empty(), "{:?}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn what_was_left_while_nobody_looked_is_found_at_the_start() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&secret(&a));
    server.remove::<ValkeyCluster>("ns", "a");
    // A Secret of ours without the mark of a cluster.
    let mut other = secret(&a);
    other.metadata.name = Some("other".into());
    other.metadata.annotations = None;
    server.put(&other);
    let ctx = watching(&server, &Namespaces::All).await;
    sweeping(&ctx);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(secrets(&server), ["other"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_is_not_the_one_that_was_judged() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&secret(&a));
    let ctx = watching(&server, &Namespaces::All).await;
    // A new cluster of the same name takes it over, between the sweeper's look and its deletion.
    let (door, mut once) = (server.second_door(), true);
    server.fault(move |call| {
        if call.verb == "delete" && std::mem::take(&mut once) {
            let new = door.put(&cluster("ns", "a"));
            door.put(&secret(&new));
        }
        None
    });
    server.remove::<ValkeyCluster>("ns", "a");
    sweeping(&ctx);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(secrets(&server).len(), 1, "the precondition saved it");
    assert_eq!(server.writes().len(), 1, "{:?}", server.writes());
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_answer_is_no_proof_of_absence() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&secret(&a));
    let ctx = watching(&server, &Namespaces::All).await;
    sweeping(&ctx);
    server.fault(|call| {
        (call.verb == "get" || call.verb == "list").then_some(Fault::Refuse(500, "InternalError"))
    });
    server.remove::<ValkeyCluster>("ns", "a");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(secrets(&server).len(), 1);
    server.heal();
    sleep(Duration::from_secs(31)).await;
    assert!(secrets(&server).is_empty(), "the longest pause is 30 s");
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_deleted() {
    let server = ApiServer::default();
    let a = server.put(&cluster("ns", "a"));
    server.put(&secret(&a));
    let api = kube::Api::namespaced(server.client("ns"), "ns");
    let (election, leadership) = Election::new(api, Settings::new("l", "i"), Metrics::new().unwrap());
    let ctx = watching_as(&server, &Namespaces::All, leadership).await;
    sweeping(&ctx);
    server.remove::<ValkeyCluster>("ns", "a");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(secrets(&server).len(), 1);
    tokio::spawn(election.run(CancellationToken::new()));
    sleep(Duration::from_secs(3)).await;
    assert!(secrets(&server).is_empty());
}
