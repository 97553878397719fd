//! What clients notice while the slot of their keys moves, on real servers: a large list, many small keys, a TTL, counters, scripts
//! and transactions over two keys, blocked clients, subscribers. `KINDS=full` takes 256 MB and a million keys.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::BYTES_A_SECOND;
use crate::execute::valkey::tests::{World, form};
use crate::model::{JobState, NodeReport, Outcome, Slots, Step, settings::JOBS_SINCE};
use crate::valkey::testing::real_programs;

/// The slot of all keys with the tag `{b}`.
const SLOT: &str = "3300";
/// One element of the list.
const ELEMENT: usize = 64 << 10;
/// How long the key with a TTL has to live.
const TTL_MS: i64 = 600_000;

struct Sizes {
    list: usize,
    keys: usize,
}

fn sizes() -> Sizes {
    let full = std::env::var("KINDS").is_ok_and(|kinds| kinds == "full");
    if full { Sizes { list: 256 << 20, keys: 1_000_000 } } else { Sizes { list: 16 << 20, keys: 20_000 } }
}

/// A client that sees every byte, and waits as long as the server takes.
struct Raw(BufReader<TcpStream>);

impl Raw {
    async fn open(addr: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(addr).await.unwrap()))
    }

    async fn send(&mut self, argv: &[&[u8]]) {
        let mut out = format!("*{}\r\n", argv.len()).into_bytes();
        for word in argv {
            out.extend(format!("${}\r\n", word.len()).into_bytes());
            out.extend_from_slice(word);
            out.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&out).await.unwrap();
    }

    /// The next answer as one text: errors begin with `-`, the parts of a list stand side by side.
    async fn next(&mut self) -> String {
        let (mut left, mut parts) = (1, Vec::new());
        while left > 0 {
            left -= 1;
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            let (kind, rest) = line.trim_end().split_at(1);
            match kind {
                "*" => left += rest.parse::<usize>().unwrap(),
                "$" if rest == "-1" => parts.push("nil".to_owned()),
                "$" => {
                    let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                    self.0.read_exact(&mut bytes).await.unwrap();
                    parts.push(String::from_utf8_lossy(&bytes).trim_end().to_owned());
                }
                "-" => parts.push(format!("-{rest}")),
                _ => parts.push(rest.to_owned()),
            }
        }
        parts.join(" ")
    }

    async fn call(&mut self, words: &[&str]) -> String {
        self.send(&words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>()).await;
        self.next().await
    }
}

/// An application: it goes where it is sent, and tries again when it is told to.
struct Application {
    at: SocketAddr,
    open: BTreeMap<SocketAddr, Raw>,
    /// The first words of all errors that it was given.
    told: BTreeSet<String>,
}

impl Application {
    fn new(at: SocketAddr) -> Self {
        Self { at, open: BTreeMap::new(), told: BTreeSet::new() }
    }

    async fn raw(&mut self, addr: SocketAddr) -> &mut Raw {
        match self.open.entry(addr) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => new.insert(Raw::open(addr).await),
        }
    }

    /// Sends these commands to one server until none of them is refused: one alone, or a transaction.
    async fn done(&mut self, commands: &[&[&str]]) {
        loop {
            let at = self.at;
            let Some(mut error) = self.refusal(at, commands).await else { return };
            // A server that takes a slot over serves its keys to those that ask so, one command at a time.
            if let (Some(to), [one]) = (there(&error, "-ASK"), commands) {
                self.raw(to).await.call(&["ASKING"]).await;
                match self.refusal(to, &[*one]).await {
                    None => return,
                    Some(why) => error = why,
                }
            }
            self.at = there(&error, "-MOVED").unwrap_or(self.at);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The first error among the answers.
    async fn refusal(&mut self, at: SocketAddr, commands: &[&[&str]]) -> Option<String> {
        let mut first = None;
        for command in commands {
            let answer = self.raw(at).await.call(command).await;
            if let Some(error) = answer.strip_prefix('-') {
                self.told.insert(error.split_whitespace().next().unwrap().to_owned());
                first = first.or(Some(answer));
            }
        }
        first
    }
}

/// Where an error of this kind sends its reader.
fn there(error: &str, kind: &str) -> Option<SocketAddr> {
    let mut words = error.split_whitespace();
    (words.next() == Some(kind)).then(|| words.nth(1).unwrap().parse().unwrap())
}

/// How often it was done, what it was told meanwhile, and the longest time that it took once.
type Lived = (u64, BTreeSet<String>, Duration);

/// Does the same again and again until it is over.
fn live(
    at: SocketAddr,
    over: &Arc<AtomicBool>,
    commands: &'static [&'static [&'static str]],
) -> JoinHandle<Lived> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let (mut app, mut count, mut longest) = (Application::new(at), 0, Duration::ZERO);
        while !over.load(Ordering::Relaxed) {
            let began = Instant::now();
            app.done(commands).await;
            longest = longest.max(began.elapsed());
            count += 1;
        }
        (count, app.told, longest)
    })
}

