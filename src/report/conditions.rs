//! The conditions and the summary of the status, in the words of the status reference.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{health::Health, time};
use crate::{
    api::{State, ValkeyClusterStatus},
    model::{Code, Moment, SLOTS, Stage, Waiting},
    plan::users,
};

/// A condition before its times are known.
struct Verdict {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

fn verdict(
    type_: &'static str,
    status: bool,
    reason: impl Into<String>,
    message: impl Into<String>,
) -> Verdict {
    let status = if status { "True" } else { "False" };
    Verdict { type_, status, reason: reason.into(), message: message.into() }
}

/// All conditions of the pass. Degraded and Paused are there only while they are true.
pub(super) fn conditions(health: &Health<'_, '_>, previous: Option<&ValkeyClusterStatus>) -> Vec<Condition> {
    let s = health.view.s;
    let all = [Some(ready(health)), Some(progressing(health)), degraded(health), Some(formed(health))];
    let all = all.into_iter().chain([Some(slots(health)), users(health), paused(health)]).flatten();
    all.map(|v| dated(v, s.desired.generation, s.now, previous)).collect()
}

/// The conditions of a spec that cannot be planned for; what was known of the cluster stays.
pub(super) fn refused(
    sentence: &str,
    generation: i64,
    now: Moment,
    previous: Option<&ValkeyClusterStatus>,
) -> Vec<Condition> {
    let told = ["Ready", "Progressing"].map(|type_| verdict(type_, false, "InvalidSpec", sentence));
    let kept =
        previous.iter().flat_map(|p| &p.conditions).filter(|c| told.iter().all(|v| v.type_ != c.type_));
    let mut all: Vec<Condition> = kept.cloned().collect();
    all.extend(told.into_iter().map(|v| dated(v, generation, now, previous)));
    all
}

/// State, reason and message, by the priority Degraded, Ready, Reconciling or Initializing.
pub(super) fn summary(health: &Health<'_, '_>, conditions: &[Condition]) -> (State, String, String) {
    let find = |type_: &str| conditions.iter().find(|c| c.type_ == type_);
    let holds = |type_: &str| find(type_).filter(|c| c.status == "True");
    let busy = if health.view.s.formed && health.whole() { State::Reconciling } else { State::Initializing };
    let (state, told) = match (holds("Degraded"), holds("Ready")) {
        (Some(degraded), _) => (State::Degraded, Some(degraded)),
        (None, Some(ready)) => (State::Ready, Some(ready)),
        (None, None) => (busy, find("Progressing")),
    };
    told.map_or((state, String::new(), String::new()), |c| (state, c.reason.clone(), c.message.clone()))
}

fn ready(health: &Health<'_, '_>) -> Verdict {
    let told = |reason: &str, message: String| verdict("Ready", false, reason, message);
    if health.healthy() {
        return verdict("Ready", true, "ClusterHealthy", healthy_message(health.outdated));
    }
    if let Some(trouble) = health.troubles.first() {
        return told(&trouble.reason, trouble.message.clone());
    }
    if health.view.s.desired.deleting {
        return told("Deleting", "The cluster is being deleted".to_owned());
    }
    let wanted = health.view.s.desired.shards;
    if !health.leaderless.is_empty() || !health.new.is_empty() {
        let there = usize::from(wanted) - health.leaderless.len() - health.new.len();
        return told(
            "MissingShards",
            format!("Waiting for all shards to be created: {there} of {wanted} serve"),
        );
    }
    if !health.short.is_empty() {
        let list = super::trouble::listed(health.short.iter().map(ToString::to_string).collect());
        let shards = if health.short.len() == 1 { "shard" } else { "shards" };
        return told("MissingReplicas", format!("Waiting for replicas of {shards} {list}"));
    }
    told("Reconciling", what_goes_on(health).unwrap_or_else(|| "Cluster is Reconciling".to_owned()))
}

fn healthy_message(outdated: usize) -> String {
    match outdated {
        0 => "Cluster is healthy".to_owned(),
        1 => "Cluster is healthy; 1 pod was made from an earlier spec".to_owned(),
        n => format!("Cluster is healthy; {n} pods were made from an earlier spec"),
    }
}

fn progressing(health: &Health<'_, '_>) -> Verdict {
    let told = |status, reason: &str, message: String| verdict("Progressing", status, reason, message);
    let blocked = |code: Code| health.plan.blocked.iter().find(|b| b.code == code);
    let desired = &health.view.s.desired;
    if desired.deleting {
        return told(
            false,
            "Deleting",
            "The cluster is being deleted: nothing is changed any more".to_owned(),
        );
    }
    if desired.paused {
        return told(
            false,
            "Paused",
            "spec.paused is true: nothing is changed until it is set to false".to_owned(),
        );
    }
    if health.healthy() {
        return told(false, "ReconcileComplete", "No changes needed".to_owned());
    }
    if health.plan.quiet()
        && let Some(trouble) = health.troubles.first()
    {
        return told(false, &trouble.reason, trouble.message.clone());
    }
    let reason = match first_stage(health).map(|w| w.stage) {
        _ if !health.whole() => "Initializing",
        Some(Stage::AddingPods | Stage::JoiningNodes | Stage::Syncing) => "AddingNodes",
        Some(Stage::MovingSlots) => "RebalancingSlots",
        Some(_) | None => "Reconciling",
    };
    let held_back = || blocked(Code::WouldLoseCopy).map(|b| b.message.clone());
    let message = what_goes_on(health).or_else(held_back);
    told(true, reason, message.unwrap_or_else(|| "Bringing the cluster to what the spec asks".to_owned()))
}

/// What comes first is what is waited for now; a shard without a primary comes before everything.
pub(super) fn first_stage<'v>(health: &'v Health<'_, '_>) -> Option<&'v Waiting> {
    health.plan.waiting.iter().min_by_key(|w| (w.stage != Stage::Electing, w.stage))
}

