//! The pod of one member. Pure.
//!
//! Bare, without a disk, started once: a process that came back empty under the same address would be copied from.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, KeyToPath,
        ObjectFieldSelector, Pod, PodReadinessGate, PodSecurityContext, PodSpec, SeccompProfile,
        SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    config::{ACCESS_DIR, BUS_PORT, CLIENT_PORT, CONFIG_DIR, CONFIG_FILE, PRIMARY_FILE, USERS_FILE},
    hold,
    labels::{
        APART, FAILURES, INSTEAD_OF, NODE_INDEX, READINESS_GATE, REVISION, SHARD_INDEX, WORKER,
        certificates_name, common_name, labels, metadata, owned_by, secret_name,
    },
    metadata as given, place, sidecars, tls,
};
use crate::model::{Demands, Desired, PodName, Revision, Shard, WorkerName};

/// Name of the container that runs Valkey, always the first one.
pub const SERVER: &str = "server";
/// Name of the volume with the certificates; a pod without it speaks plain text.
pub const CERTIFICATES: &str = "certificates";
/// User and group of the `valkey` account in the public Valkey images.
const VALKEY_ID: i64 = 999;

/// Which member a pod is made for, and where it should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    /// Name of the pod.
    pub name: PodName,
    /// Its shard.
    pub shard: Shard,
    /// Its number within the shard.
    pub index: u16,
    /// The worker that was chosen, if one was: a wish, unless the demands say otherwise.
    pub worker: Option<WorkerName>,
    /// Its `kubernetes.io/hostname` label.
    pub worker_hostname: Option<String>,
    /// What it demands of the scheduler.
    pub demands: Demands,
    /// The `kubernetes.io/hostname` labels of the workers that it must not go to.
    pub not_on_hostnames: Vec<String>,
    /// How many predecessors in a row failed right after their start.
    pub failures: u16,
}

/// The pod of one member.
pub fn pod(desired: &Desired, revision: &Revision, plan: &PodPlan) -> Pod {
    let mut all = labels(desired);
    all.insert("app.kubernetes.io/component".to_owned(), SERVER.to_owned());
    all.insert(SHARD_INDEX.to_owned(), plan.shard.to_string());
    all.insert(NODE_INDEX.to_owned(), plan.index.to_string());
    if desired.template.scheduling.is_strict() && !plan.demands.uncounted {
        all.insert(APART.to_owned(), "true".to_owned());
    }
    let mut annotations = BTreeMap::from([
        (REVISION.to_owned(), revision.to_string()),
        (FAILURES.to_owned(), plan.failures.to_string()),
    ]);
    annotations.extend(plan.worker.as_ref().map(|w| (WORKER.to_owned(), w.to_string())));
    annotations.extend(plan.demands.instead_of.as_ref().map(|uid| (INSTEAD_OF.to_owned(), uid.to_string())));
    let mut meta = ObjectMeta {
        labels: Some(all),
        annotations: Some(annotations),
        owner_references: Some(owned_by(&desired.key)),
        ..metadata(desired, plan.name.to_string())
    };
    given::add(&mut meta, &desired.template.metadata);
    Pod { metadata: meta, spec: Some(spec(desired, plan)), status: None }
}

fn spec(desired: &Desired, plan: &PodPlan) -> PodSpec {
    let template = &desired.template;
    let secrets = &template.image_pull_secrets;
    let scheduling = &template.scheduling;
    let changed = template.containers.iter().find(|c| c.name == SERVER);
    PodSpec {
        containers: vec![sidecars::patched(server(desired), changed)],
        init_containers: some(&sidecars::sidecars(desired), Vec::is_empty),
        volumes: Some(volumes(desired)),
        restart_policy: Some("Never".to_owned()),
        readiness_gates: Some(vec![PodReadinessGate { condition_type: READINESS_GATE.to_owned() }]),
        affinity: Some(place::affinity(desired, plan)),
        node_selector: some(&place::node_selector(desired, plan), BTreeMap::is_empty),
        tolerations: some(&scheduling.tolerations, Vec::is_empty),
        topology_spread_constraints: some(&place::topology(desired, plan), Vec::is_empty),
        priority_class_name: scheduling.priority_class_name.clone(),
        security_context: Some(pod_security(&template.pod_security_context)),
        image_pull_secrets: (!secrets.is_empty()).then(|| secrets.clone()),
        termination_grace_period_seconds: Some(template.termination_grace_period_seconds),
        enable_service_links: Some(false),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

fn some<T: Clone>(value: &T, is_empty: fn(&T) -> bool) -> Option<T> {
    (!is_empty(value)).then(|| value.clone())
}

fn server(desired: &Desired) -> Container {
    let command = [
        "valkey-server",
        &format!("{CONFIG_DIR}/{CONFIG_FILE}"),
        "--cluster-announce-ip",
        "$(POD_IP)",
        "--cluster-announce-human-nodename",
        "$(POD_NAME)",
    ];
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..Default::default()
    };
    let certificates = desired.template.tls.as_ref().map(|_| mount(CERTIFICATES, tls::DIR));
    let mounts = [mount("config", CONFIG_DIR), mount("access", ACCESS_DIR)].into_iter().chain(certificates);
    Container {
        name: SERVER.to_owned(),
        image: Some(desired.template.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command.map(str::to_owned).to_vec()),
        env: Some(vec![
            field("POD_IP", "status.podIP"),
            field("POD_NAME", "metadata.name"),
            field("POD_UID", "metadata.uid"),
        ]),
        lifecycle: Some(hold::lifecycle(desired.template.termination_grace_period_seconds)),
        ports: Some(vec![port("client", CLIENT_PORT), port("cluster-bus", BUS_PORT)]),
        resources: Some(desired.template.resources.clone()),
        security_context: Some(container_security()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts.collect()),
        ..Default::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let source = ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(source), ..Default::default() }),
        ..Default::default()
    }
}

/// Only what the server reads: the operator's password stays out of the pod.
fn volumes(desired: &Desired) -> Vec<Volume> {
    let cluster = &desired.key.name;
    let items = |keys: &[&str]| {
        Some(
            keys.iter()
                .map(|k| KeyToPath { key: (*k).to_owned(), path: (*k).to_owned(), mode: None })
                .collect(),
        )
    };
    let readable_by_the_group = Some(0o440);
    // All of it: later certificates come as files of other names.
    let certificates = desired.template.tls.as_ref().map(|_| Volume {
        name: CERTIFICATES.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(certificates_name(cluster)),
            default_mode: readable_by_the_group,
            ..Default::default()
        }),
        ..Default::default()
    });
    let always = [
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: common_name(cluster),
                items: items(&[CONFIG_FILE]),
                default_mode: readable_by_the_group,
                optional: None,
            }),
            ..Default::default()
        },
        Volume {
            name: "access".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret_name(cluster)),
                items: items(&[USERS_FILE, PRIMARY_FILE]),
                default_mode: readable_by_the_group,
                optional: None,
            }),
            ..Default::default()
        },
    ];
    always.into_iter().chain(certificates).collect()
}

/// The restricted Pod Security level by default; each field that the spec gives replaces ours.
fn pod_security(given: &PodSecurityContext) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: given.run_as_non_root.or(Some(true)),
        run_as_user: given.run_as_user.or(Some(VALKEY_ID)),
        run_as_group: given.run_as_group.or(Some(VALKEY_ID)),
        fs_group: given.fs_group.or(Some(VALKEY_ID)),
        seccomp_profile: given
            .seccomp_profile
            .clone()
            .or_else(|| Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None })),
        ..given.clone()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..Default::default()
    }
}
