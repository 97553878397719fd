//! The operator as a user installs it: one `kubectl apply`, two replicas, a lease.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::json;
use valkey_cluster_operator::api::{ValkeyCluster, crd};

use super::stage::{TICK, eventually};
use crate::command::run;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, images};
use crate::stranger::{Pull, Stranger};

/// Where it is installed.
pub(super) const NAMESPACE: &str = "valkey-operator-system";
/// Its Deployment.
pub(super) const DEPLOYMENT: &str = "valkey-cluster-operator";
/// Its Pods.
pub(super) const SELECTOR: &str = "app.kubernetes.io/name=valkey-cluster-operator";
/// The container in which it runs.
pub(super) const CONTAINER: &str = "operator";
/// Its lease.
pub(super) const LEASE: &str = "valkey-cluster-operator";
/// What installs it.
const MANIFEST: &str = "manifests/install.yaml";
/// A manifest is applied within seconds.
const APPLY: Duration = Duration::from_mins(1);
/// From a registry on a slow line.
const PULLED: Duration = Duration::from_mins(3);
/// Image present: the Pods are Ready within seconds.
const ROLLOUT: Duration = Duration::from_mins(1);

/// Applies `manifests/install.yaml`, makes the Pods run the image that is loaded now, and waits until all are Ready.
///
/// # Errors
/// If the API server refuses, or the Pods do not become Ready.
pub(super) async fn install(sandbox: &Sandbox, client: &Client) -> Result<()> {
    apply(sandbox, &crate::root().join(MANIFEST))?;
    scale(client, 2).await
}

/// Applies what installs it, whoever applied something else before.
///
/// # Errors
/// If the API server refuses.
pub(super) fn apply(sandbox: &Sandbox, manifest: &Path) -> Result<()> {
    let file = manifest.to_str().context("the path of the manifest is not text")?;
    sandbox.kubectl(["apply", "--server-side", "--force-conflicts", "-f", file]).map(drop)
}

/// Installs it on somebody's cluster, and says whether there was none before. What is there already stays as it is,
/// unless an image is asked for.
///
/// # Errors
/// If another operator owns the kind, the API server refuses, the workers cannot pull the image, or the Pods do not become Ready.
pub(super) async fn install_on(stranger: &Stranger, progress: &Progress) -> Result<bool> {
    let client = stranger.client();
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let asked = stranger.options().operator_image.as_deref();
    let there = api.get_opt(DEPLOYMENT).await?;
    let new = there.is_none();
    match (asked, there) {
        (None, Some(there)) => {
            progress.line(format_args!("the operator that is there is used as it is: {}", image_of(&there)));
        }
        (asked, _) => {
            let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
            may_own(kinds.get_opt(ValkeyCluster::crd_name()).await?.as_ref(), stranger.context())?;
            let manifest = std::fs::read_to_string(crate::root().join(MANIFEST))?;
            let manifest =
                asked.map_or_else(|| manifest.clone(), |image| manifest.replace(images::OPERATOR, image));
            let file =
                std::env::temp_dir().join(format!("valkey-operator-install-{}.yaml", std::process::id()));
            std::fs::write(&file, manifest)?;
            let mut apply = stranger.kubectl_command();
            apply.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&file);
            let applied = tokio::task::block_in_place(|| run(&mut apply, APPLY));
            std::fs::remove_file(&file)?;
            applied?;
        }
    }
    started(stranger, &api).await?;
    Ok(new)
}

/// Whether the kind may be written: `there` is the one of this name that the cluster of this context has.
///
/// # Errors
/// That another operator owns it.
fn may_own(there: Option<&CustomResourceDefinition>, context: &str) -> Result<()> {
    let Some(there) = there.filter(|crd| !crd::is_ours(crd)) else { return Ok(()) };
    bail!(
        "another operator owns the kind {} on the cluster of the context {context}: the CustomResourceDefinition has no label \
         {}={}. Nothing was installed: it would have taken the kind from that operator, with the clusters that it keeps",
        there.name_any(),
        crd::OPERATOR_LABEL.0,
        crd::OPERATOR_LABEL.1
    )
}

/// Waits until the newest Pods of the Deployment are available, or one cannot get its image.
async fn started(stranger: &Stranger, api: &Api<Deployment>) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(stranger.client(), NAMESPACE);
    let began = std::time::Instant::now();
    loop {
        let live = api.get(DEPLOYMENT).await?;
        let (wanted, status) =
            (live.spec.as_ref().and_then(|s| s.replicas), live.status.clone().unwrap_or_default());
        let observed = status.observed_generation == live.metadata.generation;
        if observed && status.updated_replicas == wanted && status.available_replicas == wanted {
            return Ok(());
        }
        let all = pods.list(&ListParams::default().labels(SELECTOR)).await?.items;
        if let Some(pull) = all.iter().find_map(Pull::of) {
            bail!(pull.sentence(stranger.context(), "--operator-image"));
        }
        ensure!(
            began.elapsed() < PULLED,
            "the operator is not available after {} s ({}/{} Pods): {} logs -n {NAMESPACE} -l {SELECTOR}",
            PULLED.as_secs(),
            status.available_replicas.unwrap_or(0),
            wanted.unwrap_or(1),
            stranger.kubectl_words()
        );
        tokio::time::sleep(TICK).await;
    }
}

fn image_of(deployment: &Deployment) -> String {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.and_then(|pod| pod.containers.first()?.image.clone()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_another_operator_is_left_alone() {
        let ours = valkey_cluster_operator::api::crd();
        let mut theirs = ours.clone();
        theirs.metadata.labels = None;
        assert!(may_own(None, "kind-a").is_ok());
        assert!(may_own(Some(&ours), "kind-a").is_ok());
        let said = may_own(Some(&theirs), "kind-a").unwrap_err().to_string();
        assert!(said.starts_with("another operator owns the kind valkeyclusters.valkey.io"), "{said}");
        assert!(
            said.contains("kind-a") && said.contains("valkey.io/operator=valkey-cluster-operator"),
            "{said}"
        );
    }
}
