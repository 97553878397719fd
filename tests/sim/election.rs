//! Elections: a replica whose primary has failed asks the slot owners for their votes.

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::{NodeId, Slots, Version};

use super::ticks;
use super::valkey::{Node, Valkey};

impl Valkey {
    /// What candidates do in one tick.
    pub(crate) fn elections(&mut self, now: i64, rng: &mut StdRng) {
        let ids: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for id in ids {
            if !self.may_stand(&id, now) {
                self.get_mut(&id).election_at = None;
                continue;
            }
            let rank = i64::try_from(self.rank(&id)).unwrap_or(0);
            let node = self.get_mut(&id);
            match node.election_at {
                None => {
                    let quick = node.version >= Version::new(9, 0, 0);
                    let delay = if quick { rng.random_range(60..=130) } else { rng.random_range(500..=1000) };
                    node.election_at = Some(now + ticks(delay + rank * 1000));
                }
                Some(at) if at <= now => self.stand(&id, now, rng),
                Some(_) => {}
            }
        }
    }

    /// Its primary has failed and owns slots, it may be elected, and its data is not too old.
    fn may_stand(&self, id: &NodeId, now: i64) -> bool {
        let node = &self.nodes[id];
        let Some(primary) = node.of.as_ref().and_then(|p| node.view.get(p)) else { return false };
        let age = if node.repl.up { 0 } else { now - node.repl.down_since };
        let limit = ticks(node.timeout_ms() * 10 + 2000);
        primary.failed && !primary.slots.is_empty() && !node.retiring() && node.repl.synced && age <= limit
    }

    /// How many siblings have more of the data: those stand first.
    fn rank(&self, id: &NodeId) -> usize {
        let node = &self.nodes[id];
        let amount = |n: &super::valkey::Node| n.data.values().sum::<u64>();
        self.nodes
            .values()
            .filter(|n| n.of == node.of && n.id != *id && n.repl.synced && !n.retiring())
            .filter(|n| amount(n) > amount(node) || (amount(n) == amount(node) && n.id < *id))
            .count()
    }

    fn stand(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) {
        let node = self.get_mut(id);
        node.current_epoch += 1;
        let (epoch, worker, needed) = (node.current_epoch, node.worker.clone(), node.voters() / 2 + 1);
        let Some(primary) = node.of.clone() else { return };
        let Some(entry) = node.view.get(&primary) else { return };
        let (slots, slots_epoch) = (entry.slots.clone(), entry.epoch);
        let electorate: Vec<NodeId> =
            node.view.iter().filter(|(_, e)| !e.slots.is_empty()).map(|(i, _)| i.clone()).collect();
        let retry = ticks((node.timeout_ms() * 4).max(4000));
        let mut granted = 0;
        for voter in electorate {
            let reachable = self.nodes.get(&voter).is_some_and(|v| self.reach(&v.worker, Some(&worker)));
            if reachable && self.vote(&voter, id, &primary, epoch, (&slots, slots_epoch), false) {
                granted += 1;
            }
        }
        if granted < needed {
            self.get_mut(id).election_at = Some(now + retry);
            return;
        }
        self.promote(id, epoch, &slots, now, rng);
    }

    fn promote(&mut self, id: &NodeId, epoch: u64, slots: &Slots, now: i64, rng: &mut StdRng) {
        let node = self.get_mut(id);
        let old = node.of.take();
        node.epoch = epoch;
        node.slots = slots.clone();
        node.repl.up = false;
        node.repl.partner = None;
        node.election_at = None;
        if let Some(entry) = old.as_ref().and_then(|p| node.view.get_mut(p)) {
            entry.slots = Slots::none();
        }
        if let Some(old) = &old {
            self.point_to_heir(old, id);
            let behind_a_cut = |o: &&Node| self.cut.contains(&o.worker) && !o.open.is_empty();
            self.left_behind.extend(self.nodes.get(old).filter(behind_a_cut).map(|o| o.id.clone()));
        }
        let node = self.get_mut(id);
        // The new primary tells everybody at once.
        let friends: Vec<NodeId> = node.view.keys().cloned().collect();
        for friend in friends {
            self.ping(id, &friend, now, rng);
        }
    }

    /// `CLUSTER FAILOVER FORCE`: the votes of the majority, for which neither a failure nor a sync is asked (measured on
    /// 9.1.2: a replica that had never synced won in 2 ms and emptied its living primary).
    pub(crate) fn force(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) -> Result<(), String> {
        let node = self.get_mut(id);
        let primary = node.of.clone().ok_or("You should send CLUSTER FAILOVER to a replica")?;
        let Some(entry) = node.view.get(&primary) else {
            return Err("Replica is not aware of its master".to_owned());
        };
        let (slots, slots_epoch) = (entry.slots.clone(), entry.epoch);
        node.current_epoch += 1;
        let (epoch, worker, needed) = (node.current_epoch, node.worker.clone(), node.voters() / 2 + 1);
        let electorate: Vec<NodeId> =
            node.view.iter().filter(|(_, e)| !e.slots.is_empty()).map(|(i, _)| i.clone()).collect();
        let mut granted = 0;
        for voter in electorate {
            let reachable = self.nodes.get(&voter).is_some_and(|v| self.reach(&v.worker, Some(&worker)));
            if reachable && self.vote(&voter, id, &primary, epoch, (&slots, slots_epoch), true) {
                granted += 1;
            }
        }
        // OK means that it was begun, not that it succeeds.
        if granted >= needed {
            self.promote(id, epoch, &slots, now, rng);
        }
        Ok(())
    }

