//! The sandbox (a real multi-worker Kubernetes on one machine), the write ledger, and the stories.

pub mod cache;
pub mod command;
pub mod debs;
pub mod ledger;
pub mod processes;
pub mod progress;
pub mod resp;
pub mod sandbox;
pub mod truth;
