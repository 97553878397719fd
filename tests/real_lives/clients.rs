//! Clients that write counters without a pause, and remember what was acknowledged and is on two nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use valkey_cluster_operator::model::SLOTS;
use valkey_cluster_operator::mutex::lock;
use valkey_cluster_operator::valkey::{Access, Connector, FredConnector, Limits, Node, Tls, WireError};

use crate::sim::clients::written_slots;

/// Between two writes to one counter.
const PAUSE: Duration = Duration::from_millis(100);
/// A replica that is there has a write within a millisecond.
const WAIT_MS: &str = "200";

/// What the clients know, and what they are told.
#[derive(Default)]
pub(crate) struct Known {
    /// They write from now on.
    pub writing: bool,
    /// Where any node is.
    pub seeds: Vec<SocketAddr>,
    /// How they speak to nodes with certificates.
    pub tls: Option<Tls>,
    /// Nobody has replicas: a write counts when it is acknowledged.
    pub without_replicas: bool,
    /// Slot → the highest value that counts.
    acknowledged: BTreeMap<u16, i64>,
    /// Slots whose counter was seen lower than what had been acknowledged.
    pub set_back: BTreeSet<u16>,
    pub writes: u64,
}

impl Known {
    /// A counter stands at `value`.
    fn see(&mut self, slot: u16, value: i64) {
        if self.acknowledged.get(&slot).is_some_and(|known| value < *known) {
            self.set_back.insert(slot);
            self.acknowledged.remove(&slot);
        }
    }
}

/// The clients of a life.
pub(crate) struct Clients {
    pub known: Arc<Mutex<Known>>,
    tasks: JoinSet<()>,
}

impl Clients {
    pub(crate) fn start() -> Self {
        let known: Arc<Mutex<Known>> = Arc::default();
        let mut tasks = JoinSet::new();
        for slot in written_slots() {
            tasks.spawn(write(slot, Arc::clone(&known)));
        }
        Self { known, tasks }
    }

    /// No more writes: reads every counter where it is now, and says which slots were set back at any time.
    pub(crate) async fn end(mut self) -> Result<BTreeSet<u16>, String> {
        self.tasks.shutdown().await;
        let slots: Vec<u16> = lock(&self.known).acknowledged.keys().copied().collect();
        for slot in slots {
            let value = self.read(slot).await.ok_or_else(|| format!("slot {slot} cannot be read"))?;
            lock(&self.known).see(slot, value);
        }
        Ok(lock(&self.known).set_back.clone())
    }

    async fn read(&self, slot: u16) -> Option<i64> {
        let mut way = Way::default();
        for _ in 0..50 {
            if let Ok(reply) = way.call(&["GET", &key(slot)], &self.known).await {
                return Some(reply.int().unwrap_or(0));
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}

async fn write(slot: u16, known: Arc<Mutex<Known>>) {
    let mut way = Way::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        if !lock(&known).writing {
            continue;
        }
        let Ok(Ok(value)) = way.call(&["INCR", &key(slot)], &known).await.map(|r| r.int()) else { continue };
        {
            let mut known = lock(&known);
            known.writes += 1;
            known.see(slot, value - 1);
        }
        let alone = lock(&known).without_replicas;
        if alone || way.is_on_a_replica().await {
            lock(&known).acknowledged.insert(slot, value);
        }
    }
}

/// A connection to whoever owns the slot, as far as is known.
#[derive(Default)]
struct Way {
    node: Option<Box<dyn Node>>,
}

impl Way {
    async fn call(
        &mut self,
        argv: &[&str],
        known: &Mutex<Known>,
    ) -> Result<valkey_cluster_operator::valkey::Reply, WireError> {
        if self.node.is_none() {
            let seeds = lock(known).seeds.clone();
            if seeds.is_empty() {
                return Err(WireError::Unreachable);
            }
            let any = rand::random_range(0..seeds.len());
            self.connect(seeds[any], known).await?;
        }
        // Where it has moved to, and where it is on the way to.
        for _ in 0..3 {
            let Some(node) = &self.node else { break };
            match node.call(argv).await {
                Err(WireError::Server(text)) if text.starts_with("MOVED ") => {
                    self.node = None;
                    self.connect(told(&text)?, known).await?;
                }
                Err(WireError::Server(text)) if text.starts_with("ASK ") => {
                    self.node = None;
                    self.connect(told(&text)?, known).await?;
                    if let Some(node) = &self.node {
                        node.call(&["ASKING"]).await?;
                    }
                }
                Err(error) => {
                    self.node = None;
                    return Err(error);
                }
                reply => return reply,
            }
        }
        Err(WireError::Timeout)
    }

    /// In plain text, or else by TLS.
    async fn connect(&mut self, at: SocketAddr, known: &Mutex<Known>) -> Result<(), WireError> {
        let short = Duration::from_millis(500);
        let limits = Limits { connect: short, reply: short, long_reply: short };
        let plain = Access { limits, ..Access::default() };
        let tls = lock(known).tls.clone();
        self.node = Some(match (FredConnector.connect(at, &plain).await, tls) {
            (Err(_), Some(tls)) => FredConnector.connect(at, &Access { tls: Some(tls), ..plain }).await?,
            (plain, _) => plain?,
        });
        Ok(())
    }

    /// The last write of this connection is on two nodes.
    async fn is_on_a_replica(&self) -> bool {
        let Some(node) = &self.node else { return false };
        node.call(&["WAIT", "1", WAIT_MS]).await.and_then(|r| r.int()).is_ok_and(|n| n > 0)
    }
}

/// The address in `MOVED 3300 127.0.0.1:6379`.
fn told(text: &str) -> Result<SocketAddr, WireError> {
    let at = text.split_whitespace().last().and_then(|at| at.parse().ok());
    at.ok_or_else(|| WireError::Protocol(text.to_owned()))
}

/// A key of this slot.
fn key(slot: u16) -> String {
    let mut keys = (0..u32::MAX).map(|n| format!("{slot}-{n}"));
    keys.find(|key| crc16(key.as_bytes()) % SLOTS == slot).unwrap_or_default()
}

/// CRC-16/XMODEM, by which Valkey finds the slot of a key.
fn crc16(bytes: &[u8]) -> u16 {
    let bit = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), bit))
}

#[test]
fn slots_of_keys() {
    assert_eq!(crc16(b"123456789"), 0x31C3);
    assert_eq!(crc16(b"a") % SLOTS, 15495);
}
