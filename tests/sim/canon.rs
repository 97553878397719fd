//! The state of a world without what is only a name or a date: two worlds of one state have the same future.
//!
//! Ids, addresses and UIDs become their places in an order that keeps who comes before whom; moments become distances from now,
//! and those of which only "long ago" matters end at a bound. What clients wrote becomes who is behind. Left out is what an
//! operator saw in earlier passes (only a stale read would show it again).

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use valkey_cluster_operator::model::NodeId;

use super::valkey::{Entry, Node};
use super::world::World;

/// Ticks after which it does not matter any more when something was: above every time-out of nodes and operator.
const LONG_AGO: i64 = 450;

impl World {
    /// Equal for worlds that differ in names and dates alone.
    pub(crate) fn state(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Canon::new(self).text().hash(&mut hasher);
        hasher.finish()
    }
}

struct Canon<'w> {
    w: &'w World,
    ids: BTreeMap<&'w NodeId, usize>,
    ips: BTreeMap<IpAddr, usize>,
    epochs: BTreeMap<u64, usize>,
    out: String,
}

fn places<T: Ord>(all: BTreeSet<T>) -> BTreeMap<T, usize> {
    all.into_iter().enumerate().map(|(i, t)| (t, i)).collect()
}

impl<'w> Canon<'w> {
    fn new(w: &'w World) -> Self {
        let nodes = || w.valkey.nodes.values();
        let mut ids: BTreeSet<&NodeId> = nodes().map(|n| &n.id).collect();
        ids.extend(nodes().flat_map(|n| n.view.keys().chain(n.of.as_ref())));
        // Processes on an address, Pods that had it, and lines that list it: in the order in which they are found.
        let mut ips: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let pods = w.kube.pods.values().filter_map(|o| o.pod.ip);
        let listed = nodes().flat_map(|n| n.view.values()).filter_map(|e| e.ip);
        for ip in nodes().map(|n| n.ip).chain(pods).chain(listed) {
            let next = ips.len();
            ips.entry(ip).or_insert(next);
        }
        let epochs = nodes()
            .flat_map(|n| n.view.values().map(|e| e.epoch).chain([n.epoch, n.current_epoch, n.last_vote]));
        let mut epochs: BTreeSet<u64> = epochs.collect();
        epochs.insert(0);
        Self { w, ids: places(ids), ips, epochs: places(epochs), out: String::new() }
    }

    fn ago(&self, at: i64) -> i64 {
        (self.w.now - at).min(LONG_AGO)
    }

    fn id(&self, id: &NodeId) -> usize {
        self.ids.get(id).copied().unwrap_or(usize::MAX)
    }

    fn text(mut self) -> String {
        self.spec();
        self.machines();
        for node in self.w.valkey.nodes.values() {
            self.node(node);
        }
        for t in &self.w.valkey.transfers {
            let ends = (self.id(&t.source), self.id(&t.target));
            let times = (self.ago(t.ends_at), self.ago(t.moved_at));
            let _ = write!(self.out, "job {ends:?} {} {:?} {times:?};", t.slots, t.state);
        }
        self.operators();
        let watch = (&self.w.watch.abandoned, self.w.clients.writing, &self.w.mischief);
        let _ = write!(self.out, "{watch:?}");
        self.out
    }

    fn spec(&mut self) {
        let r = &self.w.resource;
        let d = &r.desired;
        let what =
            (d.shards, d.replicas, &d.template.image, &d.config, d.paused, d.max_disrupted_shards, d.purge);
        let _ = write!(self.out, "{what:?}{}{}{:?}|", r.formed, r.whole, r.served);
    }

    fn machines(&mut self) {
        let (now, kube) = (self.w.now, &self.w.kube);
        for w in kube.workers.values() {
            let lost = w.worker.lost_since.map(|m| self.ago(m.0 / super::TICK_MS));
            let away = w.away_since.map(|t| self.ago(t));
            let what = (w.worker.open, w.worker.leaving, w.worker.out_of_service, w.capacity, w.off);
            let shuts = w.shutdown.map(|s| ((s.off_at - now).max(0), s.boots));
            let _ = write!(self.out, "{what:?}{lost:?}{away:?}{shuts:?}|");
        }
        for o in kube.pods.values() {
            let p = &o.pod;
            let due = [o.starts_at, o.stops_at, o.gone_at].map(|t| t.map(|t| (t - now).max(0)));
            let since = [Some(p.created.0 / super::TICK_MS), o.started_at].map(|t| t.map(|t| self.ago(t)));
            let ip = p.ip.and_then(|ip| self.ips.get(&ip).copied());
            let process = o.process.as_ref().map(|id| self.id(id));
            let ended = matches!(p.phase, valkey_cluster_operator::model::Phase::Finished { .. });
            let going = (p.terminating, p.disrupted, o.let_go);
            let what = (&p.name, &p.worker, ended, going, p.gate, &p.before, p.leads, p.failures);
            let _ =
                write!(self.out, "{what:?}{}{due:?}{since:?}{ip:?}{process:?}{:?}|", p.revision, o.wanted);
        }
        let unreachable = (&self.w.valkey.cut, &self.w.valkey.hidden, kube.unreachable);
        let _ = write!(self.out, "{:?}{unreachable:?}", kube.drifted);
        // Which address the next Pod gets matters where somebody still lists it.
        let next = kube.free_addresses().map(|ip| self.ips.get(&ip).copied()).collect::<Vec<_>>();
        if kube.reuse_addresses {
            let _ = write!(self.out, "{next:?}");
        }
    }

