//! The objects beside the pods: headless Service, `ConfigMap`, Secret. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret, Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    config::{self, BUS_PORT, CLIENT_PORT, CONFIG_FILE},
    credentials::Credentials,
    labels::{self, CLUSTER, CLUSTER_UID, GIVEN, common_name, owned_by, secret_name},
    metadata,
};
use crate::model::Desired;

/// Where clients find the nodes: every address, ready or not, so that a client can learn the topology from any of them.
///
/// The selector names the UID: pods left over by a namesake are no part of this cluster.
pub fn service(desired: &Desired) -> Service {
    let port = |name: &str, port: i32| ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..Default::default()
    };
    let mut meta = owned(desired);
    metadata::add(&mut meta, &desired.template.service);
    // Always there, so that a look tells that nothing is wanted any more.
    meta.annotations.get_or_insert_default().entry(GIVEN.to_owned()).or_default();
    Service {
        metadata: meta,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from([
                (CLUSTER.to_owned(), desired.key.name.clone()),
                (CLUSTER_UID.to_owned(), desired.key.uid.clone()),
            ])),
            ports: Some(vec![port("client", CLIENT_PORT), port("cluster-bus", BUS_PORT)]),
            ..Default::default()
        }),
        status: None,
    }
}

/// How many members evictions leave: all of those that serve but one.
///
/// A number, never a percentage: Kubernetes would compute that from the scale subresource, whose count is of shards.
/// `serving` are the members that are Ready and not told to go.
pub fn budget(desired: &Desired, serving: usize) -> PodDisruptionBudget {
    let least = serving.min(desired.members()).saturating_sub(1);
    PodDisruptionBudget {
        metadata: owned(desired),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(i32::try_from(least).unwrap_or(i32::MAX))),
            selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([(CLUSTER_UID.to_owned(), desired.key.uid.clone())])),
                match_expressions: None,
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        status: None,
    }
}

/// `valkey.conf`, read by a node when it starts.
pub fn config_map(desired: &Desired) -> ConfigMap {
    ConfigMap {
        metadata: owned(desired),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), config::valkey_conf(desired))])),
        ..Default::default()
    }
}

/// The passwords of the system users. Without an owner: it must outlive the cluster object until the last pod is gone.
pub fn secret(desired: &Desired, credentials: &Credentials) -> Secret {
    let annotations = BTreeMap::from([(CLUSTER_UID.to_owned(), desired.key.uid.clone())]);
    Secret {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            ..labels::metadata(desired, secret_name(&desired.key.name))
        },
        type_: Some("Opaque".to_owned()),
        data: Some(credentials.data(is_open(desired))),
        ..Default::default()
    }
}

/// A user `default` in the spec is closed from the first moment of a server, and becomes what the spec says with all others.
pub fn is_open(desired: &Desired) -> bool {
    !desired.users.contains_key("default")
}

fn owned(desired: &Desired) -> ObjectMeta {
    ObjectMeta {
        owner_references: Some(owned_by(&desired.key)),
        ..labels::metadata(desired, common_name(&desired.key.name))
    }
}
