//! What the links of 200 clusters with 6 nodes each cost the operator: memory and processor time, with real connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a test"
)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::sleep;
use valkey_cluster_operator::valkey::{Access, FredConnector, LinkSettings, Links};

const CLUSTERS: usize = 200;
const NODES: usize = 6;
/// How long the processor time is taken for.
const WATCHED: Duration = Duration::from_secs(10);
/// Bytes a link; fred keeps buffers and a task for each.
const MEMORY: u64 = 256 * 1024;
/// Of a core, for all of them, in a build that is not optimised.
const CPU: f64 = 0.5;
/// Set in the process that plays the nodes, whose cost is not the operator's.
const NODES_ARE_HERE: &str = "PLAYS_THE_NODES";

#[tokio::test]
#[ignore = "takes half a minute, and is one of two processes"]
async fn links_of_two_hundred_clusters() {
    if std::env::var(NODES_ARE_HERE).is_ok() {
        return play().await;
    }
    let mut nodes = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", "links_of_two_hundred_clusters"])
        .env(NODES_ARE_HERE, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told_by_nodes = BufReader::new(nodes.stdout.take().unwrap()).lines();
    let addr: SocketAddr = loop {
        let line = told_by_nodes.next_line().await.unwrap().expect("the nodes are there");
        if let Some(addr) = line.split("listening on ").nth(1) {
            break addr.trim().parse().unwrap();
        }
    };
    let (events, mut told) = mpsc::unbounded_channel();
    let links = Links::new(Arc::new(FredConnector), LinkSettings::default(), events);
    let before = memory();
    let wanted: Vec<(usize, SocketAddr)> = (0..NODES).map(|n| (n, addr)).collect();
    for cluster in 0..CLUSTERS {
        links.keep(&cluster, &wanted, &Access::default());
    }
    for _ in 0..600 {
        if links.counts().up == CLUSTERS * NODES {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(links.counts().up, CLUSTERS * NODES, "not all links came up");
    while told.try_recv().is_ok() {}
    let (used, from) = (memory().saturating_sub(before), processor_time());
    sleep(WATCHED).await;
    let share = (processor_time() - from) / WATCHED.as_secs_f64();
    let each = used / (CLUSTERS * NODES) as u64;
    println!(
        "{} links: {} MiB of memory ({} KiB each), {:.1} % of a core",
        CLUSTERS * NODES,
        used >> 20,
        each >> 10,
        share * 100.0
    );
    assert_eq!(links.counts().up, CLUSTERS * NODES, "links were lost meanwhile");
    assert!(told.try_recv().is_err(), "a settled link has nothing to say");
    assert!(each < MEMORY, "{each} bytes a link");
    assert!(share < CPU, "{share} of a core");
}

/// Answers whatever a link asks.
async fn play() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(answer(stream));
    }
}

async fn answer(stream: TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut words: Vec<String> = Vec::new();
        match line.trim().strip_prefix('*') {
            None => words.extend(line.split_whitespace().map(str::to_owned)),
            Some(count) => {
                for _ in 0..count.parse().unwrap() {
                    let mut length = String::new();
                    read.read_line(&mut length).await.unwrap();
                    let mut bytes = vec![0; length.trim()[1..].parse::<usize>().unwrap() + 2];
                    read.read_exact(&mut bytes).await.unwrap();
                    words.push(String::from_utf8(bytes).unwrap().trim().to_owned());
                }
            }
        }
        let reply = match words.first().map(|w| w.to_ascii_uppercase()).as_deref() {
            Some("HELLO") => "%2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$5\r\nproto\r\n:3\r\n",
            Some("CLIENT") => ":7\r\n",
            Some("INFO") => "$32\r\n# Server\r\nvalkey_version:9.1.2\r\n\r\n",
            _ => "+PONG\r\n",
        };
        if write.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Resident bytes of this process.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Seconds that this process has computed, in user and in system mode.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
