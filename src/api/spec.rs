//! What a person asks for: the spec of a `ValkeyCluster`. Plain data, no decisions.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    api::core::v1::{LocalObjectReference, PodSecurityContext, ResourceRequirements},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::extras::{ExporterSpec, MetadataSpec};
use super::{
    DEFAULT_GRACE_SECONDS, DEFAULT_IMAGE, networking::NetworkingSpec, scheduling::SchedulingSpec, schema,
    status::ValkeyClusterStatus, users::UserSpec,
};

/// What the cluster should be. The operator works towards it and reports in status.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "valkey.io",
    version = "v1alpha1",
    kind = "ValkeyCluster",
    plural = "valkeyclusters",
    singular = "valkeycluster",
    shortname = "vkc",
    namespaced,
    status = "ValkeyClusterStatus",
    derive = "PartialEq",
    doc = "A Valkey Cluster: shards of one primary and its replicas, each node a Pod that the operator owns. Data lives in memory only."
)]
#[serde(rename_all = "camelCase")]
pub struct ValkeyClusterSpec {
    /// Number of shards, 1 to 1000. The 16384 hash slots are spread evenly over them. From 3 on, the
    /// surviving primaries can vote for a replacement of a lost one by themselves.
    #[schemars(range(min = 1, max = 1000))]
    pub shards: i32,

    /// Replicas of each shard, 0 to 5, besides its primary. Default 0. With 0 the loss of a pod is the loss of its data;
    /// with 1 a lost primary is replaced by its replica within milliseconds to seconds.
    #[serde(default)]
    #[schemars(range(min = 0, max = 5))]
    pub replicas: i32,

    /// Valkey image, 8.0 or newer, with `valkey-server` on its path. Default docker.io/valkey/valkey:9.1.2. It is
    /// pulled when the worker does not have it yet (IfNotPresent).
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Secrets of this namespace with the credentials for pulling the image, as in a Pod. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Valkey settings by name, as in valkey.conf, every value a string (quote numbers and yes/no). What CONFIG SET can
    /// change is changed live, without replacing a pod; other settings come with new pods. Settings that
    /// the operator needs for itself (ports, membership, persistence, users, TLS) are refused by name. Defaults that
    /// differ from Valkey's: cluster-node-timeout 2000 (500 to 60000 allowed), cluster-require-full-coverage no,
    /// repl-diskless-sync-delay 0, and maxmemory at 65 % of the memory limit when there is one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    #[schemars(schema_with = "config")]
    pub config: BTreeMap<String, String>,

    /// Users of the cluster besides the operator's own, applied to running servers within seconds, without replacing a pod.
    /// Users that are not listed are removed. The user default is open to all unless it is listed: give it enabled false
    /// once the clients have users of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::users::list")]
    pub users: Vec<UserSpec>,

    /// CPU and memory of the `server` container. Default none. All data lives in memory: set limits.memory, at least
    /// 32Mi, and leave a third of it for replication buffers and copies while syncing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,

    /// Security context of the pods. Each field given here replaces the default of that field: runAsNonRoot true,
    /// runAsUser, runAsGroup and fsGroup 999, seccompProfile RuntimeDefault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_security_context: Option<PodSecurityContext>,

    /// How many shards may have a member replaced at one moment (upgrade, resize, evacuation of a worker): a number from 1
    /// on, or a percentage of the shards such as 25% (rounded down, at least 1). Default 1. A shard that is short of a copy
    /// for any other reason counts, too; repairs are never held back.
    #[serde(default = "default_disrupted")]
    #[schemars(schema_with = "number_or_percent")]
    pub max_disrupted_shards: IntOrString,

    /// Any text, best a time such as 2026-01-31T12:00:00Z: when it changes, all pods are replaced one after another, as for
    /// an upgrade. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub restarted_at: Option<String>,

    /// The PodDisruptionBudget that the operator keeps for the cluster.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudgetSpec,

    /// Which workers may have the pods, and how they are spread. Default: any, with copies of a shard on different workers and
    /// zones, and pods and primaries even over both, as well as can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<SchedulingSpec>,

    /// How nodes, clients and the operator reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<NetworkingSpec>,
    /// Labels and annotations of the pods beside the operator's. Changed live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<MetadataSpec>,

    /// Labels and annotations of the Service beside the operator's. Changed live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_metadata: Option<MetadataSpec>,

    /// An exporter of metrics in each pod. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exporter: Option<ExporterSpec>,

