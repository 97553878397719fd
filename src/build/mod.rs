//! The Kubernetes objects of a cluster, built from what is wanted. Pure: the same input gives the same bytes.

pub mod certificate;
pub mod config;
pub mod credentials;
pub mod drift;
mod hold;
pub mod install;
pub mod labels;
pub mod metadata;
pub mod network;
pub mod objects;
pub mod place;
pub mod pod;
pub mod quantity;
pub mod rbac;
pub mod revision;
pub mod sbom;
pub mod sidecars;
pub mod tls;

pub use credentials::Credentials;
pub use drift::drifted;
pub use network::policy;
pub use objects::{budget, config_map, secret, service};
pub use pod::{PodPlan, pod};
pub use revision::revision;
