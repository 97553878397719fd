//! What must hold after every tick, and what must hold at the end.

use std::collections::BTreeSet;

use valkey_cluster_operator::model::settings::{FORMING_TIMEOUT_LARGE_MS, FORMING_TIMEOUT_MS};
use valkey_cluster_operator::model::{
    NodeId, Phase, Plan, PodName, PodUid, SLOTS, Shard, Slots, SpreadMode, WorkerName,
};
use valkey_cluster_operator::plan::misplaced::PAUSE_MS;

use super::TICK_MS;
use super::kubernetes::{PodObject, WorkerObject};
use super::told::{Untold, says_ready};
use super::turns::Turns;
use super::valkey::{Node, shown};
use super::world::World;

/// Ticks that two nodes may claim one slot while an election becomes known.
const SETTLING: i64 = 30;

/// What was seen so far.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Watch {
    /// The first thing that must never happen, with its tick.
    pub first_break: Option<(i64, String)>,
    /// Slots whose dead owner was given up: until they begin anew nobody lists them.
    pub abandoned: Slots,
    /// The shards or the Pods that the spec asks for were changed, and the keys were not dropped for that yet.
    pub purgeable: bool,
    strangers: BTreeSet<NodeId>,
    deleted: BTreeSet<PodUid>,
    overlap_since: Option<i64>,
    /// When a pass last saw an old world, or the environment took a process: what was decided on before may be wrong.
    pub upset_at: i64,
    /// Hand-overs that succeeded, and that failed and held the writes for nothing.
    pub hand_overs: (usize, usize),
    /// Since when a node without slots runs hastily: old facts can do that, and the next look takes it back.
    hasty_since: Option<i64>,
    /// What takes turns.
    pub turns: Turns,
    /// Refusals of which the status says nothing.
    pub untold: Untold,
}

impl Watch {
    pub(crate) fn broken(&mut self, now: i64, why: String) {
        self.first_break.get_or_insert((now, why));
    }

    pub(crate) fn stranger(&mut self, id: NodeId) {
        self.strangers.insert(id);
    }

    pub(crate) fn operator_deletes(&mut self, uid: PodUid) {
        self.deleted.insert(uid);
    }

    pub(crate) fn hand_over(&mut self, done: bool) {
        if done {
            self.hand_overs.0 += 1;
        } else {
            self.hand_overs.1 += 1;
        }
    }

    pub(crate) fn deleted_by_operator(&self, uid: &PodUid) -> bool {
        self.deleted.contains(uid)
    }
}

impl World {
    /// The invariants, after each tick.
    pub(crate) fn check(&mut self) {
        if let Some(why) = self.violation() {
            self.watch.broken(self.now, why);
        }
    }

    fn ours(&self) -> impl Iterator<Item = &Node> {
        self.valkey.nodes.values().filter(|n| n.cluster == 0)
    }

    fn violation(&mut self) -> Option<String> {
        if let Some((slot, known, best)) = self.clients.lost(&self.valkey) {
            return Some(format!("slot {slot}: {known} was acknowledged, and the best copy left has {best}"));
        }
        if let Some(n) = self.ours().find(|n| !n.slots.is_empty() && !self.resource.formed) {
            return Some(format!("{} owns slots before the latch is written", n.id));
        }
        let met = |n: &Node| {
            let stranger = |id: &NodeId| self.watch.strangers.contains(id);
            n.view.iter().any(|(id, e)| !e.handshake && stranger(id) != stranger(&n.id))
        };
        if let Some(n) = self.valkey.nodes.values().find(|n| met(n)) {
            return Some(format!("{} has met a node of another cluster", n.id));
        }
        if let Some(why) = self.mistrust() {
            return Some(why);
        }
        if let Some(why) = self.locked_out() {
            return Some(why);
        }
        if let Some(why) = self.low_timeout() {
            return Some(why);
        }
        if let Some(why) = self.lies() {
            return Some(why);
        }
        if self.resource.whole { self.owners() } else { None }
    }