    /// Containers by name. Of `server` and `metrics-exporter` env, envFrom, imagePullPolicy and securityContext can be changed; any
    /// other name adds a container, which is started before `server`, again whenever it ends, and ended after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::extras::containers")]
    pub containers: Vec<serde_json::Value>,

    /// Seconds that a pod told to go may take before it is killed, 1 to 86400. Default 300. A pod that is deleted or
    /// evicted serves on until a synced copy has taken its place, at most until 15 s before this time is over: give it
    /// at least the time that a copy of a node's data takes (about 4 s for each GB).
    #[serde(default = "default_grace")]
    #[schemars(range(min = 1, max = 86400))]
    pub termination_grace_period_seconds: i64,

    /// For caches whose keys may go: true drops ALL keys, once, whenever the number of shards or anything that pods are made of
    /// (image, resources and so on) changes. The change then takes little longer than the start of new pods, because nothing is moved or
    /// copied, and the cluster serves all the time. A Warning event KeysPurged says so. Failures, evictions and drains
    /// never drop keys. Default false.
    #[serde(default)]
    pub purge_keys_on_rebalance: bool,

    /// While true the operator observes and reports, but changes nothing. Default false.
    #[serde(default)]
    pub paused: bool,
}

impl ValkeyClusterSpec {
    /// Whether a cluster of this name and spec reads the Secret of that name: a change of it is a change of the spec.
    pub fn names_secret(&self, cluster: &str, secret: &str) -> bool {
        let certificates = self.networking.as_ref().and_then(|n| n.tls.as_ref());
        certificates.is_some_and(|tls| tls.certificates.server.secret_name == secret)
            || self.users.iter().any(|u| u.secret(cluster) == Some(secret.to_owned()))
    }
}

impl Default for ValkeyClusterSpec {
    /// One shard without replicas, everything else as the API server would fill it in.
    fn default() -> Self {
        Self {
            shards: 1,
            replicas: 0,
            image: default_image(),
            image_pull_secrets: Vec::new(),
            config: BTreeMap::new(),
            users: Vec::new(),
            resources: None,
            pod_security_context: None,
            max_disrupted_shards: default_disrupted(),
            scheduling: None,
            pod_metadata: None,
            service_metadata: None,
            exporter: None,
            containers: Vec::new(),
            restarted_at: None,
            networking: None,
            pod_disruption_budget: DisruptionBudgetSpec::default(),
            termination_grace_period_seconds: default_grace(),
            purge_keys_on_rebalance: false,
            paused: false,
        }
    }
}

/// Whether evictions are counted by Kubernetes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DisruptionBudgetMode {
    /// One PodDisruptionBudget for the cluster: evictions (kubectl drain, autoscalers) take one pod at a time.
    #[default]
    Cluster,
    /// None. Pods still hold on until they are replaced, within their grace period.
    Disabled,
}

/// The PodDisruptionBudget of the cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudgetSpec {
    /// Cluster (default): evictions take one pod at a time. Disabled: no PodDisruptionBudget.
    #[serde(default)]
    pub mode: DisruptionBudgetMode,
}

fn default_disrupted() -> IntOrString {
    IntOrString::Int(1)
}

fn number_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

/// Server-side apply of an empty map over one with entries leaves a null behind (Kubernetes 1.34, measured).
pub(super) fn null_is_empty<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn default_image() -> String {
    DEFAULT_IMAGE.to_owned()
}

fn default_grace() -> i64 {
    DEFAULT_GRACE_SECONDS
}

/// Upstream's schema leaves `name` optional, which a list keyed by it does not allow.
fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    let secret = json_schema!({
        "type": "object",
        "description": "Reference to a Secret of this namespace.",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Name of the Secret."}
        }
    });
    schema::named_list(16, &secret)
}

/// The bounds keep the cost of the rules on this map within what the API server allows.
fn config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 100,
        "additionalProperties": {"type": "string", "maxLength": 1024, "description": "Value of the setting, as in valkey.conf."}
    })
}

/// Limits and requests alone: claims need a pod that declares them, which this API cannot.
pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: Cow<'static, str>| {
        json_schema!({
            "type": "object",
            "maxProperties": 16,
            "description": description,
            "additionalProperties": {
                "x-kubernetes-int-or-string": true,
                "maxLength": 32,
                "description": "Amount, such as 500m of cpu or 1Gi of memory."
            }
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "limits": amounts("Most that the container may use, by resource. A node over its memory limit is killed and replaced.".into()),
            "requests": amounts("What is set aside for the container on its worker, by resource. Default: the limits.".into())
        }
    })
}
