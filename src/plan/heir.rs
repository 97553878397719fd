//! Who may take over a shard, and the one step that makes it so.
//!
//! `CLUSTER FAILOVER` answers OK even when it will fail, and one that fails holds the writes for its whole time-out
//! (measured on 8.0.1, 8.1.1 and 9.1.2). So it is only asked of a replica that will win: in sync, and listed as this
//! primary's replica by a majority of the slot owners and by every one of them that answers.

use super::migrate::migrating;
use crate::model::{Member, NodeReport, Peer, Proposal, Shard, Step, View, Why};

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
    replicas: impl IntoIterator<Item = &'v Member<'a>>,
    primary: &NodeReport,
) -> Vec<&'v Member<'a>> {
    let would_win = |m: &&Member<'a>| m.node().is_some_and(|n| wins(v, n, primary));
    let mut found: Vec<_> = replicas.into_iter().filter(would_win).collect();
    found.sort_by_key(|m| {
        let load = m.pod.worker.as_ref().map_or(0, |w| v.leading(w));
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

/// The voters know the candidate as a replica of this primary: those that answer all do, and they are a majority.
fn wins(v: &View<'_>, candidate: &NodeReport, primary: &NodeReport) -> bool {
    let knows = |p: Option<&Peer>| p.is_some_and(|p| !p.failed && p.replica_of.as_ref() == Some(&primary.id));
    let voters = 1 + v.lists().listed_owners(primary);
    // A primary without a Pod votes like any other.
    let ghost = usize::from(v.by_id(&primary.id).is_none());
    knows(primary.peers.get(&candidate.id))
        && v.lists().every_owner(&candidate.id, knows).is_some_and(|owners| (owners + ghost) * 2 > voters)
}
