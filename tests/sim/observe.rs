//! What the operator can see: Pods from the API server, nodes by asking each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use valkey_cluster_operator::model::{
    Answer, Link, Looks, Memory, NodeId, NodeReport, Numbers, Past, Peer, Peers, Phase, Pod, PodName, PodUid,
    Role, Sampling, Seen, Shards, Silence, Snapshot,
};
use valkey_cluster_operator::model::{peers as lists, settings};
use valkey_cluster_operator::plan::away::AWAY_MS;

use super::TICK_MS;
use super::bare;
use super::valkey::{Node, Valkey};
use super::world::World;

impl World {
    /// Looks at everything, now.
    pub(crate) fn snapshot(&self, applied: &Applied, past: &Past, looks: &mut Looks) -> Snapshot {
        let pods = self.kube.pods.iter().map(|(n, o)| (n.clone(), o.pod.clone())).collect();
        self.snapshot_with(pods, applied, past, looks)
    }

    /// Looks at the nodes through these Pods, which may be those of a while ago.
    pub(crate) fn snapshot_with(
        &self,
        pods: BTreeMap<PodName, Pod>,
        applied: &Applied,
        past: &Past,
        looks: &mut Looks,
    ) -> Snapshot {
        let nodes = self.ask_pods(&pods, past, looks);
        let ghosts = self.ghosts(&nodes);
        let (desired, certificates) = self.secured(&pods);
        Snapshot {
            now: self.moment(),
            revision: Self::revision(&desired),
            desired,
            formed: self.resource.formed,
            whole: self.resource.whole,
            served: self.resource.served.clone(),
            shape: self.resource.shape.clone(),
            drifted: self.kube.drifted.clone(),
            foreign: None,
            credentials_known: true,
            certificates,
            accounts: Some(self.vault.accounts()),
            passwords: BTreeMap::new(),
            pods,
            taken: BTreeSet::new(),
            workers: self.kube.workers.iter().map(|(n, w)| (n.clone(), w.seen())).collect(),
            nodes,
            ghosts,
            low_timeout_budget: 40,
            applied: applied.clone(),
            request: None,
            vouched: self.resource.vouched.clone(),
            past: past.clone(),
        }
    }

    /// Asks every running Pod's node. Of two Pods at one address the younger has it.
    fn ask_pods(
        &self,
        pods: &BTreeMap<PodName, Pod>,
        past: &Past,
        looks: &mut Looks,
    ) -> BTreeMap<PodUid, Seen<NodeReport>> {
        let mut at: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
        for pod in pods.values().filter(|p| p.phase == Phase::Running) {
            if let Some(ip) = pod.ip {
                let holder = at.entry(ip).or_insert(pod);
                if pod.created > holder.created {
                    *holder = pod;
                }
            }
        }
        let at: BTreeMap<PodUid, (IpAddr, &Pod)> =
            at.into_iter().map(|(ip, pod)| (pod.uid.clone(), (ip, pod))).collect();
        // As the operator does: while the cluster forms it asks everybody for everything.
        let above = if self.resource.whole { self.sampling.above } else { usize::MAX };
        let mut seen = match looks.first(
            &at.keys().cloned().collect(),
            Sampling { above, ..self.sampling },
            self.moment(),
        ) {
            None => at.iter().map(|(uid, (ip, _))| (uid.clone(), self.ask(*ip))).collect(),
            Some(first) => {
                let answers = at
                    .iter()
                    .map(|(uid, (ip, _))| (uid.clone(), self.answer(*ip, !first.whole.contains(uid))));
                let answers: BTreeMap<PodUid, Answer> = answers.collect();
                let shards = Shards::new(pods.values(), self.resource.desired.copies());
                let long = |uid: &PodUid| past.silent_for(uid, self.moment()) >= AWAY_MS;
                let second = looks.second(&first, &answers, &shards, long);
                let more = second.whole.iter().map(|uid| (uid.clone(), self.answer(at[uid].0, false)));
                let more = more.collect();
                looks.end(second, answers, more)
            }
        };
        for (uid, seen) in &mut seen {
            seen.only_of(&at[uid].1.name);
        }
        lists::share(seen.values_mut());
        seen
    }

    /// What a node says that is asked briefly, or for everything.
    fn answer(&self, ip: IpAddr, briefly: bool) -> Answer {
        let report = match self.ask(ip) {
            Seen::Now(report) => report,
            Seen::Silent(why) => return Answer::Silent(why),
            Seen::Never => unreachable!("it was asked"),
        };
        let node = &self.valkey.nodes[&report.id];
        let owned = node.view.values().fold(node.slots.clone(), |all, e| all.or(&e.slots));
        let owners = node.view.values().filter(|e| !e.slots.is_empty()).count();
        let numbers = Numbers {
            known_nodes: u32::try_from(node.view.len()).unwrap() + 1,
            size: u32::try_from(owners + usize::from(!node.slots.is_empty())).unwrap(),
            current_epoch: node.current_epoch,
            slots_assigned: owned.len(),
        };
        if !briefly {
            return Answer::Whole(Box::new(report), numbers);
        }
        bare::brief(report, numbers, |of| node.view.get(of).and_then(|e| e.ip))
    }

