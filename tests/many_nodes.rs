//! What one look at 1,500 nodes reads and takes: each of them answers on a socket of its own, as a server of this size does.
//!
//! `NODES=<n> cargo test --test many_nodes -- --ignored --nocapture` prints it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test"
)]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use valkey_cluster_operator::model::{NodeReport, PodUid, Seen, Slots};
use valkey_cluster_operator::observe::valkey::{Bounds, Probe, observe_nodes};
use valkey_cluster_operator::valkey::{Access, FredConnector, Limits};

/// Of each shard a primary and two replicas.
const COPIES: u16 = 3;

/// A cluster that answers: the lists that its nodes give, and how many bytes they have sent.
struct Cluster {
    shards: u16,
    sent: AtomicU64,
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

fn recorded(what: &str) -> String {
    let path = format!("{}/src/valkey/testdata/9.1-{what}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

impl Cluster {
    fn nodes(&self) -> u16 {
        self.shards * COPIES
    }

    /// `CLUSTER NODES` as this node gives it.
    fn list(&self, own: u16) -> String {
        let mut out = String::new();
        for node in 0..self.nodes() {
            let (shard, copy) = (node / COPIES, node % COPIES);
            let myself = if node == own { "myself," } else { "" };
            let address = format!("{}:6379@16379", ip(node));
            let (role, of) = match copy {
                0 => ("master", "-".to_owned()),
                _ => ("slave", id(shard * COPIES)),
            };
            let epoch = shard + 1;
            write!(out, "{} {address} {myself}{role} {of} 0 1795291946789 {epoch} connected", id(node))
                .unwrap();
            if copy == 0 {
                write!(out, " {}", Slots::share(shard, self.shards)).unwrap();
            }
            out.push('\n');
        }
        out
    }

    fn answer(&self, own: u16, command: &str) -> String {
        match command {
            "CLUSTER NODES" => bulk(&self.list(own)),
            "CLUSTER INFO" => bulk(&recorded("cluster-info-formed")),
            "INFO server persistence replication keyspace memory" => {
                bulk(&recorded(if own.is_multiple_of(COPIES) { "info-primary" } else { "info-replica" }))
            }
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opens 1,500 connections and moves hundreds of megabytes"]
async fn one_look_at_fifteen_hundred_nodes() {
    let nodes: u16 = std::env::var("NODES").map_or(1500, |n| n.parse().unwrap());
    let cluster = Arc::new(Cluster { shards: nodes / COPIES, sent: AtomicU64::new(0) });
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::clone(&cluster);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&server).serve(stream));
        }
    });
    let probe = |node: u16| {
        let addr = SocketAddr::new(IpAddr::V4(ip(node)), port);
        Probe { uid: PodUid::new(format!("u{node:04}")), addr, silent: false }
    };
    let probes: Vec<Probe> = (0..cluster.nodes()).map(probe).collect();
    let long = Duration::from_secs(60);
    let bounds = Bounds { connect: long, reply: long, ..Bounds::default() };
    let access =
        Access { limits: Limits { connect: long, reply: long, long_reply: long }, ..Access::default() };
    let began = Instant::now();
    let asked = ["cluster-node-timeout".to_owned()];
    let seen = observe_nodes(&probes, &asked, &access, &FredConnector, &bounds).await;
    let took = began.elapsed();
    let reports: Vec<&NodeReport> = seen.values().filter_map(Seen::now).collect();
    let mebibytes = cluster.sent.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
    println!("{} nodes: {mebibytes:.1} MiB read in {:.1} s", reports.len(), took.as_secs_f64());
    assert_eq!(reports.len(), probes.len(), "not all nodes were seen");
    assert!(reports.iter().all(|n| n.peers.len() + 1 == probes.len()), "a list is not whole");
}
