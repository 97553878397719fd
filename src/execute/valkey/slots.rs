//! Moving slots: a job of the server where both ends know jobs (9.0 and newer), else key by key.
//!
//! Key by key nothing is ever taken back: what an earlier pass, or an earlier operator, has left half way is finished
//! forward (measured on 8.0.1 and 9.1.2: after a crash or a failover in the middle that loses nothing). Each call works for a
//! bounded time and leaves the rest to the next pass.

use std::time::{Duration, Instant};

use super::{Done, Hitch, Target, ValkeyExecutor, guard, refused, stale};
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

/// What a `MIGRATE` may take, in milliseconds: below the limit of the connection, so that its answer comes.
const MIGRATE_MS: u32 = 4000;

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
        for slot in left.ranges().iter().flat_map(|r| r.first..=r.last) {
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
                self.send(node, &keys, on, to).await?;
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
        Ok(())
    }

    /// As many of these keys as fit into one `MIGRATE`.
    async fn send(&self, node: &dyn Node, keys: &[Vec<u8>], on: &Target, to: &Target) -> Done {
        let sizes = commands::memory_usage(node, keys).await.map_err(|e| refused(on, &e))?;
        let mut bytes = 0;
        let fits = sizes.into_iter().take_while(|size| {
            bytes += size;
            bytes <= BATCH_BYTES
        });
        let batch = keys.get(..fits.count().max(1)).unwrap_or(keys);
        let (host, port) = (to.ip.to_string(), self.ports.client.to_string());
        let user = self.access.username.as_deref().unwrap_or("default");
        let password = self.access.password.as_deref().unwrap_or_default();
        let mut moved = commands::migrate(node, (&host, &port), (user, password), MIGRATE_MS, batch).await;
        if let (Err(WireError::Server(text)), Some(former)) = (&moved, &self.access.former)
            && text.contains("WRONGPASS")
        {
            // The target does not know the new password yet; nothing was moved.
            moved = commands::migrate(node, (&host, &port), (user, former), MIGRATE_MS, batch).await;
        }
        moved.map_err(|e| refused(on, &e))
    }
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
