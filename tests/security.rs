//! What the operator may do, who may connect to what, and what a Pod may do, as the manifests say.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::build::{self, PodPlan, install, labels};
use valkey_cluster_operator::model::{Demands, Desired, Shard};

fn desired(spec: &Value) -> Desired {
    let object = json!({ "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster",
        "metadata": { "name": "c", "namespace": "ns", "uid": "uid-1" }, "spec": spec });
    let cr: ValkeyCluster = serde_json::from_value(object).unwrap();
    api::desired(&cr).unwrap()
}

/// A right as a person reads it: `verb group/resource`.
fn rights(role: &Value) -> BTreeSet<String> {
    let list =
        |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                all.extend(list(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    all
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|o| o["kind"] == kind).collect()
}

#[test]
fn for_some_namespaces_the_operator_has_rights_in_these_alone() {
    let everywhere = install::install(&[]).unwrap();
    let some = install::install(&["a".into(), "b".into()]).unwrap();
    let mut all = rights(of_kind(&everywhere, "ClusterRole")[0]);
    // The end of a namespace is only watched for all.
    all.retain(|right| !right.ends_with("/namespaces"));
    let global = rights(of_kind(&some, "ClusterRole")[0]);
    let workers: BTreeSet<String> = ["list", "watch"].map(|v| format!("{v} /nodes")).into();
    assert_eq!(global, workers, "for the whole cluster it looks at workers and nothing else");
    let roles = of_kind(&some, "Role");
    for namespace in ["a", "b"] {
        let role = roles.iter().find(|r| r["metadata"]["namespace"] == namespace).unwrap();
        let together: BTreeSet<String> = rights(role).union(&global).cloned().collect();
        assert_eq!(together, all, "the same rights in {namespace} as the other installation has everywhere");
    }
    let bindings = of_kind(&some, "RoleBinding");
    assert_eq!((roles.len(), bindings.len()), (3, 3), "one more for the lease");
    for binding in bindings {
        let role = roles.iter().find(|r| r["metadata"]["namespace"] == binding["metadata"]["namespace"]);
        assert_eq!(role.unwrap()["metadata"]["name"], binding["roleRef"]["name"]);
    }
    let deployment = of_kind(&some, "Deployment")[0].to_string();
    assert!(deployment.contains(r#"{"name":"VALKEY_OPERATOR_NAMESPACES","value":"a,b"}"#), "{deployment}");
}

#[test]
fn no_right_reaches_further_than_its_words() {
    for all in [install::install(&[]).unwrap(), install::install(&["a".into()]).unwrap()] {
        for role in of_kind(&all, "ClusterRole").into_iter().chain(of_kind(&all, "Role")) {
            for right in rights(role) {
                for reach in
                    ["*", "escalate", "bind", "impersonate", "pods/exec", "deletecollection", "roles"]
                {
                    assert!(!right.contains(reach), "{right}");
                }
            }
        }
    }
}

fn restricted(spec: &PodSpec, what: &str) {
    let pod = spec.security_context.clone().unwrap_or_default();
    assert_eq!(pod.run_as_non_root, Some(true), "{what}");
    assert!(pod.run_as_user.is_none_or(|u| u > 0), "{what}");
    assert_eq!(pod.seccomp_profile.map(|s| s.type_).as_deref(), Some("RuntimeDefault"), "{what}");
    assert!(spec.host_network.is_none() && spec.host_pid.is_none() && spec.host_ipc.is_none(), "{what}");
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let name = format!("{what}, container {}", container.name);
        let own = container.security_context.clone().unwrap_or_default();
        assert_eq!(own.allow_privilege_escalation, Some(false), "{name}");
        assert_eq!(own.read_only_root_filesystem, Some(true), "{name}");
        assert_ne!(own.privileged, Some(true), "{name}");
        let capabilities = own.capabilities.unwrap_or_default();
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{name}");
        assert!(capabilities.add.is_none(), "{name}");
        assert!(container.ports.iter().flatten().all(|p| p.host_port.is_none()), "{name}");
    }
}

fn first_member() -> PodPlan {
    PodPlan {
        name: labels::pod_name("c", Shard(0), 0),
        shard: Shard(0),
        index: 0,
        worker: None,
        worker_hostname: None,
        demands: Demands::default(),
        not_on_hostnames: Vec::new(),
        failures: 0,
    }
}

#[test]
fn every_pod_keeps_to_the_restricted_level_and_members_have_no_token() {
    let wanted = desired(&json!({ "shards": 3, "replicas": 1 }));
    let member = build::pod(&wanted, &build::revision(&wanted), &first_member()).spec.unwrap();
    restricted(&member, "a member");
    assert_eq!(member.automount_service_account_token, Some(false));
    assert!(member.service_account_name.is_none());
    let all = install::install(&[]).unwrap();
    let operator = of_kind(&all, "Deployment")[0]["spec"]["template"]["spec"].clone();
    restricted(&serde_json::from_value(operator).unwrap(), "the operator");
}

/// Where a connection comes from.
struct From<'a> {
    namespace: &'a str,
    namespace_labels: &'a [(&'a str, &'a str)],
    pod_labels: &'a [(&'a str, &'a str)],
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    assert!(selector.match_expressions.is_none(), "the evaluator knows no expressions");
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
}

fn map(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn is_peer(peer: &NetworkPolicyPeer, own_namespace: &str, from: &From<'_>) -> bool {
    assert!(peer.ip_block.is_none(), "the evaluator knows no address ranges");
    let namespace = match &peer.namespace_selector {
        Some(selector) => matches(selector, &map(from.namespace_labels)),
        None => from.namespace == own_namespace,
    };
    namespace && peer.pod_selector.as_ref().is_none_or(|s| matches(s, &map(from.pod_labels)))
}

/// Whether the policy lets a connection in, as an enforcing network would: no rule, no way.
fn lets_in(policy: &NetworkPolicy, from: &From<'_>, port: i32) -> bool {
    let spec = policy.spec.as_ref().unwrap();
    assert_eq!(spec.policy_types.as_deref(), Some(&["Ingress".to_owned()][..]));
    let own = policy.metadata.namespace.as_deref().unwrap();
    spec.ingress.iter().flatten().any(|rule| {
        let named = rule.ports.iter().flatten().any(|p| p.port == Some(IntOrString::Int(port)));
        named && rule.from.as_ref().is_none_or(|peers| peers.iter().any(|p| is_peer(p, own, from)))
    })
}

const MEMBER: From<'_> = From {
    namespace: "ns",
    namespace_labels: &[("kubernetes.io/metadata.name", "ns")],
    pod_labels: &[("valkey.io/cluster-uid", "uid-1"), ("valkey.io/cluster", "c")],
};
/// Same name, same namespace's name is impossible; the same name elsewhere is not.
const NAMESAKE: From<'_> = From {
    namespace: "other",
    namespace_labels: &[("kubernetes.io/metadata.name", "other")],
    pod_labels: &[("valkey.io/cluster-uid", "uid-2"), ("valkey.io/cluster", "c")],
};
const OPERATOR: From<'_> = From {
    namespace: "valkey-operator-system",
    namespace_labels: &[("kubernetes.io/metadata.name", "valkey-operator-system")],
    pod_labels: &[
        ("app.kubernetes.io/name", "valkey-cluster-operator"),
        ("app.kubernetes.io/instance", "valkey-cluster-operator"),
    ],
};
const APPLICATION: From<'_> = From {
    namespace: "shop",
    namespace_labels: &[("kubernetes.io/metadata.name", "shop"), ("team", "shop")],
    pod_labels: &[("app", "cart")],
};

