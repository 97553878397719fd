//! The sandbox (a real multi-worker Kubernetes on one machine), the write ledger, and the stories.
