//! Decides when the last thing of a deleted `ValkeyCluster` goes: the Secret with the operator's passwords. Touches that
//! Secret.
//!
//! The Secret has no owner reference: garbage collection would take it with the `ValkeyCluster`, while Pods that hold on until
//! they are released still need the operator, and the operator its passwords. So it stays until no Pod of that very
//! `ValkeyCluster` (by UID) remains, and is deleted then.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::runtime::controller::{self, Action, Controller};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::api::ValkeyCluster;
use crate::build::labels;
use crate::context::{Backoff, Ctx};
use crate::error::{Error, Result};
use crate::model::ClusterKey;
use crate::watch::SecretMeta;

/// How many clusters are cleared up after at the same moment.
const CONCURRENCY: u16 = 8;
/// A process that does not lead now looks again after this.
const ENDING: Duration = Duration::from_secs(1);
/// A safety net for a deletion that no watch told of: a look at the caches, no request.
const SETTLED: Duration = Duration::from_mins(10);

/// Clears up until `stop`.
pub async fn run(ctx: Arc<Ctx>, stop: CancellationToken) {
    let woken = ctx.wakes.woken_secrets();
    let everything = stream::iter(ctx.stores.secrets.state());
    Controller::for_shared_stream(everything, ctx.stores.secrets.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(woken)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |secret, ctx| async move { one_secret(&secret, &ctx).await }.boxed(),
            |secret, error, ctx| after_failure(&secret, error, &ctx),
            Arc::clone(&ctx),
        )
        .for_each(|ended| async {
            match ended {
                Ok(_)
                | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "the sweeper"),
            }
        })
        .await;
}

async fn one_secret(secret: &SecretMeta, ctx: &Arc<Ctx>) -> Result<Action> {
    // A Secret of ours without these is not the one with the passwords.
    let Some(cluster) = cluster_of(secret) else { return Ok(Action::await_change()) };
    if ctx.knows(&cluster) {
        return Ok(Action::requeue(SETTLED));
    }
    if !ctx.leadership.valid_now() {
        return Err(Error::NotLeading);
    }
    // The caches lag: a live look decides.
    let clusters = Api::<ValkeyCluster>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    let living = clusters.get_metadata_opt(&cluster.name).await?.and_then(|found| found.uid());
    if living.as_ref() != Some(&cluster.uid) {
        let pods = Api::<Pod>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
        let of_it =
            ListParams::default().labels(&format!("{}={}", labels::CLUSTER_UID, cluster.uid)).limit(1);
        // Each Pod that goes wakes us again; Pods that were orphaned on purpose may stay for as long as they like.
        if pods.list_metadata(&of_it).await?.items.is_empty() {
            delete(secret, &cluster, ctx).await?;
        }
    }
    ctx.backoff.clear(&cluster);
    Ok(Action::requeue(SETTLED))
}

/// Deletes what was looked at and nothing else: a namesake may have taken the Secret over meanwhile.
async fn delete(secret: &SecretMeta, cluster: &ClusterKey, ctx: &Ctx) -> Result<()> {
    let (uid, resource_version) = (secret.uid(), secret.resource_version());
    if uid.is_none() || resource_version.is_none() {
        return Err(Error::Incomplete("UID or resourceVersion"));
    }
    if !ctx.leadership.valid_now() {
        return Err(Error::NotLeading);
    }
    let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
    let api = Api::<Secret>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    match api.delete(&secret.name_any(), &params).await {
        Ok(_) => {
            tracing::info!(
                namespace = cluster.namespace,
                cluster = cluster.name,
                "the last of a deleted cluster is gone"
            );
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn after_failure(secret: &SecretMeta, error: &Error, ctx: &Ctx) -> Action {
    if matches!(error, Error::NotLeading) {
        return Action::requeue(ENDING);
    }
    let pause = cluster_of(secret).map_or(Backoff::LONGEST, |cluster| ctx.backoff.failed(&cluster));
    tracing::warn!(
        namespace = secret.namespace().unwrap_or_default(), secret = secret.name_any(),
        reason = error.reason(), %error, again_in = ?pause, "clearing up after a deleted cluster failed"
    );
    Action::requeue(pause)
}

fn cluster_of(secret: &SecretMeta) -> Option<ClusterKey> {
    Some(ClusterKey {
        namespace: secret.namespace()?,
        name: secret.labels().get(labels::CLUSTER)?.clone(),
        uid: secret.annotations().get(labels::CLUSTER_UID)?.clone(),
    })
}
