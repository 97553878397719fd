//! The HTTP server over real sockets: routes, readiness, header time-out, graceful stop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::telemetry::{Metrics, Readiness, http};

struct Server {
    address: SocketAddr,
    metrics: Metrics,
    ready: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn server() -> Server {
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (metrics, ready, stop) = (Metrics::new().unwrap(), Readiness::default(), CancellationToken::new());
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(http::serve(listener, metrics.clone(), ready.clone(), stop.clone()));
    Server { address, metrics, ready, stop, task }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = server().await;
    assert!(get(server.address, "/livez").await.starts_with("HTTP/1.1 200"));
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("caches are not filled"), "{answer}");
    server.ready.set_ready();
    assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200"));

    server.metrics.link_lost();
    let answer = get(server.address, "/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nvalkey_operator_link_losses_total 1\n"), "{answer}");
    assert!(get(server.address, "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HT").await.unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection was still open after 8 s");
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "cut off after {:?}, before its time-out of 5 s",
        began.elapsed()
    );
}

#[tokio::test]
async fn stops_at_once_when_idle_and_frees_the_port() {
    let server = server().await;
    // A kept connection, idle: a graceful stop must not wait for it.
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut some = [0_u8; 64];
    assert!(kept.read(&mut some).await.unwrap() > 0);

    let began = Instant::now();
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server.task).await.expect("the server stops").unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "stopping took {:?}", began.elapsed());
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_busy_port_is_named_in_the_refusal() {
    let server = server().await;
    let refusal = http::bind(server.address).await.unwrap_err().to_string();
    assert!(refusal.contains(&server.address.to_string()) && refusal.contains("--listen"), "{refusal}");
}
