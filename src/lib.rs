//! A Kubernetes operator for Valkey Cluster on bare Pods: this page is the map of the crate.
//!
//! ```text
//! spec ─┐
//! kube ─┼─ observe ─► Snapshot ─► View ─► RULES (pure, ordered) ─► admit (pure) ─► Plan ─┬─► execute: guard, then ONE effect a step
//! valkey┘ reads only   facts     the join   proposals + why                               └─► report (pure): status, events, metrics
//! ```
//!
//! Pure layers, without client, clock, randomness or unordered map (`tests/layers.rs` enforces it):
//! [`model`] the vocabulary, [`plan`] the decisions, [`build`] the Kubernetes objects, [`report`] what is said of it all.
//! Effects live in [`observe`] (reads), [`execute`] (writes) and [`valkey`] (the wire).

pub mod api;
pub mod build;
pub mod clock;
pub mod context;
pub mod controller;
pub mod ending;
pub mod error;
pub mod execute;
pub mod flags;
pub mod hints;
pub mod kube_client;
pub mod lease;
pub mod model;
pub mod mutex;
pub mod observe;
mod parallel;
pub mod plan;
pub mod publish;
pub mod reconcile;
pub mod report;
pub mod standby;
pub mod sweep;
pub mod telemetry;
pub mod valkey;
pub mod watch;
