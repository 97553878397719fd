//! What one look at 1,500 nodes reads and takes: each of them answers on a socket of its own, as a server of this size does.
//!
//! `NODES=1500 cargo test --test many_nodes -- --nocapture` prints it; 300 nodes unless told otherwise, since the first look at 1,500 reads
//! 300 MB.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use valkey_cluster_operator::model::{Looks, Moment, NodeReport, PodUid, Sampling, Seen, Shards, Slots};
use valkey_cluster_operator::observe::brief::{Around, Asking, observe};
use valkey_cluster_operator::observe::valkey::{Bounds, Probe};
use valkey_cluster_operator::valkey::{Access, FredConnector, Kept, Limits};

/// Of each shard a primary and two replicas.
const COPIES: u16 = 3;

/// A cluster that answers: the lists that its nodes give, and how many bytes they have sent.
struct Cluster {
    shards: u16,
    /// The line of each node about itself, in the lists of the others.
    lines: Vec<String>,
    /// Recorded answers of one server: `CLUSTER INFO`, and `INFO` of a primary and of a replica.
    recorded: [String; 3],
    sent: AtomicU64,
    opened: AtomicU64,
}

/// Every node has an address of its own on this machine.
fn ip(node: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x7F40_0000 + u32::from(node) + 1)
}

fn node_at(ip: Ipv4Addr) -> u16 {
    u16::try_from(u32::from(ip) - 0x7F40_0001).unwrap()
}

fn id(node: u16) -> String {
    format!("{:08x}{node:032x}", u32::from(node).wrapping_mul(2_654_435_761))
}

/// A line of `CLUSTER NODES`; where the bar is the node itself says so.
fn line(shards: u16, node: u16) -> String {
    let (shard, copy) = (node / COPIES, node % COPIES);
    let (role, of) = match copy {
        0 => ("master", "-".to_owned()),
        _ => ("slave", id(shard * COPIES)),
    };
    let slots = if copy == 0 { format!(" {}", Slots::share(shard, shards)) } else { String::new() };
    let epoch = shard + 1;
    format!("{} {}:6379@16379 |{role} {of} 0 1795291946789 {epoch} connected{slots}\n", id(node), ip(node))
}

