//! The cluster bus: handshakes, pings with gossip, slot claims, failure detection, `cluster_state`.
//!
//! Follows `cluster_legacy.c` of 8.1 to 9.1: gossip adds an unknown id with its address (no handshake), MEET alone makes
//! a stranger known, the higher config epoch owns a slot, a majority of slot owners makes a failure.

use rand::rngs::StdRng;
use rand::{Rng, seq::SliceRandom};
use valkey_cluster_operator::model::{NodeId, Slots};

use super::ticks;
use super::valkey::{Entry, Node, Valkey};

/// What a node says in each packet.
#[derive(Clone, Debug)]
struct Packet {
    from: NodeId,
    ip: std::net::IpAddr,
    of: Option<NodeId>,
    slots: Slots,
    epoch: u64,
    current_epoch: u64,
    gossip: Vec<(NodeId, std::net::IpAddr, bool)>,
}

/// "That slot belongs to him, and has for longer than you think."
type Update = (NodeId, u64, Slots);

impl Valkey {
    /// What the bus does in one tick.
    pub(crate) fn bus(&mut self, now: i64, rng: &mut StdRng) {
        let mut order: Vec<NodeId> = self.nodes.keys().cloned().collect();
        order.shuffle(rng);
        for id in &order {
            self.handshakes(id, now, rng);
            self.pings(id, now, rng);
            self.bus_links(id);
            self.suspect(id, now);
        }
        for id in &order {
            self.update_state(id, now);
        }
    }

    fn handshakes(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) {
        let node = self.get_mut(id);
        node.banned.retain(|_, until| *until > now);
        let patience = ticks(node.timeout_ms().max(1000));
        node.view.retain(|_, e| !e.handshake || now - e.since <= patience);
        let open: Vec<(NodeId, Entry)> =
            node.view.iter().filter(|(_, e)| e.handshake).map(|(i, e)| (i.clone(), e.clone())).collect();
        for (placeholder, entry) in open {
            if rng.random_bool(0.6) {
                self.shake(id, &placeholder, &entry, now, rng);
            }
        }
    }

    /// Talks to whoever is at the address; afterwards both know each other, or will a tick later.
    fn shake(&mut self, id: &NodeId, placeholder: &NodeId, entry: &Entry, now: i64, rng: &mut StdRng) {
        let (worker, my_ip) = (self.nodes[id].worker.clone(), self.nodes[id].ip);
        let Some(other) = entry.ip.and_then(|ip| self.listening(ip, Some(&worker))).map(|n| n.id.clone())
        else {
            return;
        };
        if self.nodes[&other].speaks_tls() != self.nodes[id].speaks_tls() {
            return;
        }
        if entry.meets && other != *id {
            self.meet_arrives(&other, id, my_ip, now, rng);
        }
        let mut pong = self.packet(&other, rng);
        pong.slots = Slots::none();
        let node = self.get_mut(id);
        node.view.remove(placeholder);
        if other != *id && !node.knows(&other) {
            node.banned.remove(&other);
            node.view.insert(other.clone(), Entry { epoch: 0, ..Entry::new(pong.ip, now) });
            self.hear(id, &pong, now);
        } else if let Some(known) = node.view.get_mut(&other) {
            known.ip = Some(pong.ip);
        }
    }

    /// MEET makes the receiver shake hands in turn, and believe the sender's gossip at once.
    fn meet_arrives(&mut self, at: &NodeId, from: &NodeId, ip: std::net::IpAddr, now: i64, rng: &mut StdRng) {
        let packet = self.packet(from, rng);
        let placeholder = self.fresh_id(rng);
        let node = self.get_mut(at);
        if !node.knows(from) && !node.view.values().any(|e| e.handshake && e.ip == Some(ip)) {
            let entry = Entry { handshake: true, ..Entry::new(ip, now) };
            node.view.insert(NodeId::new(format!("?{placeholder}")), entry);
        }
        self.gossip(at, &packet, now);
    }

    /// A closed link shows at once, one to a silent address only after the node-timeout.
    fn bus_links(&mut self, id: &NodeId) {
        let node = &self.nodes[id];
        let open = |peer: &NodeId, e: &Entry| match e.ip {
            None => false,
            Some(ip) => match self.listening(ip, Some(&node.worker)) {
                Some(there) => there.id == *peer && there.speaks_tls() == node.speaks_tls(),
                None => !self.refuses(ip) && !e.suspected && !e.failed,
            },
        };
        let links: Vec<(NodeId, bool)> = node.view.iter().map(|(p, e)| (p.clone(), open(p, e))).collect();
        let node = self.get_mut(id);
        for (peer, open) in links {
            if let Some(entry) = node.view.get_mut(&peer) {
                entry.connected = open;
            }
        }
    }

    /// Nobody listens at the address, and whoever knocks is told so.
    pub(crate) fn refuses(&self, ip: std::net::IpAddr) -> bool {
        !self.dark.contains(&ip) && self.nodes.values().all(|n| n.ip != ip)
    }

