//! What the operator may do, right by right and without wildcards, each with what it is for. Pure.
//!
//! For all namespaces the rights are a `ClusterRole`; for some, a Role in each of them, and for the whole cluster nothing is left
//! but to look at workers.

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::install::{NAMESPACE, global, value};
use super::labels::OPERATOR;
use crate::api;

/// One right: group, resources, verbs, and what it is for.
pub type Right = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);

/// What is in namespaces.
pub const NAMESPACED: &[Right] = &[
    (api::GROUP, &["valkeyclusters"], &["get", "list", "watch"], "What is wanted."),
    (api::GROUP, &["valkeyclusters/status"], &["patch"], "Where it is answered."),
    (api::GROUP, &["valkeyclusters/finalizers"], &["update"], "To own objects with blockOwnerDeletion."),
    ("", &["pods"], &["get", "list", "watch", "create", "patch", "delete"], "Members."),
    ("", &["pods/status"], &["patch"], "The gate of their readiness."),
    (
        "",
        &["services", "configmaps"],
        &["get", "list", "watch", "create", "patch"],
        "Server-side apply is patch, and create when the object is new; get finds another manager's object of the same name.",
    ),
    (
        "policy",
        &["poddisruptionbudgets"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "How many members evictions leave; taken away when spec.podDisruptionBudget says so.",
    ),
    (
        "networking.k8s.io",
        &["networkpolicies"],
        &["get", "list", "watch", "create", "patch"],
        "Who may connect to members.",
    ),
    (
        "",
        &["secrets"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "Contents are read of those alone that a cluster names (get); of all others a watch shows that they changed, without contents. \
         Passwords outlive the cluster object until the last pod is gone, so the operator deletes them.",
    ),
    ("", &["events"], &["list"], "What Kubernetes says of a pod that does not start."),
    ("events.k8s.io", &["events"], &["create", "patch"], "What happened."),
];

/// What an operator for all namespaces may see besides.
pub const EVERYWHERE: &[Right] =
    &[("", &["namespaces"], &["list", "watch"], "A namespace that is being deleted.")];

/// What is in no namespace.
pub const GLOBAL: &[Right] = &[("", &["nodes"], &["list", "watch"], "Where members may run.")];

/// What the operator's own namespace is for.
pub const OWN: &[Right] = &[(
    "coordination.k8s.io",
    &["leases"],
    &["get", "create", "update"],
    "The lease that decides which of the replicas acts.",
)];

/// Roles and bindings for all namespaces, or for these.
///
/// # Errors
/// Never for these types; what cannot be written as JSON would be reported.
pub(super) fn roles(namespaces: &[String]) -> serde_json::Result<Vec<Value>> {
    let everywhere: Vec<Right> = if namespaces.is_empty() {
        NAMESPACED.iter().chain(EVERYWHERE).chain(GLOBAL).copied().collect()
    } else {
        GLOBAL.to_vec()
    };
    let mut all = vec![
        value(&ClusterRole {
            metadata: global(OPERATOR),
            rules: Some(rules(&everywhere)),
            aggregation_rule: None,
        })?,
        value(&ClusterRoleBinding {
            metadata: global(OPERATOR),
            role_ref: refers_to("ClusterRole"),
            subjects: Some(subjects()),
        })?,
    ];
    let each = namespaces.iter().map(|n| (n.as_str(), NAMESPACED, OPERATOR.to_owned()));
    // Its own namespace may be one of them: another name keeps the two apart.
    for (namespace, rights, name) in each.chain([(NAMESPACE, OWN, format!("{OPERATOR}-lease"))]) {
        let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..global(&name) };
        all.push(value(&Role { metadata: metadata.clone(), rules: Some(rules(rights)) })?);
        let role_ref = RoleRef { name, ..refers_to("Role") };
        all.push(value(&RoleBinding { metadata, role_ref, subjects: Some(subjects()) })?);
    }
    Ok(all)
}

fn rules(rights: &[Right]) -> Vec<PolicyRule> {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let rule = |(group, resources, verbs, _): &Right| PolicyRule {
        api_groups: Some(vec![(*group).to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..Default::default()
    };
    rights.iter().map(rule).collect()
}

fn subjects() -> Vec<Subject> {
    vec![Subject {
        kind: "ServiceAccount".to_owned(),
        name: OPERATOR.to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        ..Default::default()
    }]
}

fn refers_to(kind: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: OPERATOR.to_owned(),
    }
}
