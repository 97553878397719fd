//! What the operator does by plan takes turns: shards that it disrupts, hand-overs, removals of copies.
//!
//! Judged by the truth of the world at the moment of the effect, not by what the plan believed. A pass that saw an old world is not
//! to blame for what it could not know; what it has begun counts for the next ones all the same.

use std::collections::BTreeSet;

use valkey_cluster_operator::model::{NodeId, Phase, PodUid, Shape, Shard, Why};

use super::ticks;
use super::valkey::Node;
use super::world::World;

/// Who acts now, and why.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Acting {
    pub operator: usize,
    /// Its facts are those of this tick.
    pub sees_now: bool,
    pub why: Why,
}

/// A planned change of roles that an operator has asked for.
#[derive(Clone, PartialEq, Debug)]
struct Flight {
    operator: usize,
    shard: Shard,
    /// Until then its election may be under way.
    until: i64,
}

/// What is under way.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Turns {
    pub acting: Option<Acting>,
    flights: Vec<Flight>,
    /// The copy of this shard that an operator took away last, and when.
    removed: Option<(i64, usize, Shard)>,
}

impl Turns {
    /// A process that died knows nothing of what it has begun.
    pub(crate) fn forget(&mut self, operator: usize) {
        self.flights.retain(|f| f.operator != operator);
    }
}

/// For so long a hand-over that nobody grants holds the writes, in milliseconds (`cluster-manual-failover-timeout`).
const IN_VAIN_MS: i64 = 1000;

impl World {
    /// A successor is made, or a role moves, where nothing was lost: shards that are impaired for any reason spend the budget,
    /// and so does one of which the operator alone does not hear a copy; what was begun goes on, and an emptied worker does not wait for
    /// shards that only wait for room.
    pub(crate) fn disrupts(&mut self, shard: Shard) {
        let Some(Acting { sees_now: true, why, .. }) = self.watch.turns.acting else { return };
        let planned = matches!(why, Why::Upgrade | Why::Evacuate | Why::Placement);
        if !planned || self.impaired(shard) || self.is_half_heard(shard) {
            return;
        }
        let served = self.resource.served.iter().copied().filter(|s| self.resource.desired.wants(*s));
        let excused = |s: Shard| {
            let waits = why == Why::Evacuate && self.waits_for_room(s);
            waits || self.is_claimed_twice(s) || self.has_given_all(s)
        };
        let spends = |s: &Shard| self.impaired(*s) && !excused(*s);
        let others: BTreeSet<Shard> = served.filter(spends).collect();
        let most = usize::from(self.resource.desired.max_disrupted_shards);
        if others.len() >= most && !self.keys_are_dropped() {
            let why = format!("shard {shard} is disrupted ({why:?}) beside {others:?}, and {most} may be");
            self.watch.broken(self.now, why);
        }
    }

    /// It lacks a primary that stays, a copy in sync, or has not the number of members that are to stay.
    fn impaired(&self, shard: Shard) -> bool {
        let desired = &self.resource.desired;
        let members = self.staying(shard);
        let led = members.iter().flatten().any(|n| n.leads());
        let leaves = |n: &&Node| n.retiring() && n.slots.is_empty();
        let remaining = members.iter().filter(|n| !n.as_ref().is_some_and(leaves)).count();
        let synced = self.in_sync(shard, None);
        let synced = synced.iter().filter(|id| !self.valkey.nodes[*id].retiring()).count();
        !led || synced < usize::from(desired.replicas) || remaining != desired.copies()
    }

    /// The operator alone does not reach the worker of one of its members.
    fn is_half_heard(&self, shard: Shard) -> bool {
        let mut homes =
            self.kube.pods.values().filter(|o| o.pod.shard == shard).filter_map(|o| o.pod.worker.as_ref());
        homes.any(|worker| self.valkey.hidden.contains(worker))
    }

    /// Others own its slots: the status tells it from the next pass on.
    fn has_given_all(&self, shard: Shard) -> bool {
        let pods = self.kube.pods.values();
        let leading =
            pods.filter(|o| self.process(&o.pod.name).is_some_and(Node::leads)).map(|o| o.pod.shard);
        self.not_owned().is_empty() && !leading.into_iter().any(|s| s == shard)
    }

