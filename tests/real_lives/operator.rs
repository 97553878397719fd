//! An operator process: the real watches, controller, pass, guards and links, on a runtime of its own, so that it can be killed.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::context::Ctx;
use valkey_cluster_operator::controller;
use valkey_cluster_operator::flags::Namespaces;
use valkey_cluster_operator::kube_client::Clients;
use valkey_cluster_operator::lease::Leadership;
use valkey_cluster_operator::model::Sampling;
use valkey_cluster_operator::mutex::lock;
use valkey_cluster_operator::reconcile::reconcile;
use valkey_cluster_operator::telemetry::Metrics;
use valkey_cluster_operator::watch;

use super::mischief::{Mischief, Process, Ways};
use crate::support::apiserver::ApiServer;

/// The last pass, as those outside of it see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pass {
    /// When it began.
    began: Option<Instant>,
    /// Since when every pass has had nothing to do and nothing to wait for.
    calm_since: Option<Instant>,
}

/// The plans of all operators of a life, one after another.
pub(crate) type Log = Arc<Mutex<Vec<(Instant, String)>>>;

/// A running operator.
pub(crate) struct Operator {
    runtime: Option<Runtime>,
    process: Arc<Process>,
    pass: Arc<Mutex<Pass>>,
}

impl Operator {
    /// Starts one with empty memory. `brief`: it looks as it does at large clusters.
    pub(crate) fn start(server: &ApiServer, mischief: &Arc<Mutex<Mischief>>, brief: bool, log: &Log) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let process = Process::new(Arc::clone(mischief));
        let (pass, door) = (Arc::default(), server.second_door());
        let suffers = Arc::clone(&process);
        door.fault(move |call| suffers.of_request(call));
        runtime.spawn(work(door, Arc::clone(&process), brief, Arc::clone(&pass), Arc::clone(log)));
        Self { runtime: Some(runtime), process, pass }
    }

    /// A script's `crash` has come: it acts no more.
    pub(crate) fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    /// Since when it has had nothing to do, if it has looked at the world since `event` began.
    pub(crate) fn calm_since(&self, event: Instant) -> Option<Instant> {
        let pass = lock(&self.pass);
        pass.began.filter(|began| *began >= event)?;
        pass.calm_since
    }
}

impl Drop for Operator {
    /// As SIGKILL: whatever is under way is cut off, and all memory is gone.
    fn drop(&mut self) {
        self.process.die();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn work(door: ApiServer, process: Arc<Process>, brief: bool, pass: Arc<Mutex<Pass>>, log: Log) {
    let client = door.client(super::NAMESPACE);
    let (stores, wakes, drive) = watch::start(&client, &Namespaces::All);
    tokio::spawn(drive);
    stores.filled().await;
    let metrics = Metrics::new().unwrap();
    let mut ctx =
        Ctx::new(Clients::all(&client), (stores, wakes), metrics, Leadership::always(), "life".into());
    ctx.connector = Arc::new(Ways(Arc::clone(&process)));
    if brief {
        ctx.sampling = Sampling { above: 1, owners: 1, others: 1 };
    }
    let concurrency = NonZeroU16::new(4).unwrap();
    let passes = move |cluster, ctx: Arc<Ctx>| {
        let (process, pass, log) = (Arc::clone(&process), Arc::clone(&pass), Arc::clone(&log));
        one_pass(cluster, ctx, process, pass, log)
    };
    controller::run(Arc::new(ctx), concurrency, passes, CancellationToken::new()).await;
}

async fn one_pass(
    cluster: Arc<valkey_cluster_operator::api::ValkeyCluster>,
    ctx: Arc<Ctx>,
    process: Arc<Process>,
    seen: Arc<Mutex<Pass>>,
    log: Log,
) -> valkey_cluster_operator::error::Result<kube::runtime::controller::Action> {
    let began = Instant::now();
    let hints = ctx.hints.of(&cluster.uid().unwrap_or_default());
    let ended = reconcile(cluster, Arc::clone(&ctx)).await;
    let plan = lock(&hints).plan.clone();
    let effects = process.pass_ended();
    if process.is_dead() {
        return ended;
    }
    let words = ended.as_ref().err().map(|error| format!("failed: {error}\n"));
    let quiet = words.is_none() && effects == 0 && plan.lines().all(is_calm);
    {
        let mut pass = lock(&seen);
        pass.began = Some(began);
        pass.calm_since = quiet.then(|| pass.calm_since.unwrap_or(began));
    }
    let text = words.unwrap_or(plan) + &not_done(&ctx);
    let mut log = lock(&log);
    if log.last().is_none_or(|(_, last)| *last != text) {
        log.push((began, text));
    }
    ended
}

/// Begins a line about steps that have not been done so far.
pub(crate) const NOT_DONE: &str = "not done so far: ";

/// How many steps of each kind those are.
fn not_done(ctx: &Ctx) -> String {
    let all = ctx.metrics.encode().unwrap_or_default();
    let not_done = |line: &&str| line.contains("outcome=\"failed\"") || line.contains("outcome=\"stale\"");
    let words = |line: &str| {
        let labels = line.split_once('{').map_or(line, |(_, labels)| labels);
        format!("{NOT_DONE}{}\n", labels.replace(['"', '}'], ""))
    };
    all.lines().filter(not_done).map(words).collect()
}

/// A refusal is no wait: `Plan::quiet` says the same.
fn is_calm(line: &str) -> bool {
    line == "quiet" || line.starts_with("blocked ")
}

/// Longer than a moment that only looks quiet: a process that has just died is noticed by then.
pub(crate) const CALM: Duration = Duration::from_millis(1500);
