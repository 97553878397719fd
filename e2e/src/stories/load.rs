//! The write load under which a story is told, and the look at the redundancy meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use valkey_cluster_operator::model::Slots;

use super::Suite;
use super::cluster::Cluster;
use super::reach::Writes;
use super::stage::Stage;
use crate::ledger::{LaneKind, LedgerReport, Totals};
use crate::resp::Access;
use crate::truth::{History, Sampler, SamplerHandle};

/// The longest that a write may wait for a planned change of roles.
pub(super) const GAP: Duration = Duration::from_millis(250);

/// An old primary links to the new one within this after a hand-over, by a partial sync (measured on 8.0.1, 8.1.1 and 9.1.2: 15 to
/// 103 ms): its data is there, and samples may fall into it.
const BLINK: Duration = Duration::from_millis(250);
/// The same on a machine that may be busy (seen: 1.6 s where two cores start nine Pods at once). A copy that is really missing takes the start of
/// a Pod, a sync and a round of gossip to come back: longer than this on such a machine.
const BUSY_BLINK: Duration = Duration::from_secs(2);

/// A ledger that writes to all slots, as an application does, and a sampler.
pub(super) struct Load {
    ledger: Box<dyn Writes>,
    sampler: SamplerHandle,
}

impl Load {
    /// Starts both, and waits until every plain lane writes.
    ///
    /// # Errors
    /// If a lane does not flow.
    pub(super) async fn start(stage: &Stage, cluster: &Cluster) -> Result<Self> {
        Self::start_as(stage, cluster, cluster.access().await?).await
    }

    /// The same with a sampler that logs in as somebody else than the operator.
    ///
    /// # Errors
    /// If a lane does not flow.
    pub(super) async fn start_as(stage: &Stage, cluster: &Cluster, access: Access) -> Result<Self> {
        Self::with(stage, cluster, access, 0).await
    }

    /// The same with writes that count when a replica has them, too.
    ///
    /// # Errors
    /// If a lane does not flow.
    pub(super) async fn confirmed(stage: &Stage, cluster: &Cluster) -> Result<Self> {
        Self::with(stage, cluster, cluster.access().await?, 1).await
    }

    async fn with(stage: &Stage, cluster: &Cluster, access: Access, copies: u16) -> Result<Self> {
        let nodes: Vec<SocketAddr> = cluster.addresses().await?.into_values().collect();
        let ledger = stage.reach().ledger(cluster, &nodes, copies).await?;
        let sampler = Sampler::start(access, nodes, Some(Sampler::as_announced()));
        ledger.flowing().await?;
        Ok(Self { ledger, sampler })
    }

    /// Names this moment.
    pub(super) fn mark(&self, name: &str) {
        self.ledger.mark(name);
    }

    /// Waits until every plain lane writes again.
    ///
    /// # Errors
    /// Which do not.
    pub(super) async fn flowing(&self) -> Result<()> {
        self.ledger.flowing().await
    }

    /// Looks at the Pods that there are now, and no longer at those that have gone.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(super) async fn follow(&self, cluster: &Cluster) -> Result<()> {
        self.sampler.set_nodes(cluster.addresses().await?.into_values().collect());
        Ok(())
    }

    /// Ends both and judges a planned change: nothing lost, no gap above this bound, and never fewer copies in sync.
    ///
    /// # Errors
    /// What was lost, how long the gap was, or how long which shard was short of a copy.
    pub(super) async fn judged(self, stage: &Stage, what: &str, copies: usize, gap: Duration) -> Result<()> {
        let report = self.kept(stage, what, copies).await?;
        let longest = report.longest_gap();
        ensure!(longest < stage.bound(gap), "the longest gap is {longest:?}: {}", report.summary());
        Ok(())
    }

    /// The same, but for the gap: that of one run is not judged.
    ///
    /// # Errors
    /// What was lost, or how long which shard was short of a copy.
    pub(super) async fn kept(self, stage: &Stage, what: &str, copies: usize) -> Result<LedgerReport> {
        let (report, history) = self.end(stage, what).await?;
        stage.say(history.summary());
        ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
        never_below(stage, &history, what, copies)?;
        Ok(report)
    }

    /// Ends both and prints what they saw.
    ///
    /// # Errors
    /// If a lane could not be read back: then nobody knows what is lost.
    pub(super) async fn end(self, stage: &Stage, what: &str) -> Result<(LedgerReport, History)> {
        self.ledger.flowing().await?;
        let report = self.ledger.stop().await?;
        let history = self.sampler.stop().await?;
        let LedgerReport { judged, .. } = &report;
        let (acked, lost, gap) = (judged.acked, judged.lost, judged.longest_gap_ms);
        stage.say(format_args!("{what}: {acked} writes acknowledged, {lost} lost, longest gap {gap:.0} ms"));
        if let Some(client) = &report.client {
            stage.say(beside(what, client));
        }
        ensure!(report.judged.unread == 0, "{} writes could not be read back", report.judged.unread);
        Ok((report, history))
    }
}

/// What an application with a client library has seen meanwhile: it is told, and nothing but what is lost is judged.
fn beside(what: &str, client: &Totals) -> String {
    format!(
        "{what}, beside it {} lanes of redis-rs: {} acknowledged, {} lost, longest gap {:.0} ms, errors: {}",
        client.lanes,
        client.acked,
        client.lost,
        client.longest_gap_ms,
        client.errors.summary()
    )
}

/// The longest time without an acknowledged write on any lane whose slot is not among these.
pub(super) fn gap_outside(report: &LedgerReport, slots: &Slots) -> Duration {
    let others = report.lanes.iter().filter(|l| l.kind == LaneKind::Plain && !slots.contains(l.slot));
    Duration::from_secs_f64(others.map(|l| l.longest_gap_ms).fold(0.0, f64::max) / 1000.0)
}

/// Judges the redundancy during a planned change.
///
/// # Errors
/// Which shard was short of a copy, and for how long at a stretch.
pub(super) fn never_below(stage: &Stage, history: &History, what: &str, copies: usize) -> Result<()> {
    let longest = history.longest_below(copies);
    let most = longest.values().max().copied().unwrap_or_default();
    stage.say(format_args!("{what}: fewer than {copies} copies in sync for {} ms at most", most.as_millis()));
    let allowed = if stage.suite == Suite::Full { BLINK } else { BUSY_BLINK };
    let below: Vec<_> = longest.into_iter().filter(|(_, d)| *d > allowed).collect();
    ensure!(below.is_empty(), "{what}: fewer than {copies} copies in sync: {below:?}");
    Ok(())
}
