//! The operator's own installation: everything that one `kubectl apply --server-side -f` needs. Pure.
//!
//! What the operator may do is in `rbac`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Namespace,
            ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecurityContext, Service, ServiceAccount, ServicePort, ServiceSpec, Toleration,
            TopologySpreadConstraint,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
        scheduling::v1::PriorityClass,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde::Serialize;
use serde_json::Value;

use super::labels::{OPERATOR, recommended};
use super::{network, rbac};
use crate::api;

/// Namespace of the operator.
pub const NAMESPACE: &str = "valkey-operator-system";
/// Image of the operator; kustomize replaces it by its name.
pub const IMAGE: &str = "localhost/valkey-cluster-operator:dev";
/// Port of /metrics, /livez and /readyz.
pub const HTTP_PORT: i32 = 8080;
/// Above what ordinary workloads have, below the system's own classes (2000000000): members are bare pods, which
/// nobody replaces while the operator is away.
const PRIORITY: i32 = 1_000_000;
/// Seconds that the operator's pods stay on a worker that stopped answering.
const TOLERATED_SECONDS: i64 = 30;
/// Numeric user of the operator's image, which has no user database. 65532 is the usual `nonroot`.
const USER: i64 = 65532;

/// Every object of the installation, in the order in which they are applied: for all namespaces, or for these.
///
/// # Errors
/// Never for these types; what cannot be written as JSON would be reported.
pub fn install(namespaces: &[String]) -> serde_json::Result<Vec<Value>> {
    let mut crd = api::crd();
    crd.metadata.labels.get_or_insert_default().extend(own_labels());
    let mut all = vec![value(&namespace())?, value(&crd)?, value(&service_account())?];
    all.extend(rbac::roles(namespaces)?);
    all.extend([
        value(&priority_class())?,
        value(&network::of_operator())?,
        value(&deployment(namespaces))?,
        value(&disruption_budget())?,
        value(&metrics_service())?,
    ]);
    Ok(all)
}

pub(super) fn value(object: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::to_value(object)
}

fn own_labels() -> BTreeMap<String, String> {
    let mut labels = recommended(OPERATOR, OPERATOR, env!("CARGO_PKG_VERSION"), "operator");
    // The operator does not manage itself: whoever applied the file does.
    labels.insert(super::labels::MANAGED_BY.to_owned(), "kubectl".to_owned());
    labels
}

pub(super) fn selector() -> BTreeMap<String, String> {
    ["name", "instance"].map(|key| (format!("app.kubernetes.io/{key}"), OPERATOR.to_owned())).into()
}

pub(super) fn global(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(own_labels()), ..Default::default() }
}

pub(super) fn namespaced(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(NAMESPACE.to_owned()), ..global(name) }
}

fn namespace() -> Namespace {
    let mut metadata = global(NAMESPACE);
    let level = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    metadata.labels.get_or_insert_default().extend([level]);
    Namespace { metadata, ..Default::default() }
}

fn service_account() -> ServiceAccount {
    ServiceAccount { metadata: namespaced(OPERATOR), ..Default::default() }
}

fn priority_class() -> PriorityClass {
    PriorityClass {
        metadata: global(OPERATOR),
        value: PRIORITY,
        global_default: Some(false),
        description: Some(
            "The Valkey Cluster operator: members are bare pods, which nobody replaces while it is away."
                .to_owned(),
        ),
        preemption_policy: None,
    }
}

fn deployment(namespaces: &[String]) -> Deployment {
    let one = || Some(IntOrString::Int(1));
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(own_labels()), ..Default::default() }),
        spec: Some(pod_spec(namespaces)),
    };
    Deployment {
        metadata: namespaced(OPERATOR),
        spec: Some(DeploymentSpec {
            replicas: Some(2),
            selector: LabelSelector { match_labels: Some(selector()), match_expressions: None },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment { max_surge: one(), max_unavailable: one() }),
            }),
            template,
            ..Default::default()
        }),
        status: None,
    }
}

fn pod_spec(namespaces: &[String]) -> PodSpec {
    // A wish, so that both replicas run on a cluster with a single worker too.
    let spread = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: super::place::HOSTNAME.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(selector()), match_expressions: None }),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..Default::default()
    };
    PodSpec {
        service_account_name: Some(OPERATOR.to_owned()),
        priority_class_name: Some(OPERATOR.to_owned()),
        topology_spread_constraints: Some(vec![spread]),
        tolerations: Some(["not-ready", "unreachable"].map(tolerates).to_vec()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..Default::default()
        }),
        containers: vec![container(namespaces)],
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TOLERATED_SECONDS),
        ..Default::default()
    }
}

fn tolerates(trouble: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{trouble}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(TOLERATED_SECONDS),
        value: None,
    }
}

fn container(namespaces: &[String]) -> Container {
    let amounts = |list: &[(&str, &str)]| {
        Some(
            list.iter()
                .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                .collect::<BTreeMap<_, _>>(),
        )
    };
    let probe = |path: &str, period: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(3),
        timeout_seconds: Some(2),
        ..Default::default()
    };
    Container {
        name: "operator".to_owned(),
        image: Some(IMAGE.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(environment(namespaces)),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: HTTP_PORT,
            protocol: Some("TCP".to_owned()),
            ..Default::default()
        }]),
        resources: Some(ResourceRequirements {
            requests: amounts(&[("cpu", "100m"), ("memory", "64Mi")]),
            limits: amounts(&[("memory", "512Mi")]),
            claims: None,
        }),
        liveness_probe: Some(probe("/livez", 10)),
        readiness_probe: Some(probe("/readyz", 2)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..Default::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    }
}

fn environment(namespaces: &[String]) -> Vec<EnvVar> {
    let mut all =
        vec![own_field("POD_NAME", "metadata.name"), own_field("POD_NAMESPACE", "metadata.namespace")];
    if !namespaces.is_empty() {
        let (name, value) = ("VALKEY_OPERATOR_NAMESPACES".to_owned(), Some(namespaces.join(",")));
        all.push(EnvVar { name, value, value_from: None });
    }
    all
}

fn own_field(name: &str, path: &str) -> EnvVar {
    let source = ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(source), ..Default::default() }),
        ..Default::default()
    }
}

fn disruption_budget() -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: namespaced(OPERATOR),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(selector()), match_expressions: None }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            max_unavailable: None,
        }),
        status: None,
    }
}

fn metrics_service() -> Service {
    Service {
        metadata: namespaced(&format!("{OPERATOR}-metrics")),
        spec: Some(ServiceSpec {
            selector: Some(selector()),
            ports: Some(vec![ServicePort {
                name: Some("metrics".to_owned()),
                port: HTTP_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        status: None,
    }
}
