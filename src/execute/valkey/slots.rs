//! Moving slots by a job of the server, where both ends know jobs (9.0 and newer); what is older is carried key by key (`carry`).

use std::net::IpAddr;

use super::{Done, Target, ValkeyExecutor, guard, refused, stale};
use crate::model::{NodeId, Slots, settings::JOBS_SINCE};
use crate::valkey::commands::{self, SlotState};
use crate::valkey::error::WireError;

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

    /// Ends a move whose source is dead: the target passes it on to its copies, and its claim is the newest.
    pub(super) async fn inherit(
        &self,
        on: &Target,
        from: &NodeId,
        at: Option<IpAddr>,
        slots: &Slots,
    ) -> Done {
        let (node, facts) = self.facts(on).await?;
        let missing = guard::inherit(&facts, from, slots).map_err(|why| stale(on, &why))?;
        if let Some(ip) = at {
            self.is_gone(from, ip).await?;
        }
        let missing: Vec<u16> = missing.iter().collect();
        let owner = SlotState::Node(&on.node);
        commands::set_slots(node.as_ref(), &missing, owner).await.map_err(|e| refused(on, &e))
    }

    /// Closes slots that only copies have half way: the primary passes the command on to them.
    pub(super) async fn close(&self, on: &Target, slots: &Slots) -> Done {
        let (node, primary) = self.facts(on).await?;
        guard::close(&primary, slots).map_err(|why| stale(on, &why))?;
        let slots: Vec<u16> = slots.iter().collect();
        commands::set_slots(node.as_ref(), &slots, SlotState::Stable).await.map_err(|e| refused(on, &e))
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
