//! Who leads each shard of a new cluster: the most even spread of primaries over workers that the Pods allow.
//!
//! An optimal semi-matching: starting from a greedy choice, load moves along the shortest path from a fuller worker
//! to one with at least two fewer, until there is none. The result has the smallest possible sorted loads, so
//! max − min ≤ 1 whenever any choice reaches it.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Member, Shard, View};

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
    let workers: BTreeMap<Shard, Vec<&str>> = choices
        .iter()
        .map(|(shard, members)| (*shard, members.iter().map(|m| worker(m)).collect()))
        .collect();
    let chosen = spread(&workers);
    choices
        .into_iter()
        .filter_map(|(shard, members)| Some((shard, *members.get(*chosen.get(&shard)?)?)))
        .collect()
}

/// Where it runs; a member without a worker counts as alone on its own.
pub(super) fn worker<'a>(m: &Member<'a>) -> &'a str {
    m.pod.worker.as_ref().map_or(m.pod.name.as_str(), |w| w.as_str())
}

/// For each shard the index of one of its choices, such that loads are as even as can be.
pub fn spread(choices: &BTreeMap<Shard, Vec<&str>>) -> BTreeMap<Shard, usize> {
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen: BTreeMap<Shard, usize> = BTreeMap::new();
    for (shard, options) in choices {
        let load = |w: &str| loads.get(w).copied().unwrap_or(0);
        if let Some((i, w)) = options.iter().enumerate().min_by_key(|(i, w)| (load(w), *i)) {
            *loads.entry(w).or_default() += 1;
            chosen.insert(*shard, i);
        }
    }
    relieve(choices, chosen)
}

/// The same from choices that were made already, with as few of them changed as relief needs.
pub fn relieve(
    choices: &BTreeMap<Shard, Vec<&str>>,
    mut chosen: BTreeMap<Shard, usize>,
) -> BTreeMap<Shard, usize> {
    let mut loads: BTreeMap<&str, usize> = choices.values().flatten().map(|w| (*w, 0)).collect();
    for (shard, i) in &chosen {
        if let Some(w) = choices.get(shard).and_then(|o| o.get(*i)) {
            *loads.entry(w).or_default() += 1;
        }
    }
    while let Some(path) = relief(choices, &chosen, &loads) {
        for (shard, to) in path {
            let options = choices.get(&shard);
            let name = |i: usize| options.and_then(|o| o.get(i)).copied();
            let from = chosen.insert(shard, to);
            if let Some(w) = from.and_then(name) {
                loads.entry(w).and_modify(|n| *n = n.saturating_sub(1));
            }
            if let Some(w) = name(to) {
                *loads.entry(w).or_default() += 1;
            }
        }
    }
    chosen
}

/// The moves along a shortest path from some worker to one with at least two fewer.
fn relief(
    choices: &BTreeMap<Shard, Vec<&str>>,
    chosen: &BTreeMap<Shard, usize>,
    loads: &BTreeMap<&str, usize>,
) -> Option<Vec<(Shard, usize)>> {
    // Whoever has one more than the least has nobody to give it to.
    let least = loads.values().min().copied().unwrap_or(0);
    let mut order: Vec<(&str, usize)> =
        loads.iter().map(|(w, n)| (*w, *n)).filter(|(_, n)| *n > least + 1).collect();
    order.sort_by_key(|(w, n)| (std::cmp::Reverse(*n), *w));
    order.into_iter().find_map(|(start, load)| path_from(start, load, choices, chosen, loads))
}

fn path_from<'a>(
    start: &'a str,
    load: usize,
    choices: &BTreeMap<Shard, Vec<&'a str>>,
    chosen: &BTreeMap<Shard, usize>,
    loads: &BTreeMap<&'a str, usize>,
) -> Option<Vec<(Shard, usize)>> {
    let mut reached: BTreeMap<&str, Option<(&str, Shard, usize)>> = BTreeMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(here) = queue.pop_front() {
        if loads.get(here).is_some_and(|n| n + 2 <= load) {
            return Some(walk_back(here, &reached));
        }
        for (shard, options) in choices {
            let at = chosen.get(shard).and_then(|i| options.get(*i)).copied();
            for (i, next) in options.iter().enumerate().filter(|_| at == Some(here)) {
                if !reached.contains_key(next) {
                    reached.insert(next, Some((here, *shard, i)));
                    queue.push_back(next);
                }
            }
        }
    }
    None
}

fn walk_back(end: &str, reached: &BTreeMap<&str, Option<(&str, Shard, usize)>>) -> Vec<(Shard, usize)> {
    let mut moves = Vec::new();
    let mut here = end;
    while let Some(Some((from, shard, i))) = reached.get(here) {
        moves.push((*shard, *i));
        here = from;
    }
    moves
}