    fn low_timeout(&mut self) -> Option<String> {
        let low = [FORMING_TIMEOUT_MS, FORMING_TIMEOUT_LARGE_MS].map(i64::from);
        let keys = self.ours().any(|n| !n.data.is_empty());
        // One that waits empty for its first slots has no vote and nothing to lose; nor has a replica that cannot be reached, or
        // could not a moment ago.
        let newcomer = |n: &Node| n.of.is_none() && n.slots.is_empty() && n.data.is_empty();
        let away = |w: &WorkerName| self.valkey.cut.contains(w) || self.valkey.hidden.contains(w);
        let out_of_reach = |n: &Node| away(&n.worker) || self.now - self.valkey.healed_at < SETTLING;
        let harmless = |n: &Node| self.resource.whole && (newcomer(n) || out_of_reach(n));
        let hasty = |n: &&Node| low.contains(&n.timeout_ms()) && !n.view.is_empty();
        let found = self.ours().find(|n| hasty(n) && !harmless(n));
        let found = found.map(|n| (n.id.clone(), n.timeout_ms(), n.slots.is_empty() && self.resource.whole));
        let Some((id, timeout, passes)) = found else {
            self.watch.hasty_since = None;
            return None;
        };
        let since = *self.watch.hasty_since.get_or_insert(self.now);
        // Old facts can do that to one with slots, too.
        let passes = passes || self.now - self.watch.upset_at <= SETTLING;
        if passes && self.now - since <= SETTLING {
            return None;
        }
        (keys && !low.contains(&i64::from(self.resource.desired.node_timeout_ms())))
            .then(|| format!("{id} runs with node-timeout {timeout} while keys exist"))
    }

    /// One owner a slot, and no slot that nobody even lists.
    fn owners(&mut self) -> Option<String> {
        let claims: Vec<(&NodeId, &Slots)> = self
            .ours()
            .filter(|n| n.leads() && !self.valkey.cut.contains(&n.worker))
            .map(|n| (&n.id, &n.slots))
            .collect();
        let mut all = Slots::none();
        let mut twice = None;
        for (id, slots) in claims {
            if all.overlaps(slots) {
                twice = Some(id.clone());
            }
            all = all.or(slots);
        }
        let missing = Slots::all().minus(&all);
        let forgotten = |n: &Node| n.slots.is_empty() && n.view.values().all(|e| e.slots.is_empty());
        if self.ours().all(forgotten) {
            // Whoever knew of an owner is dead.
            self.watch.abandoned = missing.clone();
        }
        self.watch.abandoned = self.watch.abandoned.and(&missing);
        let missing = missing.minus(&self.watch.abandoned);
        if !missing.is_empty() {
            let listed = self.ours().flat_map(|n| n.view.values()).map(|e| &e.slots);
            let nowhere = listed.fold(missing, |left, s| if s.is_empty() { left } else { left.minus(s) });
            let nowhere = self.ours().fold(nowhere, |left, n| left.minus(&n.slots));
            if !nowhere.is_empty() {
                return Some(format!("slots {nowhere} have no owner in any node's view"));
            }
        }
        let (now, settling) = (self.now, twice.is_some());
        let since = *self.watch.overlap_since.get_or_insert(now);
        if !settling {
            self.watch.overlap_since = None;
        } else if now - since > SETTLING {
            return twice.map(|id| format!("{id} claims slots that another node owns, for 3 s"));
        }
        None
    }

    /// Without this member all copies in sync share a worker, and with it they did not, although another worker would have taken any
    /// of them since before the last was made: where it was put, or who goes, was chosen badly.
    pub(crate) fn crowds(&self, shard: Shard, going: &PodName) -> Option<String> {
        let places = |copies: &[&PodObject]| copies.iter().filter_map(|o| o.pod.worker.clone()).collect();
        let after = self.copies(shard, Some(going));
        let (before, left): (BTreeSet<WorkerName>, BTreeSet<WorkerName>) =
            (places(&self.copies(shard, None)), places(&after));
        let last = after.iter().map(|o| o.pod.created.0 / TICK_MS).max()?;
        // The scheduler has the last word.
        let elsewhere = after.iter().any(|o| o.wanted.is_some() && o.wanted != o.pod.worker);
        let zones = self.resource.desired.template.scheduling.zone.shard == SpreadMode::Required;
        // Nothing is at its end while more are to go.
        if after.len() < 2
            || after.len() > self.resource.desired.copies()
            || left.len() > 1
            || before.len() < 2
            || zones
            || elsewhere
            || self.watch.upset_at.max(self.valkey.healed_at) >= last
        {
            return None;
        }
        let was_free = |w: &&WorkerObject| {
            !left.contains(&w.worker.name) && w.free_since.is_some_and(|since| since < last)
        };
        let free = self.kube.workers.values().find(was_free)?;
        let names: Vec<_> = after.iter().map(|o| o.pod.name.as_str()).collect();
        Some(format!(
            "deleting {going} leaves {} on one worker, and {} was free",
            names.join(" and "),
            free.worker.name
        ))
    }

