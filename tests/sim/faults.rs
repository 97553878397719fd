//! What people and the environment do to the world.

use std::collections::BTreeSet;

use rand::Rng;
use valkey_cluster_operator::model::{NodeId, Object, PodName, PodUid, Shard, WorkerName};

use super::operator::Operator;
use super::script::{Action, Who};
use super::tally;
use super::valkey::Cause;
use super::world::World;

impl World {
    /// Lets it happen. In a gentle life, what a shard or the majority would not survive is left out.
    pub(crate) fn happen(&mut self, action: &Action, gentle: bool) {
        let skipped = match action {
            // A Pod that is told to go holds on until it is replaced: no care is needed.
            Action::Kill(who) | Action::ForceDelete(who) => {
                self.find(who).is_none_or(|pod| gentle && !self.survivable(&BTreeSet::from([pod])))
            }
            Action::Cut(w) | Action::Power(w) => gentle && !self.survivable(&self.pods_on(*w)),
            Action::Shutdown(w) => !self.is_well(*w) || (gentle && !self.survivable(&self.pods_on(*w))),
            Action::KillShard(_) | Action::KillPrimaries(_) | Action::KillAll => gentle,
            _ => false,
        };
        if skipped || self.cannot_be_asked(action) {
            return;
        }
        self.note(&action.to_string());
        self.count(action);
        match action {
            Action::Shards(_)
            | Action::Replicas(_)
            | Action::Image(_)
            | Action::Config(..)
            | Action::Paused(_)
            | Action::User(..)
            | Action::Disrupted(_)
            | Action::Purge(_) => {
                self.edit(action);
            }
            Action::Kill(who) => self.kill(who),
            Action::Delete(who) => self.delete_by_person(who, false),
            Action::ForceDelete(who) => self.delete_by_person(who, true),
            Action::Cordon(w) => self.open(*w, false),
            Action::Uncordon(w) => self.open(*w, true),
            Action::Capacity(w, n) => {
                if let Some(worker) = self.kube.workers.get_mut(&worker(*w)) {
                    worker.capacity = *n;
                }
            }
            Action::Cut(w) => {
                self.valkey.cut.insert(worker(*w));
            }
            Action::Hide(w) => {
                self.valkey.hidden.insert(worker(*w));
            }
            Action::Show(w) => {
                if self.valkey.hidden.remove(&worker(*w)) {
                    self.valkey.healed_at = self.now;
                }
                self.wake();
            }
            Action::Api(back) => self.api(*back),
            Action::Heal(w) => self.heal(&worker(*w)),
            Action::Power(w) => self.power_off(&worker(*w)),
            Action::Boot(w) => self.boot(&worker(*w)),
            Action::Shutdown(w) => {
                self.kube.shut_down(&worker(*w), self.now);
                self.wake();
            }
            Action::Fence(w) => {
                if let Some(object) = self.kube.workers.get_mut(&worker(*w)) {
                    object.worker.out_of_service = true;
                }
            }
            Action::Vouch => self.vouch(),
            Action::KillShard(s) => self.kill_all(|shard, _| shard == Shard(*s)),
            Action::KillPrimaries(n) => self.kill_all(|shard, leads| leads && shard.0 < *n),
            Action::KillAll => self.kill_all(|_, _| true),
            Action::Operators(n) => self.operators.resize(*n, Operator::default()),
            Action::Crash(n) => self.mischief.crash_after = Some(*n),
            Action::Stale(age, n) => self.mischief.stale = Some((*age, *n)),
            Action::StalePods(age, n) => self.mischief.stale_pods = Some((*age, *n)),
            Action::Refuse(n) => self.mischief.refuse += n,
            Action::Lose(n) => self.mischief.lose += n,
            Action::Slow(n) => self.mischief.slow += n,
            Action::Stranger => self.stranger(),
            Action::Certificate(leaf, authorities) => self.issue(authorities, leaf),
            Action::Rotate => self.vault.asked += 1,
            Action::Drift => {
                self.kube.drifted.insert(Object::ConfigMap);
            }
        }
    }

