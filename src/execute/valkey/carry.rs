//! Slots that are carried key by key, where an end is older than jobs are (9.0).
//!
//! Nothing is ever taken back: what an earlier pass, or an earlier operator, has left half way is finished forward (measured on 8.0.1
//! and 9.1.2: after a crash or a failover in the middle that loses nothing). Each call works for a bounded time and leaves the rest to
//! the next pass, and all of it once a link to a member is lost: who died is looked for in the next pass. Some slots are open at a time, so that what is the same for each of them goes in one burst.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{Access, Done, Hitch, Limits, Target, ValkeyExecutor, guard, is_itself, refused, stale};
use crate::model::{NodeId, Slots};
use crate::parallel;
use crate::valkey::commands::{self, Key, SlotState};
use crate::valkey::error::WireError;
use crate::valkey::node::{Connector, Node};

/// How long one call begins to carry slots.
const STRETCH: Duration = Duration::from_millis(400);

/// How long it goes on with those that it has begun: they are half way otherwise until the next pass.
const LONGEST: Duration = Duration::from_millis(600);

/// Slots that are half way at one time. Commands on several keys of such a slot may have to be repeated.
const AT_ONCE: usize = 16;

/// Connections to each end. A server answers `CLUSTER SETSLOT` when its replicas have, and does nothing else for that connection until
/// then; what comes by several connections waits for one answer of the replicas. They are kept for the next pass: by TLS, opening one
/// takes a handshake.
const LANES: usize = 8;

/// The most keys of one burst of `MIGRATE`s: both ends stand still for it (measured: 1.3 ms for 100 keys of 100 bytes, 7 ms for 1000).
const BATCH_KEYS: usize = 200;

/// The most bytes of one burst, by `MEMORY USAGE`; a larger key goes alone.
const BATCH_BYTES: u64 = 2 << 20;

/// The most slots of one burst, each of which takes a `MIGRATE` of its own and has its part of the time.
const BATCH_SLOTS: usize = 8;

/// What a burst may take: below the limit of the connection, so that its answers come.
const BATCH_TIME: Duration = Duration::from_secs(4);

/// What one large key may be expected to move in a second, while both ends stand still (measured on 8.1.1 with lists that do not
/// compress: 38 MB on a machine that was four times overloaded, 53 MB and more elsewhere).
const BYTES_A_SECOND: u64 = 32 << 20;

/// The setting that says how long others wait for a node before they suspect it.
const NODE_TIMEOUT: &str = "cluster-node-timeout";

/// Keys longer than this are named by their beginning.
const SHOWN: usize = 64;

/// The two ends of the way.
struct Way<'a> {
    on: End<'a>,
    to: End<'a>,
}

/// A node with some connections to it.
struct End<'a> {
    at: &'a Target,
    first: Arc<dyn Node>,
    others: Vec<Arc<dyn Node>>,
}

impl ValkeyExecutor {
    /// Carries slots, some at a time, until the time is over.
    pub(super) async fn carry(&self, on: &Target, to: &Target, slots: &Slots) -> Done {
        let begun = Instant::now();
        let (node, source) = self.facts(on).await?;
        let (there, target) = self.facts(to).await?;
        let Some(left) = guard::move_slots(&source, &target, slots).map_err(|why| stale(on, &why))? else {
            return Ok(());
        };
        let lanes = usize::from(left.len()).min(LANES);
        let way = Way { on: self.end(on, node, lanes).await?, to: self.end(to, there, lanes).await? };
        let is_open = |slot: &u16| half_way(&source, *slot, &to.node) && half_way(&target, *slot, &on.node);
        let (open, closed): (Vec<u16>, Vec<u16>) = left.iter().partition(is_open);
        for some in open.chunks(AT_ONCE) {
            self.finish(&way, some, begun).await?;
        }
        for some in closed.chunks(AT_ONCE) {
            if begun.elapsed() >= STRETCH || (self.interrupt)() {
                break;
            }
            way.open(some).await?;
            self.finish(&way, some, begun).await?;
        }
        Ok(())
    }

