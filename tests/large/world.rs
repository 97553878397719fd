//! A large cluster that lives: every step of a plan is done as a faultless Kubernetes and a faultless bus would do it, in time that
//! grows with the number of nodes. What the small simulated world is exact about (gossip, elections, races) is taken as given here;
//! what is looked at is the shape of long operations over hundreds of shards.
#![allow(clippy::too_many_lines, reason = "its one match over all steps is best read as a whole")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::bare;
use valkey_cluster_operator::model::snapshot::{NODENAME, RELEASED};
use valkey_cluster_operator::model::step::Removable;
use valkey_cluster_operator::model::{
    Answer, Attempts, Link, Looks, Moment, NodeId, NodeReport, Numbers, Peer, Peers, Phase, Plan, Pod,
    PodName, PodUid, Role, Sampling, Seen, Shard, Shards, Silence, Slots, Snapshot, Step, Target, Zone,
    peers,
};
use valkey_cluster_operator::plan::away::AWAY_MS;
use valkey_cluster_operator::plan::plan;

/// Milliseconds between two passes.
const PASS_MS: i64 = 200;
/// Passes from the creation of a Pod to its server's first answer, from REPLICATE to in sync, from a mark to the end of a Pod.
const STARTS: u32 = 3;
const SYNCS: u32 = 3;
const ENDS: u32 = 2;
/// Passes after which Valkey itself has elected heirs of primaries that are gone.
const ELECTS: u32 = 15;

/// The facts, which are also the world, and what is about to happen.
pub(crate) struct Large {
    pub s: Snapshot,
    pub passes: u32,
    attempts: Attempts,
    known: BTreeMap<NodeId, Peer>,
    due: BTreeMap<u32, Vec<Due>>,
    next: u32,
    looks: Looks,
    /// Reports whose lists were inferred, and all.
    pub inferred: (usize, usize),
    /// The most shards at once that had a copy more or less than wanted.
    pub most_disrupted: usize,
}

enum Due {
    Starts(PodName),
    Synced(PodUid),
    Gone(PodName),
    Elected(NodeId),
}

impl Large {
    pub(crate) fn new(s: Snapshot) -> Self {
        let known = super::whole_list(&s);
        let (attempts, due) = (Attempts::default(), BTreeMap::new());
        let (looks, inferred) = (Looks::default(), (0, 0));
        Self { s, passes: 0, attempts, known, due, next: 0x0B00_0000, looks, inferred, most_disrupted: 0 }
    }

    /// Passes until nothing is left to do for two seconds.
    pub(crate) fn until_quiet(&mut self, most: u32) {
        let (began, mut calm) = (self.passes, 0);
        while calm < 10 {
            let found = self.pass();
            calm = if found.quiet() { calm + 1 } else { 0 };
            assert!(self.passes - began < most, "not quiet after {most} passes:\n{}", shortened(&found));
        }
        self.is_as_desired();
    }

    fn pass(&mut self) -> Plan {
        self.passes += 1;
        self.s.now = Moment(self.s.now.0 + PASS_MS);
        for due in self.due.remove(&self.passes).unwrap_or_default() {
            self.happens(due);
        }
        self.look();
        let mut snapshot = self.s.clone();
        snapshot.nodes = self.briefly();
        self.s.past.see(&snapshot);
        snapshot.past = self.s.past.clone();
        let found = plan(&snapshot, &self.attempts);
        let shards = Shards::new(snapshot.pods.values(), snapshot.desired.copies());
        self.looks.owe(found.steps.iter().map(|p| &p.step), &found.waiting, &shards);
        for p in &found.steps {
            self.does(&p.step);
            self.attempts.done(&p.step);
            self.s.past.done(&p.step, self.s.now);
        }
        self.holds();
        found
    }

    fn later(&mut self, passes: u32, due: Due) {
        self.due.entry(self.passes + passes).or_default().push(due);
    }

