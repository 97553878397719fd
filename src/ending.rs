//! A namespace that is being deleted: the Pods in it are told to go at once. Touches those Pods.
//!
//! Kubernetes comes for them five seconds after the deletion (`namespaceDeletionGracePeriod` of its namespace controller), and what
//! it then does not find gone it looks for five seconds later again. Pods that are gone by the first of these make the
//! namespace go with it. The deletion of a namespace cannot be taken back, so nothing is lost by being early.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::api::ValkeyCluster;
use crate::context::Ctx;
use crate::error::{Error, Result};
use crate::execute::short_grace;
use crate::hints::Hints;
use crate::mutex::lock;
use crate::parallel;

/// Pods that are told at one time.
const PARALLEL: usize = 16;

/// Deletes the Pods of the cluster, when its namespace is being deleted: they hold on until they are released, which the pass
/// then does. It gives them a short grace period, for a server that hangs and hears neither that nor SIGTERM, and gives it at
/// once: a kubelet that is ending a Pod does not hear of a shorter one any more (1.34, measured; `SyncTerminatingPod` has no
/// context of its caller).
///
/// # Errors
/// If this operator may not act, or the API server refuses a deletion.
pub async fn tell_pods(ctx: &Ctx, cr: &ValkeyCluster, hints: &Mutex<Hints>) -> Result<()> {
    let (namespace, uid) = (cr.namespace().unwrap_or_default(), cr.uid().unwrap_or_default());
    if !ctx.namespace_ends(&namespace) {
        return Ok(());
    }
    lock(hints).ending = true;
    let left: Vec<Arc<Pod>> =
        ctx.pods_of(&uid).into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
    if !left.is_empty() && !ctx.leadership.valid_now() {
        return Err(Error::NotLeading);
    }
    let api: Api<Pod> = Api::namespaced(ctx.clients.api.clone(), &namespace);
    let told: Vec<BoxFuture<'_, kube::Result<()>>> =
        left.iter().map(|pod| delete(&api, pod).boxed()).collect();
    parallel::all(told, PARALLEL).await.into_iter().collect::<kube::Result<()>>()?;
    Ok(())
}

async fn delete(api: &Api<Pod>, pod: &Pod) -> kube::Result<()> {
    let exactly = Preconditions { uid: pod.uid(), resource_version: None };
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let how = DeleteParams { grace_period_seconds: short_grace(own), ..DeleteParams::default() }
        .preconditions(exactly);
    let gone =
        |error: &kube::Error| matches!(error, kube::Error::Api(s) if s.is_not_found() || s.is_conflict());
    api.delete(&pod.name_any(), &how)
        .map_ok(drop)
        .or_else(async |error| if gone(&error) { Ok(()) } else { Err(error) })
        .await
}
