//! What follows a blow under a write load, measured and told in the same way by every story that deals one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cluster::Cluster;
use super::load::Load;
use super::stage::{Stage, eventually};
use crate::ledger::LedgerReport;
use crate::truth::History;

/// Nothing takes longer than this to become whole.
pub(super) const LIMIT: Duration = Duration::from_mins(3);

/// What came of a blow.
pub(super) struct Aftermath {
    /// What became of the writes.
    pub(super) report: LedgerReport,
    /// What the redundancy was.
    pub(super) history: History,
    /// The longest time that a shard had fewer copies in sync than wanted.
    pub(super) below: Duration,
    /// From the blow until every shard had all its copies, everybody agreed, and nobody listed what is gone.
    pub(super) whole: Duration,
    /// From the blow until the condition Ready said so.
    pub(super) ready: Duration,
}

impl Aftermath {
    /// The longest time without an acknowledged write on any lane.
    pub(super) fn gap(&self) -> Duration {
        self.report.longest_gap()
    }

    /// # Errors
    /// If an acknowledged write is lost.
    pub(super) fn nothing_lost(&self) -> Result<()> {
        ensure!(self.report.lost() == 0, "acknowledged writes are lost: {}", self.report.summary());
        Ok(())
    }

    /// A primary whose network is gone between the two sends of one turn of its event loop, the answer and then the
    /// replica's copy, has acknowledged what no replica knows. A lane has one write under way at a time, and the next turn
    /// comes no further than the first: it is one write of a lane at most.
    ///
    /// # Errors
    /// If a lane lost more.
    pub(super) fn nothing_lost_but_last_writes(&self) -> Result<()> {
        let more = self.report.lanes.iter().any(|lane| lane.lost > 1);
        ensure!(!more, "more than the last acknowledged write of a lane is lost: {}", self.report.summary());
        Ok(())
    }
}

/// Deals a blow under a write load, waits until a cluster of this size is whole and Ready again, and tells the figures.
///
/// # Errors
/// If the blow cannot be dealt, or what is missing when time is up.
pub(super) async fn of(
    stage: &Stage,
    cluster: &Cluster,
    (shards, replicas): (usize, usize),
    what: &str,
    strike: impl AsyncFnOnce(&Load) -> Result<()>,
) -> Result<Aftermath> {
    under(stage, cluster, Load::start(stage, cluster).await?, (shards, replicas), what, strike).await
}

/// The same under this load.
///
/// # Errors
/// As [`of`].
pub(super) async fn under(
    stage: &Stage,
    cluster: &Cluster,
    load: Load,
    (shards, replicas): (usize, usize),
    what: &str,
    strike: impl AsyncFnOnce(&Load) -> Result<()>,
) -> Result<Aftermath> {
    load.mark(what);
    let began = Instant::now();
    strike(&load).await?;
    load.follow(cluster).await?;
    cluster.whole(shards, replicas, LIMIT).await.with_context(|| what.to_owned())?;
    let whole = began.elapsed();
    load.follow(cluster).await?;
    load.flowing().await?;
    let ready = cluster.ready(began, LIMIT).await?;
    let (report, history) = load.end(stage, what).await?;
    let below = history.longest_below(replicas + 1).values().max().copied().unwrap_or_default();
    stage.say(format_args!(
        "{what}: whole again after {:.1} s, Ready after {:.1} s, below {} copies for {:.1} s",
        whole.as_secs_f64(),
        ready.as_secs_f64(),
        replicas + 1,
        below.as_secs_f64()
    ));
    Ok(Aftermath { report, history, below, whole, ready })
}

/// Waits until another Pod than this one leads a shard.
///
/// # Errors
/// If none does in time.
pub(super) async fn succeeded(cluster: &Cluster, shard: u16, former: &str) -> Result<String> {
    eventually("another primary", LIMIT, async || {
        let heir = cluster.primary_of(shard).await?;
        ensure!(heir != former, "{former} still leads");
        Ok(heir)
    })
    .await
}

/// The middle one.
pub(super) fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
