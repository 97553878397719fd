//! Decides when a pass over a `ValkeyCluster` runs, and what follows a failed one. Touches nothing itself: the watches are
//! `watch`'s, the effects are the pass's.
//!
//! One pass at a time for each cluster; what wakes it meanwhile makes one more pass afterwards. A failed pass, even one that
//! panicked, delays that cluster alone.

use std::any::Any;
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use kube::ResourceExt;
use kube::runtime::controller::{self, Action, Controller};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::api::ValkeyCluster;
use crate::context::Ctx;
use crate::error::{Error, Result};
use crate::watch::wakes::key_of;

/// A pass that may not act asks again after this: no failure, so no growing pause.
const NOT_LEADING: Duration = Duration::from_secs(1);

/// Runs passes until `stop`, then lets those under way end. Begins with a pass over every cluster there is.
///
/// The caches should be filled before (`Stores::filled`).
pub async fn run<R, F>(ctx: Arc<Ctx>, concurrency: NonZeroU16, reconcile: R, stop: CancellationToken)
where
    R: Fn(Arc<ValkeyCluster>, Arc<Ctx>) -> F + Send + 'static,
    F: Future<Output = Result<Action>> + Send + 'static,
{
    // Listening comes before looking: what changes in between is then seen twice rather than never.
    let woken = ctx.wakes.woken_clusters();
    let mut gone = ctx.wakes.gone_clusters();
    let everything = stream::iter(ctx.stores.clusters.state());
    let passes = Controller::for_shared_stream(everything, ctx.stores.clusters.clone())
        .with_config(controller::Config::default().concurrency(concurrency.get()))
        .reconcile_on(woken)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            move |cluster, ctx| one_pass(Arc::clone(&cluster), Arc::clone(&ctx), reconcile(cluster, ctx)),
            after_failure,
            Arc::clone(&ctx),
        )
        .for_each(|ended| async {
            match ended {
                // A failed pass was told of when its next one was set. A cluster that is gone is no failure.
                Ok(_)
                | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "the controller"),
            }
        });
    let forget = async {
        while let Some(key) = gone.next().await {
            ctx.forget(&key);
        }
    };
    tokio::select! {
        () = passes => {}
        () = forget => {}
    }
}

/// One pass with everything around it: span, time, errors by reason, panics.
fn one_pass(
    cluster: Arc<ValkeyCluster>,
    ctx: Arc<Ctx>,
    pass: impl Future<Output = Result<Action>> + Send + 'static,
) -> impl Future<Output = Result<Action>> + Send + 'static {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let span =
        tracing::info_span!("pass", namespace, cluster = name, generation = cluster.metadata.generation);
    let whole = async move {
        let key = key_of(&cluster).ok_or(Error::Incomplete("namespace or UID"))?;
        let began = Instant::now();
        let ended = AssertUnwindSafe(pass)
            .catch_unwind()
            .await
            .unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
        ctx.metrics.reconciled(began.elapsed(), ended.as_ref().err().map(Error::reason));
        if ended.is_ok() {
            ctx.backoff.clear(&key);
        }
        // It went while the pass ran, and the pass has put things into memory for it again.
        if !ctx.knows(&key) {
            ctx.forget(&key);
        }
        ended
    };
    // Boxed, since a pass is a large future and would lie on the stack of every layer above it.
    whole.instrument(span).boxed()
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn after_failure(cluster: Arc<ValkeyCluster>, error: &Error, ctx: Arc<Ctx>) -> Action {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    if matches!(error, Error::NotLeading) {
        tracing::debug!(namespace, cluster = name, "not leading");
        return Action::requeue(NOT_LEADING);
    }
    let pause = key_of(&cluster).map_or(crate::context::Backoff::LONGEST, |key| ctx.backoff.failed(&key));
    tracing::warn!(namespace, cluster = name, reason = error.reason(), %error, again_in = ?pause, "the pass failed");
    Action::requeue(pause)
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Error::Panicked(text.unwrap_or_else(|| "panicked without a text".to_owned()))
}
