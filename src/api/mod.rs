//! The `ValkeyCluster` custom resource: what a person writes, what the operator answers.
//!
//! Decides the shape of the API and what is refused at admission. Touches nothing: plain data and one schema.

pub mod crd;
pub mod desired;
pub mod extras;
pub mod keys;
pub mod networking;
pub mod rules;
pub mod scheduling;
mod schema;
pub mod spec;
pub mod status;
pub mod users;

pub use crd::crd;
pub use desired::desired;
pub use spec::{ValkeyCluster, ValkeyClusterSpec};
pub use status::{
    MemberRef, Operation, OperationBytes, OperationKind, ReplicaRef, ShardTopology, State,
    ValkeyClusterStatus,
};

/// API group of the custom resource, and prefix of every label and annotation of ours.
pub const GROUP: &str = "valkey.io";

/// The Valkey image of a cluster that names none: the newest release that the tests run on.
///
/// It is written into the stored object at creation (a schema default), so a later operator with
/// another default replaces no pod of an existing cluster.
pub const DEFAULT_IMAGE: &str = "docker.io/valkey/valkey:9.1.2";

/// The image of the exporter of a cluster that wants one and names none.
pub const DEFAULT_EXPORTER_IMAGE: &str = "docker.io/oliver006/redis_exporter:v1.80.0";

/// Grace between the wish to stop a pod and SIGKILL when the spec gives none, in seconds. A pod that is told to go serves on
/// until a synced copy has taken its place, at most until 15 s before this time is over: enough for a start and a copy of tens
/// of GB. Who is released ends at once, so a long grace costs only those whose operator is away.
pub const DEFAULT_GRACE_SECONDS: i64 = 300;

/// Longest name of a `ValkeyCluster`, in characters.
///
/// A pod is `valkey-<name>-<shard>-<n>` with at most 3 digits of shard; its name becomes a host name
/// (63 at most), the cluster's name a label value (63 at most). 40 leaves 10 digits for `<n>`.
pub const MAX_NAME: usize = 40;
