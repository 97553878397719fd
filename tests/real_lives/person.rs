//! What a person does with `kubectl`: the spec, annotations, deletions.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::build::labels;

use super::NAMESPACE;
use super::certificates::{Issued, SECRET};
use crate::sim::script::Action;
use crate::sim::world::Start;
use crate::support::apiserver::ApiServer;

/// The cluster's name.
const NAME: &str = "c";

/// Somebody with a client of their own.
pub(crate) struct Person {
    api: ApiServer,
    client: kube::Client,
    pub issued: Issued,
    users: Vec<Value>,
    rotations: u32,
    /// What the spec says now.
    pub replicas: u16,
    pub paused: bool,
}

impl Person {
    /// Applies the cluster of the script.
    pub(crate) fn new(api: &ApiServer, start: &Start) -> Self {
        let mode =
            |required: bool| json!({ "shard": { "mode": if required { "Required" } else { "Preferred" } } });
        let cluster = json!({
            "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster",
            "metadata": { "namespace": NAMESPACE, "name": NAME },
            "spec": {
                "shards": start.shards, "replicas": start.replicas, "image": "valkey:9",
                "scheduling": {
                    "node": { "spread": mode(start.strict) }, "zone": { "spread": mode(start.strict_zones) },
                },
            },
        });
        api.put(&serde_json::from_value::<ValkeyCluster>(cluster).unwrap());
        Self {
            api: api.clone(),
            client: api.client(NAMESPACE),
            issued: Issued::default(),
            users: Vec::new(),
            rotations: 0,
            replicas: start.replicas,
            paused: false,
        }
    }

    /// Changes the spec, if the event is about it.
    pub(crate) async fn edit(&mut self, action: &Action) {
        let spec = match action {
            Action::Shards(n) => json!({ "shards": n }),
            Action::Replicas(n) => {
                self.replicas = *n;
                json!({ "replicas": n })
            }
            Action::Image(name) => json!({ "image": name }),
            Action::Disrupted(n) => json!({ "maxDisruptedShards": n }),
            Action::Config(key, value) => json!({ "config": { key: value } }),
            Action::Paused(yes) => {
                self.paused = *yes;
                json!({ "paused": yes })
            }
            Action::Purge(yes) => json!({ "purgeKeysOnRebalance": yes }),
            Action::User(name, rule) => {
                self.users.retain(|user| user["name"] != *name);
                let user = |rule: &String| json!({ "name": name, "nopass": true, "permissions": rule });
                self.users.extend(rule.as_ref().map(user));
                json!({ "users": self.users })
            }
            _ => return,
        };
        self.patch(json!({ "spec": spec })).await;
    }

    /// Writes a certificate into the Secret that the spec names from now on, or takes the wish for TLS back.
    pub(crate) async fn certify(&mut self, leaf: &str, authorities: &[String]) {
        if leaf == "off" {
            self.patch(json!({ "spec": { "networking": null } })).await;
            return;
        }
        self.api.put(&self.issued.secret(leaf, authorities));
        let tls = json!({ "certificates": { "server": { "secretName": SECRET } } });
        self.patch(json!({ "spec": { "networking": { "tls": tls } } })).await;
    }

    /// Asks for new passwords.
    pub(crate) async fn rotate(&mut self) {
        self.rotations += 1;
        self.annotate(labels::ROTATE, &self.rotations.to_string()).await;
    }

    /// Vouches for the end of these nodes.
    pub(crate) async fn vouch(&self, ids: &str) {
        self.annotate(labels::GONE, ids).await;
    }

    async fn annotate(&self, key: &str, value: &str) {
        self.patch(json!({ "metadata": { "annotations": { key: value } } })).await;
    }

    async fn patch(&self, body: Value) {
        let api: Api<ValkeyCluster> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.patch(NAME, &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
    }

    /// `kubectl delete pod`, or the same with `--force`.
    pub(crate) async fn delete(&self, pod: &Pod, force: bool) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let how = if force { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
        // It may be gone by itself.
        let _ = api.delete(&pod.name_any(), &how).await;
    }

    /// Somebody changes the `ConfigMap`.
    pub(crate) async fn drift(&self) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let body = json!({ "data": { "valkey.conf": "# somebody was here\n" } });
        api.patch(&labels::common_name(NAME), &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
    }
}
