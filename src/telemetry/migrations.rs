//! Decides how moved slots are counted. Touches memory only.

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounterVec};

use super::metrics::{opts, seconds};
use crate::model::Moved;

/// Slots and bytes that have changed their shard, and the jobs of the servers (9.0 and newer) that did it.
#[derive(Clone)]
pub(super) struct Migrations {
    slots: IntCounterVec,
    bytes: IntCounterVec,
    seconds: Histogram,
    failures: IntCounterVec,
}

impl Migrations {
    /// # Errors
    /// When a name is not valid or is given twice: a mistake in this file.
    pub(super) fn new() -> prometheus::Result<Self> {
        let of_cluster =
            |name: &str, help: &str| IntCounterVec::new(opts(name, help), &["namespace", "cluster"]);
        Ok(Self {
            slots: of_cluster("migrated_slots_total", "Slots that have moved from one shard to another.")?,
            bytes: of_cluster(
                "migrated_bytes_total",
                "Data of the slots that have moved, by their average size.",
            )?,
            seconds: Histogram::with_opts(seconds(
                "migration_job_duration_seconds",
                "Time that a job of a server that moved slots took, from its begin to the look that showed its end.",
            ))?,
            failures: of_cluster(
                "migration_job_failures_total",
                "Jobs of servers that failed: their slots stayed where they were.",
            )?,
        })
    }

    /// Everything that is to be registered.
    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.slots.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.failures.clone()),
        ]
    }

    /// Adds what has moved; a cluster of which nothing has moved has no series.
    pub(super) fn count(&self, namespace: &str, cluster: &str, moved: &Moved) {
        let of = [namespace, cluster];
        if moved.slots > 0 {
            self.slots.with_label_values(&of).inc_by(moved.slots);
            self.bytes.with_label_values(&of).inc_by(moved.bytes);
        }
        if moved.failed > 0 {
            self.failures.with_label_values(&of).inc_by(moved.failed);
        }
        for ms in &moved.jobs_ms {
            let whole = u32::try_from((*ms).max(0)).unwrap_or(u32::MAX);
            self.seconds.observe(f64::from(whole) / 1000.0);
        }
    }
}
