//! All links of the operator: which are wanted, which are up, and how many were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::link::{Change, Event, Link, LinkSettings};
use super::node::{Access, Connector};
use crate::mutex::lock;

/// Connections that are opened at once: enough for a thousand nodes in a second, few enough for a burst at start.
const OPENING: usize = 64;

/// Whether something has happened that is more urgent than what is being done.
pub type Interrupt = Arc<dyn Fn() -> bool + Send + Sync>;

/// Keeps one link to every wanted member of every cluster `C`; `M` tells the members of one cluster apart.
pub struct Links<C, M> {
    connector: Arc<dyn Connector>,
    settings: LinkSettings,
    opening: Arc<Semaphore>,
    events: mpsc::UnboundedSender<Event<C, M>>,
    kept: Mutex<BTreeMap<C, BTreeMap<M, Kept>>>,
    counts: Arc<Mutex<LinkCounts>>,
    losses: Arc<Mutex<BTreeMap<C, u64>>>,
}

struct Kept {
    addr: SocketAddr,
    access: Access,
    task: AbortHandle,
    state: Arc<Mutex<State>>,
}

/// How a link is now.
#[derive(Clone, Copy, Default)]
struct State {
    up: bool,
    slow: bool,
}

impl State {
    fn after(self, change: &Change) -> Self {
        match change {
            Change::Up => Self { up: true, slow: false },
            Change::Lost(_) => Self { up: false, slow: false },
            Change::Slow(slow) => Self { slow: *slow, ..self },
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkCounts {
    /// Links that are wanted now.
    pub wanted: usize,
    /// Links that are up now.
    pub up: usize,
    /// Links lost since the start, by [`super::WireError::code`].
    pub lost: BTreeMap<&'static str, u64>,
}

impl<C, M> Links<C, M>
where
    C: Ord + Clone + Send + 'static,
    M: Ord + Clone + Send + 'static,
{
    /// No links yet. Every change of a link is sent to `events`; a receiver that is gone is no reason to stop.
    pub fn new(
        connector: Arc<dyn Connector>,
        settings: LinkSettings,
        events: mpsc::UnboundedSender<Event<C, M>>,
    ) -> Self {
        let opening = Arc::new(Semaphore::new(OPENING));
        let (kept, counts, losses) = (Mutex::default(), Arc::default(), Arc::default());
        Self { connector, settings, opening, events, kept, counts, losses }
    }

    /// Makes the links of `cluster` those that are wanted: starts what is missing, drops what is not wanted any more,
    /// replaces what has another address or other credentials. Links that stay are not touched.
    pub fn keep(&self, cluster: &C, wanted: &[(M, SocketAddr)], access: &Access) {
        let mut all = lock(&self.kept);
        let links = all.entry(cluster.clone()).or_default();
        links.retain(|member, kept| {
            let stays = wanted.iter().any(|(m, addr)| m == member && *addr == kept.addr);
            stays && kept.access == own(access, kept.addr)
        });
        for (member, addr) in wanted {
            if !links.contains_key(member) {
                links.insert(member.clone(), self.start(cluster, member, *addr, &own(access, *addr)));
            }
        }
        if links.is_empty() {
            all.remove(cluster);
        }
    }

    /// Drops all links of a cluster that is gone.
    pub fn forget(&self, cluster: &C) {
        lock(&self.kept).remove(cluster);
        lock(&self.losses).remove(cluster);
    }

    /// How many links to members of this cluster were lost since it was first seen.
    pub fn losses(&self, cluster: &C) -> u64 {
        lock(&self.losses).get(cluster).copied().unwrap_or(0)
    }

    /// Answers whether a link to a member of this cluster was lost from now on.
    pub fn lost_since(&self, cluster: &C) -> Interrupt
    where
        C: Sync,
    {
        let (losses, cluster, before) = (Arc::clone(&self.losses), cluster.clone(), self.losses(cluster));
        Arc::new(move || lock(&losses).get(&cluster).copied().unwrap_or(0) != before)
    }

    /// Whether the link to this member is up.
    pub fn is_up(&self, cluster: &C, member: &M) -> bool {
        lock(&self.kept)
            .get(cluster)
            .and_then(|links| links.get(member))
            .is_some_and(|kept| lock(&kept.state).up)
    }

    /// The members of this cluster that take long to answer while most do not. Where half of them or more do, it may as well be the
    /// network, or this process that is slow: that says nothing of a node.
    pub fn slow(&self, cluster: &C) -> BTreeSet<M> {
        let all = lock(&self.kept);
        let Some(links) = all.get(cluster) else { return BTreeSet::new() };
        let slow = links.iter().filter(|(_, kept)| lock(&kept.state).slow);
        let slow: BTreeSet<M> = slow.map(|(member, _)| member.clone()).collect();
        if 2 * slow.len() < links.len() { slow } else { BTreeSet::new() }
    }

    /// The numbers as they are now.
    pub fn counts(&self) -> LinkCounts {
        let all = lock(&self.kept);
        let links = || all.values().flat_map(BTreeMap::values);
        let lost = lock(&self.counts).lost.clone();
        LinkCounts { wanted: links().count(), up: links().filter(|kept| lock(&kept.state).up).count(), lost }
    }

    fn start(&self, cluster: &C, member: &M, addr: SocketAddr, access: &Access) -> Kept {
        let link = Link {
            addr,
            access: access.clone(),
            settings: self.settings,
            connector: Arc::clone(&self.connector),
            opening: Arc::clone(&self.opening),
        };
        let state = Arc::new(Mutex::new(State::default()));
        let (cluster, member, events) = (cluster.clone(), member.clone(), self.events.clone());
        let (counts, losses, now) = (Arc::clone(&self.counts), Arc::clone(&self.losses), Arc::clone(&state));
        let report = move |change: Change| {
            let mut state = lock(&now);
            *state = state.after(&change);
            drop(state);
            if let Change::Lost(why) = &change {
                *lock(&counts).lost.entry(why.code()).or_default() += 1;
                *lock(&losses).entry(cluster.clone()).or_default() += 1;
            }
            let event =
                Event { cluster: cluster.clone(), member: member.clone(), change, at: Instant::now() };
            // Nobody listens only while the operator ends.
            let _ = events.send(event);
        };
        let task = tokio::spawn(link.run(report)).abort_handle();
        Kept { addr, access: access.clone(), task, state }
    }
}

/// Access to one member: what differs for others is no reason to make its link anew.
fn own(access: &Access, addr: SocketAddr) -> Access {
    let mut ways = access.ways.clone();
    ways.bare.retain(|ip| *ip == addr.ip());
    // Where it is asked first does not matter to a link that is open.
    ways.aside = ways.aside.keys().filter(|ip| **ip == addr.ip()).map(|ip| (*ip, true)).collect();
    Access { ways, ..access.clone() }
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