    /// Asks whoever listens at the address; another cluster's process does not take our password.
    fn ask(&self, ip: IpAddr) -> Seen<NodeReport> {
        match self.valkey.nodes.values().find(|n| n.ip == ip) {
            _ if self.is_hidden(ip) => Seen::Silent(Silence::Timeout),
            None if !self.valkey.refuses(ip) => Seen::Silent(Silence::Timeout),
            None => Seen::Silent(Silence::Refused),
            Some(n) if !self.valkey.reach(&n.worker, None) => Seen::Silent(Silence::Timeout),
            Some(n) if n.cluster != 0 || !self.vault.opens(&n.users) => Seen::Silent(Silence::Auth),
            Some(n) => Seen::Now(self.report(n)),
        }
    }

    /// Ids that nodes list and that no Pod accounts for, asked at the address that they are listed under.
    fn ghosts(&self, nodes: &BTreeMap<PodUid, Seen<NodeReport>>) -> BTreeMap<NodeId, Seen<NodeReport>> {
        let reports: Vec<&NodeReport> = nodes.values().filter_map(Seen::now).collect();
        let known: BTreeSet<&NodeId> = reports.iter().map(|n| &n.id).collect();
        let mut out = BTreeMap::new();
        for (id, peer) in
            reports.iter().flat_map(|n| n.peers.iter()).filter(|(id, p)| !p.handshake && !known.contains(id))
        {
            let Some(ip) = peer.ip else { continue };
            let seen = match self.ask(ip) {
                Seen::Now(other) if other.id != *id => Seen::Silent(Silence::Refused),
                seen => seen,
            };
            out.insert(id.clone(), seen);
        }
        out
    }

    fn report(&self, node: &Node) -> NodeReport {
        let asked = settings::asked(&self.resource.desired, self.kube.pods.values().map(|o| &o.pod));
        let role = match &node.of {
            None => Role::Primary { slots: node.slots.clone() },
            Some(of) => Role::Replica { of: of.clone(), link: link(node) },
        };
        NodeReport {
            id: node.id.clone(),
            version: node.version,
            uptime_ms: (self.now - node.started) * TICK_MS,
            role,
            open_slots: super::migration::open_slots(node),
            jobs: super::migration::jobs(&self.valkey, node, self.now),
            memory: Some(memory(node)),
            state_ok: node.state_ok,
            epoch: node.epoch,
            peers: peers(node),
            online_replicas: online_replicas(&self.valkey, node),
            keys: u64::try_from(node.data.len()).unwrap_or(u64::MAX),
            loading: node.repl.loading,
            admitted: node.admitted,
            users: Some(node.users.clone()),
            primary_password: Some(node.primary_password.clone()),
            config: asked.into_iter().filter_map(|k| node.config.get(&k).map(|v| (k, v.clone()))).collect(),
        }
    }
}

/// Bytes of a key in this world, whatever is in it.
const KEY_BYTES: u64 = 100;

/// What it uses without any key.
const OWN_BYTES: u64 = 1000;

fn memory(node: &Node) -> Memory {
    let data = KEY_BYTES * u64::try_from(node.data.len()).unwrap_or(u64::MAX);
    let limit = node.config.get("maxmemory").and_then(|v| v.parse().ok()).unwrap_or(0);
    Memory { used: OWN_BYTES + data, data, limit }
}

/// How far it has come: the clients' counters only grow.
pub(crate) fn link(node: &Node) -> Link {
    let offset = if node.repl.synced { 1 + node.dropped + node.data.values().sum::<u64>() } else { 0 };
    Link { up: node.repl.up, syncing: node.repl.sync_until.is_some(), offset }
}

/// What was set and read back, by node and key.
pub(crate) type Applied = BTreeMap<(NodeId, String), (String, String)>;

/// Its lines about others and the one about itself.
fn peers(node: &Node) -> Peers {
    let itself = Peer {
        ip: Some(node.ip),
        replica_of: node.of.clone(),
        slots: node.slots.clone(),
        epoch: node.epoch,
        handshake: false,
        failed: false,
        suspected: false,
        connected: true,
    };
    let others = node.view.iter().map(|(id, e)| (id.clone(), peer(e)));
    Peers::shared(Arc::new(others.chain([(node.id.clone(), itself)]).collect()), node.id.clone())
}

fn peer(e: &super::valkey::Entry) -> Peer {
    Peer {
        ip: e.ip,
        replica_of: e.replica_of.clone(),
        slots: e.slots.clone(),
        epoch: e.epoch,
        handshake: e.handshake,
        failed: e.failed,
        suspected: e.suspected && !e.failed,
        connected: e.connected,
    }
}

/// The primary calls a replica online while that one still loads.
fn online_replicas(valkey: &Valkey, primary: &Node) -> BTreeSet<IpAddr> {
    let copies = valkey.nodes.values().filter(|r| r.repl.partner.as_ref() == Some(&primary.id));
    copies.filter(|r| r.repl.up || r.repl.loading).map(|r| r.ip).collect()
}