    /// Everybody who has met anybody lists everybody, as each is.
    fn look(&mut self) {
        let copies = |s: &Snapshot| {
            let mut online: BTreeMap<NodeId, BTreeSet<IpAddr>> = BTreeMap::new();
            for pod in s.pods.values() {
                if let (Some(ip), Some(Seen::Now(n))) = (pod.ip, s.nodes.get(&pod.uid))
                    && let Role::Replica { of, link } = &n.role
                    && link.up
                {
                    online.entry(of.clone()).or_default().insert(ip);
                }
            }
            online
        };
        let mut online = copies(&self.s);
        for node in self.s.nodes.values_mut() {
            let Seen::Now(node) = node else { continue };
            node.online_replicas = online.remove(&node.id).unwrap_or_default();
            if let Some(line) = self.known.get_mut(&node.id) {
                line.slots = node.slots().clone();
                line.epoch = node.epoch;
                line.replica_of = match &node.role {
                    Role::Replica { of, .. } => Some(of.clone()),
                    Role::Primary { .. } => None,
                };
            }
        }
        let list = Arc::new(self.known.clone());
        for node in self.s.nodes.values_mut() {
            let Seen::Now(node) = node else { continue };
            node.peers = if self.known.contains_key(&node.id) {
                Peers::shared(Arc::clone(&list), node.id.clone())
            } else {
                Peers::default()
            };
            node.state_ok = self.known.contains_key(&node.id);
        }
        self.s.served =
            (0..self.s.desired.shards.max(self.shards())).map(Shard).filter(|s| self.leads(*s)).collect();
    }

    /// The nodes as the operator sees them in a cluster of this size: a few whole, the others briefly.
    fn briefly(&mut self) -> BTreeMap<PodUid, Seen<NodeReport>> {
        let asked = self.s.nodes.iter().filter(|(_, seen)| **seen != Seen::Never);
        let asked: BTreeSet<PodUid> = asked.map(|(uid, _)| uid.clone()).collect();
        let Some(first) = self.looks.first(&asked, Sampling::default(), self.s.now) else {
            return self.s.nodes.clone();
        };
        let all = self.numbers();
        let answer = |uid: &PodUid, whole: bool| (uid.clone(), self.answer(&self.s.nodes[uid], all, whole));
        let answers = asked.iter().map(|uid| answer(uid, first.whole.contains(uid))).collect();
        let shards = Shards::new(self.s.pods.values(), self.s.desired.copies());
        let past = &self.s.past;
        let long = |uid: &PodUid| past.silent_for(uid, self.s.now) >= AWAY_MS;
        let second = self.looks.second(&first, &answers, &shards, long);
        let more = second.whole.iter().map(|uid| (uid.clone(), self.answer(&self.s.nodes[uid], all, true)));
        let more = more.collect();
        let mut seen = self.looks.end(second, answers, more);
        let never = self.s.nodes.iter().filter(|(_, seen)| **seen == Seen::Never);
        seen.extend(never.map(|(uid, seen)| (uid.clone(), seen.clone())));
        peers::share(seen.values_mut());
        let inferred = seen.values().filter_map(Seen::now).filter(|n| n.peers.is_inferred()).count();
        self.inferred = (self.inferred.0 + inferred, self.inferred.1 + seen.len());
        seen
    }

    /// What everybody who lists everybody gives in numbers.
    fn numbers(&self) -> Numbers {
        let owners = self.known.values().filter(|p| !p.slots.is_empty());
        let slots = Slots::from_ranges(owners.clone().flat_map(|p| p.slots.ranges().iter().copied()));
        Numbers {
            known_nodes: u32::try_from(self.known.len()).unwrap(),
            size: u32::try_from(owners.count()).unwrap(),
            current_epoch: self.known.values().map(|p| p.epoch).max().unwrap_or(0),
            slots_assigned: slots.len(),
        }
    }

    fn answer(&self, seen: &Seen<NodeReport>, all: Numbers, whole: bool) -> Answer {
        let report = match seen {
            Seen::Now(report) => report.clone(),
            Seen::Silent(why) => return Answer::Silent(*why),
            Seen::Never => panic!("it has no address to be asked at"),
        };
        let alone = Numbers { known_nodes: 1, size: 0, current_epoch: 0, slots_assigned: 0 };
        let numbers = if report.peers.is_empty() { alone } else { all };
        if whole {
            return Answer::Whole(Box::new(report), numbers);
        }
        bare::brief(report, numbers, |of| self.known.get(of).and_then(|p| p.ip))
    }

