//! A namespace that is being deleted, against an in-process API server, on virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta};
use support::apiserver::ApiServer;
use support::rig::{cluster, pod, watching, watching_as};
use tokio::time::sleep;
use valkey_cluster_operator::ending;
use valkey_cluster_operator::error::Error;
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::hints::Hints;
use valkey_cluster_operator::lease::{Election, Settings};
use valkey_cluster_operator::telemetry::Metrics;

/// The namespace "ns". Its finalizer is what the namespace controller has for its work.
fn namespace() -> Namespace {
    let finalizers = Some(vec!["kubernetes".to_owned()]);
    Namespace {
        metadata: ObjectMeta { name: Some("ns".into()), finalizers, ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

async fn delete_namespace(server: &ApiServer) {
    let api: Api<Namespace> = Api::all(server.client("ns"));
    api.delete("ns", &DeleteParams::default()).await.unwrap();
}

fn graceful(mut pod: Pod, seconds: i64) -> Pod {
    pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(seconds);
    pod
}

#[tokio::test(start_paused = true)]
async fn pods_are_told_to_go_with_their_namespace_and_not_before() {
    let server = ApiServer::default();
    server.put(&namespace());
    let (a, b) = (server.put(&cluster("ns", "a")), server.put(&cluster("other", "b")));
    server.put(&graceful(pod(&a, "valkey-a-0-0"), 300));
    server.put(&graceful(pod(&a, "valkey-a-1-0"), 5));
    server.put(&pod(&b, "valkey-b-0-0"));
    let ctx = watching(&server, &Namespaces::All).await;
    // Nobody waits for the list of namespaces.
    sleep(Duration::from_millis(100)).await;
    let mut woken = ctx.wakes.woken_clusters();
    let hints = Mutex::new(Hints::default());
    ending::tell_pods(&ctx, &a, &hints).await.unwrap();
    assert!(server.writes().is_empty() && !hints.lock().unwrap().ending);

    delete_namespace(&server).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(woken.try_recv().unwrap().name, "a", "its end wakes the clusters in it, and no other");
    assert!(woken.try_recv().is_err());
    ending::tell_pods(&ctx, &a, &hints).await.unwrap();
    ending::tell_pods(&ctx, &b, &Mutex::new(Hints::default())).await.unwrap();
    let told = ["delete namespaces /ns", "delete pods ns/valkey-a-0-0", "delete pods ns/valkey-a-1-0"];
    assert_eq!(server.writes(), told);
    assert!(hints.lock().unwrap().ending, "nothing is created any more");
    let periods: Vec<_> =
        server.all::<Pod>().into_iter().map(|p| p.metadata.deletion_grace_period_seconds).collect();
    assert_eq!(periods, [Some(15), Some(5), None], "they hold on until they are released, and not for long");
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_tells() {
    let server = ApiServer::default();
    server.put(&namespace());
    delete_namespace(&server).await;
    let a = server.put(&cluster("ns", "a"));
    server.put(&pod(&a, "valkey-a-0-0"));
    let api = kube::Api::namespaced(server.client("ns"), "ns");
    let (_election, leadership) = Election::new(api, Settings::new("l", "i"), Metrics::new().unwrap());
    let ctx = watching_as(&server, &Namespaces::All, leadership).await;
    sleep(Duration::from_millis(100)).await;
    let told = ending::tell_pods(&ctx, &a, &Mutex::new(Hints::default())).await;
    assert!(matches!(told, Err(Error::NotLeading)));
    assert_eq!(server.all::<Pod>().len(), 1);
}
