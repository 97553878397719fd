//! What was done to the worlds: every fault and every change of the spec that took effect, by kind.

use std::collections::BTreeMap;
use std::fmt;

use super::script::{Action, Who};

/// Counts by kind. A fault that found nobody to hurt, or that a gentle life left out, is not counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// One more of a kind.
    pub(crate) fn one(&mut self, kind: &'static str) {
        self.many(kind, 1);
    }

    pub(crate) fn many(&mut self, kind: &'static str, count: u64) {
        *self.0.entry(kind).or_default() += count;
    }

    /// Those of another world, too.
    pub(crate) fn add(&mut self, other: &Tally) {
        for (kind, count) in &other.0 {
            self.many(kind, *count);
        }
    }

    pub(crate) fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    /// One row a kind, in their order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what happened | times |\n|---|---|")?;
        for (kind, count) in &self.0 {
            writeln!(f, "| {kind} | {count} |")?;
        }
        Ok(())
    }
}

/// The kind of an action at its moment; none for what takes effect later, pass by pass, and is counted there.
pub(crate) fn kind(action: &Action) -> Option<&'static str> {
    Some(match action {
        Action::Shards(_) => "spec: shards",
        Action::Replicas(_) => "spec: replicas",
        Action::Image(name) if name.contains("missing") => "spec: image that cannot be pulled",
        Action::Image(name) if name.contains("crashing") => "spec: image that crashes",
        Action::Image(_) => "spec: image",
        Action::Config(..) => "spec: config",
        Action::Purge(true) => "spec: keys are dropped",
        Action::Purge(false) => "spec: keys are kept",
        Action::Rotate => "spec: new passwords",
        Action::Certificate(leaf, _) if leaf == "off" => "spec: plain text",
        Action::Certificate(leaf, _) if leaf == "spoilt" => "certificate that cannot be used",
        Action::Certificate(..) => "new certificate",
        Action::User(..) => "spec: users",
        Action::Disrupted(_) => "spec: another budget of disruptions",
        Action::Paused(true) => "spec: paused",
        Action::Paused(false) => "spec: not paused",
        Action::Kill(who) => match who {
            Who::Primary(_) => "process of a primary killed",
            Who::Replica(_) => "process of a replica killed",
            Who::Pod(..) => "process of any member killed",
        },
        Action::Delete(_) => "Pod told to go",
        Action::ForceDelete(_) => "Pod deleted by force",
        Action::Cordon(_) => "worker cordoned",
        Action::Capacity(_, 0..100) => "worker without room",
        Action::Cut(_) => "worker cut off",
        Action::Hide(_) => "worker that the operator alone cannot reach",
        Action::Api(false) => "API server away",
        Action::Power(_) => "worker without power",
        Action::Shutdown(_) => "worker shut down by its kubelet",
        Action::Fence(_) => "worker vouched for as out of service",
        Action::Vouch => "dead vouched for by their ids",
        Action::KillShard(_) => "every copy of a shard killed",
        Action::KillPrimaries(_) => "several primaries killed",
        Action::KillAll => "everything killed",
        Action::Operators(2..) => "two operators at once",
        Action::Stranger => "process of another cluster at a free address",
        Action::Drift => "object changed by somebody",
        Action::Operators(_)
        | Action::Uncordon(_)
        | Action::Capacity(..)
        | Action::Heal(_)
        | Action::Show(_)
        | Action::Api(true)
        | Action::Boot(_)
        | Action::Crash(_)
        | Action::Stale(..)
        | Action::StalePods(..)
        | Action::Refuse(_)
        | Action::Lose(_)
        | Action::Slow(_) => return None,
    })
}

pub(crate) const DIED: &str = "operator died between two steps";
pub(crate) const STALE: &str = "pass that saw an old world";
pub(crate) const STALE_PODS: &str = "pass that saw old Pods";
pub(crate) const REFUSED: &str = "step refused";
pub(crate) const ANSWER_LOST: &str = "step done, answer lost";
pub(crate) const SLOW: &str = "pass with 100 ms between its steps";
pub(crate) const PASSES: &str = "~ passes of the operator";
pub(crate) const BRIEF: &str = "~ nodes looked at briefly";
pub(crate) const STEPS: &str = "~ steps executed";
pub(crate) const SECONDS: &str = "~ seconds lived";
pub(crate) const HAND_OVERS: &str = "~ hand-overs";
pub(crate) const WRITES: &str = "~ writes acknowledged";
pub(crate) const LIVES: &str = "~ lives";