    /// The other connections to a node; each is asked who answers.
    async fn end<'a>(&self, at: &'a Target, first: Arc<dyn Node>, count: usize) -> Result<End<'a>, Hitch> {
        let connector = self.lanes.over(self.connector.as_ref());
        let addr = SocketAddr::new(at.ip, self.ports.client);
        let open = async || {
            let node = connector.connect(addr, &self.access).await?;
            Ok((commands::my_id(node.as_ref()).await?, Arc::from(node)))
        };
        let opened = parallel::all((1..count).map(|_| open().boxed()).collect(), LANES).await;
        let known = opened.into_iter().map(|one| {
            let (id, node) = one.map_err(|e: WireError| refused(at, &e))?;
            is_itself(at, &id).map(|()| node)
        });
        Ok(End { at, first, others: known.collect::<Result<_, Hitch>>()? })
    }

    /// Sends the keys of open slots, and closes each slot when none is left.
    async fn finish(&self, way: &Way<'_>, slots: &[u16], begun: Instant) -> Done {
        let mut open = slots.to_vec();
        while begun.elapsed() < LONGEST && !(self.interrupt)() {
            let each = (BATCH_KEYS / open.len().max(1)).max(1);
            let listed = commands::keys_in_slots(way.on.first.as_ref(), &open, each).await;
            let (listed, leads) = listed.map_err(|e| refused(way.on.at, &e))?;
            if !leads {
                return Err(stale(way.on.at, "it has become a replica"));
            }
            let (empty, held): (Vec<_>, Vec<_>) =
                open.into_iter().zip(listed).partition(|(_, keys)| keys.is_empty());
            way.close(&empty.iter().map(|(slot, _)| *slot).collect::<Vec<_>>()).await?;
            if held.is_empty() {
                return Ok(());
            }
            let (left, keys): (Vec<_>, Vec<_>) = held.into_iter().unzip();
            self.send(way, &keys).await?;
            open = left;
        }
        Ok(())
    }

    /// As many of these keys, listed by slot, as may go in one burst. Large ones wait until nothing else is left.
    async fn send(&self, way: &Way<'_>, slots: &[Vec<Key>]) -> Done {
        let keys: Vec<&Key> = slots.iter().flatten().collect();
        let Way { on: End { at, first, .. }, to } = way;
        let sizes = commands::memory_usage(first.as_ref(), &keys).await.map_err(|e| refused(at, &e))?;
        let batch = batch(slots, &sizes);
        if let (true, Some(key), Some(bytes)) = (batch.is_empty(), keys.first(), sizes.first()) {
            return self.send_alone(way, (key, *bytes)).await;
        }
        self.hand_on(first.as_ref(), &batch, BATCH_TIME, to.at).await.map_err(|e| refused(at, &e))
    }

    /// One large key. Both ends stand still until it has arrived, and whoever stands still for longer than the node-timeout is taken
    /// for dead: its replica would take its place with the key as it was (measured on 8.1.1). So that is the time that it has.
    async fn send_alone(&self, Way { on, to }: &Way<'_>, (key, bytes): (&Key, u64)) -> Done {
        let stands = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND);
        let mut patience = Duration::MAX;
        for end in [on, to] {
            patience = patience.min(node_timeout(end.first.as_ref()).await.map_err(|e| refused(end.at, &e))?);
        }
        if stands > patience {
            return Err(Hitch::Failed(too_large(on.at, key, bytes, (stands, patience))));
        }
        let limit = patience.max(BATCH_TIME);
        let limits = Limits { long_reply: limit + Duration::from_secs(1), ..self.access.limits };
        let access = Access { limits, ..self.access.clone() };
        let addr = SocketAddr::new(on.at.ip, self.ports.client);
        let patient = self.connector.connect(addr, &access).await.map_err(|e| refused(on.at, &e))?;
        let moved = self.hand_on(patient.as_ref(), &[vec![key.clone()]], limit, to.at).await;
        moved.map_err(|e| refused(on.at, &e))
    }

    /// `MIGRATE` of these keys to the target, by the password that it knows.
    async fn hand_on(
        &self,
        node: &dyn Node,
        slots: &[Vec<Key>],
        limit: Duration,
        to: &Target,
    ) -> Result<(), WireError> {
        let (host, port) = (to.ip.to_string(), self.ports.client.to_string());
        let user = self.access.username.as_deref().unwrap_or("default");
        let password = self.access.password.as_deref().unwrap_or_default();
        let moved = commands::migrate(node, (&host, &port), (user, password), limit, slots).await;
        match (&moved, &self.access.former) {
            // The target does not know the new password yet; nothing was moved.
            (Err(WireError::Server(text)), Some(former)) if text.contains("WRONGPASS") => {
                commands::migrate(node, (&host, &port), (user, former), limit, slots).await
            }
            _ => moved,
        }
    }
}