const COUNT: &[&[&str]] = &[&["INCR", "{b}count"]];
const SCRIPT: &[&[&str]] = &[&[
    "EVAL",
    "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])",
    "2",
    "{b}script1",
    "{b}script2",
]];
const MULTI: &[&[&str]] = &[&["MULTI"], &["INCR", "{b}multi1"], &["INCR", "{b}multi2"], &["EXEC"]];

/// Counters that the application increments: its own, then two of the script, two of the transaction.
const COUNTERS: [&str; 5] = ["{b}count", "{b}script1", "{b}script2", "{b}multi1", "{b}multi2"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
async fn all_kinds_of_keys_and_clients_move_on_real_servers() {
    for (group, program) in real_programs().into_iter().enumerate() {
        let mut w = World::new(&program, u8::try_from(group + 60).unwrap());
        w.add(4);
        let nodes = w.until("four answer", |n| n.len() == 4).await;
        w.ids = nodes.iter().map(|n| n.id.clone()).collect();
        w.until("all are 3 s old", |n| n.iter().all(|n| n.uptime_ms >= 3000)).await;
        form(&w, 2).await;
        let (sizes, jobs) = (sizes(), nodes[0].version >= JOBS_SINCE);
        eprintln!("{}: {} MB in a list, {} keys", nodes[0].version, sizes.list >> 20, sizes.keys);
        told(&w, &sizes, jobs).await;
    }
}

async fn told(w: &World, sizes: &Sizes, jobs: bool) {
    let (source, target) = (w.servers[0].addr(), w.servers[1].addr());
    write(source, sizes).await;
    let over = Arc::new(AtomicBool::new(false));
    let lives = [COUNT, SCRIPT, MULTI].map(|commands| live(source, &over, commands));
    let mut blocked = Raw::open(source).await;
    blocked.send(&[b"BLPOP", b"{b}nothing", b"0"]).await;
    let mut sharded = Raw::open(source).await;
    assert_eq!(sharded.call(&["SSUBSCRIBE", "{b}news"]).await, "ssubscribe {b}news 1");
    let heard = listen(target, Arc::clone(&over)).await;
    let spoken = speak(source, Arc::clone(&over));
    let began = Instant::now();
    let mut expired = Raw::open(source).await;
    assert_eq!(expired.call(&["SET", "{b}ttl", "x", "PX", &TTL_MS.to_string()]).await, "OK");

    move_all(w, sizes, jobs).await;
    eprintln!("  moved in {:?}", began.elapsed());
    // Both are told at the moment in which the slot leaves, and not before.
    let moved = format!("-MOVED {SLOT} {target}");
    assert_eq!(within("the blocked client to be woken", blocked.next()).await, moved);
    assert_eq!(within("the subscriber to be told", sharded.next()).await, "sunsubscribe {b}news 0");
    over.store(true, Ordering::Relaxed);
    let (spoken, heard) = (spoken.await.unwrap(), heard.await.unwrap());
    assert_eq!(heard, spoken, "messages that were heard at one node, of those spoken at the other");

    let mut node = Raw::open(target).await;
    let left: i64 = node.call(&["PTTL", "{b}ttl"]).await.parse().unwrap();
    let most = TTL_MS - i64::try_from(began.elapsed().as_millis()).unwrap() + 100;
    assert!(
        (TTL_MS / 2..=most).contains(&left),
        "{left} ms are left of {TTL_MS} after {:?}",
        began.elapsed()
    );
    assert_eq!(node.call(&["LLEN", "{b}list"]).await, (sizes.list / ELEMENT).to_string());
    let counted = [&COUNTERS[..1], &COUNTERS[1..3], &COUNTERS[3..]];
    for ((life, keys), what) in lives.into_iter().zip(counted).zip(["INCR", "EVAL", "MULTI"]) {
        let (count, told, longest) = life.await.unwrap();
        eprintln!("  {what}: {count} times, {longest:?} at most, was told {told:?}");
        assert!(count > 0);
        for key in keys {
            assert_eq!(node.call(&["GET", key]).await, count.to_string(), "{key}: each was done once");
        }
        let known =
            if jobs { &["MOVED", "EXECABORT"][..] } else { &["MOVED", "ASK", "TRYAGAIN", "EXECABORT"] };
        assert!(told.iter().all(|word| known.contains(&word.as_str())), "{what} was told {told:?}");
    }
    let all = sizes.keys + COUNTERS.len() + 2;
    assert_eq!(node.call(&["CLUSTER", "COUNTKEYSINSLOT", SLOT]).await, all.to_string());
    assert_eq!(Raw::open(source).await.call(&["DBSIZE"]).await, "0");
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .unwrap_or_else(|_| panic!("waited 10 s for {what}"))
}

/// A list that does not compress, and small keys.
async fn write(at: SocketAddr, sizes: &Sizes) {
    let mut node = Raw::open(at).await;
    let mut random: u64 = 88_172_645_463_325_252;
    for _ in 0..sizes.list / ELEMENT {
        let words = (0..ELEMENT / 8).flat_map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()
        });
        let element: Vec<u8> = words.collect();
        node.send(&[b"RPUSH", b"{b}list", &element]).await;
        node.next().await;
    }
    let script = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do redis.call('SET', '{b}small' .. i, 'x') end return 1";
    for first in (0..sizes.keys).step_by(10_000) {
        let last = (first + 10_000).min(sizes.keys) - 1;
        let answer = node.call(&["EVAL", script, "1", "{b}", &first.to_string(), &last.to_string()]).await;
        assert_eq!(answer, "1");
    }
}

