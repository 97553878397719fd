//! What tests on real Valkey processes share: the versions, one cluster at a time, commands to a node.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use e2e::cache::Cache;
use e2e::debs::{ValkeyRoot, valkey_roots};
use e2e::processes::{Processes, Shape};
use e2e::progress::Progress;
use e2e::resp::{Access, Connection, Reply};
use tokio::sync::{Mutex, MutexGuard};

/// Three shards with a replica each.
pub(crate) const THREE: Shape = Shape { shards: 3, replicas: 1 };

/// Tests of one program run beside each other, but times are only worth something alone on the machine.
static ALONE: Mutex<()> = Mutex::const_new(());

pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// By how much a time may exceed its figure: ten times where the machine does other things too (the ci suite), not at
/// all where figures are judged (`STORIES=full`). Counts are always exact.
pub(crate) fn slack() -> u32 {
    if std::env::var("STORIES").is_ok_and(|suite| suite == "full") { 1 } else { 10 }
}

/// Every version of Valkey, fetched if it is not cached.
pub(crate) fn roots() -> &'static [ValkeyRoot] {
    static ROOTS: OnceLock<Vec<ValkeyRoot>> = OnceLock::new();
    ROOTS.get_or_init(|| valkey_roots(&Cache::open().unwrap(), &Progress::hidden()).unwrap())
}

/// The newest version.
pub(crate) fn newest() -> &'static ValkeyRoot {
    roots().last().unwrap()
}

/// A formed cluster of the newest version.
pub(crate) async fn cluster(shape: Shape) -> Processes {
    Processes::cluster(newest(), shape, "").await.unwrap()
}

/// One command to one node; an error reply is a failed test.
pub(crate) async fn call(addr: SocketAddr, command: &[&str]) -> Reply {
    let limit = Duration::from_secs(5);
    let mut connection = Connection::open(&Access::default(), addr, limit).await.unwrap();
    let reply = connection.call(command, limit).await.unwrap();
    assert_eq!(reply.error(), None, "{addr}: {}", command.join(" "));
    reply
}

/// The sum of all counters of a ledger's key on this very node; on a replica too.
pub(crate) async fn counted(addr: SocketAddr, key: &str) -> u64 {
    let limit = Duration::from_secs(5);
    let mut connection = Connection::open(&Access::default(), addr, limit).await.unwrap();
    let replies = connection.pipeline(&[&["READONLY"], &["HVALS", key]], limit).await.unwrap();
    let values = replies[1].items().unwrap_or_else(|| panic!("{addr}: HVALS {key}: {:?}", replies[1]));
    values.iter().map(|value| u64::try_from(value.number().unwrap()).unwrap()).sum()
}

/// Waits, with a bound, until `met` is.
pub(crate) async fn until(what: &str, mut met: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !met().await {
        assert!(tokio::time::Instant::now() < deadline, "within 30 s this did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
