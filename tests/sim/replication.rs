//! Replication: links go by address, not by id. Whoever listens there with the replication user on is copied.

use rand::Rng;
use rand::rngs::StdRng;
use valkey_cluster_operator::model::NodeId;

use super::valkey::{Node, Replication, Valkey};

impl Valkey {
    /// What the links do in one tick.
    pub(crate) fn replication(&mut self, now: i64, rng: &mut StdRng) {
        let replicas: Vec<NodeId> =
            self.nodes.values().filter(|n| n.of.is_some()).map(|n| n.id.clone()).collect();
        for id in replicas {
            match self.source(&id).map(|source| source.id.clone()) {
                Some(source) => self.copy(&id, &source, now, rng),
                None => self.nodes.get_mut(&id).expect("just listed").link_lost(now),
            }
        }
    }

    /// The process that its replication connection ends at, when that one lets itself be copied.
    fn source(&self, id: &NodeId) -> Option<&Node> {
        let node = &self.nodes[id];
        let ip = node.view.get(node.of.as_ref()?)?.ip?;
        let source = self.listening(ip, Some(&node.worker))?;
        let serves = source.of.is_none() || source.repl.up;
        // A link that is open stays open, whatever becomes of the password.
        let linked = node.repl.partner.as_ref() == Some(&source.id);
        let welcome =
            linked || (source.takes(&node.primary_password) && source.speaks_tls() == node.speaks_tls());
        // A fenced process answers WRONGPASS or NOPERM; so does another cluster's.
        (source.admitted && welcome && serves && source.cluster == node.cluster && source.id != *id)
            .then_some(source)
    }

    fn copy(&mut self, id: &NodeId, source: &NodeId, now: i64, rng: &mut StdRng) {
        // Out of the map while it is changed, so that its source can be read beside it.
        let mut node = self.nodes.remove(id).expect("just listed");
        node.copy(&self.nodes[source], now, rng);
        self.nodes.insert(id.clone(), node);
    }
}

impl Node {
    /// One tick of the link between the two.
    fn copy(&mut self, source: &Node, now: i64, rng: &mut StdRng) {
        if self.repl.partner.as_ref() != Some(&source.id) {
            self.link_lost(now);
            if rng.random_bool(0.6) {
                let continues = self.repl.synced && self.lineage == source.lineage;
                let until = if continues { now } else { now + rng.random_range(2..=25) };
                self.repl.partner = Some(source.id.clone());
                self.repl.sync_until = Some(until);
            }
            return;
        }
        match self.repl.sync_until {
            Some(until) if until > now => self.repl.loading = until - now <= 2,
            Some(_) => {
                self.lineage = source.lineage;
                self.data.clone_from(&source.data);
                self.open.clone_from(&source.open);
                self.dropped = source.dropped;
                self.repl = Replication {
                    up: true,
                    synced: true,
                    sync_until: None,
                    loading: false,
                    ..self.repl.clone()
                };
            }
            None => {
                // What it has missed comes with the rest; from then on it has what is passed on to it.
                if !self.repl.up {
                    self.open.clone_from(&source.open);
                }
                self.repl.up = true;
                if self.data != source.data {
                    self.data.clone_from(&source.data);
                }
                self.dropped = source.dropped;
            }
        }
    }

    fn link_lost(&mut self, now: i64) {
        if self.repl.up || self.repl.partner.is_some() {
            self.repl.down_since = now;
        }
        self.repl = Replication {
            partner: None,
            up: false,
            sync_until: None,
            loading: false,
            down_since: self.repl.down_since,
            synced: self.repl.synced,
        };
    }
}