    /// The owner of the shard's slots and the replicas in sync with it.
    fn copies(&self, shard: Shard, except: Option<&PodName>) -> Vec<&PodObject> {
        let synced = self.in_sync(shard, except);
        let holds = |n: &Node| n.leads() || synced.contains(&n.id);
        let members = self.kube.pods.values().filter(|o| o.pod.shard == shard && Some(&o.pod.name) != except);
        members.filter(|o| self.process(&o.pod.name).is_some_and(holds)).collect()
    }

    /// Quiet must mean: the world is what the spec asks. With `going` Pods that were told to go may still be there.
    pub(crate) fn unfinished(&self, plan: &Plan, going: bool) -> Option<String> {
        let desired = &self.resource.desired;
        if let Some((slot, known, best)) = self.clients.unreadable(&self.valkey) {
            return Some(format!("slot {slot}: {known} was acknowledged, its owner has {best}"));
        }
        if !self.resource.whole {
            return Some("the formation was never seen complete".to_owned());
        }
        if let Some(why) = self.wrong_certificates(going) {
            return Some(why);
        }
        let leaves = |n: &Node| going && self.kube.by_uid(&n.uid).is_none_or(PodObject::told_to_go);
        let ids: BTreeSet<NodeId> = self.ours().filter(|n| !leaves(n)).map(|n| n.id.clone()).collect();
        let owned = self.ours().fold(Slots::none(), |all, n| all.or(&n.slots));
        if owned != Slots::all() {
            return Some(format!("slots {} have no owner", Slots::all().minus(&owned)));
        }
        for shard in (0..desired.shards).map(Shard) {
            if let Some(why) = self.shard_unfinished(shard, going) {
                return Some(why);
            }
        }
        let mut pods = self.kube.pods.values().filter(|o| !(going && o.told_to_go()));
        if let Some(o) = pods.find(|o| !desired.wants(o.pod.shard)) {
            return Some(format!("{} is of a shard that is not wanted", o.pod.name));
        }
        for node in self.ours().filter(|n| !leaves(n)) {
            let listed: BTreeSet<NodeId> = node.view.keys().cloned().chain([node.id.clone()]).collect();
            let unknown = ids.iter().any(|id| !listed.contains(id));
            if unknown || (listed != ids && !going) {
                return Some(format!("{} lists {listed:?} and the cluster has {ids:?}", node.id));
            }
            if node.timeout_ms() != i64::from(desired.node_timeout_ms()) {
                return Some(format!("{} runs with node-timeout {}", node.id, node.timeout_ms()));
            }
            if let Some((key, value)) = self.unsettled(node) {
                return Some(format!("{} runs with {key} {value}, which nobody asks for", node.id));
            }
            if !node.open.is_empty() {
                return Some(format!("{} has slots half way", node.id));
            }
            if node.retiring() {
                return Some(format!("{} stays retired", node.id));
            }
            if let Some(why) = self.users_unfinished(node) {
                return Some(why);
            }
        }
        if !self.kube.drifted.is_empty() {
            return Some(format!("{:?} differ from the spec", self.kube.drifted));
        }
        if let Some(b) = plan.blocked.iter().find(|b| !self.expected(b.code)) {
            return Some(format!("still blocked: {}", b.message));
        }
        let told = self.resource.status.as_ref().filter(|s| plan.blocked.is_empty() && !says_ready(s));
        told.map(|s| format!("the status says {}: {}", s.reason, s.message))
    }

    /// Slots that nobody leads.
    pub(crate) fn not_owned(&self) -> Slots {
        let owned = self.ours().filter(|n| n.leads()).fold(Slots::none(), |all, n| all.or(&n.slots));
        Slots::all().minus(&owned)
    }