fn what_goes_on(health: &Health<'_, '_>) -> Option<String> {
    let waiting = first_stage(health).map(|w| w.message.clone());
    waiting.or_else(|| health.plan.steps.first().map(|p| capital(&p.note)))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn degraded(health: &Health<'_, '_>) -> Option<Verdict> {
    let worst = health.troubles.first()?;
    let more: Vec<&str> = health.troubles.iter().skip(1).take(2).map(|t| t.message.as_str()).collect();
    let message = [&[worst.message.as_str()][..], &more].concat().join("; ");
    Some(verdict("Degraded", true, &worst.reason, message))
}

fn formed(health: &Health<'_, '_>) -> Verdict {
    let told = |status, reason: &str, message: &str| verdict("ClusterFormed", status, reason, message);
    let short = health.short.iter().any(|shard| {
        health.view.staying(*shard).filter(|m| m.node().is_some()).count() < health.view.s.desired.copies()
    });
    match (health.leaderless.is_empty(), health.complete, short) {
        (false, _, _) => told(false, "MissingShards", "Waiting for shards"),
        (true, _, true) => told(false, "MissingReplicas", "Waiting for replicas"),
        (true, false, false) => told(false, "Joining", "Waiting for all nodes to know each other"),
        (true, true, false) => told(true, "TopologyComplete", "All nodes joined cluster"),
    }
}

fn slots(health: &Health<'_, '_>) -> Verdict {
    let type_ = "SlotsAssigned";
    if health.known_slots == SLOTS {
        return verdict(type_, true, "AllSlotsAssigned", "All slots assigned");
    }
    if health.view.s.whole && health.view.answering().next().is_none() {
        let (reason, message) = ("NoAnswer".to_owned(), "No node answers".to_owned());
        return Verdict { type_, status: "Unknown", reason, message };
    }
    verdict(type_, false, "SlotsUnassigned", format!("{} of {SLOTS} slots are assigned", health.known_slots))
}

/// The reason of the condition `UsersReady` while a user of the spec cannot be set.
pub(super) const USERS_REFUSED: &str = "UsersACLError";

/// There only where the spec has users.
fn users(health: &Health<'_, '_>) -> Option<Verdict> {
    let wanted = health.view.s.desired.users.len();
    let state = (wanted > 0).then(|| users::state(health.view))?;
    let told = |status, reason: &str, message: String| Some(verdict("UsersReady", status, reason, message));
    if !state.refused.is_empty() {
        let message = state.refused.into_iter().collect::<Vec<_>>().join("; ");
        return told(false, USERS_REFUSED, message);
    }
    match state.lacking {
        0 => told(true, "UsersApplied", format!("Every node has the {wanted} users of the spec")),
        n => told(false, "ApplyingUsers", format!("{n} nodes do not have all users of the spec yet")),
    }
}

fn paused(health: &Health<'_, '_>) -> Option<Verdict> {
    let message = "spec.paused is true: the operator observes and changes nothing";
    health.view.s.desired.paused.then(|| verdict("Paused", true, "Paused", message))
}

/// The time of the last transition stays while the status stays.
fn dated(v: Verdict, generation: i64, now: Moment, previous: Option<&ValkeyClusterStatus>) -> Condition {
    let before = previous.and_then(|p| p.conditions.iter().find(|c| c.type_ == v.type_));
    let since = before.filter(|c| c.status == v.status).map(|c| c.last_transition_time.clone());
    Condition {
        type_: v.type_.to_owned(),
        status: v.status.to_owned(),
        reason: v.reason,
        message: v.message,
        last_transition_time: since.unwrap_or_else(|| time(now)),
        observed_generation: Some(generation),
    }
}
