//! Moving slots: a job of the server where both ends know jobs (9.0 and newer), else key by key.
//!
//! Key by key nothing is ever taken back: what an earlier pass, or an earlier operator, has left half way is finished
//! forward (measured on 8.0.1 and 9.1.2: after a crash or a failover in the middle that loses nothing). Each call works for a
//! bounded time and leaves the rest to the next pass.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Access, Done, Hitch, Limits, Target, ValkeyExecutor, guard, refused, stale};
use crate::model::{NodeId, Slots, settings::JOBS_SINCE};
use crate::valkey::commands::{self, SlotState};
use crate::valkey::error::WireError;
use crate::valkey::node::Node;

/// How long one call carries slots.
const STRETCH: Duration = Duration::from_millis(400);

/// The most keys of one `MIGRATE`: both ends stand still for it (measured: 1.3 ms for 100 keys of 100 bytes, 7 ms for 1000).
const BATCH_KEYS: usize = 200;

/// The most bytes of one `MIGRATE`, by `MEMORY USAGE`; a larger key goes alone.
const BATCH_BYTES: u64 = 2 << 20;

/// What a `MIGRATE` of a batch may take: below the limit of the connection, so that its answer comes.
const BATCH_TIME: Duration = Duration::from_secs(4);

/// What one large key may be expected to move in a second, while both ends stand still (measured on 8.1.1 with lists that do not
/// compress: 38 MB on a machine that was four times overloaded, 53 MB and more elsewhere).
const BYTES_A_SECOND: u64 = 32 << 20;

/// The setting that says how long others wait for a node before they suspect it.
const NODE_TIMEOUT: &str = "cluster-node-timeout";

/// Keys longer than this are named by their beginning.
const SHOWN: usize = 64;

impl ValkeyExecutor {
    /// Begins one job for all slots.
    pub(super) async fn migrate(&self, on: &Target, to: &Target, slots: &Slots) -> Done {
        let (node, source) = self.facts(on).await?;
        let (there, target) = self.facts(to).await?;
        let Some(left) = guard::migrate(&source, &target, slots).map_err(|why| stale(on, &why))? else {
            return Ok(());
        };
        for (end, node) in [(on, &node), (to, &there)] {
            let version = commands::info(node.as_ref(), &["server"]).await.and_then(|i| i.version());
            if version.map_err(|e| refused(end, &e))? < JOBS_SINCE {
                return Err(stale(end, "it is older than jobs are"));
            }
        }
        match commands::migrate_slots(node.as_ref(), &left, &to.node).await {
            // An earlier pass began it, and its answer was lost.
            Err(WireError::Server(text)) if text.contains("already migrating") => Err(stale(on, &text)),
            other => other.map_err(|e| refused(on, &e)),
        }
    }