    /// Peace changes what is not as it should be; what changes nothing is no event.
    fn count(&mut self, action: &Action) {
        let desired = &self.resource.desired;
        let nothing = match action {
            Action::Shards(n) => desired.shards == *n,
            Action::Replicas(n) => desired.replicas == *n,
            Action::Image(name) => desired.template.image == *name,
            Action::Config(key, value) => desired.config.get(key) == value.as_ref(),
            Action::Paused(yes) => desired.paused == *yes,
            Action::Disrupted(n) => desired.max_disrupted_shards == *n,
            Action::Hide(w) => self.valkey.hidden.contains(&worker(*w)),
            Action::Api(false) => self.away.is_some(),
            Action::Delete(who) => self.find(who).is_none(),
            _ => false,
        };
        if let Some(kind) = tally::kind(action).filter(|_| !nothing) {
            self.tally.one(kind);
        }
    }

    fn edit(&mut self, action: &Action) {
        let desired = &mut self.resource.desired;
        self.watch.purgeable |= match action {
            Action::Shards(n) => desired.shards != *n,
            Action::Image(name) => desired.template.image != *name,
            _ => false,
        };
        // Where copies are was chosen for other members.
        if matches!(action, Action::Image(name) if desired.template.image != *name) {
            self.watch.upset_at = self.now;
        }
        match action {
            Action::Shards(n) => desired.shards = *n,
            Action::Replicas(n) => desired.replicas = *n,
            Action::Image(name) => desired.template.image.clone_from(name),
            Action::Config(key, Some(value)) => {
                desired.config.insert(key.clone(), value.clone());
            }
            Action::Config(key, None) => {
                desired.config.remove(key);
            }
            Action::Paused(yes) => desired.paused = *yes,
            Action::Purge(yes) => desired.purge = *yes,
            Action::Disrupted(n) => desired.max_disrupted_shards = *n,
            Action::User(name, rule) => self.user(name, rule.as_deref()),
            _ => {}
        }
        self.resource.desired.generation += 1;
    }

    fn find(&self, who: &Who) -> Option<PodName> {
        let in_shard = |s: u16| self.kube.pods.values().filter(move |o| o.pod.shard == Shard(s));
        let leads = |n: &PodName| self.process(n).is_some_and(|p| p.of.is_none() && !p.slots.is_empty());
        let found = match who {
            Who::Primary(s) => in_shard(*s).find(|o| leads(&o.pod.name)),
            Who::Replica(s) => in_shard(*s).find(|o| o.process.is_some() && !leads(&o.pod.name)),
            Who::Pod(s, i) => in_shard(*s).find(|o| o.pod.index == *i),
        };
        found.map(|o| o.pod.name.clone())
    }

    fn pods_on(&self, w: u16) -> BTreeSet<PodName> {
        let here = self.kube.pods.iter().filter(|(_, o)| o.pod.worker.as_ref() == Some(&worker(w)));
        here.map(|(n, _)| n.clone()).collect()
    }

    /// Its kubelet is there and heard.
    fn is_well(&self, w: u16) -> bool {
        let object = self.kube.workers.get(&worker(w));
        object.is_some_and(|o| o.away_since.is_none() && !o.off && o.shutdown.is_none())
    }

    /// Without these Pods every shard keeps its owner, or a heir in sync that the majority of the owners can elect.
    fn survivable(&self, gone: &BTreeSet<PodName>) -> bool {
        if !self.resource.whole && !self.clients.writing {
            return true;
        }
        let ending = |id: &NodeId| {
            let pod = self.kube.pods.values().find(|o| o.process.as_ref() == Some(id));
            pod.is_none_or(|o| o.is_ending() || gone.contains(&o.pod.name))
                || self.valkey.nodes[id].dies_at.is_some()
                || self.valkey.cut.contains(&self.valkey.nodes[id].worker)
        };
        let ours: Vec<_> = self.valkey.nodes.values().filter(|n| n.cluster == 0).collect();
        let mut owners: BTreeSet<&NodeId> = ours.iter().filter(|n| n.leads()).map(|n| &n.id).collect();
        owners.extend(
            ours.iter().flat_map(|n| n.view.iter()).filter(|(_, e)| !e.slots.is_empty()).map(|(i, _)| i),
        );
        let stays =
            |id: &&NodeId| self.valkey.nodes.get(*id).is_some_and(super::valkey::Node::leads) && !ending(id);
        let left = owners.iter().filter(|id| stays(id)).count();
        let heir = |id: &NodeId| {
            let up = |n: &&&super::valkey::Node| n.repl.up && n.repl.partner.as_ref() == Some(id);
            ours.iter().filter(up).any(|n| !ending(&n.id) && !n.retiring())
        };
        let all_kept = owners.iter().all(|id| stays(id) || heir(id));
        all_kept && (left == owners.len() || left > owners.len() / 2)
    }

