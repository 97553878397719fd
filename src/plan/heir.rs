//! Who may take over a shard, and the one step that makes it so.
//!
//! `CLUSTER FAILOVER` answers OK even when it will fail, and one that fails holds the writes for its whole time-out
//! (measured on 8.0.1, 8.1.1 and 9.1.2). So it is only asked of a replica that will win: in sync, listed as this
//! primary's replica by a majority of the slot owners and by every one of them that answers, and with open links to
//! and from a majority of them, since it asks each for its vote once.
//!
//! And it is not asked while another replica of the shard has not met it: that one hears of the change from the former
//! primary alone, and may stand still for ever (9.1.2, seen once for certain: a newcomer that was told to replicate 0.2 s before).

use super::migrate::migrating;
use crate::model::{Member, NodeReport, Peer, Proposal, Role, Shard, Step, View, Why};

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
    let would_win = |m: &&Member<'a>| {
        m.node().is_some_and(|n| wins(v, n, primary) && has_met_followers(v.members(m.pod.shard), n, primary))
    };
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

/// The voters know the candidate as a replica of this primary: those that answer all do, and they are a majority. Its question reaches a
/// majority of them, and their votes reach it: each goes over the link of who sends it, and is lost where there is none yet (a node that was
/// heard of by gossip has one after a tenth of a second: `clusterSendFailoverAuth`, `clusterCron`).
fn wins(v: &View<'_>, candidate: &NodeReport, primary: &NodeReport) -> bool {
    let knows = |p: Option<&Peer>| p.is_some_and(|p| !p.failed && p.replica_of.as_ref() == Some(&primary.id));
    let reaches = |p: Option<&Peer>| knows(p) && p.is_some_and(|p| p.connected);
    let voters = 1 + v.lists().listed_owners(primary);
    // A primary without a Pod votes like any other.
    let ghost = usize::from(v.by_id(&primary.id).is_none());
    let majority = |owners: usize| owners * 2 > voters;
    reaches(primary.peers.get(&candidate.id))
        && v.lists().every_owner(&candidate.id, knows).is_some_and(|owners| majority(owners + ghost))
        && majority(v.lists().reached_owners(candidate))
        && majority(v.lists().owners(&candidate.id, reaches) + ghost)
}

/// Those of the shard that follow this primary know the candidate, and it knows them.
fn has_met_followers(shard: &[Member<'_>], candidate: &NodeReport, primary: &NodeReport) -> bool {
    let follows = |n: &&NodeReport| matches!(&n.role, Role::Replica { of, .. } if *of == primary.id);
    let mut others = shard.iter().filter_map(Member::node).filter(|n| n.id != candidate.id).filter(follows);
    others.all(|n| View::acquainted(candidate, n))
}
