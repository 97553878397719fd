//! The operator as a user installs it: one `kubectl apply`, two replicas, a lease.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::stage::eventually;
use crate::sandbox::Sandbox;

/// Where it is installed.
pub(super) const NAMESPACE: &str = "valkey-operator-system";
/// Its Deployment.
pub(super) const DEPLOYMENT: &str = "valkey-cluster-operator";
/// Its Pods.
pub(super) const SELECTOR: &str = "app.kubernetes.io/name=valkey-cluster-operator";
/// Its lease.
pub(super) const LEASE: &str = "valkey-cluster-operator";
/// Image present: the Pods are Ready within seconds.
const ROLLOUT: Duration = Duration::from_mins(1);

/// Applies `manifests/install.yaml`, makes the Pods run the image that is loaded now, and waits until all are Ready.
///
/// # Errors
/// If the API server refuses, or the Pods do not become Ready.
pub(super) async fn install(sandbox: &Sandbox, client: &Client) -> Result<()> {
    let manifest = crate::root().join("manifests/install.yaml");
    let file = manifest.to_str().context("the path of the manifest is not text")?;
    sandbox.kubectl(["apply", "--server-side", "--force-conflicts", "-f", file])?;
    scale(client, 2).await
}

/// Replaces its Pods, so that they run the image that is loaded now.
///
/// # Errors
/// If the Pods do not become Ready.
pub(super) async fn restart(sandbox: &Sandbox, client: &Client) -> Result<()> {
    let deployment = format!("deployment/{DEPLOYMENT}");
    sandbox.kubectl(["rollout", "restart", "-n", NAMESPACE, &deployment])?;
    sandbox.kubectl(["rollout", "status", "-n", NAMESPACE, &deployment, "--timeout=90s"])?;
    scale(client, 2).await
}

/// Scales it and waits until that many are Ready and no other is left.
///
/// # Errors
/// What is missing when time is up.
pub(super) async fn scale(client: &Client, replicas: i32) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let body = json!({ "spec": { "replicas": replicas } });
    api.patch(DEPLOYMENT, &PatchParams::default(), &Patch::Merge(&body)).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    eventually("the operator's Pods", ROLLOUT, async || {
        let live = api.get(DEPLOYMENT).await?;
        let ready = live.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let there = pods.list_metadata(&ListParams::default().labels(SELECTOR)).await?.items.len();
        let observed = live.status.as_ref().and_then(|s| s.observed_generation) == live.metadata.generation;
        ensure!(
            observed && ready == replicas && usize::try_from(replicas) == Ok(there),
            "{ready} of {replicas} Ready, {there} Pods"
        );
        Ok(())
    })
    .await
}

/// The Pod that holds the lease now.
///
/// # Errors
/// If nobody holds it.
pub(super) async fn leader(client: &Client) -> Result<String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let holder = api.get(LEASE).await?.spec.and_then(|s| s.holder_identity).unwrap_or_default();
    if holder.is_empty() {
        bail!("nobody holds the lease");
    }
    Ok(holder)
}