    fn kill(&mut self, who: &Who) {
        if let Some(id) = self.find(who).and_then(|n| self.process(&n).map(|p| p.id.clone())) {
            self.die(&id, Cause::Environment);
        }
    }

    /// All of these at one moment.
    fn kill_all(&mut self, which: impl Fn(Shard, bool) -> bool) {
        let pods = self.kube.pods.values();
        let doomed: Vec<NodeId> = pods
            .filter_map(|o| {
                let node = self.process(&o.pod.name)?;
                which(o.pod.shard, node.leads()).then(|| node.id.clone())
            })
            .collect();
        for id in &doomed {
            self.valkey.get_mut(id).dies_at = Some((i64::MAX, Cause::Environment));
        }
        for id in doomed {
            self.die(&id, Cause::Environment);
        }
    }

    /// All that somebody who lives lists, and that do not run.
    fn vouch(&mut self) {
        let listed = self.valkey.nodes.values().filter(|n| n.cluster == 0).flat_map(|n| n.view.keys());
        let dead = listed.filter(|id| !self.valkey.nodes.contains_key(*id)).cloned();
        self.resource.vouched = dead.collect();
    }

    fn delete_by_person(&mut self, who: &Who, force: bool) {
        let Some(name) = self.find(who) else { return };
        if !force {
            self.kube.delete(&name, self.now, &mut self.rng);
            return;
        }
        let Some(object) = self.kube.pods.remove(&name) else { return };
        if let Some(node) = object.process.and_then(|id| self.valkey.nodes.get_mut(&id)) {
            node.dies_at = Some((self.now + self.rng.random_range(20..=40), Cause::Environment));
        }
    }

    fn open(&mut self, w: u16, open: bool) {
        if let Some(object) = self.kube.workers.get_mut(&worker(w)) {
            // Where successors are was chosen for other workers.
            if object.worker.open != open {
                self.watch.upset_at = self.now;
            }
            object.worker.open = open;
            object.worker.leaving = !open;
        }
    }

    /// Another cluster's process starts where an address is free, and knows a friend of its own.
    fn stranger(&mut self) {
        let mut made = Vec::new();
        for n in 0..2 {
            let ip = self.stranger_ip();
            let id = self.spawn(1, PodUid::new(format!("stranger-{}-{n}", self.now)), worker(1), ip);
            self.valkey.get_mut(&id).admitted = true;
            self.watch.stranger(id.clone());
            made.push((id, ip));
        }
        let now = self.now;
        self.valkey.meet(&made[0].0, made[1].1, now, &mut self.rng);
        // It leaves again after a while, and its address is free for us.
        for (id, _) in &made {
            let at = now + self.rng.random_range(50..=300);
            self.valkey.get_mut(id).dies_at = Some((at, Cause::Operator));
        }
    }
}

impl World {
    /// Not an address that one of ours was told to meet a moment ago: what answers a MEET that is on its way cannot be
    /// known beforehand, and no network hands an address out again within that second.
    fn stranger_ip(&mut self) -> std::net::IpAddr {
        loop {
            let ip = self.kube.take_ip();
            let awaited = |n: &super::valkey::Node| n.view.values().any(|e| e.handshake && e.ip == Some(ip));
            if !self.valkey.nodes.values().any(awaited) {
                return ip;
            }
        }
    }
}

fn worker(n: u16) -> WorkerName {
    WorkerName::new(format!("w{n}"))
}
