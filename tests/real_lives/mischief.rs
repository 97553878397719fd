//! What the operators are made to suffer: death between two effects, slowness, refusals, answers that never come, an API server that is away,
//! nodes that they alone do not hear.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use valkey_cluster_operator::mutex::lock;
use valkey_cluster_operator::valkey::{Access, Connector, FredConnector, Node, Reply, WireError};

use super::server;
use crate::support::apiserver::{Call, Fault};

/// What a slow operator waits before each effect: a tick of the simulated world.
const SLOW: Duration = Duration::from_millis(100);
/// After so long nobody waits for an answer any more.
const IN_VAIN: Duration = Duration::from_secs(2);
/// So many times in a pass: a tick is waited for a step, and one that carries slots has thousands of commands.
const SLOW_EFFECTS: usize = 10;

/// What is still to be suffered, by whichever operator comes first.
#[derive(Default)]
pub(crate) struct Mischief {
    /// After so many effects more the operator dies.
    pub crash_after: Option<usize>,
    pub refuse: usize,
    pub lose: usize,
    /// So many passes with effects are slow.
    pub slow: usize,
    /// The API server is away: no request of an operator reaches it.
    pub api_away: bool,
    /// Addresses from which nothing comes back to the operators.
    pub hidden: BTreeSet<IpAddr>,
}

/// What becomes of one effect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    Refused,
    Lost,
}

/// One operator process, as its ways to the API server and to the nodes know it.
pub(crate) struct Process {
    shared: Arc<Mutex<Mischief>>,
    dead: AtomicBool,
    /// Effects of the pass that runs.
    effects: AtomicUsize,
}

impl Process {
    pub(crate) fn new(shared: Arc<Mutex<Mischief>>) -> Arc<Self> {
        Arc::new(Self { shared, dead: AtomicBool::new(false), effects: AtomicUsize::new(0) })
    }

    /// Nothing leaves it any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(SeqCst)
    }

    pub(crate) fn die(&self) {
        self.dead.store(true, SeqCst);
    }

    /// Nothing comes back from there.
    async fn hidden(&self, ip: IpAddr) -> Result<(), WireError> {
        if !lock(&self.shared).hidden.contains(&ip) {
            return Ok(());
        }
        tokio::time::sleep(IN_VAIN).await;
        Err(WireError::Timeout)
    }

    /// A pass has ended: how many effects it had.
    pub(crate) fn pass_ended(&self) -> usize {
        let effects = self.effects.swap(0, SeqCst);
        if effects > 0 {
            let mut left = lock(&self.shared);
            left.slow = left.slow.saturating_sub(1);
        }
        effects
    }

    /// An effect is about to go out; none when it is the one before which the process dies.
    fn fate(&self) -> Option<(Fate, bool)> {
        let mut left = lock(&self.shared);
        if self.is_dead() {
            return None;
        }
        match &mut left.crash_after {
            Some(0) => {
                left.crash_after = None;
                self.die();
                return None;
            }
            Some(more) => *more -= 1,
            None => {}
        }
        let before = self.effects.fetch_add(1, SeqCst);
        let take = |n: &mut usize| n.checked_sub(1).map(|less| *n = less).is_some();
        let fate = if take(&mut left.refuse) {
            Fate::Refused
        } else if take(&mut left.lose) {
            Fate::Lost
        } else {
            Fate::Goes
        };
        Some((fate, left.slow > 0 && before < SLOW_EFFECTS))
    }

    /// What becomes of a request to the API server.
    pub(crate) fn of_request(&self, call: &Call) -> Option<Fault> {
        if self.is_dead() {
            return Some(Fault::Silence);
        }
        if lock(&self.shared).api_away {
            return Some(Fault::Break);
        }
        // What is merely told is no step.
        let told = ["events", "leases", "valkeyclusters/status"].contains(&call.resource.as_str());
        if told || ["get", "list", "watch"].contains(&call.verb) {
            return None;
        }
        match self.fate() {
            None => Some(Fault::Silence),
            Some((Fate::Refused, _)) => Some(Fault::Refuse(500, "InternalError")),
            Some((Fate::Lost, _)) => Some(Fault::BreakAfter),
            Some((Fate::Goes, true)) => Some(Fault::Delay(SLOW)),
            Some((Fate::Goes, false)) => None,
        }
    }

    /// The same for a command.
    async fn of_command<T>(
        &self,
        at: IpAddr,
        is_effect: bool,
        send: impl Future<Output = T>,
        instead: impl FnOnce(WireError) -> T,
    ) -> T {
        if self.is_dead() {
            return pending().await;
        }
        if let Err(silence) = self.hidden(at).await {
            return instead(silence);
        }
        if !is_effect {
            return send.await;
        }
        let Some((fate, slow)) = self.fate() else { return pending().await };
        if slow {
            tokio::time::sleep(SLOW).await;
        }
        match fate {
            Fate::Goes => send.await,
            Fate::Refused => instead(WireError::Server("ERR refused by the script".to_owned())),
            Fate::Lost => {
                send.await;
                instead(WireError::Timeout)
            }
        }
    }
}