    /// Slots that nobody leads, or a wanted shard that is short of a copy in sync.
    pub(crate) fn not_serving(&self) -> Option<String> {
        let desired = &self.resource.desired;
        let missing = self.not_owned();
        if !missing.is_empty() {
            return Some(format!("slots {missing} have no owner"));
        }
        let short = |s: &Shard| self.in_sync(*s, None).len() < usize::from(desired.replicas);
        (0..desired.shards).map(Shard).find(short).map(|s| format!("shard {s} is short of a copy"))
    }

    /// A setting that is neither the person's nor what a new server starts with; a value that servers refuse asks for nothing.
    fn unsettled<'a>(&self, node: &'a Node) -> Option<(&'a String, &'a String)> {
        let (first, config) = (self.first_config(), &self.resource.desired.config);
        let wanted = |key: &String| config.get(key).map(|v| shown(v)).or_else(|| first.get(key).cloned());
        let free = ["maxmemory", "maxmemory-policy", "timeout"];
        let differs = |(k, v): &(&String, &String)| {
            free.contains(&k.as_str()) && wanted(k).is_some_and(|w| w != **v && w != "nonsense")
        };
        node.config.iter().find(differs)
    }

    /// Refusals that a person has asked for.
    fn expected(&self, code: valkey_cluster_operator::model::Code) -> bool {
        use valkey_cluster_operator::model::Code;
        match code {
            Code::SettingRefused | Code::BackingOff => !self.resource.desired.config.is_empty(),
            Code::CertificateRefused => {
                self.kube.secrets.certificates.as_ref().is_some_and(|c| c.wanted.is_err())
            }
            Code::UserRefused => !self.resource.desired.users.is_empty(),
            Code::PrimariesUneven => {
                let scheduling = &self.resource.desired.template.scheduling;
                [scheduling.node.primaries, scheduling.zone.primaries].contains(&SpreadMode::Required)
            }
            Code::Paused
            | Code::Deleting
            | Code::AddressInUse
            | Code::NotEmpty
            | Code::Unseen
            | Code::WouldLoseCopy
            | Code::DisruptionBudget
            | Code::NoWorker
            | Code::WouldNotFit
            | Code::MigrationFailed
            | Code::CrashLoop
            | Code::CredentialsLost
            | Code::ForeignOperator
            | Code::Unproven => false,
        }
    }

    fn shard_unfinished(&self, shard: Shard, going: bool) -> Option<String> {
        let desired = &self.resource.desired;
        let stays = |o: &&PodObject| o.pod.shard == shard && !(going && o.told_to_go());
        let pods: Vec<_> = self.kube.pods.values().filter(stays).collect();
        if pods.len() != desired.copies() {
            return Some(format!("shard {shard} has {} Pods instead of {}", pods.len(), desired.copies()));
        }
        let places: BTreeSet<_> = pods.iter().map(|o| &o.pod.worker).collect();
        let strict = desired.template.scheduling.node.shard == SpreadMode::Required;
        // Whoever has come to share a worker is moved once there was peace for a while.
        let young = self.kube.pods.values().any(|o| self.moment().since(o.pod.created) < 2 * PAUSE_MS);
        if strict && places.len() != pods.len() && !young {
            return Some(format!("two copies of shard {shard} share a worker"));
        }
        if let Some(o) = pods.iter().find(|o| o.pod.phase != Phase::Running || o.pod.gate != Some(true)) {
            return Some(format!("{} is {:?}, gate {:?}", o.pod.name, o.pod.phase, o.pod.gate));
        }
        let owned: u16 = pods.iter().filter_map(|o| self.process(&o.pod.name)).map(|n| n.slots.len()).sum();
        let even = SLOTS / desired.shards..=SLOTS.div_ceil(desired.shards);
        if !even.contains(&owned) {
            return Some(format!("shard {shard} owns {owned} slots of {} shards", desired.shards));
        }
        if let Some(o) =
            pods.iter().find(|o| o.pod.leads != self.process(&o.pod.name).is_some_and(Node::leads))
        {
            return Some(format!("the role label of {} is wrong", o.pod.name));
        }
        let leaders = pods.iter().filter_map(|o| self.process(&o.pod.name)).filter(|n| n.leads()).count();
        let synced = self.in_sync(shard, None).len();
        if leaders != 1 || synced + 1 != pods.len() {
            return Some(format!("shard {shard} has {leaders} primaries and {synced} replicas in sync"));
        }
        None
    }
}
