//! Decides who is said to own a slot: asks reachable nodes for CLUSTER SLOTS and tells the lanes.
//!
//! What it says is a hint. The nodes' own redirects decide; hints only tell a lane that hangs on a silent node where
//! else to try. So one node's answer is passed on at once, and a stale one costs a redirect and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::resp::{Access, Connection, Endpoint, SlotMap};

/// Between two rounds of questions while all lanes flow.
const CALM: Duration = Duration::from_secs(1);
/// Between two rounds while a lane does not flow: below the ledger's resolution of 5 ms.
const HASTE: Duration = Duration::from_millis(4);
/// Nodes that are asked in one round. Nodes that have not answered yet are not asked again.
const ASKED_AT_ONCE: usize = 3;
/// A node that is in no slot map and has been silent for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(1);

/// Translates an announced endpoint into an address that can be reached from here.
pub type AddressMap = Arc<dyn Fn(&Endpoint) -> Option<SocketAddr> + Send + Sync>;

/// Where announced endpoints are, seen from here.
#[derive(Clone, Default)]
pub(crate) struct Directory(pub Option<AddressMap>);

impl Directory {
    /// The address of an endpoint: the map's, or the endpoint's own, its name resolved.
    pub(crate) async fn locate(&self, place: &Endpoint) -> Option<SocketAddr> {
        if let Some(map) = &self.0 {
            return map(place);
        }
        if let Ok(ip) = place.host.parse() {
            return Some(SocketAddr::new(ip, place.port));
        }
        tokio::net::lookup_host((place.host.as_str(), place.port)).await.ok()?.next()
    }
}

/// One node's view of who takes writes, as addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    owners: BTreeMap<u16, (u16, SocketAddr)>,
}

impl Hint {
    /// Who is said to take writes for this slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<SocketAddr> {
        let (_, (last, addr)) = self.owners.range(..=slot).next_back()?;
        (*last >= slot).then_some(*addr)
    }
}

/// How many lanes do not flow.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    lanes: AtomicUsize,
    began: Notify,
}

impl Trouble {
    /// One lane more does not flow, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> TroubleGuard {
        if self.lanes.fetch_add(1, Ordering::Relaxed) == 0 {
            self.began.notify_one();
        }
        TroubleGuard(Arc::clone(self))
    }

    fn exists(&self) -> bool {
        self.lanes.load(Ordering::Relaxed) > 0
    }
}

/// See [`Trouble::enter`].
#[derive(Debug)]
pub(crate) struct TroubleGuard(Arc<Trouble>);