/// Whether a command changes anything.
fn is_effect(argv: &[&str]) -> bool {
    let word = |i: usize| argv.get(i).map(|w| w.to_ascii_uppercase()).unwrap_or_default();
    match (word(0).as_str(), word(1).as_str()) {
        ("CLUSTER", what) => ![
            "NODES",
            "INFO",
            "MYID",
            "SLOT-STATS",
            "COUNT-FAILURE-REPORTS",
            "GETSLOTMIGRATIONS",
            "COUNTKEYSINSLOT",
            "GETKEYSINSLOT",
            "SLOTS",
            "SHARDS",
            "LINKS",
        ]
        .contains(&what),
        ("CONFIG", what) => what == "SET",
        ("ACL", what) => ["SETUSER", "DELUSER"].contains(&what),
        ("MIGRATE" | "FLUSHALL", _) | ("CLIENT", "KILL") => true,
        _ => false,
    }
}

/// The operator's way to the nodes.
pub(crate) struct Ways(pub Arc<Process>);

impl Connector for Ways {
    fn connect<'a>(
        &'a self,
        addr: SocketAddr,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Box<dyn Node>, WireError>> {
        Box::pin(async move {
            if self.0.is_dead() {
                return pending().await;
            }
            self.0.hidden(addr.ip()).await?;
            let node = FredConnector.connect(addr, access).await?;
            let (at, dir) = (addr.ip(), server::dir(addr.ip()));
            Ok(Box::new(Way { node, process: Arc::clone(&self.0), at, dir }) as Box<dyn Node>)
        })
    }
}

struct Way {
    node: Box<dyn Node>,
    process: Arc<Process>,
    at: IpAddr,
    /// What its server takes for the root of its files.
    dir: PathBuf,
}

impl Way {
    /// A word of a command; names of keys may be any bytes.
    fn as_here(&self, word: &[u8]) -> Vec<u8> {
        std::str::from_utf8(word).map_or_else(|_| word.to_vec(), |w| server::here(&self.dir, w).into_bytes())
    }

    /// The settings that name files, as the server in its container would show them.
    fn as_in_a_container(&self, reply: Reply) -> Reply {
        match reply {
            Reply::Text(text) => Reply::Text(text.replace(&*self.dir.to_string_lossy(), "")),
            Reply::List(all) => Reply::List(all.into_iter().map(|r| self.as_in_a_container(r)).collect()),
            Reply::Map(all) => {
                Reply::Map(all.into_iter().map(|(k, r)| (k, self.as_in_a_container(r))).collect())
            }
            other => other,
        }
    }
}

impl Node for Way {
    fn call<'a>(&'a self, argv: &'a [&'a str]) -> BoxFuture<'a, Result<Reply, WireError>> {
        Box::pin(async move {
            let words: Vec<String> = argv.iter().map(|word| server::here(&self.dir, word)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let reply = self.process.of_command(self.at, is_effect(argv), self.node.call(&words), Err).await;
            reply.map(|reply| self.as_in_a_container(reply))
        })
    }

    /// A burst is one effect: nothing comes between its commands.
    fn call_many_bytes<'a>(
        &'a self,
        commands: &'a [Vec<&'a [u8]>],
    ) -> BoxFuture<'a, Vec<Result<Reply, WireError>>> {
        let text = |argv: &Vec<&'a [u8]>| -> Vec<&'a str> {
            argv.iter().map(|word| std::str::from_utf8(word).unwrap_or_default()).collect()
        };
        let changes = commands.iter().any(|argv| is_effect(&text(argv)));
        Box::pin(async move {
            let all = |error: WireError| vec![Err(error); commands.len()];
            let words = commands.iter().map(|argv| argv.iter().map(|word| self.as_here(word)).collect());
            let words: Vec<Vec<Vec<u8>>> = words.collect();
            let words: Vec<Vec<&[u8]>> =
                words.iter().map(|argv| argv.iter().map(Vec::as_slice).collect()).collect();
            let replies =
                self.process.of_command(self.at, changes, self.node.call_many_bytes(&words), all).await;
            replies.into_iter().map(|r| r.map(|r| self.as_in_a_container(r))).collect()
        })
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        self.node.closed()
    }
}
