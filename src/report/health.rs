//! The questions that every part of the report asks, answered once.

use std::collections::BTreeMap;

use super::{Gauges, trouble::Trouble};
use crate::{
    model::{Member, Phase, Plan, SLOTS, Seen, Shard, Slots, View},
    plan::{form, gate, newcomers, users::Wishes},
};

/// How the cluster is.
pub(super) struct Health<'v, 'a> {
    pub(super) view: &'v View<'a>,
    pub(super) plan: &'v Plan,
    /// Wanted shards with a primary and every wanted replica in sync.
    pub(super) ready: Vec<Shard>,
    /// Wanted shards whose primary answers but that lack replicas in sync.
    pub(super) short: Vec<Shard>,
    /// Wanted shards no primary of which answers.
    pub(super) leaderless: Vec<Shard>,
    /// Wanted shards that have no slots yet.
    pub(super) new: Vec<Shard>,
    /// Shards that own slots, wanted or not.
    pub(super) serving_shards: usize,
    /// Slots that somebody is known to own, by its own word or by that of its peers.
    pub(super) known_slots: u16,
    /// Every slot has exactly one owner that answers.
    pub(super) owned_once: bool,
    /// Every node that answers knows every other and calls the cluster ok.
    pub(super) complete: bool,
    /// Pods of an earlier revision.
    pub(super) outdated: usize,
    /// What a person should know of, the worst first.
    pub(super) troubles: Vec<Trouble>,
}

impl<'v, 'a> Health<'v, 'a> {
    pub(super) fn new(view: &'v View<'a>, plan: &'v Plan) -> Self {
        let wanted = usize::from(view.s.desired.replicas);
        let (led, leaderless): (Vec<_>, Vec<_>) =
            view.s.desired.shards().partition(|shard| view.primary(*shard).is_some());
        let (new, leaderless): (Vec<_>, Vec<_>) =
            leaderless.into_iter().partition(|shard| newcomers::is_new(view, *shard));
        let (ready, short): (Vec<_>, Vec<_>) =
            led.into_iter().partition(|shard| view.in_sync(*shard).len() >= wanted);
        let owned: u32 = view.answering().map(|(_, n)| u32::from(n.slots().len())).sum();
        let mut health = Self {
            ready,
            short,
            leaderless,
            new,
            serving_shards: view.shards().filter(|(shard, _)| view.primary(*shard).is_some()).count(),
            known_slots: known_slots(view),
            owned_once: owned == u32::from(SLOTS) && view.owned().is_all(),
            complete: form::complete(view),
            outdated: view.all().filter(|m| m.pod.revision != view.s.revision && m.stays()).count(),
            troubles: Vec::new(),
            view,
            plan,
        };
        health.troubles = super::trouble::troubles(&health);
        health
    }

    /// Formed once, so that what is missing now was lost.
    pub(super) fn whole(&self) -> bool {
        self.view.s.whole || self.complete
    }

    /// As the spec says, and nothing left to do.
    pub(super) fn healthy(&self) -> bool {
        self.ready.len() == usize::from(self.view.s.desired.shards)
            && self.owned_once
            && self.complete
            && self.troubles.iter().all(Trouble::is_mild)
            && self.plan.quiet()
            && self.plan.blocked.iter().all(|b| super::trouble::waits_for_a_person(b.code))
    }

    pub(super) fn gauges(&self) -> Gauges {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut members: BTreeMap<String, i64> =
            ["ready", "joining", "silent", "pending", "ended", "leaving"].map(|s| (s.to_owned(), 0)).into();
        let wishes = Wishes::new(self.view);
        for member in self.view.all() {
            *members.entry(self.state(&wishes, member).to_owned()).or_default() += 1;
        }
        let shards = [("ready", &self.ready), ("short", &self.short), ("lost", &self.leaderless)];
        Gauges {
            shards: shards.map(|(state, list)| (state.to_owned(), count(list.len()))).into(),
            members,
            worker_spread: self.worker_spread(),
            certificate_expires: self
                .view
                .s
                .certificates
                .as_ref()
                .and_then(|c| c.expires)
                .map(|at| at.0 / 1000),
        }
    }

    fn state(&self, wishes: &Wishes<'_, '_>, member: &Member<'_>) -> &'static str {
        match (member.pod.terminating, member.pod.phase, member.seen) {
            (true, _, _) => "leaving",
            (false, Phase::Finished { .. }, _) => "ended",
            (false, Phase::Pending, _) => "pending",
            (false, Phase::Running, Seen::Now(node))
                if gate::verdict(self.view, wishes, member, node).is_ok() =>
            {
                "ready"
            }
            (false, Phase::Running, Seen::Now(_)) => "joining",
            (false, Phase::Running, Seen::Silent(_) | Seen::Never) => "silent",
        }
    }

    fn worker_spread(&self) -> i64 {
        let open = self.view.s.workers.values().filter(|w| w.open);
        let mut loads: BTreeMap<_, i64> = open.map(|w| (&w.name, 0)).collect();
        for shard in self.view.s.desired.shards() {
            if let Some(worker) = self.view.primary(shard).and_then(|(m, _)| m.pod.worker.as_ref()) {
                *loads.entry(worker).or_default() += 1;
            }
        }
        let most = loads.values().max().copied().unwrap_or_default();
        most - loads.values().min().copied().unwrap_or_default()
    }
}

fn known_slots(view: &View<'_>) -> u16 {
    let own = view.answering().flat_map(|(_, n)| n.slots().ranges().iter().copied());
    let listed = view.lists().lines().flat_map(|(_, p)| p.slots.ranges().iter().copied());
    Slots::from_ranges(own.chain(listed)).len()
}
