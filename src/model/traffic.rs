//! What a process has seen move: slots that have changed their shard from one look to the next, and jobs that have ended.
//! For the metrics alone: nothing is decided by it, and a restart begins anew.

use std::collections::BTreeMap;

use super::ids::{Moment, NodeId, Shard};
use super::moves::JobState;
use super::slots::Slots;
use super::snapshot::{Seen, Snapshot};
use super::step::Step;

/// Source, target and slots: what tells jobs apart.
type Which = (NodeId, NodeId, Slots);

/// What is known of the moves of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// The slots of each shard when it was seen last, and the bytes of an average slot.
    owners: BTreeMap<Shard, (Slots, u64)>,
    /// Jobs that run, and since when.
    running: BTreeMap<Which, Moment>,
}

/// What has moved since the look before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Slots that another shard has now.
    pub slots: u64,
    /// Their bytes, by the average slot of the shard that gave them.
    pub bytes: u64,
    /// Milliseconds that jobs took that have ended well.
    pub jobs_ms: Vec<i64>,
    /// Jobs that have failed.
    pub failed: u64,
}

impl Traffic {
    /// A job was begun.
    pub fn done(&mut self, step: &Step, now: Moment) {
        if let Step::Migrate { on, to, slots } = step {
            self.running.insert((on.node.clone(), to.node.clone(), slots.clone()), now);
        }
    }

    /// What this look shows to have moved since the one before.
    pub fn see(&mut self, s: &Snapshot) -> Moved {
        let mut moved = Moved::default();
        self.slots(s, &mut moved);
        self.jobs(s, &mut moved);
        moved
    }

    fn slots(&mut self, s: &Snapshot, moved: &mut Moved) {
        let mut now: BTreeMap<Shard, (Slots, u64)> = BTreeMap::new();
        for pod in s.pods.values() {
            let Some(node) = s.nodes.get(&pod.uid).and_then(Seen::now).filter(|n| !n.slots().is_empty())
            else {
                continue;
            };
            let average = node.memory.map_or(0, |m| m.data / u64::from(node.slots().len()).max(1));
            let (slots, bytes) = now.entry(pod.shard).or_default();
            (*slots, *bytes) = (slots.or(node.slots()), average);
        }
        for (shard, (slots, _)) in &now {
            for (other, (had, average)) in self.owners.iter_mut().filter(|(other, _)| *other != shard) {
                // Somebody who still claims them has not given them away.
                let kept = now.get(other).map_or_else(Slots::none, |(kept, _)| kept.clone());
                let gone = had.and(slots).minus(&kept);
                moved.slots += u64::from(gone.len());
                moved.bytes += u64::from(gone.len()) * *average;
                *had = had.minus(&gone);
            }
        }
        // A shard that is silent is remembered as it was.
        self.owners.extend(now);
        self.owners.retain(|_, (slots, _)| !slots.is_empty());
    }

    fn jobs(&mut self, s: &Snapshot, moved: &mut Moved) {
        let mut ended: BTreeMap<Which, JobState> = BTreeMap::new();
        for node in s.nodes.values().filter_map(Seen::now) {
            for job in node.jobs.iter().filter(|j| !j.incoming) {
                let Some(other) = job.other.clone() else { continue };
                let which = (node.id.clone(), other, job.slots.clone());
                match job.state {
                    JobState::Running => drop(self.running.entry(which).or_insert(s.now)),
                    // The newest comes first: it is the one that was begun last.
                    state => drop(ended.entry(which).or_insert(state)),
                }
            }
        }
        let there: Vec<&NodeId> = s.nodes.values().filter_map(Seen::now).map(|n| &n.id).collect();
        self.running.retain(|which, since| match ended.get(which) {
            Some(JobState::Done) => {
                moved.jobs_ms.push(s.now.since(*since));
                false
            }
            Some(JobState::Failed) => {
                moved.failed += 1;
                false
            }
            Some(JobState::Running) => true,
            None => there.contains(&&which.0),
        });
    }
}
