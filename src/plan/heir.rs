//! Who may take over a shard, and the one step that makes it so.
//!
//! `CLUSTER FAILOVER` answers OK even when it will fail, and one that fails holds the writes for its whole time-out
//! (measured on 8.0.1, 8.1.1 and 9.1.2). So it is only asked of a replica that will win: in sync, and listed as this
//! primary's replica by a majority of the slot owners and by every one of them that answers.

use std::collections::BTreeMap;

use super::migrate::migrating;
use crate::model::{Member, NodeId, NodeReport, Proposal, Shard, Step, View, Why, WorkerName};

/// The replicas of the shard that would win, the best first: those that are to stay as they are, then those on the
/// workers with the fewest primaries.
pub(super) fn heirs<'v, 'a>(v: &'v View<'a>, shard: Shard) -> Vec<&'v Member<'a>> {
    let Some((_, primary)) = v.primary(shard) else { return Vec::new() };
    // A job that moves slots would end with it, and be done again.
    if migrating(v, shard) {
        return Vec::new();
    }
    winners(v, v.in_sync(shard), primary)
}

/// Those of these replicas in sync that would win against this primary, the best first.
pub(super) fn winners<'v, 'a>(
    v: &'v View<'a>,
    replicas: Vec<&'v Member<'a>>,
    primary: &NodeReport,
) -> Vec<&'v Member<'a>> {
    let leading = primaries(v);
    let would_win = |m: &&Member<'a>| m.node().is_some_and(|n| wins(v, n, primary));
    let mut found: Vec<_> = replicas.into_iter().filter(would_win).collect();
    found.sort_by_key(|m| {
        let load = m.pod.worker.as_ref().and_then(|w| leading.get(w)).copied().unwrap_or(0);
        (v.unfit(m).is_some(), load, m.pod.index)
    });
    found
}

/// The step, with its reason.
pub(super) fn hand_over(
    from: &Member<'_>,
    to: &Member<'_>,
    why: Why,
    note: impl Into<String>,
) -> Option<Proposal> {
    let (on, from) = (to.target()?, from.target()?);
    Some(Proposal::new(Step::HandOver { on, from }, why, note))
}

/// Primaries by worker.
fn primaries<'a>(v: &View<'a>) -> BTreeMap<&'a WorkerName, usize> {
    let mut out = BTreeMap::new();
    for (shard, _) in v.shards() {
        if let Some(worker) = v.primary(shard).and_then(|(m, _)| m.pod.worker.as_ref()) {
            *out.entry(worker).or_default() += 1;
        }
    }
    out
}

/// The voters know the candidate as a replica of this primary: those that answer all do, and they are a majority.
fn wins(v: &View<'_>, candidate: &NodeReport, primary: &NodeReport) -> bool {
    let lists = |n: &NodeReport, id: &NodeId| {
        n.peers.get(id).is_some_and(|p| !p.failed && p.replica_of.as_ref() == Some(&primary.id))
    };
    let voters = 1 + primary.peers.values().filter(|p| !p.slots.is_empty()).count();
    // A primary without a Pod votes like any other.
    let others = v.answering().map(|(_, n)| n).filter(|n| !n.slots().is_empty() && n.id != primary.id);
    let mut asked = 0;
    for owner in others.chain([primary]) {
        if !lists(owner, &candidate.id) {
            return false;
        }
        asked += 1;
    }
    asked * 2 > voters
}
