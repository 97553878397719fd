//! The sandbox (a real multi-worker Kubernetes on one machine), the write ledger, and the stories.

pub mod cache;
pub mod command;
pub mod debs;
pub mod progress;
pub mod sandbox;
