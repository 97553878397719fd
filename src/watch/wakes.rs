//! Decides whom a change wakes. Touches nothing but the channels to the controllers.
//!
//! What nobody listens to yet is dropped: a controller that starts begins with everything there is.

use std::sync::{Arc, Mutex};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};

use super::{Change, NamespaceMeta, SecretMeta};
use crate::api::ValkeyCluster;
use crate::build::labels;
use crate::model::ClusterKey;
use crate::mutex::lock;

/// The ways to wake the controllers. Cheap to clone: all clones are the same ways.
#[derive(Clone, Default)]
pub struct Wakes {
    clusters: Gate<ObjectRef<ValkeyCluster>>,
    secrets: Gate<ObjectRef<SecretMeta>>,
    gone: Gate<ClusterKey>,
}

impl Wakes {
    /// Wakes one cluster: the next pass over it begins at once, or right after the one under way.
    pub fn cluster(&self, cluster: ObjectRef<ValkeyCluster>) {
        self.clusters.send(cluster);
    }

    /// The same by namespace and name.
    pub fn cluster_named(&self, namespace: &str, name: &str) {
        self.cluster(ObjectRef::new(name).within(namespace));
    }

    /// From now on, the clusters that something woke.
    pub fn woken_clusters(&self) -> UnboundedReceiver<ObjectRef<ValkeyCluster>> {
        self.clusters.open()
    }

    /// From now on, the Secrets of clusters of which something went.
    pub fn woken_secrets(&self) -> UnboundedReceiver<ObjectRef<SecretMeta>> {
        self.secrets.open()
    }

    /// From now on, the clusters that went.
    pub fn gone_clusters(&self) -> UnboundedReceiver<ClusterKey> {
        self.gone.open()
    }

    /// A `ValkeyCluster` changed. Its status is ours: a change of that alone wakes nobody.
    pub fn on_cluster(&self, change: &Change<ValkeyCluster>, secrets: &Store<SecretMeta>) {
        match change {
            Change::Set { old: Some(old), new } if same_wish(old, new) => {}
            Change::Set { new, .. } => self.cluster(ObjectRef::from_obj(&**new)),
            Change::Gone(last) => {
                // Woken although gone: what a pass that was under way leaves behind is then cleared away.
                self.cluster(ObjectRef::from_obj(&**last));
                if let Some(key) = key_of(last) {
                    self.secrets_of(&key.namespace, &key.name, secrets);
                    self.gone.send(key);
                }
            }
        }
    }

    /// A Pod of ours changed or went: its owner is woken, or, when that is gone, whoever clears up after it.
    pub fn on_pod(&self, change: &Change<Pod>, clusters: &Store<ValkeyCluster>, secrets: &Store<SecretMeta>) {
        let pod = changed(change);
        // By name, not UID: a namesake may be waiting for exactly this Pod's name to become free.
        self.owner_of(&**pod);
        let labelled = || pod.labels().get(labels::CLUSTER_UID).cloned();
        let Some(uid) = owner(&**pod).map(|owner| owner.uid.clone()).or_else(labelled) else { return };
        if clusters.find(|cluster| cluster.uid().as_deref() == Some(uid.as_str())).is_none() {
            let name = owner(&**pod)
                .map(|owner| owner.name.clone())
                .or_else(|| pod.labels().get(labels::CLUSTER).cloned());
            self.secrets_of(&pod.namespace().unwrap_or_default(), &name.unwrap_or_default(), secrets);
        }
    }

    /// A Service or a `ConfigMap` of ours changed or went: its owner puts it right.
    pub fn on_owned<K: Resource<DynamicType = ()>>(&self, change: &Change<K>) {
        self.owner_of(&**changed(change));
    }

    /// A Secret changed or went: ours, or one that the specs of clusters name.
    pub fn on_secret(&self, change: &Change<SecretMeta>, clusters: &Store<ValkeyCluster>) {
        let secret = changed(change);
        if labels::is_managed(&**secret) {
            self.owner_of(&**secret);
            if let Change::Set { new, .. } = change {
                self.secrets.send(ObjectRef::from_obj(&**new));
            }
        }
        let (namespace, name) = (secret.namespace(), secret.name_any());
        let named =
            |c: &ValkeyCluster| c.namespace() == namespace && c.spec.names_secret(&c.name_any(), &name);
        for cluster in clusters.state_filter(named) {
            self.cluster(ObjectRef::from_obj(&*cluster));
        }
    }

    /// A worker changed. Heartbeats wake nobody; what decides where Pods may run wakes everybody.
    pub fn on_worker(&self, change: &Change<Node>, clusters: &Store<ValkeyCluster>) {
        if let Change::Set { old: Some(old), new } = change
            && same_worker(old, new)
        {
            return;
        }
        for cluster in clusters.state() {
            self.cluster(ObjectRef::from_obj(&*cluster));
        }
    }

    /// A namespace changed. Only its end matters.
    pub fn on_namespace(&self, change: &Change<NamespaceMeta>, clusters: &Store<ValkeyCluster>) {
        let Change::Set { new, .. } = change else { return };
        if new.metadata.deletion_timestamp.is_none() {
            return;
        }
        for cluster in clusters.state_filter(|c| c.namespace().as_deref() == Some(&new.name_any())) {
            self.cluster(ObjectRef::from_obj(&*cluster));
        }
    }

