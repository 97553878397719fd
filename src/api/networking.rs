//! How the cluster is reached: encryption, and by whom. Plain data, no decisions.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::schema;

/// How nodes, clients and the operator reach each other.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkingSpec {
    /// TLS for clients, replication and cluster bus alike; the plain port is closed then. Default: plain text. It is decided when
    /// the cluster is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// Who may connect as a client, as the peers of a NetworkPolicy (namespaceSelector, podSelector, ipBlock). Default: everybody.
    /// The cluster's own pods and the operator always may. It needs a network that enforces NetworkPolicies; an operator that
    /// runs outside of the cluster must be named here by its ipBlock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "peers")]
    pub allowed_clients: Vec<NetworkPolicyPeer>,
}

/// TLS of a cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Where the certificates come from.
    pub certificates: CertificatesSpec,

    /// Whether clients show a certificate of their own, signed by a CA of ca.crt. Optional (default): they may. Required: they
    /// must (mutual TLS). Disabled: they are not asked. Changed live. Nodes always show theirs to each other.
    #[serde(default)]
    pub client_auth: ClientAuthSpec,
}

/// The certificates of a cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesSpec {
    /// The certificate of all nodes. A change of the Secret, or of its name, is loaded live by every node: a new CA is trusted
    /// everywhere before a certificate of it is shown, and the old one is dropped last.
    pub server: CertificateRef,
}

/// A Secret with a certificate.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRef {
    /// Name of a Secret of this namespace with tls.crt, tls.key and ca.crt, as cert-manager writes them. The certificate needs the
    /// usages server auth and client auth.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Whether clients show a certificate.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthSpec {
    /// They may; one that is shown must be valid.
    #[default]
    Optional,
    /// They must: mutual TLS.
    Required,
    /// They are not asked.
    Disabled,
}

fn peers(_: &mut SchemaGenerator) -> Schema {
    schema::list(32, &schema::open("One peer, as in a NetworkPolicy."))
}