impl Way<'_> {
    /// First the target, then the source: from the source's word on clients are sent to the target, which must expect them.
    async fn open(&self, slots: &[u16]) -> Done {
        self.to
            .set_slots(slots, SlotState::Importing(&self.on.at.node))
            .await
            .map_err(|e| refused(self.to.at, &e))?;
        self.on
            .set_slots(slots, SlotState::Migrating(&self.to.at.node))
            .await
            .map_err(|e| refused(self.on.at, &e))
    }

    /// First the target, which claims the slots with new epochs: when it dies now, nothing is lost by the source's having let go.
    async fn close(&self, slots: &[u16]) -> Done {
        let owner = SlotState::Node(&self.to.at.node);
        self.to.set_slots(slots, owner).await.map_err(|e| refused(self.to.at, &e))?;
        match self.on.set_slots(slots, owner).await {
            // It has heard of it over the bus already.
            Err(WireError::Server(_)) => Ok(()),
            other => other.map_err(|e| refused(self.on.at, &e)),
        }
    }
}

impl End<'_> {
    /// `CLUSTER SETSLOT` of each slot, by all connections; the first refusal, when all have answered.
    async fn set_slots(&self, slots: &[u16], state: SlotState<'_>) -> Result<(), WireError> {
        let shares = slots.chunks(slots.len().div_ceil(self.others.len() + 1).max(1));
        let share = |(some, node): (&'_ [u16], &'_ Arc<dyn Node>)| {
            let (some, node) = (some.to_vec(), Arc::clone(node));
            async move { commands::set_slots(node.as_ref(), &some, state).await }.boxed()
        };
        let lanes = [&self.first].into_iter().chain(&self.others);
        let answers = parallel::all(shares.zip(lanes).map(share).collect(), LANES).await;
        answers.into_iter().collect()
    }
}

/// Of these keys, listed by slot, those that may go in one burst, by slot, of some slots at most: none if each is larger than that.
fn batch(slots: &[Vec<Key>], sizes: &[u64]) -> Vec<Vec<Key>> {
    let (mut sizes, mut room) = (sizes.iter().copied(), BATCH_BYTES);
    let mut fits = |_: &&Key| {
        let size = sizes.next().unwrap_or_default();
        let fits = size <= room;
        room -= if fits { size } else { 0 };
        fits
    };
    let parts = slots.iter().map(|keys| keys.iter().filter(&mut fits).cloned().collect::<Vec<Key>>());
    parts.filter(|part| !part.is_empty()).take(BATCH_SLOTS).collect()
}

/// How long others wait for this node before they suspect it.
async fn node_timeout(node: &dyn Node) -> Result<Duration, WireError> {
    let shown = commands::config_get(node, &[NODE_TIMEOUT]).await?;
    let ms = shown.get(NODE_TIMEOUT).and_then(|text| text.parse().ok());
    let missing = || WireError::Protocol(format!("CONFIG GET {NODE_TIMEOUT} is {shown:?}"));
    ms.map(Duration::from_millis).ok_or_else(missing)
}

fn too_large(on: &Target, key: &[u8], bytes: u64, (stands, patience): (Duration, Duration)) -> String {
    let name = String::from_utf8_lossy(key.get(..SHOWN).unwrap_or(key));
    format!(
        "{}: the key {name:?} has {bytes} bytes, and Valkey 8 moves it in one piece: both ends would stand still for about \
         {stands:.1?}, and after {NODE_TIMEOUT} ({patience:.1?}) they count as dead; set it to {} or more in spec.config while slots \
         move, make the key smaller, or upgrade to 9.0 first",
        on.pod,
        stands.as_millis() * 3 / 2
    )
}

/// This end has the slot open towards the other.
fn half_way(facts: &guard::Facts, slot: u16, other: &NodeId) -> bool {
    facts.own.open.iter().any(|o| o.slot == slot && o.other == *other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        name.as_bytes().to_vec()
    }

    #[test]
    fn small_keys_go_together_and_large_ones_wait() {
        let slots = [vec![key("a"), key("large"), key("b")], vec![key("half"), key("most")], vec![key("c")]];
        let sizes = [60, BATCH_BYTES + 1, 60, BATCH_BYTES / 2, BATCH_BYTES * 3 / 4, 60];
        let expected = [vec![key("a"), key("b")], vec![key("half")], vec![key("c")]];
        assert_eq!(batch(&slots, &sizes), expected);
        assert!(batch(&slots[..1], &[BATCH_BYTES + 1; 3]).is_empty(), "each goes alone");
        assert_eq!(batch(&slots[2..], &[BATCH_BYTES]), [vec![key("c")]], "one that just fits");
    }
}

#[cfg(test)]
#[path = "kinds_tests.rs"]
mod kinds;