    fn owner_of<K: Resource<DynamicType = ()>>(&self, child: &K) {
        let labelled = || child.meta().labels.as_ref().and_then(|l| l.get(labels::CLUSTER));
        let Some(name) = owner(child).map(|owner| &owner.name).or_else(labelled) else { return };
        self.cluster_named(&child.namespace().unwrap_or_default(), name);
    }

    fn secrets_of(&self, namespace: &str, cluster: &str, secrets: &Store<SecretMeta>) {
        let of_cluster = |s: &SecretMeta| {
            s.metadata.namespace.as_deref() == Some(namespace)
                && s.labels().get(labels::CLUSTER).is_some_and(|c| c == cluster)
        };
        for secret in secrets.state_filter(of_cluster) {
            self.secrets.send(ObjectRef::from_obj(&*secret));
        }
    }
}

/// The reference to the `ValkeyCluster` that controls `child`.
pub fn owner<K: Resource>(child: &K) -> Option<&OwnerReference> {
    let (group, kind) = (ValkeyCluster::group(&()), ValkeyCluster::kind(&()));
    child.meta().owner_references.as_ref()?.iter().find(|reference| {
        let of_group = reference.api_version.split_once('/').is_some_and(|(g, _)| g == group);
        reference.controller == Some(true) && reference.kind == kind && of_group
    })
}

/// Namespace, name and UID; `None` for an object that the API server has never seen.
pub fn key_of(cluster: &ValkeyCluster) -> Option<ClusterKey> {
    Some(ClusterKey { namespace: cluster.namespace()?, name: cluster.name_any(), uid: cluster.uid()? })
}

fn changed<K>(change: &Change<K>) -> &Arc<K> {
    match change {
        Change::Set { new, .. } => new,
        Change::Gone(last) => last,
    }
}

/// Adding a finalizer or an annotation does not change the generation; a deletion mark does, but only that of the object
/// it is put on.
fn same_wish(old: &ValkeyCluster, new: &ValkeyCluster) -> bool {
    let (old, new) = (old.meta(), new.meta());
    old.generation == new.generation
        && old.deletion_timestamp == new.deletion_timestamp
        && old.finalizers == new.finalizers
        && old.annotations == new.annotations
        && old.labels == new.labels
}

fn same_worker(old: &Node, new: &Node) -> bool {
    let ready = |node: &Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.and_then(|all| all.iter().find(|c| c.type_ == "Ready")).map(|c| c.status.clone())
    };
    let schedulable =
        |node: &Node| node.spec.as_ref().map(|s| (s.unschedulable.unwrap_or(false), s.taints.clone()));
    old.meta().labels == new.meta().labels
        && old.meta().deletion_timestamp == new.meta().deletion_timestamp
        && ready(old) == ready(new)
        && schedulable(old) == schedulable(new)
}

/// A channel whose receiving end exists only while somebody listens.
#[derive(Clone)]
struct Gate<T>(Arc<Mutex<Option<UnboundedSender<T>>>>);

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Gate<T> {
    fn open(&self) -> UnboundedReceiver<T> {
        let (sender, receiver) = unbounded();
        *lock(&self.0) = Some(sender);
        receiver
    }

    fn send(&self, item: T) {
        let mut sender = lock(&self.0);
        if sender.as_ref().is_some_and(|s| s.unbounded_send(item).is_err()) {
            *sender = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(change: &Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": { "name": "w", "labels": { "zone": "a" } },
            "spec": { "taints": [] },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" }] },
        });
        if let (Value::Object(node), Value::Object(change)) = (&mut node, change.clone()) {
            node.extend(change);
        }
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn a_heartbeat_is_no_change_and_a_cordon_is_one() {
        let old = node(&json!({}));
        let beat = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:05:00Z" }] } });
        assert!(same_worker(&old, &node(&beat)));
        for change in [
            json!({ "spec": { "taints": [], "unschedulable": true } }),
            json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } }),
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } }),
            json!({ "metadata": { "name": "w", "labels": { "zone": "b" } } }),
        ] {
            assert!(!same_worker(&old, &node(&change)), "{change}");
        }
    }

    #[test]
    fn a_gate_without_a_listener_keeps_nothing() {
        let gate = Gate::default();
        gate.send(1);
        let mut listener = gate.open();
        gate.send(2);
        assert_eq!(listener.try_recv(), Ok(2));
        drop(listener);
        gate.send(3);
        assert!(gate.0.lock().unwrap().is_none());
        assert!(gate.open().try_recv().is_err());
    }

    #[test]
    fn only_a_controller_of_our_kind_is_an_owner() {
        let pod = |api: &str, kind: &str, controller: bool| -> Pod {
            let reference =
                json!({ "apiVersion": api, "kind": kind, "name": "c", "uid": "u", "controller": controller });
            serde_json::from_value(json!({ "metadata": { "ownerReferences": [reference] } })).unwrap()
        };
        assert!(owner(&pod("valkey.io/v1alpha1", "ValkeyCluster", true)).is_some());
        assert!(owner(&pod("valkey.io/v1alpha1", "ValkeyCluster", false)).is_none());
        assert!(owner(&pod("valkey.io/v1alpha1", "ValkeyNode", true)).is_none());
        assert!(owner(&pod("other.io/v1alpha1", "ValkeyCluster", true)).is_none());
    }
}
