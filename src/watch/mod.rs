//! Decides what of Kubernetes is kept in memory. Touches the API server by watches alone, and reads nothing else.
//!
//! Every replica watches, leader or not, so that a standby that takes over begins with full caches.

pub mod cache;
pub mod wakes;

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, NodeStatus, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub use cache::{Cache, Change, Scope, Watch};
pub use wakes::Wakes;

use crate::api::ValkeyCluster;
use crate::build::labels;
use crate::flags::Namespaces;
use crate::kube_client::WATCH_ROUND;

/// A Secret without its contents.
pub type SecretMeta = PartialObjectMeta<Secret>;

/// What is told of a namespace: that it is there, or that it is being deleted.
pub type NamespaceMeta = PartialObjectMeta<Namespace>;

/// A watch that fails is tried again after this at most: with an API server that comes back, so does our sight.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of Kubernetes. Cheap to clone; each store may lag behind, also behind our own writes.
#[derive(Clone)]
pub struct Stores {
    /// Every `ValkeyCluster` of our namespaces.
    pub clusters: Store<ValkeyCluster>,
    /// Every Pod that this operator made, without managed fields.
    pub pods: Store<Pod>,
    /// Every worker: metadata, spec and conditions.
    pub workers: Store<Node>,
    /// Every Service that this operator made.
    pub services: Store<Service>,
    /// Every `ConfigMap` that this operator made.
    pub config_maps: Store<ConfigMap>,
    /// Every `PodDisruptionBudget` that this operator made.
    pub budgets: Store<PodDisruptionBudget>,
    /// Every `NetworkPolicy` that this operator made.
    pub policies: Store<NetworkPolicy>,
    /// Every Secret of our namespaces, without contents: those of ours, and those that specs name (any may be, and none has a
    /// label of ours).
    pub secrets: Store<SecretMeta>,
    /// Every namespace. Nothing rests on it being filled: an operator that may look into some namespaces alone may not list them.
    pub namespaces: Store<NamespaceMeta>,
    full: CancellationToken,
}

impl Stores {
    /// Waits until each store was filled once. Without end while the API server refuses: the watches' warnings say why.
    pub async fn filled(&self) {
        self.full.cancelled().await;
    }

    /// The one waiter at the stores themselves: of several, kube wakes only the last (kube-runtime 5.0, `delayed_init`:
    /// a oneshot receiver keeps one waker), and the others would wait for ever.
    async fn wait(&self) {
        // A store whose writer is gone never fills, and then the process is about to end.
        let _ = self.clusters.wait_until_ready().await;
        let _ = self.pods.wait_until_ready().await;
        let _ = self.workers.wait_until_ready().await;
        let _ = self.services.wait_until_ready().await;
        let _ = self.config_maps.wait_until_ready().await;
        let _ = self.budgets.wait_until_ready().await;
        let _ = self.policies.wait_until_ready().await;
        let _ = self.secrets.wait_until_ready().await;
        self.full.cancel();
    }
}