    /// `CLUSTER FAILOVER TAKEOVER`: nobody is asked.
    pub(crate) fn take_over(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) -> Result<(), String> {
        let node = self.get_mut(id);
        let primary = node.of.clone().ok_or("You should send CLUSTER FAILOVER to a replica")?;
        let slots = node.view.get(&primary).map(|e| e.slots.clone()).unwrap_or_default();
        let highest = node.view.values().map(|e| e.epoch).max().unwrap_or(0).max(node.current_epoch);
        node.current_epoch = highest + 1;
        self.promote(id, highest + 1, &slots, now, rng);
        Ok(())
    }

    /// `shutdown-on-sigterm failover` (9.0 and newer): a primary that is told to end hands over to a replica in sync,
    /// if the majority of the slot owners can vote. So does one without slots, and a retired replica is good enough: only
    /// automatic elections leave that one out (both seen on 9.1.2).
    pub(crate) fn hand_over(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) {
        let primary = |n: &&super::valkey::Node| n.of.is_none() && n.version >= Version::new(9, 0, 0);
        let Some(node) = self.nodes.get(id).filter(primary) else {
            return;
        };
        let (slots, needed) = (node.slots.clone(), node.voters() / 2 + 1);
        let reached = |n: &&super::valkey::Node| self.reach(&n.worker, Some(&node.worker));
        let heir = self
            .nodes
            .values()
            .filter(reached)
            .find(|n| n.repl.up && n.repl.partner.as_ref() == Some(id) && n.of.as_ref() == Some(id));
        let Some(heir) = heir.map(|n| n.id.clone()) else { return };
        let sees = |n: &&super::valkey::Node| {
            n.leads() && n.view.get(&heir).is_some_and(|e| e.replica_of.as_ref() == Some(id))
        };
        if self.nodes.values().filter(reached).filter(sees).count() < needed {
            return;
        }
        let epoch = self.nodes.values().map(|n| n.current_epoch).max().unwrap_or(0) + 1;
        self.get_mut(&heir).current_epoch = epoch;
        self.promote(&heir, epoch, &slots, now, rng);
    }

    /// `CLUSTER FAILOVER` on a replica: the primary holds its writes, the replica takes the rest over and asks for votes
    /// that need no failure. Without a majority it ends after its time-out, and nothing has changed.
    pub(crate) fn failover(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) -> Result<bool, String> {
        let node = &self.nodes[id];
        let Some(primary) = node.of.clone() else {
            return Err("You should send CLUSTER FAILOVER to a replica".to_owned());
        };
        let entry = node.view.get(&primary).filter(|e| !e.failed && !e.suspected);
        let Some(old) = entry.and(self.nodes.get(&primary)) else {
            return Err("Master is down or failed, please use CLUSTER FAILOVER FORCE".to_owned());
        };
        let linked = node.repl.up && node.repl.partner.as_ref() == Some(&primary);
        let reached = |n: &&super::valkey::Node| self.reach(&n.worker, Some(&node.worker));
        let sees = |n: &&super::valkey::Node| {
            n.leads() && n.view.get(id).is_some_and(|e| e.replica_of.as_ref() == Some(&primary))
        };
        let votes = self.nodes.values().filter(reached).filter(sees).count();
        if !linked || !self.reach(&old.worker, Some(&node.worker)) || votes < node.voters() / 2 + 1 {
            return Ok(false);
        }
        let (slots, data) = (old.slots.clone(), old.data.clone());
        let epoch = self.nodes.values().map(|n| n.current_epoch).max().unwrap_or(0) + 1;
        let heir = self.get_mut(id);
        heir.data = data;
        heir.current_epoch = epoch;
        self.promote(id, epoch, &slots, now, rng);
        Ok(true)
    }

    fn vote(
        &mut self,
        voter: &NodeId,
        who: &NodeId,
        primary: &NodeId,
        epoch: u64,
        claim: (&Slots, u64),
        forced: bool,
    ) -> bool {
        let v = self.get_mut(voter);
        let sees_replica = v.view.get(who).is_some_and(|e| e.replica_of.as_ref() == Some(primary));
        let sees_failure = forced || v.view.get(primary).is_some_and(|e| e.failed);
        let newer_owner = v.view.values().any(|e| e.epoch > claim.1 && e.slots.overlaps(claim.0));
        let fresh = v.last_vote < epoch && v.current_epoch <= epoch;
        v.current_epoch = v.current_epoch.max(epoch);
        let yes = v.leads() && sees_replica && sees_failure && !newer_owner && fresh;
        if yes {
            v.last_vote = epoch;
        }
        yes
    }
}
