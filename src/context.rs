//! Decides what every pass has at hand: clients, caches, the right to act, and what is remembered between passes (only how
//! long to wait after failures; everything else is looked at anew). Touches memory only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;

use tokio::sync::mpsc;

use crate::build::labels;
use crate::clock::Clock;
use crate::hints::AllHints;
use crate::kube_client::Clients;
use crate::lease::Leadership;
use crate::model::{ClusterKey, PodUid, Sampling};
use crate::mutex::lock;
use crate::telemetry::Metrics;
use crate::valkey::{Change, Connector, Event, FredConnector, LinkSettings, Links, Ports};
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
    /// Opens connections to nodes.
    pub connector: Arc<dyn Connector>,
    /// One open connection to every running node: its loss wakes the cluster at once.
    pub links: Links<ClusterKey, PodUid>,
    /// What is remembered of each cluster.
    pub hints: AllHints,
    /// Where Valkey listens.
    pub ports: Ports,
    /// How large a cluster is looked at briefly.
    pub sampling: Sampling,
    /// The clock of every pass.
    pub clock: Clock,
}

impl Ctx {
    /// A context over these; `instance` names this replica in events.
    pub fn new(
        clients: Clients,
        (stores, wakes): (Stores, Wakes),
        metrics: Metrics,
        leadership: Leadership,
        instance: String,
    ) -> Self {
        let reporter = Reporter { controller: labels::OPERATOR.to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(clients.api.clone(), reporter);
        let connector: Arc<dyn Connector> = Arc::new(FredConnector);
        let (changes, told) = mpsc::unbounded_channel();
        let links = Links::new(Arc::clone(&connector), LinkSettings::default(), changes);
        tokio::spawn(wake_by_links(told, wakes.clone(), metrics.clone()));
        Self {
            clients,
            stores,
            wakes,
            recorder,
            metrics,
            leadership,
            backoff: Backoff::default(),
            connector,
            links,
            hints: AllHints::default(),
            ports: Ports::default(),
            sampling: Sampling::default(),
            clock: Clock::default(),
        }
    }

    /// The Pods whose controller is the `ValkeyCluster` with this UID, in order of their names.
    pub fn pods_of(&self, uid: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.stores.pods.state_filter(|pod| owner(pod).is_some_and(|o| o.uid == uid));
        pods.sort_by_key(|pod| pod.name_any());
        pods
    }

    /// All Pods of ours in a namespace, whoever their owner is, as they are at one moment.
    pub fn pods_in(&self, namespace: &str) -> Vec<Arc<Pod>> {
        self.stores.pods.state_filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace))
    }

    /// Every worker.
    pub fn workers(&self) -> Vec<Arc<Node>> {
        self.stores.workers.state()
    }

    /// A Service of ours.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.stores.services.get(&ObjectRef::new(name).within(namespace))
    }

    /// A `ConfigMap` of ours.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.stores.config_maps.get(&ObjectRef::new(name).within(namespace))
    }

    /// A `NetworkPolicy` of ours.
    pub fn policy(&self, namespace: &str, name: &str) -> Option<Arc<NetworkPolicy>> {
        self.stores.policies.get(&ObjectRef::new(name).within(namespace))
    }

    /// A `PodDisruptionBudget` of ours.
    pub fn budget(&self, namespace: &str, name: &str) -> Option<Arc<PodDisruptionBudget>> {
        self.stores.budgets.get(&ObjectRef::new(name).within(namespace))
    }

    /// The metadata of a Secret; without labels and annotations when it is not ours.
    pub fn secret_meta(&self, namespace: &str, name: &str) -> Option<Arc<SecretMeta>> {
        self.stores.secrets.get(&ObjectRef::new(name).within(namespace))
    }

    /// Whether a namespace is being deleted, as far as this operator may see that. It cannot be taken back.
    pub fn namespace_ends(&self, namespace: &str) -> bool {
        let found = self.stores.namespaces.get(&ObjectRef::new(namespace));
        found.is_some_and(|n| n.metadata.deletion_timestamp.is_some())
    }

    /// Whether the caches know this very `ValkeyCluster` (a namesake is another one).
    pub fn knows(&self, key: &ClusterKey) -> bool {
        let found = self.stores.clusters.get(&ObjectRef::new(&key.name).within(&key.namespace));
        found.is_some_and(|cluster| cluster.metadata.uid.as_deref() == Some(key.uid.as_str()))
    }

    /// Wakes every cluster there is.
    pub fn wake_everybody(&self) {
        for cluster in self.stores.clusters.state() {
            self.wakes.cluster(ObjectRef::from_obj(&*cluster));
        }
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

/// A link that is lost, or found again, is one more reason to look; it is no source of truth.
async fn wake_by_links(
    mut told: mpsc::UnboundedReceiver<Event<ClusterKey, PodUid>>,
    wakes: Wakes,
    metrics: Metrics,
) {
    while let Some(event) = told.recv().await {
        let (cluster, member) = (&event.cluster.name, &event.member);
        match &event.change {
            Change::Up => {}
            Change::Lost(why) => {
                metrics.link_lost();
                tracing::info!(cluster, %member, %why, "a link was lost");
            }
            Change::Slow(slow) => {
                tracing::info!(cluster, %member, slow, "how fast a node answers has changed");
            }
        }
        wakes.cluster_named(&event.cluster.namespace, &event.cluster.name);
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
        let mut counts = lock(&self.0);
        let count = counts.entry(key.clone()).or_default();
        let pause =
            Self::FIRST.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(Self::LONGEST);
        *count = count.saturating_add(1);
        pause
    }

    /// A pass succeeded, or the object is gone.
    pub fn clear(&self, key: &ClusterKey) {
        lock(&self.0).remove(key);
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