    fn packet(&self, from: &NodeId, rng: &mut StdRng) -> Packet {
        let node = &self.nodes[from];
        let mut known: Vec<(NodeId, std::net::IpAddr, bool)> = node
            .view
            .iter()
            .filter(|(_, e)| !e.handshake)
            .filter_map(|(id, e)| Some((id.clone(), e.ip?, e.suspected || e.failed)))
            .collect();
        known.shuffle(rng);
        let enough = 3.max(known.len() / 10);
        let (mut gossip, rest) =
            (known.iter().take(enough).cloned().collect::<Vec<_>>(), known.iter().skip(enough));
        gossip.extend(rest.filter(|(_, _, gone)| *gone).cloned());
        Packet {
            from: from.clone(),
            ip: node.ip,
            of: node.of.clone(),
            slots: node.slots.clone(),
            epoch: node.epoch,
            current_epoch: node.current_epoch,
            gossip,
        }
    }

    fn pings(&mut self, id: &NodeId, now: i64, rng: &mut StdRng) {
        let node = &self.nodes[id];
        let idle = ticks(node.timeout_ms() / 2);
        let peers: Vec<NodeId> = node
            .view
            .iter()
            .filter(|(_, e)| !e.handshake && (now - e.heard >= idle || rng.random_bool(0.15)))
            .map(|(i, _)| i.clone())
            .collect();
        for peer in peers {
            self.ping(id, &peer, now, rng);
        }
    }

    /// A ping and its pong.
    pub(crate) fn ping(&mut self, id: &NodeId, peer: &NodeId, now: i64, rng: &mut StdRng) {
        let node = &self.nodes[id];
        let Some((ip, since)) = node.view.get(peer).and_then(|e| Some((e.ip?, e.since))) else { return };
        let (worker, my_ip) = (node.worker.clone(), node.ip);
        let Some(there) = self.listening(ip, Some(&worker)).map(|n| n.id.clone()) else { return };
        if there != *peer {
            // Somebody else lives at the address now: the id has none any more, and (8.1 and newer) has failed.
            let entry = self.get_mut(id).view.get_mut(peer).expect("it was just read");
            (entry.ip, entry.failed, entry.failed_at) = (None, true, now);
            return;
        }
        if self.nodes[peer].speaks_tls() != self.nodes[id].speaks_tls() {
            // No handshake, no ping, and so no suspicion either (measured: 45 s on 8.0.1, 8.1.1 and 9.1.2).
            self.get_mut(id).view.get_mut(peer).expect("it was just read").heard = now;
            return;
        }
        if self.nodes[peer].knows(id) {
            let packet = self.packet(id, rng);
            let updates = self.hear(peer, &packet, now);
            self.gossip(peer, &packet, now);
            self.correct(id, updates, now);
        } else if now - since > ticks(self.nodes[id].timeout_ms().max(1000)) {
            // 8.1 and newer meet again whom they know and who does not know them.
            self.meet_arrives(peer, id, my_ip, now, rng);
        }
        let pong = self.packet(peer, rng);
        let updates = self.hear(id, &pong, now);
        self.gossip(id, &pong, now);
        self.correct(peer, updates, now);
        if let Some(entry) = self.get_mut(id).view.get_mut(peer) {
            entry.heard = now;
            entry.suspected = false;
            let stays_out = entry.failed && !entry.slots.is_empty() && now - entry.failed_at <= idle_fail();
            entry.failed = stays_out;
        }
    }

    /// Reads the sender's own lines. Gives back what the sender has to be told.
    fn hear(&mut self, at: &NodeId, p: &Packet, now: i64) -> Vec<Update> {
        let node = self.get_mut(at);
        node.current_epoch = node.current_epoch.max(p.current_epoch);
        let Some(entry) = node.view.get_mut(&p.from) else { return Vec::new() };
        entry.ip = Some(p.ip);
        entry.epoch = entry.epoch.max(p.epoch);
        entry.replica_of.clone_from(&p.of);
        if p.of.is_some() {
            entry.slots = Slots::none();
            return Vec::new();
        }
        if entry.slots != p.slots {
            node.claim(&p.from, p.epoch, &p.slots, now);
        }
        if node.of.is_none() && node.epoch == p.epoch && node.id < p.from && !p.slots.is_empty() {
            node.current_epoch += 1;
            node.epoch = node.current_epoch;
        }
        node.contradict(p)
    }

    fn correct(&mut self, whom: &NodeId, updates: Vec<Update>, now: i64) {
        let Some(node) = self.nodes.get_mut(whom) else { return };
        for (owner, epoch, slots) in updates {
            if owner != node.id && node.knows(&owner) {
                if let Some(entry) = node.view.get_mut(&owner) {
                    entry.epoch = entry.epoch.max(epoch);
                    entry.replica_of = None;
                }
                node.claim(&owner, epoch, &slots, now);
            }
        }
    }

    fn gossip(&mut self, at: &NodeId, p: &Packet, now: i64) {
        let trusted_voter = p.of.is_none() && !p.slots.is_empty();
        let node = self.get_mut(at);
        for (id, ip, gone) in &p.gossip {
            if *id == node.id {
                continue;
            }
            match node.view.get_mut(id) {
                Some(entry) if trusted_voter && *gone => {
                    entry.reports.insert(p.from.clone(), now);
                }
                Some(entry) => {
                    entry.reports.remove(&p.from);
                    if entry.ip.is_none() && !gone {
                        entry.ip = Some(*ip);
                    }
                }
                None if !node.banned.contains_key(id) => {
                    node.view.insert(id.clone(), Entry::new(*ip, now));
                }
                None => {}
            }
        }
    }