/// Sets the watches up. Nothing happens until the returned future is driven; it never ends.
pub fn start(client: &Client, namespaces: &Namespaces) -> (Stores, Wakes, BoxFuture<'static, ()>) {
    let scopes: Vec<Scope> = match namespaces {
        Namespaces::All => vec![None],
        Namespaces::Only(names) => names.iter().cloned().map(Some).collect(),
    };
    let managed = config().labels(&labels::managed_selector());
    let clusters = Cache::new(scopes.clone());
    let pods = Cache::new(scopes.clone());
    let workers = Cache::<Node>::new([None]);
    let services = Cache::<Service>::new(scopes.clone());
    let config_maps = Cache::<ConfigMap>::new(scopes.clone());
    let budgets = Cache::<PodDisruptionBudget>::new(scopes.clone());
    let policies = Cache::<NetworkPolicy>::new(scopes.clone());
    let secrets = Cache::new(scopes.clone());
    let everywhere = scopes == [None];
    let namespaces = Cache::<NamespaceMeta>::new([None]);
    let stores = Stores {
        clusters: clusters.reader(),
        pods: pods.reader(),
        workers: workers.reader(),
        services: services.reader(),
        config_maps: config_maps.reader(),
        budgets: budgets.reader(),
        policies: policies.reader(),
        secrets: secrets.reader(),
        namespaces: namespaces.reader(),
        full: CancellationToken::new(),
    };
    let wakes = Wakes::default();
    let (s, w) = (stores.clone(), wakes.clone());
    let client = client.clone();
    let drive = async move {
        let watched = watches(&client, &scopes, &managed, unmanaged);
        let nodes = vec![watch(None, Api::all(client.clone()), config(), lean_worker)];
        let all = everywhere.then(|| watch(None, Api::all(client.clone()), config(), unmanaged));
        tokio::join!(
            s.wait(),
            clusters
                .follow(watches(&client, &scopes, &config(), unmanaged), |c| w.on_cluster(&c, &s.secrets)),
            pods.follow(watched, |c| w.on_pod(&c, &s.clusters, &s.secrets)),
            workers.follow(nodes, |c| w.on_worker(&c, &s.clusters)),
            services.follow(watches(&client, &scopes, &managed, unmanaged), |c| w.on_owned(&c)),
            config_maps.follow(watches(&client, &scopes, &managed, unmanaged), |c| w.on_owned(&c)),
            budgets.follow(watches(&client, &scopes, &managed, unmanaged), |c| w.on_owned(&c)),
            policies.follow(watches(&client, &scopes, &managed, unmanaged), |c| w.on_owned(&c)),
            secrets
                .follow(watches(&client, &scopes, &config(), lean_secret), |c| w.on_secret(&c, &s.clusters)),
            namespaces.follow(all.into_iter().collect(), |c| w.on_namespace(&c, &s.clusters)),
        );
    };
    (stores, wakes, Box::pin(drive))
}

fn config() -> watcher::Config {
    // Well below u32::MAX.
    watcher::Config::default().timeout(u32::try_from(WATCH_ROUND.as_secs()).unwrap_or(u32::MAX))
}

fn watches<K>(client: &Client, scopes: &[Scope], config: &watcher::Config, lean: fn(&mut K)) -> Vec<Watch<K>>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let one = |scope: &Scope| {
        let api = match scope {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        watch(scope.clone(), api, config.clone(), lean)
    };
    scopes.iter().map(one).collect()
}

fn watch<K: Watched>(scope: Scope, api: Api<K>, config: watcher::Config, lean: fn(&mut K)) -> Watch<K> {
    (scope, watch_objects(api, config).backoff(Patience::default()).modify(lean).boxed())
}

/// What a kind must be to be watched.
trait Watched:
    Resource<DynamicType = ()>
    + Lookup<DynamicType = ()>
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}
impl<K> Watched for K where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// Who manages which field is half of an object's size and nothing to us.
fn unmanaged<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Of a Secret that is not ours only its name and version matter, and there may be thousands.
fn lean_secret(secret: &mut SecretMeta) {
    unmanaged(secret);
    if !labels::is_managed(secret) {
        let of = std::mem::take(&mut secret.metadata);
        secret.metadata = ObjectMeta {
            name: of.name,
            namespace: of.namespace,
            uid: of.uid,
            resource_version: of.resource_version,
            ..ObjectMeta::default()
        };
    }
}

/// Of a worker's status, which also lists every image it has, what says whether it lives and how much it holds.
fn lean_worker(worker: &mut Node) {
    unmanaged(worker);
    worker.status = worker.status.take().map(|s| NodeStatus {
        conditions: s.conditions,
        allocatable: s.allocatable,
        ..NodeStatus::default()
    });
}

/// kube's usual pauses, none longer than [`LONGEST_PAUSE`].
#[derive(Default)]
struct Patience(DefaultBackoff);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0.reset();
    }
}
