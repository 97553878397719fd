//! A Kubernetes operator for Valkey Cluster.

pub mod error;
pub mod flags;
pub mod kube_client;
pub mod lease;
pub mod telemetry;