    fn shards(&self) -> u16 {
        self.s.pods.values().map(|p| p.shard.0 + 1).max().unwrap_or(0)
    }

    fn leads(&self, shard: Shard) -> bool {
        let mine = self.s.pods.values().filter(|p| p.shard == shard);
        mine.filter_map(|p| self.s.nodes.get(&p.uid)?.now()).any(|n| !n.slots().is_empty())
    }

    fn node(&mut self, at: &Target) -> &mut NodeReport {
        match self.s.nodes.get_mut(&at.uid) {
            Some(Seen::Now(node)) => node,
            _ => panic!("{} does not answer", at.pod),
        }
    }

    fn happens(&mut self, due: Due) {
        match due {
            Due::Starts(name) => {
                self.next += 1;
                let ip = IpAddr::V4(Ipv4Addr::from(self.next));
                let Some(pod) = self.s.pods.get_mut(&name) else { return };
                (pod.phase, pod.ip) = (Phase::Running, Some(ip));
                let (uid, n) = (pod.uid.clone(), self.next);
                let mut node = super::report(&self.s, Shard(0), 1);
                node.id = NodeId::new(format!("{:08x}{n:032x}", n.wrapping_mul(2_654_435_761)));
                node.role = Role::Primary { slots: Slots::none() };
                (node.keys, node.epoch, node.admitted, node.uptime_ms) = (0, 0, false, 100);
                self.s.nodes.insert(uid, Seen::Now(node));
            }
            Due::Synced(uid) => {
                if let Some(Seen::Now(node)) = self.s.nodes.get_mut(&uid)
                    && let Role::Replica { link, .. } = &mut node.role
                {
                    *link = Link { up: true, syncing: false, offset: 100 };
                    node.keys = 10;
                }
            }
            Due::Gone(name) => {
                if let Some(pod) = self.s.pods.remove(&name)
                    && let Some(Seen::Now(node)) = self.s.nodes.remove(&pod.uid)
                {
                    assert!(node.slots().is_empty(), "{name} goes with slots {}", node.slots());
                    self.s.ghosts.insert(node.id, Seen::Silent(Silence::Refused));
                }
            }
            Due::Elected(dead) => self.elect(&dead),
        }
    }

    /// The first replica in sync of a dead primary leads from now on.
    fn elect(&mut self, dead: &NodeId) {
        let follows = |n: &NodeReport| matches!(&n.role, Role::Replica { of, .. } if of == dead);
        let heir = self.s.nodes.values().filter_map(Seen::now).find(|n| follows(n)).map(|n| n.id.clone());
        if let Some(heir) = heir {
            let slots = self.known.get(dead).map(|p| p.slots.clone()).unwrap_or_default();
            self.takes_over(&heir, dead, &slots);
        }
    }

    /// The heir has the slots, and the other replicas follow it.
    fn takes_over(&mut self, heir: &NodeId, old: &NodeId, slots: &Slots) {
        let epoch = 1 + self.known.values().map(|p| p.epoch).max().unwrap_or(0);
        if let Some(line) = self.known.get_mut(old) {
            line.slots = Slots::none();
        }
        for seen in self.s.nodes.values_mut() {
            let Seen::Now(node) = seen else { continue };
            let up = Link { up: true, syncing: false, offset: 100 };
            let follows = matches!(&node.role, Role::Replica { of, .. } if of == old);
            if node.id == *heir {
                (node.role, node.epoch) = (Role::Primary { slots: slots.clone() }, epoch);
            } else if node.id == *old || follows {
                node.role = Role::Replica { of: heir.clone(), link: up };
            }
        }
    }

