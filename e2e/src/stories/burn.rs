//! Work for processors: scripts that only count, on every primary, as much in sum however many primaries there are.
//! That is what traffic looks like to an autoscaler: each shard that is added takes its part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::cluster::Cluster;
use crate::resp::{Access, Connection};

/// Counts to its argument.
const SCRIPT: &str = "local x = 0; for i = 1, tonumber(ARGV[1]) do x = x + i end; return 1";
/// One portion of work for each primary.
const PERIOD: Duration = Duration::from_millis(100);
/// What a portion may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(2);
/// How far the script counts when its cost is measured: some tenths of a second.
const MEASURED: u64 = 20_000_000;

/// Work that goes on until it is dropped.
pub(super) struct Burn {
    /// Thousandths of a processor that the whole work costs.
    milli: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Burn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Burn {
    /// Measures what the script costs on this machine, and begins with no work at all.
    ///
    /// # Errors
    /// If a node cannot be reached.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let access = cluster.access().await?;
        // The operator's own user has no right to run scripts; the application's has.
        let access = access.with_login(crate::resp::Credentials::default());
        let first = *primaries(cluster).await?.first().context("there is no primary")?;
        let per_second = speed(&access, first).await?;
        let milli = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(work(cluster.clone(), access, per_second, Arc::clone(&milli)));
        Ok(Self { milli, task })
    }

    /// From now on all primaries together do as much as this many thousandths of a processor can.
    pub(super) fn set(&self, milli: u64) {
        self.milli.store(milli, Ordering::Relaxed);
    }
}

/// Steps of the script that a second of processor time is good for.
async fn speed(access: &Access, addr: SocketAddr) -> Result<f64> {
    let mut connection = Connection::open(access, addr, ANSWER).await.map_err(anyhow::Error::msg)?;
    let before = used(&mut connection).await?;
    run(&mut connection, MEASURED).await?;
    let seconds = used(&mut connection).await? - before;
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    Ok(MEASURED as f64 / seconds.max(0.001))
}

/// Seconds of processor time that the main thread of the server has used.
async fn used(connection: &mut Connection) -> Result<f64> {
    let reply = connection.call(&["INFO", "cpu"], ANSWER).await.map_err(anyhow::Error::msg)?;
    let text = reply.text().context("INFO is text")?.to_owned();
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok());
    value("used_cpu_user_main_thread:").context("INFO cpu without used_cpu_user_main_thread")
}

async fn run(connection: &mut Connection, steps: u64) -> Result<()> {
    connection.call(&["EVAL", SCRIPT, "0", &steps.to_string()], ANSWER).await.map_err(anyhow::Error::msg)?;
    Ok(())
}

async fn work(cluster: Cluster, access: Access, per_second: f64, milli: Arc<AtomicU64>) {
    let mut every = interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut open: Vec<(SocketAddr, Connection)> = Vec::new();
    loop {
        let milli = milli.load(Ordering::Relaxed);
        for _ in 0..10 {
            every.tick().await;
            portion(&mut open, milli, per_second).await;
        }
        // Shards come and go: once a second everybody who leads one gets a connection.
        let Ok(leaders) = primaries(&cluster).await else { continue };
        open.retain(|(addr, _)| leaders.contains(addr));
        for addr in leaders {
            if !open.iter().any(|(known, _)| *known == addr)
                && let Ok(connection) = Connection::open(&access, addr, ANSWER).await
            {
                open.push((addr, connection));
            }
        }
    }
}

/// One portion on each connection; one that has failed is given up, and opened anew if its node still leads.
async fn portion(open: &mut Vec<(SocketAddr, Connection)>, milli: u64, per_second: f64) {
    if open.is_empty() || milli == 0 {
        return;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few million steps"
    )]
    let steps = (per_second * PERIOD.as_secs_f64() * milli as f64 / 1000.0 / open.len() as f64) as u64;
    let runs = std::mem::take(open).into_iter().map(async |(addr, mut connection)| {
        let done = run(&mut connection, steps).await;
        done.ok().map(|()| (addr, connection))
    });
    *open = futures::future::join_all(runs).await.into_iter().flatten().collect();
}

/// Where the primaries listen.
async fn primaries(cluster: &Cluster) -> Result<Vec<SocketAddr>> {
    let truth = cluster.truth().await?;
    Ok(truth.shards().iter().filter_map(|shard| shard.primary_addr).collect())
}