fn recorded(what: &str) -> String {
    let path = format!("{}/src/valkey/testdata/9.1-{what}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

impl Cluster {
    fn new(shards: u16) -> Self {
        let lines = (0..shards * COPIES).map(|node| line(shards, node)).collect();
        let recorded = ["cluster-info-formed", "info-primary", "info-replica"].map(recorded);
        Self { shards, lines, recorded, sent: AtomicU64::new(0), opened: AtomicU64::new(0) }
    }

    fn nodes(&self) -> u16 {
        self.shards * COPIES
    }

    /// `CLUSTER NODES` as this node gives it.
    fn list(&self, own: u16) -> String {
        let mut out = String::with_capacity(self.lines.len() * 130);
        for (node, line) in self.lines.iter().enumerate() {
            let (before, after) = line.split_once('|').unwrap();
            out.push_str(before);
            out.push_str(if node == usize::from(own) { "myself," } else { "" });
            out.push_str(after);
        }
        out
    }

    /// `CLUSTER INFO` of a cluster of this size, as 9.1.2 writes it.
    fn info(&self, own: u16) -> String {
        let numbers = |line: &str| match line.split_once(':') {
            Some(("cluster_known_nodes", _)) => format!("cluster_known_nodes:{}", self.nodes()),
            Some(("cluster_size", _)) => format!("cluster_size:{}", self.shards),
            Some(("cluster_current_epoch", _)) => format!("cluster_current_epoch:{}", self.shards),
            Some(("cluster_my_epoch", _)) => format!("cluster_my_epoch:{}", own / COPIES + 1),
            _ => line.to_owned(),
        };
        self.recorded[0].lines().map(numbers).collect::<Vec<_>>().join("\r\n")
    }

    /// `INFO` with these sections.
    fn sections(&self, own: u16, wanted: &[&str]) -> String {
        let primary = own.is_multiple_of(COPIES);
        let text = &self.recorded[if primary { 1 } else { 2 }];
        let text = if primary {
            let copy = |n: u16| {
                format!(
                    "slave{}:ip={},port=6379,state=online,offset=4257,lag=1,type=replica",
                    n - 1,
                    ip(own + n)
                )
            };
            let copies: Vec<String> = (1..COPIES).map(copy).collect();
            text.lines()
                .map(|l| if l.starts_with("slave0:") { copies.join("\r\n") } else { l.to_owned() })
                .collect::<Vec<_>>()
        } else {
            let host = format!("master_host:{}", ip(own - own % COPIES));
            text.lines()
                .map(|l| if l.starts_with("master_host:") { host.clone() } else { l.to_owned() })
                .collect()
        };
        let mut out = String::new();
        let mut keep = false;
        for line in text {
            if let Some(name) = line.strip_prefix("# ") {
                keep = wanted.iter().any(|w| w.eq_ignore_ascii_case(name.trim()));
            }
            if keep {
                out.push_str(&line);
                out.push_str("\r\n");
            }
        }
        out
    }

    /// `CLUSTER SLOT-STATS`, with what is told of a slot where nothing more was asked for.
    fn stats(&self, own: u16) -> String {
        let slots = Slots::share(own / COPIES, self.shards);
        let one = |slot: u16| format!("*2\r\n:{slot}\r\n%1\r\n$9\r\nkey-count\r\n:0\r\n");
        let all: String = slots.ranges().iter().flat_map(|r| r.first..=r.last).map(one).collect();
        format!("*{}\r\n{all}", slots.len())
    }

    fn answer(&self, own: u16, command: &str) -> String {
        match command {
            "CLUSTER NODES" => bulk(&self.list(own)),
            "CLUSTER INFO" => bulk(&self.info(own)),
            "CLUSTER MYID" => bulk(&id(own)),
            "CLUSTER SLOT-STATS SLOTSRANGE 0 16383" => self.stats(own),
            "ACL GETUSER _replication" => {
                "%3\r\n+flags\r\n*1\r\n+on\r\n+passwords\r\n*0\r\n+commands\r\n+-@all +cluster|syncslots\r\n"
                    .to_owned()
            }
            "CLUSTER GETSLOTMIGRATIONS" => "*0\r\n".to_owned(),
            "ACL LIST" => format!("*1\r\n{}", bulk("user default on nopass ~* &* +@all")),
            greeting if greeting.starts_with("HELLO") => {
                "%2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$5\r\nproto\r\n:3\r\n".to_owned()
            }
            greeting if greeting.starts_with("CLIENT") => ":7\r\n".to_owned(),
            info if info.starts_with("INFO ") => {
                bulk(&self.sections(own, &info.split(' ').skip(1).collect::<Vec<_>>()))
            }
            greeting if greeting.starts_with("INFO") => bulk("# Server\r\nvalkey_version:9.1.2\r\n"),
            settings if settings.starts_with("CONFIG GET") => {
                "%1\r\n+cluster-node-timeout\r\n+2000\r\n".to_owned()
            }
            _ => "+PONG\r\n".to_owned(),
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let IpAddr::V4(at) = stream.local_addr().unwrap().ip() else { panic!("asked at {stream:?}") };
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        while let Some(command) = command(&mut read).await {
            let answer = self.answer(node_at(at), &command);
            self.sent.fetch_add(answer.len() as u64, Ordering::Relaxed);
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

async fn command(read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<String> {
    let mut line = String::new();
    read.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let Some(count) = line.trim().strip_prefix('*') else { return Some(line.trim().to_owned()) };
    let mut words = Vec::new();
    for _ in 0..count.parse().unwrap() {
        let mut length = String::new();
        read.read_line(&mut length).await.ok()?;
        let mut bytes = vec![0; length.trim()[1..].parse::<usize>().unwrap() + 2];
        read.read_exact(&mut bytes).await.ok()?;
        words.push(String::from_utf8(bytes).unwrap().trim().to_owned());
    }
    Some(words.join(" "))
}

/// The looks at one cluster, as one process has them.
struct Observer {
    probes: Vec<Probe>,
    shards: Shards,
    looks: Looks,
    kept: Kept,
    access: Access,
    bounds: Bounds,
}

impl Observer {
    fn of(cluster: &Cluster, port: u16) -> Self {
        let probe = |node: u16| {
            let addr = SocketAddr::new(IpAddr::V4(ip(node)), port);
            Probe { uid: PodUid::new(format!("u{node:04}")), addr, silent: false }
        };
        let long = Duration::from_mins(1);
        let limits = Limits { connect: long, reply: long, long_reply: long };
        Self {
            probes: (0..cluster.nodes()).map(probe).collect(),
            shards: Shards::default(),
            looks: Looks::default(),
            kept: Kept::default(),
            access: Access { limits, ..Access::default() },
            bounds: Bounds { connect: long, reply: long, ..Bounds::default() },
        }
    }

    async fn look(&mut self) -> Vec<NodeReport> {
        let asking = Asking {
            settings: &["cluster-node-timeout".to_owned()],
            access: &self.access,
            connector: &FredConnector,
            kept: &self.kept,
            bounds: self.bounds,
            sampling: Sampling::default(),
            memory: false,
        };
        let around = Around { now: Moment(0), shards: &self.shards, long_silent: &BTreeSet::new() };
        let seen = observe(&self.probes, &mut self.looks, &around, &asking).await;
        let reports: Vec<NodeReport> = seen.values().filter_map(Seen::now).cloned().collect();
        assert_eq!(reports.len(), self.probes.len(), "not all nodes were seen");
        assert!(reports.iter().all(|n| n.peers.len() + 1 == self.probes.len()), "a list is not whole");
        reports
    }
}

/// What a look reads, in bytes, and how long it takes.
async fn measured(
    cluster: &Cluster,
    observer: &mut Observer,
    what: &str,
) -> (u64, Duration, Vec<NodeReport>) {
    let (read, began) = (cluster.sent.load(Ordering::Relaxed), Instant::now());
    let reports = observer.look().await;
    let (read, took) = (cluster.sent.load(Ordering::Relaxed) - read, began.elapsed());
    println!(
        "{what} look at {} nodes: {:.2} MB read in {:.2} s",
        reports.len(),
        read as f64 / 1e6,
        took.as_secs_f64()
    );
    (read, took, reports)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_many_nodes_reads_less_than_five_megabytes() {
    let nodes: u16 = std::env::var("NODES").map_or(300, |n| n.parse().unwrap());
    let cluster = Arc::new(Cluster::new(nodes / COPIES));
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::clone(&cluster);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            server.opened.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&server).serve(stream));
        }
    });
    let mut observer = Observer::of(&cluster, port);
    let (.., whole) = measured(&cluster, &mut observer, "the first").await;
    assert!(whole.iter().all(|n| !n.peers.is_inferred()));
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let (read, took, brief) = measured(&cluster, &mut observer, "a later").await;
        assert!(read < 5_000_000, "{read} bytes");
        assert!(brief.iter().filter(|n| n.peers.is_inferred()).count() + 4 >= brief.len());
        // What is inferred is what it would have said.
        let mut some = brief.iter().zip(&whole).step_by(50);
        assert!(some.all(|(b, w)| b.role == w.role && b.peers.iter().eq(w.peers.iter())));
        least = least.min(took);
    }
    assert!(least < Duration::from_secs(10), "ten times the goal, for busy machines: {least:?}");
    assert_eq!(cluster.opened.load(Ordering::Relaxed), u64::from(cluster.nodes()), "connections are kept");
}
