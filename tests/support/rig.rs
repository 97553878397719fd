//! The watches, the context and a controller over the API server of the tests, on virtual time.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::controller;
use valkey_cluster_operator::error::Result;
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::kube_client::Clients;
use valkey_cluster_operator::lease::Leadership;
use valkey_cluster_operator::telemetry::Metrics;
use valkey_cluster_operator::watch;

use super::apiserver::ApiServer;

/// Watches that run and are full, and a context over them.
pub async fn watching(server: &ApiServer, namespaces: &Namespaces) -> Arc<Ctx> {
    watching_as(server, namespaces, Leadership::always()).await
}

/// The same with a given right to act.
pub async fn watching_as(server: &ApiServer, namespaces: &Namespaces, leadership: Leadership) -> Arc<Ctx> {
    let client = server.client("ns");
    let (stores, wakes, drive) = watch::start(&client, namespaces);
    tokio::spawn(drive);
    timeout(Duration::from_mins(1), stores.filled()).await.expect("the caches are filled within a minute");
    let metrics = Metrics::new().unwrap();
    Arc::new(Ctx::new(Clients::all(&client), (stores, wakes), metrics, leadership, "test".into()))
}

/// The passes that a controller ran: cluster, and seconds since the rig began.
#[derive(Clone)]
pub struct Passes {
    log: Arc<Mutex<Vec<(String, f64)>>>,
    began: Instant,
}

impl Passes {
    fn add(&self, cluster: &ValkeyCluster) {
        self.log.lock().unwrap().push((cluster.name_any(), self.began.elapsed().as_secs_f64()));
    }

    /// The passes since the last call, as names.
    pub fn take(&self) -> Vec<String> {
        let mut names: Vec<_> =
            std::mem::take(&mut *self.log.lock().unwrap()).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    /// When the passes over one cluster began, in whole seconds.
    pub fn seconds(&self, cluster: &str) -> Vec<i64> {
        let log = self.log.lock().unwrap();
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
        log.iter().filter(|(name, _)| name == cluster).map(|(_, at)| at.round() as i64).collect()
    }
}

/// A controller that runs.
pub struct Controlled {
    pub passes: Passes,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

/// Runs a controller whose pass is `pass`.
pub fn control<F>(
    ctx: &Arc<Ctx>,
    pass: impl Fn(Arc<ValkeyCluster>, Arc<Ctx>) -> F + Send + Sync + 'static,
) -> Controlled
where
    F: Future<Output = Result<Action>> + Send + 'static,
{
    let passes = Passes { log: Arc::default(), began: Instant::now() };
    let (stop, logged) = (CancellationToken::new(), passes.clone());
    let reconcile = move |cluster: Arc<ValkeyCluster>, ctx| {
        logged.add(&cluster);
        pass(cluster, ctx)
    };
    let concurrency = NonZeroU16::new(4).unwrap();
    let task = tokio::spawn(controller::run(Arc::clone(ctx), concurrency, reconcile, stop.clone()));
    Controlled { passes, stop, task }
}

/// Long enough for everything that is under way to come to rest.
pub async fn rest() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A `ValkeyCluster` of three shards.
pub fn cluster(namespace: &str, name: &str) -> ValkeyCluster {
    from(json!({
        "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster",
        "metadata": { "namespace": namespace, "name": name }, "spec": { "shards": 3 },
    }))
}

/// A Pod of `owner`.
pub fn pod(owner: &ValkeyCluster, name: &str) -> Pod {
    let (owner_name, uid) = (owner.name_any(), owner.uid().unwrap());
    from(json!({
        "metadata": {
            "namespace": owner.namespace(), "name": name,
            "labels": {
                "app.kubernetes.io/managed-by": "valkey-cluster-operator",
                "valkey.io/cluster": owner_name, "valkey.io/cluster-uid": uid,
            },
            "ownerReferences": [{
                "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster", "controller": true,
                "name": owner_name, "uid": uid,
            }],
        },
        "spec": { "containers": [], "nodeName": "w1" },
    }))
}

/// The Secret with the passwords of a cluster.
pub fn secret(owner: &ValkeyCluster) -> Secret {
    from(json!({
        "metadata": {
            "namespace": owner.namespace(), "name": format!("internal-{}-system-passwords", owner.name_any()),
            "labels": {
                "app.kubernetes.io/managed-by": "valkey-cluster-operator",
                "valkey.io/cluster": owner.name_any(), "valkey.io/cluster-uid": owner.uid(),
            },
            "annotations": { "valkey.io/cluster-uid": owner.uid() },
        },
        "data": { "password": "c2VjcmV0" },
    }))
}

/// A worker that is ready.
pub fn worker(name: &str) -> Node {
    from(json!({
        "metadata": { "name": name }, "spec": {},
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "7" },
            "images": [{ "names": ["x"] }],
        },
    }))
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