#[test]
fn the_bus_is_for_members_alone_and_clients_are_those_that_the_spec_names() {
    let open = build::policy(&desired(&json!({ "shards": 3 })));
    let named = json!([{ "namespaceSelector": { "matchLabels": { "team": "shop" } },
        "podSelector": { "matchLabels": { "app": "cart" } } }]);
    let closed = build::policy(&desired(&json!({ "shards": 3, "networking": { "allowedClients": named } })));
    let cases = [
        // from, port, without and with spec.networking.allowedClients
        ("member", &MEMBER, 6379, true, true),
        ("member", &MEMBER, 16379, true, true),
        ("operator", &OPERATOR, 6379, true, true),
        ("operator", &OPERATOR, 6380, true, true),
        ("operator", &OPERATOR, 16379, false, false),
        ("application", &APPLICATION, 6379, true, true),
        ("application", &APPLICATION, 16379, false, false),
        ("application", &APPLICATION, 9121, true, true),
        ("application", &APPLICATION, 22, false, false),
        ("namesake", &NAMESAKE, 6379, true, false),
        ("namesake", &NAMESAKE, 6380, true, false),
        ("namesake", &NAMESAKE, 16379, false, false),
    ];
    for (who, from, port, without, with) in cases {
        assert_eq!(lets_in(&open, from, port), without, "{who} {port}, clients from anywhere");
        assert_eq!(lets_in(&closed, from, port), with, "{who} {port}, clients named");
    }
    let member = build::pod(&desired(&json!({ "shards": 3 })), &"r".into(), &first_member());
    let selects = open.spec.unwrap().pod_selector.unwrap();
    assert!(matches(&selects, &member.metadata.labels.unwrap()), "the policy covers the members");
}

#[test]
fn nothing_comes_into_the_operator_but_health_checks_and_metrics() {
    let all = install::install(&[]).unwrap();
    let policy: NetworkPolicy = serde_json::from_value(of_kind(&all, "NetworkPolicy")[0].clone()).unwrap();
    assert!(lets_in(&policy, &APPLICATION, 8080));
    assert!(!lets_in(&policy, &APPLICATION, 443) && !lets_in(&policy, &MEMBER, 6379));
    let template = of_kind(&all, "Deployment")[0]["spec"]["template"]["metadata"]["labels"].clone();
    let labels: BTreeMap<String, String> = serde_json::from_value(template).unwrap();
    assert!(matches(&policy.spec.unwrap().pod_selector.unwrap(), &labels));
}
