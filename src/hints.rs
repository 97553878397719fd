//! What this process remembers of each cluster: hints that may be lost at any moment and decide nothing but "how soon again".
//!
//! Passwords are here too: they outlive the Secret while a deleted cluster's Pods still run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;

use crate::api::ValkeyClusterStatus;
use crate::build::Credentials;
use crate::model::users;
use crate::model::{Attempts, Looks, Past, PodName, Traffic};
use crate::mutex::lock;
use crate::observe::access;
use crate::observe::certificates::{Secured, Wire};
use crate::observe::passwords::Known;
use crate::valkey::{Access, Kept};

/// Nodes of all clusters together that may run with the lowest node-timeout at one time: 100 on two cores
/// drown in pings, 30 form in 0.5 s (both measured).
pub const FAST_NODES: usize = 40;

/// Values set live and read back.
pub type Applied = Arc<Mutex<users::Applied>>;

/// The hints of one cluster.
#[derive(Debug, Default)]
pub struct Hints {
    /// What failed a moment ago.
    pub attempts: Attempts,
    /// What earlier looks have shown.
    pub past: Past,
    /// Whom the next look at a large cluster asks for everything.
    pub looks: Looks,
    /// The connections that its nodes are asked over.
    pub kept: Kept,
    /// More connections, to the ends of slots that are carried key by key.
    pub lanes: Kept,
    /// What was seen to move, for the metrics.
    pub traffic: Traffic,
    /// See [`Applied`].
    pub applied: Applied,
    /// The passwords of the system users.
    pub credentials: Option<Credentials>,
    /// The certificates, and how nodes are spoken to.
    pub secured: Secured,
    /// The Secret that they are from, as it was read or written last.
    pub secret: Option<Secret>,
    /// The Secrets that users of the spec name, by name.
    pub secrets: BTreeMap<String, Known>,
    /// The latch was written by this process; the watch may not have shown it yet.
    pub formed: bool,
    /// Names that turned out to be taken.
    pub taken: BTreeSet<PodName>,
    /// The status written last; the watch may not have shown it yet.
    pub status: Option<ValkeyClusterStatus>,
    /// The generation that the attempts belong to.
    pub generation: i64,
    /// The plan logged last, so that a log line is a change.
    pub plan: String,
    /// How many passes in a row had that same plan.
    pub repeats: u32,
    /// When the last pass began, and how many links had been lost by then.
    pub looked: Option<(Instant, u64)>,
    /// The namespace is being deleted: the API server said so when something was to be created.
    pub ending: bool,
}

impl Hints {
    /// The operator's own access to the nodes; none while passwords or certificates are not known.
    pub fn access(&self) -> Option<Access> {
        let tls = match &self.secured.wire {
            Wire::Unknown => return None,
            Wire::Plain => None,
            Wire::Tls(tls) => Some(tls.clone()),
        };
        let ways = self.secured.ways.clone();
        self.credentials.as_ref().map(|credentials| Access { ways, ..access(credentials, tls) })
    }

    /// This is the Secret of the system users, and these are the passwords in it.
    pub fn secret_is(&mut self, secret: Secret, credentials: Credentials) {
        self.secret = Some(secret);
        self.credentials = Some(credentials);
    }

    /// Starts anew with what failed when the spec has changed: a corrected value is worth a try at once.
    pub fn see_generation(&mut self, generation: i64) {
        if self.generation != generation {
            self.generation = generation;
            self.attempts.clear();
        }
    }
}

/// The hints of all clusters, by UID.
#[derive(Debug, Default)]
pub struct AllHints {
    clusters: Mutex<BTreeMap<String, Arc<Mutex<Hints>>>>,
    fast: Mutex<BTreeMap<String, usize>>,
}

impl AllHints {
    /// The hints of this cluster.
    pub fn of(&self, uid: &str) -> Arc<Mutex<Hints>> {
        Arc::clone(lock(&self.clusters).entry(uid.to_owned()).or_default())
    }

    /// Forgets a cluster.
    pub fn drop(&self, uid: &str) {
        lock(&self.clusters).remove(uid);
        self.slow(uid);
    }

    /// Asks for `members` nodes with the lowest node-timeout; 0 when other clusters use the budget up.
    pub fn fast(&self, uid: &str, members: usize) -> usize {
        let mut fast = lock(&self.fast);
        let others: usize = fast.iter().filter(|(u, _)| *u != uid).map(|(_, n)| n).sum();
        let granted = if others + members <= FAST_NODES { members } else { 0 };
        fast.insert(uid.to_owned(), granted);
        granted
    }

    /// Gives the budget back.
    pub fn slow(&self, uid: &str) {
        lock(&self.fast).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_fast_nodes_is_shared() {
        let all = AllHints::default();
        assert_eq!(all.fast("a", 30), 30);
        assert_eq!(all.fast("b", 12), 0);
        assert_eq!(all.fast("a", 30), 30);
        all.slow("a");
        assert_eq!(all.fast("b", 12), 12);
        assert_eq!(all.fast("c", 41), 0);
    }
}
