//! Whom a look at a large cluster asks for everything, and whom only for his own state.
//!
//! Everything is asked of a few slot owners by turns (the sample), of one other node by turns, and of whoever is not known to be settled: nodes
//! that this process has not seen whole, or has sent a command since; nodes whose own words the sample does not bear out; all members
//! of a shard of which one is silent, odd, missing or on its way out; and of a majority of the slot owners while a death is to be proven.
//! What is remembered here are hints: without them more is asked, and nothing else is decided.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::brief::{Answer, Lines, Numbers, agreed, is_settled, without_suspicion};
use super::ids::{Moment, NodeId, PodUid, Shard};
use super::peers::Peers;
use super::plan::Waiting;
use super::snapshot::{NodeReport, Peer, Phase, Pod, Seen, Silence};
use super::step::{Lane, Step};

/// How large a cluster has to be, and how many are asked for everything by turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling {
    /// Up to so many nodes all are asked for everything.
    pub above: usize,
    /// Slot owners whose lists stand for those of others.
    pub owners: usize,
    /// Nodes of any kind beside them.
    pub others: usize,
}

impl Default for Sampling {
    /// A whole list has 125 bytes a line: at 50 nodes all lists are as long as two of a cluster of 1,250.
    fn default() -> Self {
        Self { above: 50, owners: 3, others: 1 }
    }
}

/// What a process remembers of the nodes of one cluster.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Looks {
    turn: usize,
    now: Moment,
    known: BTreeMap<PodUid, Known>,
    /// What the sample said lately, by the numbers that it gave: news spreads for a moment.
    lists: VecDeque<(Numbers, Lines)>,
}

/// So many kinds of numbers are remembered.
const KINDS: usize = 16;

/// Of so many shards that a plan waits for everything is asked the next time.
const AWAITED: usize = 8;

#[derive(Clone, PartialEq, Debug)]
struct Known {
    /// What it said when it was seen whole, without its list.
    report: NodeReport,
    /// When that was.
    at: Moment,
    /// Everything is to be asked of it the next time.
    owed: bool,
}

/// A look that has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct First {
    /// Slot owners whose lists stand for those of others.
    sample: BTreeSet<PodUid>,
    /// Who is asked for everything; all others are asked briefly.
    pub whole: BTreeSet<PodUid>,
}

/// What the first answers say.
#[derive(Clone, PartialEq, Debug)]
pub struct Second {
    /// Reports whose lists are inferred.
    inferred: BTreeMap<PodUid, NodeReport>,
    /// Who is to be asked for everything after all.
    pub whole: BTreeSet<PodUid>,
}

impl Looks {
    /// Begins a look at these Pods' nodes; none: everything is asked of all.
    pub fn first(&mut self, asked: &BTreeSet<PodUid>, sampling: Sampling, now: Moment) -> Option<First> {
        if asked.len() <= sampling.above {
            *self = Self::default();
            return None;
        }
        self.known.retain(|uid, _| asked.contains(uid));
        self.turn = self.turn.wrapping_add(1);
        self.now = now;
        let settled = |uid: &&PodUid| self.known.get(*uid).is_some_and(|k| !k.owed);
        let owns = |uid: &&PodUid| self.leads(uid);
        let owners: Vec<&PodUid> = asked.iter().filter(settled).filter(owns).collect();
        let sample: BTreeSet<PodUid> = self.by_turns(&owners, sampling.owners).cloned().collect();
        let all: Vec<&PodUid> = asked.iter().collect();
        let unsettled = asked.iter().filter(|uid| !settled(uid));
        let whole = unsettled.chain(self.by_turns(&all, sampling.others)).chain(&sample).cloned().collect();
        Some(First { sample, whole })
    }

