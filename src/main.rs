//! The operator process: decides in which order its parts start and stop, and what its exit code says.
//!
//! Exit codes: 0 asked to stop, and stopped in order · 1 could not start, or a part ended that should not · 2 a wrong command
//! line · 3 another process holds the lease that this one held.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use kube::Api;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::flags::Flags;
use valkey_cluster_operator::kube_client::{self, Timeouts};
use valkey_cluster_operator::lease::{Election, Ended, Leadership, Settings};
use valkey_cluster_operator::telemetry::{Metrics, Readiness, http, logs};
use valkey_cluster_operator::{controller, reconcile, sweep, valkey, watch};

/// Enough for the fan-out to a thousand nodes, which waits far more than it computes; not one for each of a big host's cores.
const WORKER_THREADS: usize = 4;
/// How long passes under way may take to end. A pass is bounded well below; the Pod's grace period is 30 s.
const DRAIN: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let flags = Flags::parse();
    match start(&flags) {
        Ok(code) => code,
        Err(error) => {
            // Also without a working log.
            eprintln!("valkey-cluster-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &Flags) -> anyhow::Result<ExitCode> {
    // Before anything makes a TLS configuration; it fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    logs::start(flags.log_format, &flags.log_level)?;
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a bug in the operator")));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_stack_size(valkey::STACK)
        .enable_all()
        .build()
        .context("the asynchronous runtime could not be started")?
        .block_on(run(flags))
}

/// Starts what every replica runs: health checks, metrics, watches, the election. Then acts: fully while the lease is held.
async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let mut signals = Signals::listen()?;
    let (metrics, ready) = (Metrics::new()?, Readiness::default());
    let stop_serving = CancellationToken::new();
    let listener = http::bind(flags.listen).await?;
    let served = tokio::spawn(http::serve(listener, metrics.clone(), ready.clone(), stop_serving.clone()));

    let config = kube_client::config().await?;
    let lease_namespace = flags.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let clients = kube_client::clients(config, flags.api_qps, Timeouts::default())?;
    let (stores, wakes, drive) = watch::start(&clients.watch, &flags.namespaces);
    let watching = tokio::spawn(drive);
    let filled = stores.clone();
    let readiness = ready.clone();
    tokio::spawn(async move {
        filled.filled().await;
        readiness.set_ready();
        tracing::info!("the caches are filled");
    });

    let identity = flags.identity()?;
    let lease = Api::namespaced(clients.lease.clone(), &lease_namespace);
    let (leadership, election) = elect(flags, lease, &identity, &metrics);
    let ctx = Arc::new(Ctx::new(clients, (stores, wakes), metrics, leadership, identity));
    let code = supervise(flags, ctx, election, watching, &mut signals).await;
    stop_serving.cancel();
    // Bounded by the server itself.
    let _ = served.await;
    tracing::info!("stopped");
    code
}

/// An election that runs, and how to end it.
struct Candidacy {
    task: JoinHandle<Ended>,
    stop: CancellationToken,
}

fn elect(
    flags: &Flags,
    api: Api<k8s_openapi::api::coordination::v1::Lease>,
    identity: &str,
    metrics: &Metrics,
) -> (Leadership, Option<Candidacy>) {
    if flags.no_lease {
        tracing::warn!("no lease: a second such process would work against this one");
        metrics.set_leader(true);
        return (Leadership::always(), None);
    }
    let stop = CancellationToken::new();
    let (election, leadership) =
        Election::new(api, Settings::new(&flags.lease_name, identity), metrics.clone());
    (leadership, Some(Candidacy { task: tokio::spawn(election.run(stop.clone())), stop }))
}

/// Acts until asked to stop or until another process acts.
async fn supervise(
    flags: &Flags,
    ctx: Arc<Ctx>,
    election: Option<Candidacy>,
    mut watching: JoinHandle<()>,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let mut acting = tokio::spawn(act(Arc::clone(&ctx), flags.concurrency, stop.clone()));
    let (mut lost, give_back) = match election {
        Some(candidacy) => (candidacy.task, Some(candidacy.stop)),
        None => (tokio::spawn(std::future::pending()), None),
    };
    tokio::select! {
        () = signals.next() => tracing::info!("asked to stop: passes under way may end"),
        ended = &mut lost => {
            // Another process acts already: whatever is under way here is cut off, not waited for.
            acting.abort();
            tracing::error!(?ended, "this process no longer leads");
            return Ok(ExitCode::from(3));
        }
        ended = &mut acting => anyhow::bail!("the controllers ended by themselves: {ended:?}"),
        ended = &mut watching => anyhow::bail!("the watches ended by themselves: {ended:?}"),
    }
    stop.cancel();
    tokio::select! {
        ended = tokio::time::timeout(DRAIN, &mut acting) => if ended.is_err() {
            tracing::warn!("passes were still under way after {DRAIN:?} and are cut off");
            acting.abort();
        },
        () = signals.next() => {
            tracing::warn!("asked twice: passes under way are cut off");
            acting.abort();
        }
    }
    if let Some(give_back) = give_back {
        // Only now: nothing of ours acts any more.
        give_back.cancel();
        let _ = lost.await;
    }
    Ok(ExitCode::SUCCESS)
}

/// The controllers, from the moment when the caches are filled: a standby looks, too. It clears up only once it leads.
async fn act(ctx: Arc<Ctx>, concurrency: std::num::NonZeroU16, stop: CancellationToken) {
    tokio::select! {
        () = ctx.stores.filled() => {}
        () = stop.cancelled() => return,
    }
    let passes = controller::run(Arc::clone(&ctx), concurrency, reconcile::reconcile, stop.clone());
    let leading = async {
        let mut leadership = ctx.leadership.clone();
        tokio::select! {
            () = leadership.acquired() => {}
            () = stop.cancelled() => return,
        }
        ctx.wake_everybody();
        sweep::run(Arc::clone(&ctx), stop.clone()).await;
    };
    tokio::join!(passes, leading);
}

/// SIGTERM (Kubernetes) and SIGINT (a person).
struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self { term: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
