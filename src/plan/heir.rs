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
    let mut found: Vec<_> =
        v.in_sync(shard).into_iter().filter(|m| m.node().is_some_and(|n| wins(v, n, primary))).collect();
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
    v.lists().every_owner(&candidate.id, knows) && v.lists().owners(&candidate.id, knows) * 2 > voters
}
