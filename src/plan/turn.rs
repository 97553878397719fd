//! Whose turn it is to go where a shard has a copy too many: those that are left hold the data on more than one worker, wherever that can
//! be had.

use super::away;
use crate::model::{Member, NodeReport, PodName, Shard, View, Why, WorkerName};

/// Who goes: a removal that began is finished first, then those without whom the data is not on one worker alone, then copies
/// out of sync, then those that crowd a worker, then the highest number.
pub(super) fn next<'v, 'a>(
    v: &'v View<'a>,
    shard: Shard,
    primary: &NodeReport,
    replacing: bool,
) -> Option<&'v Member<'a>> {
    let crowd = |m: &Member<'_>| v.staying(shard).filter(|o| o.pod.worker == m.pod.worker).count();
    v.staying(shard)
        .filter(|m| m.node().is_some_and(|n| n.id != primary.id && n.slots().is_empty()))
        .filter(|m| !replacing || v.unfit(m).is_some())
        .max_by_key(|m| {
            let retiring = m.node().is_some_and(NodeReport::is_retiring);
            let leaving = v.unfit(m) == Some(Why::Evacuate);
            let apart = huddle(v, shard, m).is_none();
            (retiring, apart, !holds(v, m), leaving, crowd(m), m.pod.index)
        })
}

/// Of those that are to be replaced the one whose turn it is would leave the data on one worker, and the primary would not.
pub(super) fn of_primary(v: &View<'_>, shard: Shard, primary: &Member<'_>) -> bool {
    let next = primary.node().and_then(|p| next(v, shard, p, true));
    next.is_some_and(|m| {
        let settled = m.node().is_none_or(|n| !n.is_retiring()) && v.unfit(m) != Some(Why::Evacuate);
        settled && holds(v, m) && huddle(v, shard, m).is_some() && huddle(v, shard, primary).is_none()
    })
}

/// Without it all who hold the data would share a worker, and one that is elsewhere is on its way to hold it: that one is waited for.
pub(super) fn parted_soon<'v>(v: &'v View<'_>, shard: Shard, victim: &Member<'_>) -> Option<&'v PodName> {
    let place = huddle(v, shard, victim)?;
    let comes = |m: &&Member<'_>| {
        !holds(v, m) && !away::is_leaving(m) && v.unfit(m).is_none() && is_elsewhere(m, place)
    };
    away::present(v, shard).find(comes).map(|m| &m.pod.name)
}

/// The worker that all who hold the data would share without this one, which is elsewhere.
fn huddle<'v>(v: &'v View<'_>, shard: Shard, without: &Member<'_>) -> Option<&'v WorkerName> {
    let stays = |m: &&Member<'_>| m.pod.uid != without.pod.uid && holds(v, m);
    let left: Vec<_> = v.staying(shard).filter(stays).collect();
    let place = left.first()?.pod.worker.as_ref()?;
    let all_there = left.len() > 1 && !left.iter().any(|m| is_elsewhere(m, place));
    (all_there && is_elsewhere(without, place)).then_some(place)
}

/// It leads its shard, or is in sync with who does.
fn holds(v: &View<'_>, m: &Member<'_>) -> bool {
    let leads = v.primary(m.pod.shard).is_some_and(|(p, _)| p.pod.uid == m.pod.uid);
    leads || v.in_sync(m.pod.shard).iter().any(|s| s.pod.uid == m.pod.uid)
}

fn is_elsewhere(m: &Member<'_>, place: &WorkerName) -> bool {
    m.pod.worker.as_ref().is_some_and(|w| w != place)
}