impl Drop for TroubleGuard {
    fn drop(&mut self) {
        self.0.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What lanes need of it.
#[derive(Clone, Debug)]
pub(crate) struct Hints {
    pub current: watch::Receiver<Hint>,
    pub trouble: Arc<Trouble>,
    /// Where redirects have sent a lane: the nodes known before may all be gone a moment later.
    pub redirects: mpsc::UnboundedSender<SocketAddr>,
}

/// A node that can be asked.
struct Node {
    addr: SocketAddr,
    connection: Option<Connection>,
    silent_since: Option<Instant>,
}

enum Finished {
    Asked(Node, Result<(Hint, BTreeSet<SocketAddr>), String>),
    Resolved(BTreeSet<SocketAddr>),
}

/// The task that asks.
pub(crate) struct Topology {
    seeds: Vec<String>,
    access: Access,
    directory: Directory,
    limit: Duration,
    hints: watch::Sender<Hint>,
    trouble: Arc<Trouble>,
    redirects: (mpsc::UnboundedSender<SocketAddr>, mpsc::UnboundedReceiver<SocketAddr>),
    idle: VecDeque<Node>,
    known: BTreeSet<SocketAddr>,
    mapped: BTreeSet<SocketAddr>,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    answered: Option<Instant>,
    last_failure: watch::Sender<String>,
}

impl Topology {
    /// Starts to ask, from `seeds` (`host:port`, names are resolved), each question bounded by `limit`.
    pub(crate) fn new(seeds: Vec<String>, access: Access, directory: Directory, limit: Duration) -> Self {
        Self {
            seeds,
            access,
            directory,
            limit,
            hints: watch::Sender::default(),
            trouble: Arc::default(),
            redirects: mpsc::unbounded_channel(),
            idle: VecDeque::new(),
            known: BTreeSet::new(),
            mapped: BTreeSet::new(),
            running: FuturesUnordered::new(),
            answered: None,
            last_failure: watch::Sender::default(),
        }
    }

    /// What the lanes listen to.
    pub(crate) fn hints(&self) -> Hints {
        let (trouble, redirects) = (Arc::clone(&self.trouble), self.redirects.0.clone());
        Hints { current: self.hints.subscribe(), trouble, redirects }
    }

    /// Why the last question had no answer, for the sentence when none ever has.
    pub(crate) fn last_failure(&self) -> watch::Receiver<String> {
        self.last_failure.subscribe()
    }

    /// Asks until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let trouble = Arc::clone(&self.trouble);
        let mut due = Instant::now();
        self.resolve_seeds();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(finished) = self.running.next() => self.take(finished),
                () = trouble.began.notified() => due = Instant::now(),
                Some(addr) = self.redirects.1.recv() => {
                    if self.learn(&BTreeSet::from([addr])) {
                        due = Instant::now();
                    }
                }
                () = sleep_until(due) => {
                    self.ask();
                    due = Instant::now() + self.pace();
                }
            }
        }
    }

    fn pace(&self) -> Duration {
        match (self.trouble.exists(), self.answered) {
            (true, _) => HASTE,
            (false, None) => 10 * HASTE,
            (false, Some(_)) => CALM,
        }
    }

    fn ask(&mut self) {
        let now = Instant::now();
        if self.answered.is_none_or(|at| now - at > 2 * CALM) && self.running.is_empty() {
            self.resolve_seeds();
        }
        for _ in 0..ASKED_AT_ONCE {
            let Some(node) = self.idle.pop_front() else { return };
            let (access, directory, limit) = (self.access.clone(), self.directory.clone(), self.limit);
            self.running.push(Box::pin(ask_one(node, access, directory, limit)));
        }
    }

    fn resolve_seeds(&mut self) {
        let seeds = self.seeds.clone();
        let failure = self.last_failure.clone();
        self.running.push(Box::pin(async move {
            let mut found = BTreeSet::new();
            for seed in &seeds {
                match tokio::net::lookup_host(seed.as_str()).await {
                    Ok(addrs) => found.extend(addrs),
                    Err(error) => drop(failure.send_replace(format!("{seed}: {error}"))),
                }
            }
            Finished::Resolved(found)
        }));
    }

    fn take(&mut self, finished: Finished) {
        match finished {
            Finished::Resolved(addrs) => {
                self.learn(&addrs);
            }
            Finished::Asked(node, Ok((hint, addrs))) => {
                self.learn(&addrs);
                self.mapped = addrs;
                self.answered = Some(Instant::now());
                if hint.owners.is_empty() {
                    let why = format!("{} names no owner of any slot: form the cluster first", node.addr);
                    self.last_failure.send_replace(why);
                }
                self.hints.send_if_modified(|current| {
                    let news = *current != hint;
                    *current = hint;
                    news
                });
                self.idle.push_back(node);
            }
            Finished::Asked(node, Err(why)) => {
                self.last_failure.send_replace(format!("{}: {why}", node.addr));
                let old = node.silent_since.is_some_and(|since| since.elapsed() > FORGET_AFTER);
                if old && !self.mapped.contains(&node.addr) {
                    self.known.remove(&node.addr);
                } else {
                    self.idle.push_back(node);
                }
            }
        }
    }

    /// Says whether one of them is new.
    fn learn(&mut self, addrs: &BTreeSet<SocketAddr>) -> bool {
        let before = self.known.len();
        for addr in addrs {
            if self.known.insert(*addr) {
                self.idle.push_front(Node { addr: *addr, connection: None, silent_since: None });
            }
        }
        self.known.len() > before
    }
}

async fn ask_one(mut node: Node, access: Access, directory: Directory, limit: Duration) -> Finished {
    let answer = slots_of(&mut node, &access, &directory, limit).await;
    if answer.is_ok() {
        node.silent_since = None;
    } else {
        node.connection = None;
        node.silent_since.get_or_insert_with(Instant::now);
    }
    Finished::Asked(node, answer)
}

async fn slots_of(
    node: &mut Node,
    access: &Access,
    directory: &Directory,
    limit: Duration,
) -> Result<(Hint, BTreeSet<SocketAddr>), String> {
    let mut connection = match node.connection.take() {
        Some(connection) => connection,
        None => Connection::open(access, node.addr, limit).await.map_err(|fault| fault.to_string())?,
    };
    let reply = connection.call(&["CLUSTER", "SLOTS"], limit).await.map_err(|fault| fault.to_string())?;
    if let Some(error) = reply.error() {
        return Err(error.to_owned());
    }
    let map = SlotMap::read(&reply, &node.addr.ip().to_string())?;
    node.connection = Some(connection);
    let (mut hint, mut addrs) = (Hint::default(), BTreeSet::new());
    for range in map.ranges() {
        if let Some(addr) = directory.locate(&range.primary).await {
            hint.owners.insert(range.first, (range.last, addr));
            addrs.insert(addr);
        }
        for replica in &range.replicas {
            addrs.extend(directory.locate(replica).await);
        }
    }
    Ok((hint, addrs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_the_owner_inside_its_range_only() {
        let addr: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        let hint = Hint { owners: BTreeMap::from([(10, (20, addr))]) };
        assert_eq!([9, 10, 20, 21].map(|slot| hint.owner(slot)), [None, Some(addr), Some(addr), None]);
    }

    #[tokio::test]
    async fn the_address_map_has_the_last_word() {
        let inside = Endpoint { host: "10.201.1.7".into(), port: 6379 };
        assert_eq!(Directory::default().locate(&inside).await, Some("10.201.1.7:6379".parse().unwrap()));
        let map: AddressMap = Arc::new(|place| (place.port == 6379).then(|| "127.0.0.1:1".parse().unwrap()));
        assert_eq!(Directory(Some(map)).locate(&inside).await, Some("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn trouble_counts_lanes() {
        let trouble = Arc::new(Trouble::default());
        let (a, b) = (trouble.enter(), trouble.enter());
        drop(a);
        assert!(trouble.exists());
        drop(b);
        assert!(!trouble.exists());
    }
}
