//! The sandbox (a real multi-worker Kubernetes on one machine), the write ledger, and the stories.

pub mod cache;
pub mod command;
pub mod debs;
pub mod ledger;
pub mod processes;
pub mod progress;
pub mod resp;
pub mod sandbox;
pub mod stories;
pub mod stranger;
pub mod truth;

/// The root of this repository.
pub fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
