//! What the process tells about itself: logs, metrics, and the HTTP server that health checks and scrapes use.
//!
//! Decides nothing about clusters. [`logs`] touches standard error, [`http`] one listening socket, [`metrics`] memory and `/proc/self`.

pub mod http;
pub mod logs;
pub mod metrics;
mod migrations;
mod process;

pub use http::Readiness;
pub use metrics::{ClusterGauges, Metrics, Part};
