//! A Kubernetes operator for Valkey Cluster.

pub mod telemetry;