    /// The next so many of them.
    fn by_turns<'u>(&self, all: &[&'u PodUid], count: usize) -> impl Iterator<Item = &'u PodUid> + use<'u> {
        let start = self.turn.wrapping_mul(count).checked_rem(all.len()).unwrap_or(0);
        let next: Vec<&PodUid> = all.iter().cycle().skip(start).take(count.min(all.len())).copied().collect();
        next.into_iter()
    }

    /// What the first answers say, and who is to be asked for everything after all. `long` says who has been silent for long.
    pub fn second(
        &mut self,
        first: &First,
        answers: &BTreeMap<PodUid, Answer>,
        shards: &Shards,
        long: impl Fn(&PodUid) -> bool,
    ) -> Second {
        let sampled: Vec<(Numbers, Lines)> = answers
            .iter()
            .filter(|(uid, _)| first.sample.contains(*uid))
            .filter_map(|(_, answer)| match answer {
                Answer::Whole(n, numbers) if !n.slots().is_empty() => Some((*numbers, n.peers.every_line())),
                Answer::Whole(..) | Answer::Brief(_) | Answer::Silent(_) => None,
            })
            .collect();
        let lists = self.lists(&sampled);
        let (mut inferred, mut odd) = (BTreeMap::new(), BTreeSet::new());
        for (uid, answer) in answers {
            let report = match answer {
                Answer::Whole(n, _) if is_settled(n) => continue,
                Answer::Brief(brief) => self.known.get(uid).and_then(|known| {
                    let ago = self.now.since(known.at);
                    brief.report(&known.report, ago, lists.get(&brief.numbers)?)
                }),
                Answer::Whole(..) | Answer::Silent(_) => None,
            };
            match report {
                Some(report) => drop(inferred.insert(uid.clone(), report)),
                None => drop(odd.insert(uid.clone())),
            }
        }
        let restless: BTreeSet<Shard> = odd.iter().filter_map(|uid| shards.of(uid)).collect();
        let is_brief = |uid: &&PodUid| matches!(answers.get(*uid), Some(Answer::Brief(_)));
        let mut whole: BTreeSet<PodUid> = answers
            .keys()
            .filter(is_brief)
            .filter(|uid| {
                let shard = shards.of(uid);
                odd.contains(*uid) || shard.is_some_and(|s| restless.contains(&s) || shards.is_restless(s))
            })
            .cloned()
            .collect();
        if is_death_to_prove(&sampled, answers, shards, long) {
            whole.extend(majority(&sampled, &inferred));
        }
        inferred.retain(|uid, _| !whole.contains(uid));
        Second { inferred, whole }
    }

    /// What those of the sample say who give the same numbers, and those who gave them lately as far as the sample still says so.
    fn lists(&mut self, sampled: &[(Numbers, Lines)]) -> BTreeMap<Numbers, Lines> {
        let mut now: BTreeMap<Numbers, Lines> = BTreeMap::new();
        for (numbers, lines) in sampled {
            let lines = without_suspicion(lines);
            now.entry(*numbers).and_modify(|all| *all = agreed(all, &lines)).or_insert(lines);
        }
        if now.is_empty() {
            return now;
        }
        self.lists.retain(|(numbers, _)| !now.contains_key(numbers));
        let before = self.lists.iter().map(|(numbers, lines)| {
            (*numbers, now.values().fold(Arc::clone(lines), |all, lines| agreed(&all, lines)))
        });
        let all = before.chain(now.clone()).collect();
        self.lists.extend(now);
        let old = self.lists.len().saturating_sub(KINDS);
        self.lists.drain(..old);
        all
    }

    /// The reports of the look, once `more` has what those said who were asked for everything after all.
    pub fn end(
        &mut self,
        second: Second,
        first: BTreeMap<PodUid, Answer>,
        more: BTreeMap<PodUid, Answer>,
    ) -> BTreeMap<PodUid, Seen<NodeReport>> {
        let mut seen: BTreeMap<PodUid, Seen<NodeReport>> =
            second.inferred.into_iter().map(|(uid, report)| (uid, Seen::Now(report))).collect();
        for (uid, answer) in first.into_iter().chain(more) {
            match answer {
                Answer::Whole(report, _) => {
                    self.saw(&uid, &report);
                    seen.insert(uid, Seen::Now(*report));
                }
                Answer::Silent(why) => drop(seen.insert(uid, Seen::Silent(why))),
                Answer::Brief(_) => {}
            }
        }
        seen
    }

    /// This node led slots when it was seen whole.
    pub fn leads(&self, uid: &PodUid) -> bool {
        self.known.get(uid).is_some_and(|known| !known.report.slots().is_empty())
    }

    /// Everything was asked of this node.
    fn saw(&mut self, uid: &PodUid, report: &NodeReport) {
        let report = NodeReport { peers: Peers::default(), ..report.clone() };
        let owed = !is_settled(&report);
        self.known.insert(uid.clone(), Known { report, at: self.now, owed });
    }

    /// What was done, and what is waited for, is looked at closely the next time.
    pub fn owe<'p>(&mut self, done: impl Iterator<Item = &'p Step>, waiting: &[Waiting], shards: &Shards) {
        let changed = done.flat_map(touched);
        let awaited: BTreeSet<Shard> = waiting.iter().filter_map(|w| w.shard).take(AWAITED).collect();
        let owed: BTreeSet<Shard> = changed.chain(awaited).collect();
        for (uid, known) in &mut self.known {
            known.owed |= shards.of(uid).is_some_and(|s| owed.contains(&s));
        }
    }
}

