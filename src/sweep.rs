//! Decides how the rest of a deleted `ValkeyCluster` goes: its Pods that hold on in their preStop hooks are released, and
//! the Secret with the operator's passwords goes last. Touches that Secret and those Pods' nodes.
//!
//! The Secret has no owner reference: garbage collection would take it with the `ValkeyCluster`, while Pods that hold on until
//! they are released still need the operator, and the operator its passwords. So it stays until no Pod of that very
//! `ValkeyCluster` (by UID) remains, and is deleted then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::runtime::controller::{self, Action, Controller};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::api::ValkeyCluster;
use crate::build::{self, Credentials, labels};
use crate::context::{Backoff, Ctx};
use crate::error::{Error, Result};
use crate::model::{self, ClusterKey, Phase};
use crate::observe::{self, access};
use crate::parallel;
use crate::valkey::error::WireError;
use crate::valkey::{Access, Tls, Ways, commands};
use crate::watch::SecretMeta;

/// How many clusters are cleared up after at the same moment.
const CONCURRENCY: u16 = 8;
/// A process that does not lead now looks again after this.
const ENDING: Duration = Duration::from_secs(1);
/// Pods that have been told to go may not listen yet, or not hear at the first try.
const HOLDING: Duration = Duration::from_millis(500);
/// Nodes that are told at one time.
const PARALLEL: usize = 32;
/// A safety net for a deletion that no watch told of: a look at the caches, no request.
const SETTLED: Duration = Duration::from_mins(10);

/// Clears up until `stop`.
pub async fn run(ctx: Arc<Ctx>, stop: CancellationToken) {
    let woken = ctx.wakes.woken_secrets();
    let everything = stream::iter(ctx.stores.secrets.state_filter(labels::is_managed));
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
    let strays = strays(&cluster, ctx);
    if ctx.knows(&cluster) && strays.is_empty() {
        return Ok(Action::requeue(SETTLED));
    }
    if !ctx.leadership.valid_now() {
        return Err(Error::NotLeading);
    }
    if !strays.is_empty() && !holds_passwords(secret, &cluster) {
        return Ok(Action::requeue(HOLDING));
    }
    if !strays.is_empty() {
        // The operator's own password is the same for all clusters that had this name one after another.
        if let Some(credentials) = credentials(secret, &cluster, ctx).await? {
            let tls = certificates(&cluster, ctx).await?;
            release(&strays, &credentials, tls.as_ref(), ctx).await;
        }
        return Ok(Action::requeue(HOLDING));
    }
    // The caches lag: a live look decides.
    let clusters = Api::<ValkeyCluster>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    let living = clusters.get_metadata_opt(&cluster.name).await?.and_then(|found| found.uid());
    if living.as_ref() != Some(&cluster.uid) {
        let pods = Api::<Pod>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
        let of_it = ListParams::default().labels(&format!("{}={}", labels::CLUSTER_UID, cluster.uid));
        // Each Pod that goes wakes us again; Pods that were orphaned on purpose may stay for as long as they like.
        if pods.list_metadata(&of_it.limit(1)).await?.items.is_empty() {
            delete(secret, &cluster, ctx).await?;
        }
    }
    ctx.backoff.clear(&cluster);
    Ok(Action::requeue(SETTLED))
}

/// Pods of this cluster's name that were told to go and whose `ValkeyCluster` is gone: nobody else releases them.
fn strays(cluster: &ClusterKey, ctx: &Ctx) -> Vec<Arc<Pod>> {
    let of_name = |p: &Pod| {
        p.metadata.namespace.as_ref() == Some(&cluster.namespace)
            && p.metadata.deletion_timestamp.is_some()
            && p.labels().get(labels::CLUSTER) == Some(&cluster.name)
    };
    let known = |p: &Pod| {
        let uid = p.labels().get(labels::CLUSTER_UID).cloned().unwrap_or_default();
        ctx.knows(&ClusterKey { uid, ..cluster.clone() })
    };
    ctx.stores.pods.state_filter(|p| {
        of_name(p) && !known(p) && observe::kube::pod(p).is_some_and(|m| m.phase == Phase::Running)
    })
}

/// The passwords that the Pods still run with.
async fn credentials(secret: &SecretMeta, cluster: &ClusterKey, ctx: &Ctx) -> Result<Option<Credentials>> {
    let api = Api::<Secret>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    let Some(live) = api.get_opt(&secret.name_any()).await? else { return Ok(None) };
    if live.annotations().get(labels::CLUSTER_UID) != Some(&cluster.uid) {
        return Ok(None);
    }
    Ok(Some(Credentials::from_secret(&live).map_err(|e| anyhow::anyhow!("{e}"))?))
}

/// How the nodes of a cluster that speaks TLS are spoken to.
async fn certificates(cluster: &ClusterKey, ctx: &Ctx) -> Result<Option<Tls>> {
    let api = Api::<Secret>::namespaced(ctx.clients.api.clone(), &cluster.namespace);
    let Some(live) = api.get_opt(&labels::certificates_name(&cluster.name)).await? else { return Ok(None) };
    let (stock, given) = build::tls::given(&live).map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(observe::certificates::client(&stock, &given.now.leaf))
}

/// The Secret with the passwords; the one with the certificates only waits for the Pods to be gone.
fn holds_passwords(secret: &SecretMeta, cluster: &ClusterKey) -> bool {
    secret.name_any() == labels::secret_name(&cluster.name)
}

/// Releases the Pods. The mark names the Pod, so that whoever else has its address by now is not released by it.
async fn release(pods: &[Arc<Pod>], credentials: &Credentials, tls: Option<&Tls>, ctx: &Ctx) {
    let (plain, encrypted) =
        (access(credentials, None), tls.map(|tls| access(credentials, Some(tls.clone()))));
    let held: Vec<_> = pods.iter().filter_map(|p| observe::kube::pod(p)).collect();
    let encrypted = encrypted.map(|access| {
        let aside = held.iter().filter_map(|p| Some((p.ip?, false))).collect();
        Access { ways: Ways { aside, ..Ways::default() }, ..access }
    });
    let mut told: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(held.len());
    for pod in &held {
        let Some(access) = (if pod.encrypted { encrypted.as_ref() } else { Some(&plain) }) else { continue };
        told.push(
            async move {
                let Some(ip) = pod.ip else { return };
                if let Err(why) = let_go(SocketAddr::new(ip, ctx.ports.client), pod, access, ctx).await {
                    tracing::debug!(pod = %pod.name, %why, "not released yet");
                }
            }
            .boxed(),
        );
    }
    parallel::all(told, PARALLEL).await;
}

async fn let_go(at: SocketAddr, pod: &model::Pod, access: &Access, ctx: &Ctx) -> Result<(), WireError> {
    let node = ctx.connector.connect(at, access).await?;
    commands::config_set(node.as_ref(), &commands::released(&pod.uid)).await
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