/// Counts the messages of a channel at one node until the last.
async fn listen(at: SocketAddr, over: Arc<AtomicBool>) -> JoinHandle<u64> {
    let mut node = Raw::open(at).await;
    assert_eq!(node.call(&["SUBSCRIBE", "news"]).await, "subscribe news 1");
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            match tokio::time::timeout(Duration::from_secs(5), node.next()).await {
                Ok(text) if text == "message news last" => return count,
                Ok(_) => count += 1,
                Err(_) if over.load(Ordering::Relaxed) => return count,
                Err(_) => {}
            }
        }
    })
}

/// Publishes at another node; says how often.
fn speak(at: SocketAddr, over: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let (mut node, mut count) = (Raw::open(at).await, 0);
        while !over.load(Ordering::Relaxed) {
            node.call(&["PUBLISH", "news", "x"]).await;
            count += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.call(&["PUBLISH", "news", "last"]).await;
        count
    })
}

async fn patience(w: &World, wanted: Duration) {
    let ms = wanted.as_millis().to_string();
    let settings = BTreeMap::from([("cluster-node-timeout".to_owned(), ms)]);
    for i in 0..4 {
        w.done(Step::Configure { on: w.on(i), settings: settings.clone(), only_empty: false }).await;
    }
}

async fn move_all(w: &World, sizes: &Sizes, jobs: bool) {
    let (on, to, slots): (_, _, Slots) = (w.on(0), w.on(1), SLOT.parse().unwrap());
    if jobs {
        // At the end the source deletes the slot in one go (a million keys: 6 s on a machine that was eight times overloaded). Whoever
        // suspects it, or the others when it comes back, tells clients CLUSTERDOWN.
        if sizes.keys > 100_000 {
            patience(w, Duration::from_secs(30)).await;
        }
        w.done(Step::Migrate { on, to, slots }).await;
        let ended = |n: &[NodeReport]| {
            !n[0].jobs.is_empty() && n[0].jobs.iter().all(|j| j.state != JobState::Running)
        };
        let nodes = w.until("the job has ended", |n| n.len() == 4 && ended(n)).await;
        assert_eq!(nodes[0].jobs[0].state, JobState::Done, "{:?}", nodes[0].jobs);
        return;
    }
    let step = Step::Carry { on, to, slots: slots.clone() };
    // A key for which its ends would stand still for longer than others wait for them stays where it is, and is named.
    let stands = Duration::from_millis(sizes.list as u64 * 1000 / BYTES_A_SECOND);
    patience(w, stands / 2).await;
    let refused = async {
        loop {
            if let Outcome::Failed(why) = w.executor.run(&step).await {
                return why;
            }
        }
    };
    let why = tokio::time::timeout(Duration::from_mins(5), refused).await.expect("the list is never refused");
    assert!(why.contains(r#"the key "{b}list" has"#) && why.contains("cluster-node-timeout"), "{why}");
    patience(w, (stands * 4).max(Duration::from_secs(2))).await;
    for _ in 0..3000 {
        w.done(step.clone()).await;
        if w.until("all answer", |n| n.len() == 4).await[0].slots().and(&slots).is_empty() {
            return;
        }
    }
    panic!("the slot has not moved after 3000 stretches of work");
}
