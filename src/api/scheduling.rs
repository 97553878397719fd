//! Where the pods may be, and how far from each other. Plain data, no decisions.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Toleration, TopologySpreadConstraint};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::extras::read;
use super::schema;
use crate::model::{self, Scheduling, Zone};

/// What the pods ask of the scheduler, as in a Pod, and how the cluster is spread.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// Labels that a worker must have. A worker without them gets no pod, and pods on it stay until it is drained.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::spec::null_is_empty"
    )]
    #[schemars(schema_with = "node_selector")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that do not keep the pods away. A worker that is cordoned, or tainted by an autoscaler that removes it, is
    /// emptied all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,

    /// Affinity as in a Pod; the operator's own terms are added. To keep copies of a shard on different workers write
    /// node.spread.shard.mode Required instead of a required pod anti-affinity: that would leave a successor no
    /// room where there are only as many workers as copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "as_in_a_pod")]
    pub affinity: Option<serde_json::Value>,

    /// Topology spread constraints as in a Pod. Give those over kubernetes.io/hostname nodeAffinityPolicy Ignore: a pod that is
    /// moved names its worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "spread_constraints")]
    pub topology_spread_constraints: Vec<serde_json::Value>,

    /// Name of the PriorityClass of the pods. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// How the cluster is spread over workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeSpec>,

    /// How the cluster is spread over zones (the label topology.kubernetes.io/zone of the workers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneSpec>,
}

/// How the cluster is spread over workers.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// What is spread, and how earnestly. Changed live: pods in a place that is wrong by then are moved one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadSpec>,
}

/// How the cluster is spread over zones.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ZoneSpec {
    /// What is spread, and how earnestly. Changed live: pods in a place that is wrong by then are moved one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadSpec>,

    /// Gives each copy of a shard its zone. Changed live: pods in a zone that is wrong by then are moved one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinning: Option<PinningSpec>,
}

/// Zones by name.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinningSpec {
    /// Zones in the order in which the copies of shard 0 are pinned to them, starting again when there are more copies than
    /// zones; every further shard begins one zone later. A copy that its zone has no room for stays Pending.
    #[schemars(schema_with = "zones")]
    pub zones: Vec<String>,
}

/// What is spread, and how earnestly.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SpreadSpec {
    /// The copies of each shard. Required: over workers no two of them share one; over zones none has two more than another. A copy
    /// for which that leaves no room stays Pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<SpreadRule>,

    /// The primaries of all shards: no place that has pods has two more than another, as far as hand-overs can do it. Required: while
    /// it is not so and no hand-over can make it so, the cluster serves and is not Ready (PrimariesUneven).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primaries: Option<SpreadRule>,

    /// All pods of the cluster. Required: a new pod comes only to where no other place has fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<SpreadRule>,
}

/// How earnestly.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SpreadRule {
    /// Preferred (default): as well as can be. Required: rather no pod than one in the wrong place. Disabled: it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SpreadMode>,
}

/// How earnestly something is spread.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpreadMode {
    /// It does not matter.
    Disabled,
    /// As well as can be.
    Preferred,
    /// Rather no pod than one in the wrong place.
    Required,
}

/// What the planner and the pods are made from.
///
/// # Errors
/// A sentence for what the schema lets through and is not as in a Pod.
pub(super) fn wanted(given: SchedulingSpec) -> Result<Scheduling, String> {
    let zone = given.zone.unwrap_or_default();
    let constraint = |value: &serde_json::Value| {
        let what = "spec.scheduling.topologySpreadConstraints";
        read::<TopologySpreadConstraint>(what, Some(value)).map(Option::unwrap_or_default)
    };
    Ok(Scheduling {
        node_selector: given.node_selector,
        tolerations: given.tolerations,
        affinity: read("spec.scheduling.affinity", given.affinity.as_ref())?,
        topology_spread_constraints: given
            .topology_spread_constraints
            .iter()
            .map(constraint)
            .collect::<Result<_, _>>()?,
        priority_class_name: given.priority_class_name,
        node: spread(given.node.and_then(|n| n.spread)),
        zone: spread(zone.spread),
        pinned: zone.pinning.map(|p| p.zones.iter().map(Zone::new).collect()).unwrap_or_default(),
    })
}

fn spread(given: Option<SpreadSpec>) -> model::Spread {
    let given = given.unwrap_or_default();
    let mode = |rule: Option<SpreadRule>| match rule.and_then(|r| r.mode) {
        Some(SpreadMode::Disabled) => model::SpreadMode::Disabled,
        Some(SpreadMode::Preferred) | None => model::SpreadMode::Preferred,
        Some(SpreadMode::Required) => model::SpreadMode::Required,
    };
    model::Spread { shard: mode(given.shard), primaries: mode(given.primaries), pods: mode(given.pods) }
}

fn zones(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 63, "pattern": "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"}
    })
}

fn node_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63, "description": "Value of the label."}
    })
}

fn tolerations(_: &mut SchemaGenerator) -> Schema {
    let toleration = json_schema!({
        "type": "object",
        "description": "One toleration, as in a Pod.",
        "properties": {
            "key": {"type": "string", "description": "Key of the taint; none with operator Exists tolerates all."},
            "operator": {"type": "string", "enum": ["Exists", "Equal"], "description": "Equal (default) compares the value, Exists does not."},
            "value": {"type": "string", "description": "Value of the taint."},
            "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"], "description": "Effect of the taint; none is any."},
            "tolerationSeconds": {"type": "integer", "format": "int64", "description": "How long a NoExecute taint is tolerated; none is for ever."}
        }
    });
    schema::list(32, &toleration)
}

fn as_in_a_pod(_: &mut SchemaGenerator) -> Schema {
    schema::open_field()
}

fn spread_constraints(_: &mut SchemaGenerator) -> Schema {
    schema::list(8, &schema::open("One constraint, as in a Pod."))
}
