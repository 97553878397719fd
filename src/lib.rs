//! A Kubernetes operator for Valkey Cluster.