    /// Carries slots, one after another, until the time is over.
    pub(super) async fn carry(&self, on: &Target, to: &Target, slots: &Slots) -> Done {
        let until = Instant::now() + STRETCH;
        let (node, source) = self.facts(on).await?;
        let (there, target) = self.facts(to).await?;
        let Some(left) = guard::move_slots(&source, &target, slots).map_err(|why| stale(on, &why))? else {
            return Ok(());
        };
        let (node, there) = (node.as_ref(), there.as_ref());
        for slot in left.iter() {
            let open = half_way(&source, slot, &to.node) && half_way(&target, slot, &on.node);
            if !open {
                open_slot(node, there, slot, on, to).await?;
            }
            while Instant::now() < until {
                let (keys, leads) = listed(node, slot, on).await?;
                if !leads {
                    return Err(stale(on, "it has become a replica"));
                }
                if keys.is_empty() {
                    close_slot(node, there, slot, on, to).await?;
                    break;
                }
                self.send((node, there), &keys, on, to).await?;
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Closes slots that only copies have half way: the primary passes the command on to them.
    pub(super) async fn close(&self, on: &Target, slots: &Slots) -> Done {
        let (node, primary) = self.facts(on).await?;
        guard::close(&primary, slots).map_err(|why| stale(on, &why))?;
        for slot in slots.iter() {
            let closed = commands::set_slot(node.as_ref(), slot, SlotState::Stable).await;
            closed.map_err(|e| refused(on, &e))?;
        }
        Ok(())
    }

    /// As many of these keys as fit into one `MIGRATE`.
    async fn send(
        &self,
        (node, there): (&dyn Node, &dyn Node),
        keys: &[Vec<u8>],
        on: &Target,
        to: &Target,
    ) -> Done {
        let sizes = commands::memory_usage(node, keys).await.map_err(|e| refused(on, &e))?;
        if let (Some(key), Some(bytes)) = (keys.first(), sizes.first())
            && *bytes > BATCH_BYTES
        {
            return self.send_alone((node, there), (key, *bytes), on, to).await;
        }
        let mut bytes = 0;
        let fits = sizes.into_iter().take_while(|size| {
            bytes += size;
            bytes <= BATCH_BYTES
        });
        let batch = keys.get(..fits.count().max(1)).unwrap_or(keys);
        self.hand_on(node, batch, BATCH_TIME, to).await.map_err(|e| refused(on, &e))
    }

    /// One large key. Both ends stand still until it has arrived, and whoever stands still for longer than the node-timeout is taken
    /// for dead: its replica would take its place with the key as it was (measured on 8.1.1). So that is the time that it has.
    async fn send_alone(
        &self,
        (node, there): (&dyn Node, &dyn Node),
        (key, bytes): (&Vec<u8>, u64),
        on: &Target,
        to: &Target,
    ) -> Done {
        let stands = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND);
        let mut patience = Duration::MAX;
        for (end, node) in [(on, node), (to, there)] {
            patience = patience.min(node_timeout(node).await.map_err(|e| refused(end, &e))?);
        }
        if stands > patience {
            return Err(Hitch::Failed(too_large(on, key, bytes, (stands, patience))));
        }
        let limit = patience.max(BATCH_TIME);
        let limits = Limits { long_reply: limit + Duration::from_secs(1), ..self.access.limits };
        let access = Access { limits, ..self.access.clone() };
        let addr = SocketAddr::new(on.ip, self.ports.client);
        let patient = self.connector.connect(addr, &access).await.map_err(|e| refused(on, &e))?;
        let moved = self.hand_on(patient.as_ref(), std::slice::from_ref(key), limit, to).await;
        moved.map_err(|e| refused(on, &e))
    }

    /// `MIGRATE` of these keys to the target, by the password that it knows.
    async fn hand_on(
        &self,
        node: &dyn Node,
        keys: &[Vec<u8>],
        limit: Duration,
        to: &Target,
    ) -> Result<(), WireError> {
        let (host, port) = (to.ip.to_string(), self.ports.client.to_string());
        let user = self.access.username.as_deref().unwrap_or("default");
        let password = self.access.password.as_deref().unwrap_or_default();
        let moved = commands::migrate(node, (&host, &port), (user, password), limit, keys).await;
        match (&moved, &self.access.former) {
            // The target does not know the new password yet; nothing was moved.
            (Err(WireError::Server(text)), Some(former)) if text.contains("WRONGPASS") => {
                commands::migrate(node, (&host, &port), (user, former), limit, keys).await
            }
            _ => moved,
        }
    }
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

/// First the target, then the source: from the source's word on clients are sent to the target, which must expect them.
async fn open_slot(node: &dyn Node, there: &dyn Node, slot: u16, on: &Target, to: &Target) -> Done {
    let importing = SlotState::Importing(&on.node);
    commands::set_slot(there, slot, importing).await.map_err(|e| refused(to, &e))?;
    let migrating = SlotState::Migrating(&to.node);
    commands::set_slot(node, slot, migrating).await.map_err(|e| refused(on, &e))
}

/// First the target, which claims the slot with a new epoch: when it dies now, nothing is lost by the source's having let go.
async fn close_slot(node: &dyn Node, there: &dyn Node, slot: u16, on: &Target, to: &Target) -> Done {
    let owner = SlotState::Node(&to.node);
    commands::set_slot(there, slot, owner).await.map_err(|e| refused(to, &e))?;
    match commands::set_slot(node, slot, owner).await {
        // It has heard of it over the bus already.
        Err(WireError::Server(_)) => Ok(()),
        other => other.map_err(|e| refused(on, &e)),
    }
}

async fn listed(node: &dyn Node, slot: u16, on: &Target) -> Result<(Vec<Vec<u8>>, bool), Hitch> {
    commands::keys_in_slot(node, slot, BATCH_KEYS).await.map_err(|e| refused(on, &e))
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "kinds_tests.rs"]
mod kinds;
