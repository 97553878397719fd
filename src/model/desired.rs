//! What a person asked for, validated: values that cannot be built cannot be planned for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, LocalObjectReference, PodSecurityContext, ResourceRequirements, SecurityContext,
    Toleration, TopologySpreadConstraint,
};

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;

use super::ids::{ClusterKey, Shard, Zone};
use super::users::User;

/// The wanted cluster. Built from the custom resource by `api::desired`, never by hand outside tests.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the spec")]
pub struct Desired {
    /// Which cluster.
    pub key: ClusterKey,
    /// `metadata.generation` of the spec this was read from.
    pub generation: i64,
    /// Number of shards, at least 1.
    pub shards: u16,
    /// Replicas of each primary; 0 means that a lost primary loses its data.
    pub replicas: u16,
    /// How many shards may be short of a copy, or have one being replaced, by plan at one moment; at least 1.
    pub max_disrupted_shards: u16,
    /// A `PodDisruptionBudget` is kept.
    pub budget: bool,
    /// Everything that goes into the Pods.
    pub template: Template,
    /// `spec.config` as written; names and values were checked at admission.
    pub config: BTreeMap<String, String>,
    /// A change of the shards or of what Pods are made of drops all keys first, once (`spec.purgeKeysOnRebalance`).
    pub purge: bool,
    /// `spec.users`, by name.
    pub users: BTreeMap<String, User>,
    /// Who may connect as a client; nobody named means everybody.
    pub allowed_clients: Vec<NetworkPolicyPeer>,
    /// What the annotation that asks for new passwords of the system users says; another text asks again.
    pub rotation: Option<String>,
    /// Nothing is changed while true.
    pub paused: bool,
    /// The custom resource is being deleted: nothing is created any more.
    pub deleting: bool,
}

/// The parts of the spec that a Pod is made of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Template {
    /// The container image of `server`.
    pub image: String,
    /// Secrets to pull it with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Requests and limits of `server`.
    pub resources: ResourceRequirements,
    /// What the spec overrides of the Pod's security context.
    pub pod_security_context: PodSecurityContext,
    /// Seconds between the wish to stop a Pod and its end.
    pub termination_grace_period_seconds: i64,
    /// Which workers may have the Pods, and how urgent they are.
    pub scheduling: Scheduling,
    /// A change of it asks for new Pods.
    pub restarted_at: Option<String>,
    /// The exporter of metrics beside the server, if one is wanted.
    pub exporter: Option<Exporter>,
    /// What is changed of our containers, and containers that are added.
    pub containers: Vec<Container>,
    /// Labels and annotations of the Pods; changed live.
    pub metadata: Metadata,
    /// Labels and annotations of the Service; changed live.
    pub service: Metadata,
    /// How connections are encrypted; none is plain text.
    pub tls: Option<Tls>,
}

/// TLS, for clients, replication and cluster bus alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The Secret of the namespace that holds `tls.crt`, `tls.key` and `ca.crt`. None when the spec names none any more while
    /// the nodes still speak TLS: then they keep what they have.
    pub secret: Option<String>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
}

/// Whether clients show a certificate of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientAuth {
    /// They may; one that is shown must be valid.
    #[default]
    Optional,
    /// They must.
    Required,
    /// They are not asked.
    Disabled,
}

/// The exporter of metrics.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Exporter {
    /// Its image.
    pub image: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its requests and limits.
    pub resources: ResourceRequirements,
    /// What the spec overrides of its security context.
    pub security_context: Option<SecurityContext>,
}

/// Labels and annotations that a person wants on an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Where the members may be, and how far from each other.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Scheduling {
    /// Labels that a worker must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that do not keep the Pods away.
    pub tolerations: Vec<Toleration>,
    /// Further wishes and demands; the operator's own wishes are added to them.
    pub affinity: Option<Affinity>,
    /// How evenly the Pods are spread.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Which Pods may be pushed aside for them.
    pub priority_class_name: Option<String>,
    /// How members are spread over workers.
    pub node: Spread,
    /// How members are spread over zones.
    pub zone: Spread,
    /// The zones of the copies of shard 0, in this order and then again from the first; each further shard begins one zone later.
    /// Empty: any zone.
    pub pinned: Vec<Zone>,
}

impl Scheduling {
    /// Copies of a shard must be apart, over workers or over zones.
    pub fn is_strict(&self) -> bool {
        [self.node.shard, self.zone.shard].contains(&SpreadMode::Required)
    }

    /// The zones that the copies of this shard are pinned to, sorted; empty: any.
    pub fn zones_of(&self, shard: Shard, copies: usize) -> Vec<&Zone> {
        let from = usize::from(shard.0) % self.pinned.len().max(1);
        let mut zones: Vec<&Zone> = self.pinned.iter().cycle().skip(from).take(copies).collect();
        zones.sort();
        zones
    }
}

/// What is spread over workers, or over zones, and how earnestly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// The copies of one shard.
    pub shard: SpreadMode,
    /// The primaries of all shards.
    pub primaries: SpreadMode,
    /// All members of the cluster.
    pub pods: SpreadMode,
}

/// How earnestly members are spread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SpreadMode {
    /// It does not matter.
    Disabled,
    /// As well as it can be.
    #[default]
    Preferred,
    /// Rather no member than one in the wrong place.
    Required,
}

impl Desired {
    /// Copies of each shard: the primary and its replicas.
    pub fn copies(&self) -> usize {
        1 + usize::from(self.replicas)
    }

    /// Pods of the whole cluster.
    pub fn members(&self) -> usize {
        usize::from(self.shards) * self.copies()
    }

    /// The wanted shards, by ordinal.
    pub fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.shards).map(Shard)
    }

    /// Whether this ordinal is wanted.
    pub fn wants(&self, shard: Shard) -> bool {
        shard.0 < self.shards
    }

    /// The real cluster-node-timeout in milliseconds, from `spec.config` or the default.
    pub fn node_timeout_ms(&self) -> u32 {
        self.config
            .get("cluster-node-timeout")
            .and_then(|v| v.parse().ok())
            .unwrap_or(super::settings::NODE_TIMEOUT_MS)
    }
}