    /// Silence longer than the node-timeout is a suspicion; a majority of slot owners makes it a failure for all.
    fn suspect(&mut self, id: &NodeId, now: i64) {
        let node = self.get_mut(id);
        let (timeout, quorum, me) =
            (ticks(node.timeout_ms()), node.voters() / 2 + 1, usize::from(node.leads()));
        let voters: Vec<NodeId> =
            node.view.iter().filter(|(_, e)| !e.slots.is_empty()).map(|(i, _)| i.clone()).collect();
        let mut failed = Vec::new();
        for (peer, entry) in node.view.iter_mut().filter(|(_, e)| !e.handshake) {
            entry.reports.retain(|by, at| now - *at <= 2 * timeout && voters.contains(by));
            if entry.ip.is_some() && now - entry.heard > timeout {
                entry.suspected = true;
            }
            if entry.suspected && !entry.failed && entry.reports.len() + me >= quorum {
                (entry.failed, entry.failed_at) = (true, now);
                failed.push(peer.clone());
            }
        }
        let (worker, friends) = (node.worker.clone(), node.view.keys().cloned().collect::<Vec<_>>());
        for gone in failed {
            for friend in &friends {
                let hears = self
                    .nodes
                    .get(friend)
                    .is_some_and(|n| self.reach(&n.worker, Some(&worker)) && n.knows(id));
                if let Some(entry) =
                    self.nodes.get_mut(friend).filter(|_| hears).and_then(|n| n.view.get_mut(&gone))
                    && !entry.failed
                {
                    (entry.failed, entry.failed_at) = (true, now);
                }
            }
        }
    }

    /// `clusterUpdateState`: two floors for primaries, 2 s after the start and clamp(timeout, 500, 5000) ms after the
    /// node last saw itself in a minority.
    fn update_state(&mut self, id: &NodeId, now: i64) {
        let node = self.get_mut(id);
        let primary = node.of.is_none();
        if primary && !node.state_ok && now - node.started < ticks(2000) {
            return;
        }
        let alive = node.view.values().filter(|e| !e.slots.is_empty() && !e.failed && !e.suspected).count();
        let reachable = alive + usize::from(node.leads());
        if reachable < node.voters() / 2 + 1 {
            node.minority_at = now;
            node.state_ok = false;
            return;
        }
        let rejoin = ticks(node.timeout_ms().clamp(500, 5000));
        if !node.state_ok && primary && now - node.minority_at < rejoin {
            return;
        }
        node.state_ok = true;
    }
}

/// A failed slot owner that answers again is believed after this many ticks (twice the usual node-timeout).
fn idle_fail() -> i64 {
    ticks(4000)
}

impl Node {
    /// Somebody claims slots with an epoch: what was owned with a lower one changes hands.
    pub(crate) fn claim(&mut self, by: &NodeId, epoch: u64, slots: &Slots, now: i64) {
        let mut gained = Slots::none();
        let mut lost_by_primary = Slots::none();
        let owned = self.view.iter().fold(self.slots.clone(), |all, (_, e)| all.or(&e.slots));
        gained = gained.or(&slots.minus(&owned));
        for (id, entry) in self.view.iter_mut().filter(|(id, e)| *id != by && e.epoch < epoch) {
            let taken = entry.slots.and(slots);
            if !taken.is_empty() {
                entry.slots = entry.slots.minus(&taken);
                gained = gained.or(&taken);
                if self.of.as_ref() == Some(id) && entry.slots.is_empty() {
                    lost_by_primary = taken;
                }
            }
        }
        let mine = self.slots.and(slots);
        let lose = !mine.is_empty() && self.epoch < epoch;
        if lose {
            self.slots = self.slots.minus(&mine);
            gained = gained.or(&mine);
        }
        if let Some(entry) = self.view.get_mut(by) {
            entry.slots = entry.slots.or(&gained);
        }
        if (lose && self.slots.is_empty() && mine == *slots)
            || (!lost_by_primary.is_empty() && lost_by_primary == *slots)
        {
            self.follow(by.clone(), now);
        } else if lose {
            // Keys in slots that went to another are deleted.
            self.data.retain(|slot, _| !mine.contains(*slot));
        }
    }

    /// Claims in a packet that are older than what is known here.
    fn contradict(&self, p: &Packet) -> Vec<Update> {
        let mut out: Vec<Update> = self
            .view
            .iter()
            .filter(|(id, e)| **id != p.from && e.epoch > p.epoch && e.slots.overlaps(&p.slots))
            .map(|(id, e)| (id.clone(), e.epoch, e.slots.clone()))
            .collect();
        if self.epoch > p.epoch && self.slots.overlaps(&p.slots) {
            out.push((self.id.clone(), self.epoch, self.slots.clone()));
        }
        out
    }
}
