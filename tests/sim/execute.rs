//! Effects, one a step, exactly as the executor does them: guard first, then one write.

use std::net::IpAddr;

use rand::Rng;
use valkey_cluster_operator::build;
use valkey_cluster_operator::execute::guard;
use valkey_cluster_operator::execute::recovery::{self, Claim};
use valkey_cluster_operator::model::snapshot::{NODENAME, RELEASED};
use valkey_cluster_operator::model::step::{Promotion, Removable};
use valkey_cluster_operator::model::{
    Desired, NodeId, Outcome, PodName, PodUid, Shape, Shard, Slots, Snapshot, SpreadMode, Step, Target,
};

use super::kubernetes::NewPod;
use super::observe::Applied;
use super::tally;
use super::world::World;

/// The server refused, or was not there.
enum No {
    Stale(String),
    Failed(String),
}

impl World {
    /// Does a step that was planned from these facts.
    pub(crate) fn execute(&mut self, step: &Step, facts: &Snapshot, applied: &mut Applied) -> Outcome {
        if self.mischief.refuse > 0 {
            self.mischief.refuse -= 1;
            self.tally.one(tally::REFUSED);
            return Outcome::Failed("refused by the world".to_owned());
        }
        if self.away.is_some() && step.is_of_kubernetes() {
            return Outcome::Failed("the API server does not answer".to_owned());
        }
        let outcome = match self.effect(step, facts, applied) {
            Ok(()) => Outcome::Done,
            Err(No::Stale(why)) => Outcome::Stale(why),
            Err(No::Failed(why)) => Outcome::Failed(why),
        };
        if self.mischief.lose > 0 {
            self.mischief.lose -= 1;
            self.tally.one(tally::ANSWER_LOST);
            return Outcome::Failed("the answer never came".to_owned());
        }
        outcome
    }

    /// What a guard said, or that it goes on where it is the guard that is left out.
    fn unless<T>(&self, guard: &str, said: Result<T, String>, anyhow: impl FnOnce() -> T) -> Result<T, No> {
        self.mutant.guarded(guard, said, anyhow).map_err(No::Stale)
    }

