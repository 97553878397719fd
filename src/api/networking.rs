//! How the cluster is reached. Plain data, no decisions.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How nodes, clients and the operator reach each other.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkingSpec {
    /// Who may connect as a client, as the peers of a NetworkPolicy (namespaceSelector, podSelector, ipBlock). Default: everybody.
    /// The cluster's own pods and the operator always may. It needs a network that enforces NetworkPolicies; an operator that
    /// runs outside of the cluster must be named here by its ipBlock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "peers")]
    pub allowed_clients: Vec<NetworkPolicyPeer>,
}

fn peers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "description": "One peer, as in a NetworkPolicy.",
            "x-kubernetes-preserve-unknown-fields": true
        }
    })
}
