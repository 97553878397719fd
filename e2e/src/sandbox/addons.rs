//! Decides what runs in the sandbox's Kubernetes from the start. An addon is a manifest here and, if it needs one, an
//! image in `images`.
//!
//! May apply those manifests.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::instance::{Instance, write};
use super::kubectl;
use crate::command::run;

/// Name and manifest of each.
const ADDONS: [(&str, &str); 1] = [("coredns", include_str!("../../addons/coredns/coredns.yaml"))];
/// A few objects, on a machine that is still busy with starting.
const APPLY: Duration = Duration::from_mins(1);

/// Applies all of them.
///
/// # Errors
/// If the API server refuses one.
pub(super) fn apply(instance: &Instance) -> Result<()> {
    for (name, manifest) in ADDONS {
        let file = instance.path(format!("addons/{name}.yaml"));
        write(&file, manifest.as_bytes())?;
        let mut apply = kubectl::command(instance);
        apply.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&file);
        run(&mut apply, APPLY).with_context(|| format!("cannot install {name}"))?;
    }
    Ok(())
}