    fn does(&mut self, step: &Step) {
        match step {
            Step::CreatePod { name, shard, index, worker, failures, .. } => {
                assert!(!self.s.pods.contains_key(name), "{name} exists already");
                self.next += 1;
                let pod = Pod {
                    name: name.clone(),
                    uid: PodUid::new(format!("new-{}", self.next)),
                    shard: *shard,
                    index: *index,
                    revision: self.s.revision.clone(),
                    failures: *failures,
                    worker: worker.clone(),
                    ip: None,
                    phase: Phase::Pending,
                    gate: None,
                    leads: false,
                    created: self.s.now,
                    ..super::pod(*shard, *index, "")
                };
                self.s.pods.insert(name.clone(), pod);
                self.later(STARTS, Due::Starts(name.clone()));
            }
            Step::DeletePod { name, uid, only_if, .. } => self.deletes(name, uid, *only_if),
            Step::Release { on, .. } => {
                self.node(on).config.insert(NODENAME.to_owned(), format!("{RELEASED}{}", on.uid));
                self.may_go(&on.uid, &on.pod);
                self.later(ENDS, Due::Gone(on.pod.clone()));
            }
            Step::SetGate { name, ready, .. } => self.s.pods.get_mut(name).unwrap().gate = Some(*ready),
            Step::SetRole { name, leads, .. } => self.s.pods.get_mut(name).unwrap().leads = *leads,
            Step::Configure { on, settings, .. } => self.node(on).config.extend(settings.clone()),
            Step::Admit { on } => self.node(on).admitted = true,
            Step::Meet { on, with } => {
                for target in with.iter().chain([on]) {
                    let line = Peer { ip: Some(target.ip), ..super::line(&super::id(Shard(0), 0)) };
                    self.known.entry(target.node.clone()).or_insert(line);
                }
            }
            Step::Replicate { on, primary } => {
                let link = Link { up: false, syncing: true, offset: 0 };
                self.node(on).role = Role::Replica { of: primary.clone(), link };
                self.later(SYNCS, Due::Synced(on.uid.clone()));
            }
            Step::Retire { on } | Step::Keep { on } => {
                let value = if matches!(step, Step::Retire { .. }) { "yes" } else { "no" };
                self.node(on).config.insert("cluster-replica-no-failover".to_owned(), value.to_owned());
            }
            Step::HandOver { on, from } => {
                let slots = self.node(from).slots().clone();
                self.takes_over(&on.node, &from.node, &slots);
            }
            Step::Promote { on, dead, .. } => {
                let slots = self.known.get(dead).map(|p| p.slots.clone()).unwrap_or_default();
                self.takes_over(&on.node, dead, &slots);
            }
            Step::Migrate { on, to, slots } => self.migrates(on, to, slots),
            Step::Forget { id, .. } => {
                self.known.remove(id);
                self.s.ghosts.remove(id);
            }
            Step::Apply(object) => drop(self.s.drifted.remove(object)),
            _ => panic!("a step that no large life needs: {step}"),
        }
    }

    fn migrates(&mut self, on: &Target, to: &Target, slots: &Slots) {
        let epoch = 1 + self.known.values().map(|p| p.epoch).max().unwrap_or(0);
        for (at, gives) in [(on, true), (to, false)] {
            let node = self.node(at);
            let Role::Primary { slots: own } = &mut node.role else { panic!("{} is no primary", at.pod) };
            *own = if gives { own.minus(slots) } else { own.or(slots) };
            if gives {
                node.keys = if node.slots().is_empty() { 0 } else { 10 };
            } else {
                (node.epoch, node.keys) = (epoch, 10);
            }
        }
        // What a primary without slots had been copied to is empty with it.
        if self.node(on).slots().is_empty() {
            let source = on.node.clone();
            for node in self.s.nodes.values_mut() {
                if let Seen::Now(node) = node
                    && matches!(&node.role, Role::Replica { of, .. } if *of == source)
                {
                    node.keys = 0;
                }
            }
        }
    }

    fn deletes(&mut self, name: &PodName, uid: &PodUid, only_if: Removable) {
        let silent = !matches!(self.s.nodes.get(uid), Some(Seen::Now(_)));
        if silent || only_if == Removable::NotRunning {
            self.s.pods.remove(name);
            self.s.nodes.remove(uid);
            return;
        }
        self.may_go(uid, name);
        self.s.pods.get_mut(name).unwrap().terminating = true;
    }

