//! What a new Pod asks of the scheduler for itself alone.

use std::collections::BTreeSet;
use std::fmt;

use super::ids::{PodUid, WorkerName, Zone};

/// What one Pod demands of the scheduler beside what the spec demands of all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Demands {
    /// It comes beside a member that leaves, and is not counted among the copies that are apart before it has a worker.
    pub uncounted: bool,
    /// Workers that have a copy of the shard that stays.
    pub not_on: BTreeSet<WorkerName>,
    /// Zones that have their share of the shard's copies.
    pub not_in: BTreeSet<Zone>,
    /// The zone that it is pinned to.
    pub zone: Option<Zone>,
    /// The worker that the placement wants is a demand, not a wish.
    pub only: bool,
    /// The member that it is the successor of, where that is only moved to a better place.
    pub instead_of: Option<PodUid>,
}

impl fmt::Display for Demands {
    /// What is out of the ordinary, for logs and test cases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(zone) = &self.zone {
            write!(f, " in zone {zone}")?;
        }
        if self.uncounted {
            write!(f, " uncounted")?;
        }
        for worker in &self.not_on {
            write!(f, " not-on {worker}")?;
        }
        for zone in &self.not_in {
            write!(f, " not-in {zone}")?;
        }
        Ok(())
    }
}