    fn node(&mut self, n: &Node) {
        let now = self.w.now;
        let pod = self.w.kube.pods.values().find(|o| o.pod.uid == n.uid).map(|o| &o.pod.name);
        let epoch = |e: u64| self.epochs.get(&e).copied();
        let epochs = (epoch(n.epoch), epoch(n.current_epoch), epoch(n.last_vote));
        let who = (
            self.id(&n.id),
            n.cluster,
            pod,
            &n.worker,
            self.ips.get(&n.ip),
            n.of.as_ref().map(|id| self.id(id)),
        );
        let open: Vec<_> = n.open.iter().map(|(s, (out, id))| (s, out, self.id(id))).collect();
        // Only who can come back is worth a ban.
        let alive = |id: &&NodeId| self.ids.contains_key(id);
        let banned: Vec<_> =
            n.banned.iter().filter(|(id, _)| alive(id)).map(|(id, t)| (self.id(id), t - now)).collect();
        let (r, voted) = (&n.repl, n.election_at.map(|t| t - now));
        let partner = r.partner.as_ref().map(|id| self.id(id));
        let link = (partner, r.up, r.sync_until.map(|t| t - now), r.loading, r.synced);
        let down = if r.up { 0 } else { self.ago(r.down_since) };
        let times = (self.ago(n.started).min(30), self.ago(n.minority_at).min(60), down, voted);
        let dies = n.dies_at.map(|(t, cause)| ((t - now).min(LONG_AGO), cause));
        let kin: Vec<usize> = self
            .w
            .valkey
            .nodes
            .values()
            .enumerate()
            .filter(|(_, o)| o.lineage == n.lineage)
            .map(|(i, _)| i)
            .collect();
        let behind: Vec<(u16, bool)> =
            n.data.iter().map(|(slot, v)| (*slot, self.best(*slot) == *v)).collect();
        let view: Vec<String> = n.view.iter().map(|(id, e)| self.entry(id, e)).collect();
        let _ = write!(
            self.out,
            "{who:?}{}{open:?}{epochs:?}{banned:?}{link:?}{times:?}{dies:?}{kin:?}{behind:?}{}{}{:?}{view:?}|",
            n.slots, n.state_ok, n.admitted, n.config
        );
    }

    fn entry(&self, id: &NodeId, e: &Entry) -> String {
        let flags = (e.handshake, e.meets, e.suspected, e.failed, e.connected);
        let ip = e.ip.and_then(|ip| self.ips.get(&ip));
        let times = (
            self.ago(e.since).min(60),
            self.ago(e.heard),
            if e.failed { self.ago(e.failed_at).min(60) } else { 0 },
        );
        let reports: Vec<_> = e.reports.iter().map(|(by, t)| (self.id(by), self.ago(*t).min(60))).collect();
        let of = e.replica_of.as_ref().map(|id| self.id(id));
        format!(
            "{}{ip:?}{of:?}{}{:?}{flags:?}{times:?}{reports:?}",
            self.id(id),
            e.slots,
            self.epochs.get(&e.epoch)
        )
    }

    fn best(&self, slot: u16) -> u64 {
        let ours = self.w.valkey.nodes.values().filter(|n| n.cluster == 0);
        ours.filter_map(|n| n.data.get(&slot).copied()).max().unwrap_or(0)
    }

    fn operators(&mut self) {
        let (now, moment) = (self.w.now, self.w.moment());
        for o in &self.w.operators {
            let p = &o.past_looks;
            let changes =
                p.changes.iter().map(|c| (moment.since(c.at), c.shard, self.id(&c.heir), c.dead.is_some()));
            let changes: Vec<_> = changes.collect();
            let synced: Vec<_> = p.synced.iter().map(|(id, s)| (self.id(id), self.id(&s.primary))).collect();
            let long = LONG_AGO * super::TICK_MS;
            let silent: Vec<_> = p.silent.values().map(|t| moment.since(*t).min(long)).collect();
            let headless = p.headless.map(|t| moment.since(t).min(long));
            let applied: Vec<_> = o.applied.iter().map(|((id, key), v)| (self.id(id), key, v)).collect();
            let failures = o.failures_until.map_or(0, |t| (t - now).max(0));
            let tried = if failures > 0 { format!("{:?}", o.attempts) } else { String::new() };
            let next = o.next_pass - now;
            let _ = write!(
                self.out,
                "op {next}{changes:?}{synced:?}{silent:?}{headless:?}{applied:?}{failures}{tried}|"
            );
        }
    }
}