    /// No owner of slots goes, and its shard keeps its copies.
    fn may_go(&self, uid: &PodUid, name: &PodName) {
        let Some(Seen::Now(node)) = self.s.nodes.get(uid) else { return };
        assert!(node.slots().is_empty(), "{name} owns {} and is to go", node.slots());
        let Role::Replica { of, .. } = &node.role else { return };
        let owner = self.s.nodes.values().filter_map(Seen::now).find(|n| n.id == *of);
        if owner.is_some_and(|n| !n.slots().is_empty()) {
            let stays = |(other, n): &(&PodUid, &NodeReport)| {
                n.id != node.id
                    && !n.is_released(other)
                    && matches!(&n.role, Role::Replica { of: o, link } if o == of && link.up)
            };
            let seen = self.s.nodes.iter().filter_map(|(uid, n)| Some((uid, n.now()?)));
            let left = seen.filter(stays).count();
            let wanted = usize::from(self.s.desired.replicas);
            assert!(left >= wanted, "{name} goes and leaves {left} of {wanted} replicas in sync");
        }
    }

    /// One owner a slot; and what a plan disrupts at one moment.
    fn holds(&mut self) {
        let mut all: Vec<_> =
            self.s.nodes.values().filter_map(Seen::now).flat_map(|n| n.slots().ranges()).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|w| w[0].last < w[1].first), "a slot has two owners");
        let mut staying: BTreeMap<Shard, usize> = BTreeMap::new();
        for pod in self.s.pods.values().filter(|p| !p.terminating) {
            *staying.entry(pod.shard).or_default() += 1;
        }
        let more = staying.values().filter(|n| **n > self.s.desired.copies()).count();
        self.most_disrupted = self.most_disrupted.max(more);
    }

    fn is_as_desired(&self) {
        let d = &self.s.desired;
        assert_eq!(self.s.pods.len(), d.members());
        assert!(self.s.pods.values().all(|p| p.revision == self.s.revision && p.gate == Some(true)));
        assert_eq!(self.s.pods.values().filter(|p| p.leads).count(), usize::from(d.shards));
        let owners: Vec<u16> =
            self.s.nodes.values().filter_map(Seen::now).map(|n| n.slots().len()).filter(|n| *n > 0).collect();
        assert_eq!(owners.iter().sum::<u16>(), 16384);
        assert!(
            owners.len() == usize::from(d.shards)
                && owners.iter().max().unwrap() - owners.iter().min().unwrap() <= 1
        );
        assert_eq!(self.known.len(), d.members());
    }

    /// A zone without power: nobody there answers, and everybody else has agreed on it.
    pub(crate) fn loses(&mut self, zone: &str) {
        let zone = Zone::new(zone);
        let now = self.s.now;
        for worker in self.s.workers.values_mut().filter(|w| w.zone.as_ref() == Some(&zone)) {
            (worker.lost_since, worker.open) = (Some(now), false);
        }
        let workers = &self.s.workers;
        let there =
            |p: &&Pod| p.worker.as_ref().and_then(|w| workers.get(w)).is_some_and(|w| w.lost_since.is_some());
        let uids: Vec<PodUid> = self.s.pods.values().filter(there).map(|p| p.uid.clone()).collect();
        let mut dead = BTreeSet::new();
        for uid in uids {
            if let Some(Seen::Now(node)) = self.s.nodes.insert(uid, Seen::Silent(Silence::Timeout)) {
                dead.insert(node.id);
            }
        }
        for (id, line) in self.known.iter_mut().filter(|(id, _)| dead.contains(*id)) {
            (line.failed, line.connected) = (true, false);
            self.s.ghosts.insert(id.clone(), Seen::Silent(Silence::Timeout));
        }
        for seen in self.s.nodes.values_mut() {
            if let Seen::Now(node) = seen
                && let Role::Replica { of, link } = &mut node.role
                && dead.contains(of)
            {
                link.up = false;
            }
        }
        for id in dead {
            self.later(ELECTS, Due::Elected(id));
        }
    }
}

fn shortened(plan: &Plan) -> String {
    plan.to_string().lines().take(30).collect::<Vec<_>>().join("\n")
}
