//! What the operator answers: the status of a `ValkeyCluster`. Plain data, no decisions.
//!
//! Nothing in it changes by itself (lag and memory are metrics), so a settled cluster causes no writes.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What the operator last saw. Written by the operator alone.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ValkeyClusterStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Health in one word: Initializing (being created), Reconciling (on the way to the wanted state), Ready (serving, whole),
    /// Degraded (serving in part, or with less redundancy than asked for) or Failed (cannot go on by itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// Why the state is what it is, one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,

    /// The same as a sentence that says what to do, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// Shards that have slots now.
    #[serde(default)]
    pub shards: i32,

    /// Shards with a primary that serves and every wanted replica in sync.
    #[serde(default)]
    pub ready_shards: i32,

    /// Pods of the cluster.
    #[serde(default)]
    pub replicas: i32,

    /// Label selector of the pods that lead a shard each: one pod a shard, as the scale subresource needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// True once slots have been handed out for the first time, and for ever after: a formed cluster is repaired, never formed anew.
    #[serde(default)]
    pub formed: bool,

    /// What the data is spread for: number of shards and revision of the pods, as 3/0f3a5b7c9d1e. It follows a change of the spec
    /// when that is done; with spec.purgeKeysOnRebalance as soon as the keys are dropped, so that one change drops them once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,

    /// Ready, Progressing, Degraded, ClusterFormed, SlotsAssigned and, while paused, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// What the operator is doing. Absent when nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,

    /// What became of the hand-over that the annotation valkey.io/hand-over asks for. Absent without that annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOver>,

    /// What became of each node id that the annotation valkey.io/gone vouches for. Absent without that annotation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub gone: Vec<GoneNode>,

    /// The shards in their order: who serves which slots, and where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["shard"]))]
    pub topology: Vec<ShardTopology>,
}

/// A hand-over that a person asks for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct HandOver {
    /// What the annotation says. The same request is done once; to ask again, take the annotation away first.
    pub request: String,

    /// Pending, Done or Refused.
    pub state: HandOverState,

    /// Pod that led when the request was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,

    /// What it waits for, or why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A node of which a person says that its process does not run any more.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct GoneNode {
    /// Id of the node.
    pub node: String,

    /// Believed, Refused or Unknown.
    pub state: GoneState,

    /// Why it is refused, or what an unknown id may be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What became of a person's word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum GoneState {
    /// It counts as proof that the process is dead.
    Believed,
    /// It cannot be so: a Pod of the node exists, or somebody hears it.
    Refused,
    /// No node of the cluster lists such an id: it is forgotten already, or mistyped.
    Unknown,
}

/// How far a request is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum HandOverState {
    /// Still to be done.
    Pending,
    /// Done, and not done again.
    Done,
    /// It cannot be done: the annotation is to be corrected.
    Refused,
}

/// Health in one word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(inline)]
pub enum State {
    /// Being created for the first time.
    Initializing,
    /// On the way to the wanted state.
    Reconciling,
    /// Serving, and as the spec says.
    Ready,
    /// Serving in part, or with fewer copies than the spec says.
    Degraded,
    /// Cannot go on by itself.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A change under way.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Operation {
    /// Kind of change: Forming, ScalingOut, ScalingIn, Upgrading, Evacuating, Repairing, Rebalancing or Purging.
    pub kind: OperationKind,

    /// What it is at, such as AddingPods, Syncing, MovingSlots, HandingOver or RemovingPods.
    pub stage: String,

    /// Counter of the stage; it only grows.
    pub done: i64,

    /// What the counter grows to.
    pub total: i64,

    /// What is counted, such as pods, shards or slots.
    pub unit: String,

    /// Stage and counter in one, for people: MovingSlots 1200/4096.
    pub progress: String,

    /// When the change began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// When this stage of it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<Time>,

    /// While slots move: the data in them. Estimated from the average slot of each shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<OperationBytes>,
}

/// The data of slots that move.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct OperationBytes {
    /// Bytes that have moved.
    pub done: i64,

    /// Bytes that are to move in all.
    pub total: i64,

    /// Bytes a second since the stage began.
    pub per_second: i64,
}

impl Operation {
    /// An operation whose `progress` agrees with its other fields. Counts are in `unit`s, `done` at most `total`.
    pub fn new(
        kind: OperationKind,
        stage: &str,
        (done, total): (i64, i64),
        unit: &str,
        since: Option<Time>,
    ) -> Self {
        let progress = format!("{stage} {done}/{total}");
        let (stage, unit) = (stage.to_owned(), unit.to_owned());
        Self { kind, stage, done, total, unit, progress, since, stage_since: None, bytes: None }
    }

    /// The same with the data that moves, which `progress` then shows from one MiB on.
    #[must_use]
    pub fn with_bytes(mut self, bytes: OperationBytes) -> Self {
        const MIB: i64 = 1 << 20;
        if bytes.total >= MIB {
            let (done, total, rate) = (bytes.done / MIB, bytes.total / MIB, bytes.per_second / MIB);
            self.progress = format!("{}, {done}/{total} MiB, {rate} MiB/s", self.progress);
        }
        self.bytes = Some(bytes);
        self
    }
}

/// Kind of a change.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(inline)]
pub enum OperationKind {
    /// From pods to a cluster that serves.
    Forming,
    /// More shards or replicas.
    ScalingOut,
    /// Fewer shards or replicas.
    ScalingIn,
    /// New image or settings by replacement of pods.
    Upgrading,
    /// Away from workers that are about to leave.
    Evacuating,
    /// Lost members are replaced.
    Repairing,
    /// Slots or primaries are evened out.
    Rebalancing,
    /// Data is dropped on purpose.
    Purging,
    /// Nodes load other certificates.
    RotatingCertificates,
    /// Nodes are switched from plain text to TLS, or back.
    SwitchingTls,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One shard as it is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ShardTopology {
    /// Ordinal of the shard, from 0; it is on the pods' label valkey.io/shard-index.
    pub shard: i32,

    /// Hash slots of the shard as ranges with both ends: 0-5460 or, in several parts, 0-100 200. Empty when it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slots: String,

    /// The member that serves the slots. Absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<MemberRef>,

    /// Members that copy the primary, by pod name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub replicas: Vec<ReplicaRef>,
}

/// The primary's pod and where it runs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct MemberRef {
    /// Name of the pod.
    pub pod: String,

    /// Worker (Kubernetes Node) that the pod runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,
}

/// A replica's pod, where it runs and whether it could take over.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ReplicaRef {
    /// Name of the pod.
    pub pod: String,

    /// Worker (Kubernetes Node) that the pod runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,

    /// Whether it holds the primary's data and follows it.
    pub in_sync: bool,
}

/// The standard condition, keyed by type so that several writers do not replace each other's.
fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let items = Condition::json_schema(generator);
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": items
    })
}
