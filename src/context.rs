//! Decides what every pass has at hand: clients, caches, the right to act, and what is remembered between passes (only how
//! long to wait after failures; everything else is looked at anew). Touches memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kube::ResourceExt;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::build::labels::OPERATOR;
use crate::hints::AllHints;
use crate::kube_client::Clients;
use crate::lease::Leadership;
use crate::model::{ClusterKey, PodUid};
use crate::telemetry::Metrics;
use crate::valkey::{self as link, Connector, Links, Ports};
use crate::watch::wakes::owner;
use crate::watch::{SecretMeta, Stores, Wakes};

/// What every pass has at hand; one for the whole process.
pub struct Ctx {
    /// The ways to the API server.
    pub clients: Clients,
    /// What is known of Kubernetes.
    pub stores: Stores,
    /// The ways to wake a cluster: for lost links and anything else that is no Kubernetes object.
    pub wakes: Wakes,
    /// Publishes events; a failure to do so is logged and otherwise ignored.
    pub recorder: Recorder,
    /// Every metric.
    pub metrics: Metrics,
    /// Whether an effect may be started now.
    pub leadership: Leadership,
    /// How long to wait after failures.
    pub backoff: Backoff,
    /// The way to Valkey nodes.
    pub connector: Arc<dyn Connector>,
    /// An open connection to every node, so that its end is known within milliseconds.
    pub links: Links<ClusterKey, PodUid>,
    /// What this process remembers of each cluster.
    pub hints: AllHints,
    /// What is the same for every cluster.
    pub settings: Settings,
}

/// What is the same for every cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The ports of every node.
    pub ports: Ports,
}

/// What a context is made of; the process decides it once, a test as it likes.
pub struct Parts {
    /// The ways to the API server.
    pub clients: Clients,
    /// What is known of Kubernetes, and the ways to wake the controllers.
    pub watched: (Stores, Wakes),
    /// Every metric.
    pub metrics: Metrics,
    /// Whether an effect may be started now.
    pub leadership: Leadership,
    /// The way to Valkey nodes.
    pub connector: Arc<dyn Connector>,
    /// What is the same for every cluster.
    pub settings: Settings,
    /// This replica's name in events.
    pub instance: String,
}

/// What the links tell.
pub type LinkEvents = UnboundedReceiver<link::Event<ClusterKey, PodUid>>;

impl Ctx {
    /// A context, and what its links tell (for `controller::follow_links`).
    pub fn new(parts: Parts) -> (Self, LinkEvents) {
        let Parts { clients, watched: (stores, wakes), metrics, leadership, connector, settings, instance } = parts;
        let reporter = Reporter { controller: OPERATOR.to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(clients.api.clone(), reporter);
        let (sender, events) = unbounded_channel();
        let links = Links::new(Arc::clone(&connector), link::LinkSettings::default(), sender);
        let (backoff, hints) = (Backoff::default(), AllHints::default());
        let this =
            Self { clients, stores, wakes, recorder, metrics, leadership, backoff, connector, links, hints, settings };
        (this, events)
    }

    /// The Pods whose controller is the `ValkeyCluster` with this UID, in order of their names.
    pub fn pods_of(&self, uid: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.stores.pods.state_filter(|pod| owner(pod).is_some_and(|o| o.uid == uid));
        pods.sort_by_key(|pod| pod.name_any());
        pods
    }

    /// The names of all Pods of ours in a namespace, whoever their owner is: names that are taken.
    pub fn pod_names(&self, namespace: &str) -> BTreeSet<String> {
        let here = self.stores.pods.state_filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace));
        here.iter().map(|pod| pod.name_any()).collect()
    }

    /// Every worker, in order of their names.
    pub fn workers(&self) -> Vec<Arc<Node>> {
        let mut workers = self.stores.workers.state();
        workers.sort_by_key(|worker| worker.name_any());
        workers
    }

    /// A Service of ours.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.stores.services.get(&ObjectRef::new(name).within(namespace))
    }

    /// A `ConfigMap` of ours.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.stores.config_maps.get(&ObjectRef::new(name).within(namespace))
    }

    /// The metadata of a Secret of ours.
    pub fn secret_meta(&self, namespace: &str, name: &str) -> Option<Arc<SecretMeta>> {
        self.stores.secrets.get(&ObjectRef::new(name).within(namespace))
    }

    /// Whether the caches know this very `ValkeyCluster` (a namesake is another one).
    pub fn knows(&self, key: &ClusterKey) -> bool {
        let found = self.stores.clusters.get(&ObjectRef::new(&key.name).within(&key.namespace));
        found.is_some_and(|cluster| cluster.metadata.uid.as_deref() == Some(key.uid.as_str()))
    }

    /// Drops what is kept in memory for a `ValkeyCluster` that is gone.
    pub fn forget(&self, key: &ClusterKey) {
        self.backoff.clear(key);
        self.links.forget(key);
        self.hints.drop(&key.uid);
        // Series are named, not numbered: a namesake's must stay.
        if self.stores.clusters.get(&ObjectRef::new(&key.name).within(&key.namespace)).is_none() {
            self.metrics.forget_cluster(&key.namespace, &key.name);
        }
    }
}

/// How often the passes over each object failed in a row. Growing pauses, forgotten at the first success.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<BTreeMap<ClusterKey, u32>>);

impl Backoff {
    /// The first pause; each further one is twice as long.
    pub const FIRST: Duration = Duration::from_millis(250);
    /// No pause is longer.
    pub const LONGEST: Duration = Duration::from_secs(30);

    /// Counts one more failure; how long to wait now.
    pub fn failed(&self, key: &ClusterKey) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        let pause = Self::FIRST.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(Self::LONGEST);
        *count = count.saturating_add(1);
        pause
    }

    /// A pass succeeded, or the object is gone.
    pub fn clear(&self, key: &ClusterKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_anew_after_a_success() {
        let key = |uid: &str| ClusterKey { namespace: "n".into(), name: "c".into(), uid: uid.into() };
        let backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.failed(&key("1")).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        for _ in 0..100 {
            assert_eq!(backoff.failed(&key("1")), Backoff::LONGEST);
        }
        assert_eq!(backoff.failed(&key("2")), Backoff::FIRST, "another object is another count");
        backoff.clear(&key("1"));
        assert_eq!(backoff.failed(&key("1")), Backoff::FIRST);
    }
}
