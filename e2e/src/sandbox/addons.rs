//! Decides what runs in the sandbox's Kubernetes from the start, and what a story may ask for besides. An addon is a manifest
//! here and, if it needs one, an image in `images`.
//!
//! May apply those manifests.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::instance::{Instance, write};
use super::kubectl;
use crate::command::run;

/// Name and manifest of each.
const ADDONS: [(&str, &str); 1] = [("coredns", include_str!("../../addons/coredns/coredns.yaml"))];
/// Asked for by whoever needs it: it costs each kubelet a question every ten seconds.
const METRICS: (&str, &str) =
    ("metrics-server", include_str!("../../addons/metrics-server/metrics-server.yaml"));
/// A few objects, on a machine that is still busy with starting.
const APPLY: Duration = Duration::from_mins(1);

/// It starts, asks every kubelet twice, and is Ready then.
const ANSWERS: Duration = Duration::from_mins(2);

/// Applies all of them.
///
/// # Errors
/// If the API server refuses one.
pub(super) fn apply(instance: &Instance) -> Result<()> {
    ADDONS.into_iter().try_for_each(|addon| install(instance, addon))
}

/// Applies the metrics server, whose image the workers have, and waits until the API server passes questions on to it.
///
/// # Errors
/// If the API server refuses it, or it does not answer in time.
pub(super) fn apply_metrics(instance: &Instance) -> Result<()> {
    install(instance, METRICS)?;
    let mut wait = kubectl::command(instance);
    let limit = format!("--timeout={}s", ANSWERS.as_secs());
    wait.args(["wait", "--for=condition=Available", &limit, "apiservice/v1beta1.metrics.k8s.io"]);
    run(&mut wait, ANSWERS + APPLY).context(
        "the metrics server does not answer: see `sandbox kubectl -n kube-system logs deploy/metrics-server`",
    )?;
    Ok(())
}

fn install(instance: &Instance, (name, manifest): (&str, &str)) -> Result<()> {
    let file = instance.path(format!("addons/{name}.yaml"));
    write(&file, manifest.as_bytes())?;
    let mut apply = kubectl::command(instance);
    apply.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&file);
    run(&mut apply, APPLY).with_context(|| format!("cannot install {name}"))?;
    Ok(())
}
