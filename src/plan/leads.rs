//! Who leads each shard of a new cluster: the most even spread of primaries over workers and zones that the Pods allow.

use std::collections::BTreeMap;

use super::even::{Over, Seat, even};
use crate::model::{Member, Shard, SpreadMode, View};

/// The leader of each wanted shard that has an answering node; slot owners keep their place, and a replica (of a
/// primary that died while the cluster formed) cannot be given slots.
pub fn leads<'v, 'a>(v: &'v View<'a>) -> BTreeMap<Shard, &'v Member<'a>> {
    let mut choices: BTreeMap<Shard, Vec<&Member<'a>>> = BTreeMap::new();
    for shard in v.s.desired.shards() {
        let all = v.staying(shard).filter(|m| m.node().is_some_and(|n| !n.loading));
        let primaries = all.filter(|m| m.link().is_none());
        let (owners, others): (Vec<_>, Vec<_>) =
            primaries.partition(|m| m.node().is_some_and(|n| !n.slots().is_empty()));
        choices.insert(shard, if owners.is_empty() { others } else { owners });
    }
    let seats: BTreeMap<Shard, Vec<Seat<'_>>> = choices
        .iter()
        .map(|(shard, members)| (*shard, members.iter().map(|m| seat(v, m)).collect()))
        .collect();
    let chosen = spread(&seats, over(v));
    choices
        .into_iter()
        .filter_map(|(shard, members)| Some((shard, *members.get(*chosen.get(&shard)?)?)))
        .collect()
}

/// What the spec wants primaries to be even over.
pub(super) fn over(v: &View<'_>) -> Over {
    let s = &v.s.desired.template.scheduling;
    let even = |mode: SpreadMode| mode != SpreadMode::Disabled;
    Over { workers: even(s.node.primaries), zones: even(s.zone.primaries) }
}

/// Where it runs; a member without a worker counts as alone on its own.
pub(super) fn seat<'a>(v: &View<'a>, m: &Member<'a>) -> Seat<'a> {
    let at = m.pod.worker.as_ref();
    let zone = at.and_then(|w| v.s.workers.get(w)).and_then(|w| w.zone.as_ref());
    Seat {
        worker: at.map_or(m.pod.name.as_str(), |w| w.as_str()),
        zone: zone.map(crate::model::Zone::as_str),
    }
}

/// For each shard the index of one of its choices, such that loads are as even as can be.
pub fn spread(choices: &BTreeMap<Shard, Vec<Seat<'_>>>, over: Over) -> BTreeMap<Shard, usize> {
    // A choice that is good already leaves little to improve.
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen: BTreeMap<Shard, usize> = BTreeMap::new();
    for (shard, options) in choices {
        let load = |s: &Seat<'_>| loads.get(s.worker).copied().unwrap_or(0);
        if let Some((i, s)) = options.iter().enumerate().min_by_key(|(i, s)| (load(s), *i)) {
            *loads.entry(s.worker).or_default() += 1;
            chosen.insert(*shard, i);
        }
    }
    even(choices, &chosen, over)
}
