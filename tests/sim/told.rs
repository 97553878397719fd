//! What the operator tells: the status that a pass writes, and whether it is true.
//!
//! A refusal cures itself within a bound, or the status names it in the same pass. Who is told "Ready" finds the world as the spec
//! asks: at the moment of a look that saw it, for between two looks nobody can know.

use std::collections::BTreeMap;

use valkey_cluster_operator::api::ValkeyClusterStatus;
use valkey_cluster_operator::model::{Blocked, Code, Done, Outcome, Shard, Snapshot, Step};
use valkey_cluster_operator::report::report;

use super::operator::{ASKED_AGAIN, Pass};
use super::tally;
use super::world::World;

/// Ticks for which a refusal that cures itself may last without a word in the status.
const CURED: i64 = 900;

/// Ticks for which the status may say Ready of a cluster that serves in part: above the pause between two looks.
const STALE: i64 = 30;

/// Of so many ticks one is looked at for that.
const LOOKED_AT: i64 = 5;

/// Troubles that the condition `Degraded` has room for, the worst first.
const SHOWN: usize = 3;

/// What a refusal that the status does not name is about.
type About = (Code, Option<Shard>, String);

/// What the status does not say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Untold {
    /// Refusals that it does not name, and since when.
    refused: BTreeMap<About, i64>,
    /// Since when it says Ready of a cluster that is not.
    false_since: Option<i64>,
}

impl World {
    /// The report of a pass is written as `publish` does, and judged.
    pub(crate) fn publish(&mut self, snapshot: &Snapshot, pass: &Pass, sees_now: bool) {
        let done: Vec<Done> =
            pass.outcomes.iter().cloned().map(|(proposal, outcome)| Done { proposal, outcome }).collect();
        let status = report(snapshot, &pass.plan, &done, self.resource.status.as_ref()).status;
        let was = self.resource.status.as_ref().is_some_and(says_ready);
        // Whether the record of dropped keys was written is not known then.
        let unknown =
            |d: &Done| matches!((&d.proposal.step, &d.outcome), (Step::Purge { .. }, Outcome::Failed(_)));
        // What was found out about an older spec is not written over what a newer one has led to.
        if snapshot.desired.generation == self.resource.desired.generation && !done.iter().any(unknown) {
            self.write(status.clone());
        }
        let told = self.untold(&status, pass);
        // To look through the whole world is dear: when it is news, and now and then.
        let asked = !was || self.tally.of(tally::PASSES).is_multiple_of(ASKED_AGAIN);
        let honest = if asked && sees_now && says_ready(&status) { self.not_ready(pass) } else { None };
        if let Some(why) = told.or(honest) {
            self.watch.broken(self.now, why);
        }
    }

    /// What later looks read in it.
    fn write(&mut self, status: ValkeyClusterStatus) {
        let resource = &mut self.resource;
        resource.whole |= !status.topology.is_empty();
        let with_slots = status.topology.iter().filter(|t| !t.slots.is_empty());
        resource.served = with_slots.filter_map(|t| u16::try_from(t.shard).ok()).map(Shard).collect();
        resource.shape = status.shape.as_deref().and_then(|text| text.parse().ok());
        resource.status = Some(status);
    }

    /// A refusal that is not over by itself and of which the status says nothing.
    fn untold(&mut self, status: &ValkeyClusterStatus, pass: &Pass) -> Option<String> {
        let (ready, degraded) = (says_ready(status), degraded(status));
        let silent: Vec<&Blocked> = pass.plan.blocked.iter().filter(|b| !names(status, b)).collect();
        if let Some(b) = silent.iter().find(|b| ready || !cures_itself(b.code)) {
            return Some(format!("{:?} is refused, and the status does not say so: {}", b.code, b.message));
        }
        let now = self.now;
        let about =
            |b: &&Blocked| (b.code, b.shard, b.message.split(' ').next().unwrap_or_default().to_owned());
        // Where something is wrong, that is why the others wait.
        let silent = if degraded { Vec::new() } else { silent };
        let before = std::mem::take(&mut self.watch.untold.refused);
        let since = |about: &About| before.get(about).copied().unwrap_or(now);
        self.watch.untold.refused = silent.iter().map(about).map(|a| (a.clone(), since(&a))).collect();
        let (about, _) = self.watch.untold.refused.iter().find(|(_, since)| now - **since > CURED)?;
        Some(format!("{about:?} is refused for {} s, and the status says nothing of it", CURED / 10))
    }

    /// The status says Ready of a cluster that serves in part, for longer than it takes to look: whoever saw an old world, or cannot write,
    /// is given the time again.
    pub(crate) fn lies(&mut self) -> Option<String> {
        if self.now % LOOKED_AT != 0 {
            return None;
        }
        let ready = self.away.is_none() && self.resource.status.as_ref().is_some_and(says_ready);
        let Some(why) = ready.then(|| self.not_serving()).flatten() else {
            self.watch.untold.false_since = None;
            return None;
        };
        let since = *self.watch.untold.false_since.get_or_insert(self.now);
        let late = self.now - since.max(self.watch.upset_at) > STALE;
        late.then(|| format!("the status has said for {} s that it is ready, and yet: {why}", STALE / 10))
    }

    /// Why it is not ready by the truth. What a person holds back is not what the spec asks, and serves all the same.
    fn not_ready(&self, pass: &Pass) -> Option<String> {
        let why =
            if self.resource.desired.paused { self.not_serving() } else { self.unfinished(&pass.plan, true) };
        why.map(|why| format!("the status says that it is ready, and yet: {why}"))
    }
}

/// The condition `Ready` is true.
pub(crate) fn says_ready(status: &ValkeyClusterStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn degraded(status: &ValkeyClusterStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "Degraded" && c.status == "True")
}

/// The sentence is in it, or worse ones fill the place.
fn names(status: &ValkeyClusterStatus, blocked: &Blocked) -> bool {
    let steady = blocked.message.split(" (tried again").next().unwrap_or_default();
    let full = |c: &&str| c.split("; ").count() >= SHOWN;
    let mut messages = status.conditions.iter().map(|c| (c.type_.as_str(), c.message.as_str()));
    messages.any(|(type_, m)| m.contains(steady) || (type_ == "Degraded" && full(&m)))
}

/// It is over as soon as something else is, or the next try succeeds.
fn cures_itself(code: Code) -> bool {
    matches!(code, Code::WouldLoseCopy | Code::DisruptionBudget | Code::MigrationFailed | Code::BackingOff)
}