/// The shards whose nodes a step changes in a way that a brief look does not show.
fn touched(step: &Step) -> Vec<Shard> {
    match step {
        // What is set is among what is asked briefly.
        Step::Configure { .. } | Step::LogIn { .. } => Vec::new(),
        step if step.is_of_kubernetes() => Vec::new(),
        Step::Migrate { on, to, .. } | Step::Carry { on, to, .. } => vec![on.shard, to.shard],
        Step::Promote { on, .. } => vec![on.shard],
        step => match step.lane() {
            Lane::Shard(shard) => vec![shard],
            Lane::Urgent | Lane::First | Lane::Gone(_) | Lane::Aside => Vec::new(),
        },
    }
}

/// As many of the slot owners whose lists are inferred as are a majority of all that own slots.
fn majority(sampled: &[(Numbers, Lines)], inferred: &BTreeMap<PodUid, NodeReport>) -> Vec<PodUid> {
    let listed = sampled.iter().flat_map(|(_, lines)| lines.iter()).filter(|(_, p)| !p.slots.is_empty());
    let voters: BTreeSet<&NodeId> = listed.map(|(id, _)| id).collect();
    let owners = inferred.iter().filter(|(_, n)| !n.slots().is_empty());
    owners.map(|(uid, _)| uid.clone()).take(voters.len() / 2 + 1).collect()
}

/// Somebody does not answer, and the sample has it that he may be dead: what rests on that asks the majority for its own word.
fn is_death_to_prove(
    sampled: &[(Numbers, Lines)],
    answers: &BTreeMap<PodUid, Answer>,
    shards: &Shards,
    long: impl Fn(&PodUid) -> bool,
) -> bool {
    let answering: BTreeSet<&NodeId> = answers
        .values()
        .filter_map(|answer| match answer {
            Answer::Whole(n, _) => Some(&n.id),
            Answer::Brief(n) => Some(&n.id),
            Answer::Silent(_) => None,
        })
        .collect();
    let mut lines = sampled.iter().flat_map(|(_, lines)| lines.iter());
    let owner = |(id, p): (&NodeId, &Peer)| {
        !p.slots.is_empty() && (p.suspected || p.failed) && !answering.contains(id)
    };
    let heard = |lines: &Lines, uid: &PodUid| {
        let at = shards.addresses.get(uid);
        at.is_some_and(|at| lines.values().any(|p| p.ip == Some(*at) && !p.failed))
    };
    let silent = |(uid, answer): (&PodUid, &Answer)| {
        matches!(answer, Answer::Silent(Silence::Timeout))
            && long(uid)
            && sampled.iter().any(|(_, lines)| !heard(lines, uid))
    };
    lines.any(owner) || answers.iter().any(silent)
}

/// Which Pod is of which shard, and which shards have not exactly the members that they should have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shards {
    of: BTreeMap<PodUid, Shard>,
    addresses: BTreeMap<PodUid, std::net::IpAddr>,
    restless: BTreeSet<Shard>,
}

impl Shards {
    /// Of these Pods; a shard should have so many.
    pub fn new<'p>(pods: impl Iterator<Item = &'p Pod>, copies: usize) -> Self {
        let mut shards = Self::default();
        let mut counts: BTreeMap<Shard, usize> = BTreeMap::new();
        for pod in pods {
            shards.of.insert(pod.uid.clone(), pod.shard);
            shards.addresses.extend(pod.ip.map(|ip| (pod.uid.clone(), ip)));
            *counts.entry(pod.shard).or_default() += 1;
            if pod.terminating || pod.disrupted || pod.phase != Phase::Running {
                shards.restless.insert(pod.shard);
            }
        }
        shards.restless.extend(counts.into_iter().filter(|(_, n)| *n != copies).map(|(s, _)| s));
        shards
    }

    fn of(&self, uid: &PodUid) -> Option<Shard> {
        self.of.get(uid).copied()
    }

    fn is_restless(&self, shard: Shard) -> bool {
        self.restless.contains(&shard)
    }
}

#[cfg(test)]
#[path = "looks_tests.rs"]
mod tests;