    fn effect(&mut self, step: &Step, facts: &Snapshot, applied: &mut Applied) -> Result<(), No> {
        let (stale, desired) = (No::Stale, &facts.desired);
        match step {
            Step::Latch => self.resource.formed = true,
            Step::Apply(object) => {
                self.kube.drifted.remove(object);
            }
            Step::Nudge { name, of, .. } => self.nudge(name, of),
            Step::Certify(given) => {
                self.all_seen(facts)?;
                self.certify(given);
            }
            Step::CreatePod { .. } => self.create(step, desired)?,
            Step::DeletePod { name, uid, shard, only_if } => {
                self.may_delete(name, uid, *only_if).map_err(stale)?;
                self.before_delete(name, uid, (*shard, *only_if), desired);
                if matches!(only_if, Removable::Retired { .. }) {
                    self.removes(uid, *shard);
                }
                if *only_if == Removable::Unreachable {
                    // Without a grace the object goes at once; the process, if there is one, knows nothing of it.
                    self.kube.pods.remove(name);
                } else {
                    self.kube.delete(name, self.now, &mut self.rng);
                }
            }
            Step::SetGate { name, uid, ready, .. } => {
                let object = self.kube.pods.get_mut(name).filter(|o| o.pod.uid == *uid);
                object.ok_or_else(|| stale(format!("{name} is gone")))?.pod.gate = Some(*ready);
            }
            Step::Note { name, uid, key, before, .. } => {
                let object = self.kube.pods.get_mut(name).filter(|o| o.pod.uid == *uid);
                let notes = &mut object.ok_or_else(|| stale(format!("{name} is gone")))?.pod.before;
                match before {
                    Some(value) => drop(notes.entry(key.clone()).or_insert_with(|| value.clone())),
                    None => drop(notes.remove(key)),
                }
            }
            Step::SetRole { name, uid, leads, .. } => {
                let object = self.kube.pods.get_mut(name).filter(|o| o.pod.uid == *uid);
                object.ok_or_else(|| stale(format!("{name} is gone")))?.pod.leads = *leads;
            }
            Step::SetMetadata { name, uid, given, .. } => {
                let object = self.kube.pods.get_mut(name).filter(|o| o.pod.uid == *uid);
                object.ok_or_else(|| stale(format!("{name} is gone")))?.pod.given.clone_from(given);
            }
            Step::SetApart { name, uid, counts, .. } => {
                let object = self.kube.pods.get_mut(name).filter(|o| o.pod.uid == *uid);
                object.ok_or_else(|| stale(format!("{name} is gone")))?.pod.place.counted = *counts;
            }
            Step::Migrate { on, to, slots } => {
                let (source, target) = (self.identity(on).map_err(stale)?, self.identity(to).map_err(stale)?);
                let said = guard::migrate(&source, &target, slots);
                if let Some(left) = self.unless("migrate", said, || Some(slots.clone()))? {
                    let (now, rng) = (self.now, &mut self.rng);
                    self.valkey.migrate_slots(&on.node, &to.node, &left, now, rng).map_err(No::Failed)?;
                }
            }
            Step::Carry { on, to, slots } => {
                let (source, target) = (self.identity(on).map_err(stale)?, self.identity(to).map_err(stale)?);
                let said = guard::move_slots(&source, &target, slots);
                if let Some(left) = self.unless("move_slots", said, || Some(slots.clone()))? {
                    let (now, rng) = (self.now, &mut self.rng);
                    self.valkey.carry(&on.node, &to.node, &left, now, rng).map_err(No::Failed)?;
                }
            }
            Step::Inherit { on, from, at, slots } => self.inherit(on, from, *at, slots)?,
            Step::Close { on, slots } => {
                let primary = self.identity(on).map_err(stale)?;
                self.unless("close", guard::close(&primary, slots), || ())?;
                for slot in slots.iter() {
                    self.valkey.set_slot(&on.node, slot, None);
                }
            }
            Step::Purge { on, shape } => self.purge(on, shape)?,
            Step::Switch { on, to } => self.switch(on, *to).map_err(No::Failed)?,
            Step::Configure { on, settings, only_empty } => {
                let facts = self.identity(on).map_err(stale)?;
                self.unless("configure", guard::configure(&facts, *only_empty), || ())?;
                self.may_load(on, settings).map_err(No::Failed)?;
                for (key, value) in settings {
                    self.valkey.config_set(&on.node, key, value).map_err(No::Failed)?;
                    let shown = self.valkey.nodes[&on.node].config[key].clone();
                    applied.insert((on.node.clone(), key.clone()), (value.clone(), shown));
                }
            }
            Step::Admit { on } => {
                self.identity(on).map_err(stale)?;
                self.valkey.get_mut(&on.node).admit();
            }
            Step::SetUser { on, user, rules } => {
                self.identity(on).map_err(stale)?;
                self.set_user(&on.node, user, rules, applied).map_err(No::Failed)?;
            }
            Step::RemoveUser { on, user } => {
                self.identity(on).map_err(stale)?;
                self.valkey.get_mut(&on.node).users.remove(user);
            }
            Step::LogIn { on } => {
                self.identity(on).map_err(stale)?;
                let password = self.vault.accounts().replication;
                self.valkey.get_mut(&on.node).primary_password = password;
            }
            Step::Renew => self.vault.renew(),
            Step::Settle => {
                self.all_seen(facts)?;
                self.vault.settle();
            }
            Step::AssignSlots { on, slots } => self.assign(on, slots)?,
            Step::SetEpoch { on, epoch } => {
                let facts = self.identity(on).map_err(stale)?;
                let said = guard::epoch(&facts, *epoch);
                if let Some(epoch) = self.unless("epoch", said, || Some(*epoch))? {
                    self.valkey.set_config_epoch(&on.node, epoch).map_err(No::Failed)?;
                }
            }
            Step::Meet { on, with } => self.introduce(on, with)?,
            Step::Replicate { on, primary } => {
                let facts = self.identity(on).map_err(stale)?;
                let said = guard::replicate(&facts, primary);
                if self.unless("replicate", said, || Some(()))?.is_some() {
                    self.valkey.replicate(&on.node, primary, self.now).map_err(No::Failed)?;
                }
            }
            Step::Retire { on } => self.retire(on, true)?,
            Step::Keep { on } => {
                self.retire(on, false)?;
                // The spec has changed back: where its successor is was chosen for another end.
                self.watch.upset_at = self.now;
            }
            Step::HandOver { on, from } => self.hand_over(on, from)?,
            Step::Release { on, only_if } => self.release(on, *only_if, desired)?,
            Step::Promote { .. } => self.promote(step)?,
            Step::Abandon { id, at, on } => self.abandon(id, *at, on)?,
            Step::Restore { on, slots } => {
                let facts = self.identity(on).map_err(stale)?;
                let said = recovery::restore(&facts, slots);
                let missing = self.unless("restore", said, || slots.clone())?;
                self.valkey.add_slots(&on.node, &missing).map_err(No::Stale)?;
                self.valkey.bump_epoch(&on.node);
            }
            Step::Forget { id, on } => {
                for node in self.may_forget(id, on).map_err(stale)? {
                    if self.valkey.nodes[&node].view.contains_key(id) {
                        self.valkey.forget(&node, id, self.now).map_err(No::Failed)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The spec is read again; then all keys go, and the status says so, unless the operator dies between the two.
    fn purge(&mut self, on: &[Target], shape: &Shape) -> Result<(), No> {
        let pods = self.kube.pods.values().map(|o| (o.pod.name.clone(), o.pod.clone())).collect();
        let (live, _) = self.secured(&pods);
        let now = Shape { shards: live.shards, revision: build::revision(&live) };
        if !live.purge || live.paused || now != *shape || self.resource.shape.as_ref() == Some(shape) {
            let said = Err("the spec does not ask for it any more".to_owned());
            self.unless("purge: the spec is read again", said, || ())?;
        }
        for target in on {
            let said = guard::drop_keys(&self.identity(target).map_err(No::Stale)?);
            self.unless("drop_keys", said, || ())?;
        }
        if !self.watch.purgeable {
            self.watch
                .broken(self.now, format!("keys are dropped for {shape}, and nobody has changed anything"));
        }
        let now = self.now;
        for target in on {
            let dropped = self.valkey.drop_keys(&target.node, now);
            self.clients.purged(&dropped);
        }
        if self.rng.random_bool(0.1) {
            return Err(No::Failed("the status could not be written".to_owned()));
        }
        self.resource.shape = Some(shape.clone());
        self.watch.purgeable = false;
        Ok(())
    }

    fn promote(&mut self, step: &Step) -> Result<(), No> {
        let Step::Promote { on, dead, at, by, offset, witnesses } = step else { return Ok(()) };
        let scene = self.scene(on, witnesses, *at, dead).map_err(No::Stale)?;
        let claim = Claim { dead, by: *by, offset: *offset };
        if self.unless("promote", recovery::promote(&scene, claim), || Some(()))?.is_none() {
            return Ok(());
        }
        let votes = matches!(by, Promotion::Refused | Promotion::Suspected);
        if let Some(alive) = self.valkey.nodes.get(dead)
            && !(votes && self.valkey.cut.contains(&alive.worker))
        {
            self.watch
                .broken(self.now, format!("{dead} is alive, and {} is to take its place ({by:?})", on.pod));
        }
        let forced = if votes {
            self.valkey.force(&on.node, self.now, &mut self.rng)
        } else {
            self.valkey.take_over(&on.node, self.now, &mut self.rng)
        };
        let released =
            |n: &super::valkey::Node| n.config.get(NODENAME).is_some_and(|mark| mark.starts_with(RELEASED));
        if forced.is_ok() && self.valkey.nodes.get(&on.node).is_some_and(released) {
            self.clients.last.insert(on.node.clone());
        }
        forced.map_err(No::Failed)
    }

    fn abandon(&mut self, id: &NodeId, at: Option<IpAddr>, on: &[Target]) -> Result<(), No> {
        let mut todo = Vec::new();
        for target in on {
            let facts = self.identity(target).map_err(No::Stale)?;
            if self.unless("abandon", recovery::abandon(&facts, id), || Some(()))?.is_some() {
                todo.push(facts.own.id);
            }
        }
        let alive = at.and_then(|ip| self.heard(ip)).is_some_and(|n| n.id == *id);
        let said = if alive { Err(format!("node {id} is alive")) } else { Ok(()) };
        self.unless("abandon: it answers", said, || ())?;
        if self.valkey.nodes.contains_key(id) {
            self.watch.broken(self.now, format!("{id} is alive and given up with its slots"));
        }
        let listed = self.valkey.nodes.values().filter_map(|n| n.view.get(id));
        self.watch.abandoned = listed.fold(self.watch.abandoned.clone(), |all, e| all.or(&e.slots));
        for node in todo {
            if self.valkey.nodes[&node].view.contains_key(id) {
                self.valkey.forget(&node, id, self.now).map_err(No::Failed)?;
            }
        }
        Ok(())
    }

    fn inherit(&mut self, on: &Target, from: &NodeId, at: Option<IpAddr>, slots: &Slots) -> Result<(), No> {
        let facts = self.identity(on).map_err(No::Stale)?;
        let missing = self.unless("inherit", guard::inherit(&facts, from, slots), || slots.clone())?;
        let alive = at.and_then(|ip| self.heard(ip)).is_some_and(|n| n.id == *from);
        let said = if alive { Err(format!("node {from} is alive")) } else { Ok(()) };
        self.unless("abandon: it answers", said, || ())?;
        self.valkey.inherit(&on.node, from, &missing, self.now, &mut self.rng);
        Ok(())
    }

    fn all_seen(&self, facts: &Snapshot) -> Result<(), No> {
        let live = self.kube.pods.iter().map(|(name, o)| (name, &o.pod.uid));
        self.unless("all_seen", guard::all_seen(&facts.pods, live), || ())
    }

    fn create(&mut self, step: &Step, desired: &Desired) -> Result<(), No> {
        let Step::CreatePod { name, shard, index, worker, demands, failures } = step else { return Ok(()) };
        if self.kube.pods.contains_key(name) {
            return Err(No::Stale(format!("{name} exists already")));
        }
        self.disrupts(*shard);
        let new = NewPod {
            name: name.clone(),
            shard: *shard,
            index: *index,
            revision: build::revision(desired),
            image: desired.template.image.clone(),
            worker: worker.clone(),
            demands: demands.clone(),
            strict: desired.template.scheduling.node.shard == SpreadMode::Required,
            even: desired.template.scheduling.zone.shard == SpreadMode::Required,
            failures: *failures,
            encrypted: desired.template.tls.is_some(),
        };
        self.kube.create(new, self.now);
        Ok(())
    }

    fn assign(&mut self, on: &Target, slots: &Slots) -> Result<(), No> {
        let facts = self.identity(on).map_err(No::Stale)?;
        let said = guard::assign(&facts, slots);
        match self.unless("assign", said, || Some(slots.clone()))? {
            Some(missing) => self.valkey.add_slots(&on.node, &missing).map_err(No::Stale),
            None => Ok(()),
        }
    }

    fn introduce(&mut self, on: &Target, with: &[Target]) -> Result<(), No> {
        let (calls, refused) = self.may_meet(on, with).map_err(No::Stale)?;
        for ip in &calls {
            self.valkey.meet(&on.node, *ip, self.now, &mut self.rng);
        }
        match refused {
            Some(why) if calls.is_empty() => Err(No::Stale(why)),
            Some(_) | None => Ok(()),
        }
    }

    /// Others own what it claims, with newer epochs.
    fn superseded(&self, node: &super::valkey::Node) -> bool {
        // Who holds nothing loses nothing, whoever is the newer.
        let newer = |n: &&super::valkey::Node| n.epoch > node.epoch || node.data.is_empty();
        let newer = self.valkey.nodes.values().filter(|n| n.leads() && n.id != node.id).filter(newer);
        newer.fold(node.slots.clone(), |left, n| left.minus(&n.slots)).is_empty()
    }

    fn retire(&mut self, on: &Target, leave: bool) -> Result<(), No> {
        let facts = self.identity(on).map_err(No::Stale)?;
        if leave {
            self.unless("retire", guard::retire(&facts), || ())?;
            self.retires(&facts.own.id);
        }
        let value = if leave { "yes" } else { "no" };
        self.valkey.config_set(&on.node, "cluster-replica-no-failover", value).map_err(No::Failed)
    }

    fn hand_over(&mut self, on: &Target, from: &Target) -> Result<(), No> {
        let (replica, primary) =
            (self.identity(on).map_err(No::Stale)?, self.identity(from).map_err(No::Stale)?);
        self.unless("hand_over", guard::hand_over(&replica, &primary), || ())?;
        if !self.valkey.nodes[&on.node].repl.up {
            return Err(No::Stale("its replication link is down".to_owned()));
        }
        self.disrupts(from.shard);
        let done = self.valkey.failover(&on.node, self.now, &mut self.rng).map_err(No::Failed)?;
        self.begins_hand_over(on.shard, done);
        self.watch.hand_over(done);
        Ok(())
    }

    fn release(&mut self, on: &Target, only_if: Option<Removable>, desired: &Desired) -> Result<(), No> {
        let facts = self.identity(on).map_err(No::Stale)?;
        if let Some(only_if) = only_if {
            self.may_go(only_if, &facts).map_err(No::Stale)?;
            self.before_delete(&on.pod, &on.uid, (on.shard, only_if), desired);
        }
        let mark = format!("{RELEASED}{}", on.uid);
        self.valkey.config_set(&on.node, NODENAME, &mark).map_err(No::Failed)
    }

    /// What a deletion may never do, whatever the guard thought.
    fn before_delete(&mut self, name: &PodName, uid: &PodUid, about: (Shard, Removable), desired: &Desired) {
        let (shard, only_if) = about;
        self.watch.operator_deletes(uid.clone());
        let Some(node) = self.process(name) else { return };
        // One that was cut off may believe anything: what counts is whom the others believe.
        let unheard = matches!(only_if, Removable::Unreachable | Removable::Silent | Removable::Alone);
        let believed = !unheard || !self.superseded(node);
        if !node.slots.is_empty() && believed {
            let why = format!("{name} owns slots {} and is deleted ({only_if:?})", node.slots);
            self.watch.broken(self.now, why);
            return;
        }
        let (before, after) = (self.in_sync(shard, None).len(), self.in_sync(shard, Some(name)).len());
        let floor = before.min(usize::from(desired.replicas));
        // By old facts it is told to go, and serves on until others are in sync: the next pass looks again.
        let held = self.watch.turns.acting.is_some_and(|a| !a.sees_now)
            && matches!(only_if, Removable::Retired { .. });
        if after < floor && desired.wants(shard) && !held {
            let why = format!(
                "deleting {name} leaves shard {shard} with {after} replicas in sync instead of {floor}"
            );
            self.watch.broken(self.now, why);
        }
        if let Some(why) = self.crowds(shard, name) {
            self.watch.broken(self.now, why);
        }
    }
}
