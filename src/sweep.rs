//! Decides when the last thing of a deleted `ValkeyCluster` goes: the Secret with the operator's passwords. Touches that
//! Secret, and, through its hook, the Pods that outlived their owner.
//!
//! The Secret has no owner reference: garbage collection would take it with the `ValkeyCluster`, while Pods that hold on until
//! they are released still need the operator, and the operator its passwords. So it stays until no Pod of that very
//! `ValkeyCluster` (by UID) remains, and is deleted then.

use std::collections::BTreeSet;
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
/// How often Pods that outlived their owner are looked at while they end; their events wake us as well.
const ENDING: Duration = Duration::from_secs(1);
/// A safety net for a deletion that no watch told of: a look at the caches, no request.
const SETTLED: Duration = Duration::from_secs(600);

/// What a `ValkeyCluster` that is gone has left behind.
#[derive(Clone, Debug)]
pub struct Orphans {
    /// The cluster that was; its UID is what counts.
    pub cluster: ClusterKey,
    /// The Secret with the passwords of its nodes; a namesake may have taken it over.
    pub secret: String,
    /// Its Pods, read just now: they are to be released and deleted.
    pub pods: Vec<Pod>,
}

/// Clears up until `stop`. `release` is called while Pods remain, about once a second; it may do its work many times over.
pub async fn run<R, F>(ctx: Arc<Ctx>, release: R, stop: CancellationToken)
where
    R: Fn(Orphans, Arc<Ctx>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let woken = ctx.wakes.woken_secrets();
    let everything = stream::iter(ctx.stores.secrets.state());
    Controller::for_shared_stream(everything, ctx.stores.secrets.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(woken)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            move |secret, ctx| {
                let release = release.clone();
                async move { one_secret(&secret, &ctx, release).await }.boxed()
            },
            |secret, error, ctx| after_failure(&secret, error, &ctx),
            Arc::clone(&ctx),
        )
        .for_each(|ended| async {
            match ended {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "the sweeper"),
            }
        })
        .await;
}

async fn one_secret<R, F>(secret: &SecretMeta, ctx: &Arc<Ctx>, release: R) -> Result<Action>
where
    R: Fn(Orphans, Arc<Ctx>) -> F,
    F: Future<Output = Result<()>>,
{
    // A Secret of ours without these is not the one with the passwords.
    let Some(cluster) = cluster_of(secret) else { return Ok(Action::await_change()) };
    let gone: Vec<ClusterKey> = generations(&cluster, ctx).into_iter().filter(|key| !ctx.knows(key)).collect();
    if gone.is_empty() {
        return Ok(Action::requeue(SETTLED));
    }
    if !ctx.leadership.valid_now() {
        return Err(Error::NotLeading);
    }
    // The caches lag: a live look decides.
    let clusters = Api::<ValkeyCluster>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    let living = clusters.get_metadata_opt(&cluster.name).await?.and_then(|found| found.uid());
    let mut next = Action::requeue(SETTLED);
    for key in gone.into_iter().filter(|key| living.as_ref() != Some(&key.uid)) {
        let api = Api::<Pod>::namespaced(ctx.clients.api.clone(), &key.namespace);
        let of_uid = format!("{}={}", labels::CLUSTER_UID, key.uid);
        let pods = api.list(&ListParams::default().labels(&of_uid)).await?.items;
        if !pods.is_empty() {
            release(Orphans { cluster: key, secret: secret.name_any(), pods }, Arc::clone(ctx)).await?;
            next = Action::requeue(ENDING);
        } else if key == cluster {
            delete(secret, &cluster, ctx).await?;
        }
    }
    ctx.backoff.clear(&cluster);
    Ok(next)
}

/// Every cluster that had this name, as far as anything of it is left: the one that the Secret names, and those whose Pods
/// are still there although a namesake has taken the Secret over.
fn generations(cluster: &ClusterKey, ctx: &Ctx) -> BTreeSet<ClusterKey> {
    let pods = ctx.stores.pods.state_filter(|pod| {
        pod.metadata.namespace.as_ref() == Some(&cluster.namespace) && pod.labels().get(labels::CLUSTER) == Some(&cluster.name)
    });
    let uids = pods.iter().filter_map(|pod| pod.labels().get(labels::CLUSTER_UID));
    let keys = uids.map(|uid| ClusterKey { uid: uid.clone(), ..cluster.clone() });
    keys.chain([cluster.clone()]).collect()
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
            tracing::info!(namespace = cluster.namespace, cluster = cluster.name, "the last of a deleted cluster is gone");
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
        uid: secret.labels().get(labels::CLUSTER_UID)?.clone(),
    })
}