    /// Two members own slots, and which of them leads is a question of the moment.
    fn is_claimed_twice(&self, shard: Shard) -> bool {
        let pods = self.kube.pods.values().filter(|o| o.pod.shard == shard);
        pods.filter(|o| self.process(&o.pod.name).is_some_and(|n| !n.slots.is_empty())).count() > 1
    }

    /// The processes of the members that nobody has told to go; one that has not started has none.
    fn staying(&self, shard: Shard) -> Vec<Option<&Node>> {
        let pods = self.kube.pods.values().filter(|o| o.pod.shard == shard && !o.told_to_go());
        let stays = pods.filter(|o| !matches!(o.pod.phase, Phase::Finished { .. }));
        stays.map(|o| self.process(&o.pod.name)).collect()
    }

    /// It lacks nothing, and no worker takes its successor.
    fn waits_for_room(&self, shard: Shard) -> bool {
        let desired = &self.resource.desired;
        let pods = self.kube.pods.values().filter(|o| o.pod.shard == shard && !o.told_to_go());
        self.staying(shard).len() == desired.copies() + 1
            && self.in_sync(shard, None).len() >= usize::from(desired.replicas)
            && pods.into_iter().any(|o| o.pod.is_unschedulable())
    }

    /// Nothing is left that one shard after another would protect.
    fn keys_are_dropped(&self) -> bool {
        let pods = self.kube.pods.iter().map(|(name, o)| (name.clone(), o.pod.clone())).collect();
        let (asked, _) = self.secured(&pods);
        let wanted = Shape { shards: asked.shards, revision: Self::revision(&asked) };
        asked.purge && self.resource.shape == Some(wanted)
    }

    /// A planned hand-over begins, and is granted or not: two elections at one moment deny each other votes. What another
    /// operator has begun nobody can know; what Valkey does by itself, and what is forced for the dead, does not count.
    pub(crate) fn begins_hand_over(&mut self, shard: Shard, granted: bool) {
        let Some(Acting { operator, .. }) = self.watch.turns.acting else { return };
        let now = self.now;
        let flights = &mut self.watch.turns.flights;
        flights.retain(|f| f.until > now);
        let other = flights.iter().find(|f| f.operator == operator).map(|f| f.shard);
        let until = now + if granted { 1 } else { ticks(IN_VAIN_MS) };
        flights.push(Flight { operator, shard, until });
        if let Some(other) = other {
            let why = format!("shard {shard} hands over while the hand-over of shard {other} is under way");
            self.watch.broken(now, why);
        }
    }

    /// A copy is asked to leave: no other copy of its shard, of the same primary, is seen on its way out already. Whether a silent
    /// one is nobody can know; it is not one of those that have to stay in sync, either.
    pub(crate) fn retires(&mut self, id: &NodeId) {
        let Some(Acting { sees_now: true, .. }) = self.watch.turns.acting else { return };
        let Some(shard) =
            self.kube.pods.values().find(|o| o.process.as_ref() == Some(id)).map(|o| o.pod.shard)
        else {
            return;
        };
        let of = &self.valkey.nodes[id].of;
        let leaves = |n: &&Node| {
            n.id != *id
                && n.retiring()
                && n.of == *of
                && n.slots.is_empty()
                && self.heard(n.ip).is_some_and(|heard| heard.id == n.id)
        };
        if let Some(other) = self.staying(shard).into_iter().flatten().find(leaves) {
            let why = format!("{id} of shard {shard} is retired while {} is on its way out", other.id);
            self.watch.broken(self.now, why);
        }
    }

    /// A retired copy is deleted: it is the only one of its shard in this pass.
    pub(crate) fn removes(&mut self, uid: &PodUid, shard: Shard) {
        let Some(Acting { operator, .. }) = self.watch.turns.acting else { return };
        let this = (self.now, operator, shard);
        if self.watch.turns.removed.replace(this) == Some(this) {
            let why = format!("{uid} is the second copy of shard {shard} that is removed at one moment");
            self.watch.broken(self.now, why);
        }
    }
}
