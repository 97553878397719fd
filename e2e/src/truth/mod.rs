//! The truth check: asks every node directly and says whether the cluster is whole, and who is where.
//!
//! It decides from the nodes' own answers alone: no Kubernetes, nothing of the operator's, not even its parsers, so
//! that what the operator believes can be held against it. Reads only.

mod info;
mod judge;
mod look;
mod nodes;
mod sampler;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

use crate::resp::Access;

pub(crate) use info::lines;
pub use info::{Listed, Replication};
pub use judge::{Expected, Replica, Shard, Truth};
pub use look::{Facts, Looker, Seen};
pub use nodes::{View, ViewLine};
pub use sampler::{History, Sample, Sampler, SamplerHandle, Second};

/// How long one node has to answer in a single look.
const ANSWER: Duration = Duration::from_millis(500);
/// Between two looks while waiting.
const PAUSE: Duration = Duration::from_millis(20);
/// Problems that an error message names.
const NAMED: usize = 12;

impl Truth {
    /// Asks all nodes once, each bounded by half a second and the slack of the way to it.
    pub async fn look(access: &Access, nodes: &[SocketAddr]) -> Self {
        Self { seen: Looker::patient(access.clone()).ask(nodes).await }
    }

    /// Looks until nothing is wrong and everything is as expected; says how long that took.
    ///
    /// # Errors
    /// After `limit`: what was wrong in the last look.
    pub async fn wait(
        access: &Access,
        nodes: &[SocketAddr],
        expected: &Expected,
        limit: Duration,
    ) -> Result<(Self, Duration)> {
        let begun = Instant::now();
        let mut looker = Looker::patient(access.clone());
        loop {
            let truth = Self { seen: looker.ask(nodes).await };
            let problems = truth.problems_against(expected);
            if problems.is_empty() {
                return Ok((truth, begun.elapsed()));
            }
            if begun.elapsed() >= limit {
                let more = problems.len().saturating_sub(NAMED);
                let named = problems.into_iter().take(NAMED).collect::<Vec<_>>().join("\n  ");
                bail!("after {limit:?} the cluster is still not whole:\n  {named}\n  and {more} more");
            }
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
