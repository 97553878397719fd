//! Who may connect to what, for clusters whose network enforces it. Pure.
//!
//! Members: the port for clients from anywhere or from those that the spec names, and always from the cluster's own members and
//! the operator; the port of the cluster bus from the cluster's own members alone, because one greeting over it merges clusters.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    config::{BUS_PORT, CLIENT_PORT},
    install::{HTTP_PORT, namespaced, selector},
    labels::{CLUSTER_UID, OPERATOR, common_name, metadata, owned_by},
};
use crate::model::{Desired, wire::ASIDE_PORT};

/// Port of the metrics exporter.
pub const METRICS_PORT: i32 = 9121;

/// The policy of one cluster's members.
pub fn policy(desired: &Desired) -> NetworkPolicy {
    let members = || peer(None, Some(labels([(CLUSTER_UID, desired.key.uid.as_str())])));
    let clients = match desired.allowed_clients.as_slice() {
        [] => None,
        named => Some([&[members(), operator()], named].concat()),
    };
    let ingress = vec![
        rule(CLIENT_PORT, clients.clone()),
        // Nobody listens there but while the cluster is on its way to TLS or from it.
        rule(i32::from(ASIDE_PORT), clients),
        rule(BUS_PORT, Some(vec![members()])),
        rule(METRICS_PORT, None),
    ];
    NetworkPolicy {
        metadata: ObjectMeta {
            owner_references: Some(owned_by(&desired.key)),
            ..metadata(desired, common_name(&desired.key.name))
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels([(CLUSTER_UID, desired.key.uid.as_str())])),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            egress: None,
        }),
    }
}

/// The policy of the operator's own Pods: health checks and metrics, and nothing else comes in.
pub(super) fn of_operator() -> NetworkPolicy {
    NetworkPolicy {
        metadata: namespaced(OPERATOR),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(selector()), match_expressions: None }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![rule(HTTP_PORT, None)]),
            egress: None,
        }),
    }
}

/// The operator's Pods, in whatever namespace they run: the label alone would let anybody pretend, and opens no more than the
/// port for clients, where a password is asked for.
fn operator() -> NetworkPolicyPeer {
    peer(
        Some(LabelSelector::default()),
        Some(LabelSelector { match_labels: Some(selector()), match_expressions: None }),
    )
}

fn labels<const N: usize>(all: [(&str, &str); N]) -> LabelSelector {
    let map: BTreeMap<String, String> = all.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    LabelSelector { match_labels: Some(map), match_expressions: None }
}

fn peer(namespaces: Option<LabelSelector>, pods: Option<LabelSelector>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: namespaces, pod_selector: pods, ip_block: None }
}

/// One port; no list of peers means anybody.
fn rule(port: i32, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    NetworkPolicyIngressRule { ports: Some(vec![port]), from }
}
