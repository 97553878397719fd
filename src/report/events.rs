//! What happened, for people: once for each transition, once for each kind of step in a pass.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    EventNote,
    conditions::USERS_REFUSED,
    trouble::{listed, step_reason},
};
use crate::{
    api::{
        ValkeyClusterStatus,
        status::{GoneState, HandOverState},
    },
    model::{
        Done, Mode, Object, Outcome, Proposal, Step, Why,
        step::{Promotion, Removable},
    },
};

/// The reason that users are told under that cannot be set: as the trouble of the same name.
const USER_REFUSED: &str = "UserRefused";

/// The events of a pass, in the order in which things happened.
pub(super) fn events(
    status: &ValkeyClusterStatus,
    done: &[Done],
    previous: Option<&ValkeyClusterStatus>,
) -> Vec<EventNote> {
    let mut all = steps(done, previous);
    all.extend(done.iter().filter_map(purged));
    all.extend(done.iter().filter_map(lost));
    all.extend(done.iter().filter_map(failed));
    all.extend(hand_overs(status, previous));
    all.extend(transitions(status, previous));
    all.extend(requested(status, previous));
    all.extend(vouched(status, previous));
    all
}

fn normal(reason: &str, note: String) -> EventNote {
    EventNote { warning: false, reason: reason.to_owned(), note }
}

/// One event for each kind: repeats of an event are counted with the first note only, so the note names them all.
fn steps(done: &[Done], previous: Option<&ValkeyClusterStatus>) -> Vec<EventNote> {
    let new = previous.is_none_or(|p| !p.formed);
    let mut kinds: BTreeMap<(usize, &'static str), (&'static str, Vec<String>)> = BTreeMap::new();
    for d in done.iter().filter(|d| d.outcome == Outcome::Done) {
        if let Some((rank, reason, says, what)) = told(&d.proposal, new) {
            kinds.entry((rank, reason)).or_insert((says, Vec::new())).1.push(what);
        }
    }
    kinds
        .into_iter()
        .map(|((_, reason), (says, items))| normal(reason, format!("{says} {}", listed(items))))
        .collect()
}

/// Rank among the events of a pass, reason, and the sentence in two parts. None for what nobody needs to know.
fn told(p: &Proposal, new: bool) -> Option<(usize, &'static str, &'static str, String)> {
    let written = if new { "Created the" } else { "Updated the" };
    Some(match &p.step {
        Step::Apply(object) => (0, applied(*object, new)?, written, format!("{object:?}")),
        Step::Certify(_) => (0, "CertificatesGiven", "Certificates for the nodes:", p.note.clone()),
        Step::CreatePod { name, .. } => (1, "PodCreated", "Created", name.to_string()),
        Step::Meet { on, with } => {
            (2, "ClusterMeet", "Introduced", format!("{} to {} nodes", on.pod, with.len()))
        }
        Step::AssignSlots { on, slots } => {
            (3, "PrimaryCreated", "Primary:", format!("{} with slots {slots}", on.pod))
        }
        Step::Replicate { on, .. } => {
            (4, "ReplicaCreated", "Replica:", format!("{} of shard {}", on.pod, on.shard))
        }
        Step::Switch { on, to } if p.why == Why::Settings => switched(on.len(), *to),
        Step::Configure { settings, .. } if p.why == Why::Settings => {
            let keys: Vec<&str> = settings.keys().map(String::as_str).collect();
            (5, "SettingsApplied", "Set live:", format!("{} ({})", keys.join(" "), pod_of(&p.step)))
        }
        Step::SetUser { on, user, .. } => (5, "UsersApplied", "Set live:", format!("{user} ({})", on.pod)),
        Step::RemoveUser { on, user } => (5, "UsersRemoved", "Removed:", format!("{user} ({})", on.pod)),
        Step::Renew => (0, "PasswordsRenewed", "Wrote passwords:", p.note.clone()),
        Step::Settle => (6, "PasswordsSettled", "Passwords are changed:", p.note.clone()),
        Step::HandOver { on, from } => {
            (5, "HandOverStarted", "Handing over:", format!("{} to {} ({})", from.pod, on.pod, p.note))
        }
        Step::Release { on, .. } => (7, "PodReleased", "Released", on.pod.to_string()),
        Step::Migrate { on, to, slots } | Step::Carry { on, to, slots } => {
            let what = format!("{} from shard {} to shard {}", slots.len(), on.shard, to.shard);
            (5, "SlotsMigrating", "Slots on their way:", what)
        }
        Step::Forget { id, .. } | Step::Abandon { id, .. } => {
            (6, "StaleNodeForgotten", "Forgot", id.to_string())
        }
        Step::Promote { on, .. } => {
            (0, "FailoverForced", "Takes over:", format!("{} in shard {} ({})", on.pod, on.shard, p.note))
        }
        Step::DeletePod { name, only_if: Removable::Retired { .. }, .. } => {
            (7, "PodRetired", "Retired", name.to_string())
        }
        Step::DeletePod { name, .. } => (8, "PodDeleted", "Deleted", format!("{name} ({})", p.note)),
        Step::Latch
        | Step::Purge { .. }
        | Step::Restore { .. }
        | Step::Close { .. }
        | Step::Inherit { .. }
        | Step::SetGate { .. }
        | Step::Note { .. }
        | Step::Nudge { .. }
        | Step::SetRole { .. }
        | Step::SetApart { .. }
        | Step::SetMetadata { .. }
        | Step::Switch { .. }
        | Step::Configure { .. }
        | Step::Admit { .. }
        | Step::LogIn { .. }
        | Step::SetEpoch { .. }
        | Step::Retire { .. }
        | Step::Keep { .. } => return None,
    })
}

fn switched(nodes: usize, to: Mode) -> (usize, &'static str, &'static str, String) {
    let reason = if to == Mode::Tls { "TlsSwitchedOn" } else { "TlsSwitchedOff" };
    (5, reason, "Switched live:", format!("{nodes} nodes speak {to} now"))
}

fn applied(object: Object, new: bool) -> Option<&'static str> {
    Some(match (object, new) {
        // It follows the members that serve, all the time.
        (Object::Budget, _) => return None,
        (Object::Secret, true) => "SecretCreated",
        (Object::Secret, false) => "SecretUpdated",
        (Object::ConfigMap, true) => "ConfigMapCreated",
        (Object::ConfigMap, false) => "ConfigMapUpdated",
        (Object::Service, true) => "ServiceCreated",
        (Object::Service, false) => "ServiceUpdated",
        (Object::Policy, true) => "NetworkPolicyCreated",
        (Object::Policy, false) => "NetworkPolicyUpdated",
    })
}

fn pod_of(step: &Step) -> String {
    match step {
        Step::Configure { on, .. } => on.pod.to_string(),
        _ => String::new(),
    }
}

/// All data is gone, on purpose: nobody may miss that either.
fn purged(d: &Done) -> Option<EventNote> {
    let Step::Purge { .. } = &d.proposal.step else { return None };
    let why = &d.proposal.note;
    (d.outcome == Outcome::Done).then(|| EventNote {
        warning: true,
        reason: "KeysPurged".to_owned(),
        note: format!("All keys were dropped: spec.purgeKeysOnRebalance is true, and {why}"),
    })
}

/// The data of a shard is gone: nobody may miss that.
fn lost(d: &Done) -> Option<EventNote> {
    if d.outcome != Outcome::Done {
        return None;
    }
    let note = match &d.proposal.step {
        Step::Restore { on, slots } => {
            format!("The data of slots {slots} is lost; {} serves them from now on, empty", on.pod)
        }
        Step::Promote { on, by: Promotion::Empty(_), .. } => {
            format!("The data of shard {} is lost; {} serves its slots from now on, empty", on.shard, on.pod)
        }
        _ => return None,
    };
    Some(EventNote { warning: true, reason: "ShardLost".to_owned(), note })
}

/// What Kubernetes refuses, and settings that a server refuses. Other failures are part of the way and in the log.
fn failed(d: &Done) -> Option<EventNote> {
    let Outcome::Failed(error) = &d.outcome else { return None };
    let step = &d.proposal.step;
    let setting = matches!(step, Step::Configure { .. }) && d.proposal.why == Why::Settings;
    let user = matches!(step, Step::SetUser { .. });
    let told = setting.then_some("SettingFailed").or(user.then_some("UserFailed"));
    let reason = step_reason(step.kind()).or(told)?;
    Some(EventNote { warning: true, reason: reason.to_owned(), note: format!("{step}: {error}") })
}

/// A shard is led by another pod than before.
fn hand_overs(status: &ValkeyClusterStatus, previous: Option<&ValkeyClusterStatus>) -> Vec<EventNote> {
    let before = previous.map(|p| p.topology.as_slice()).unwrap_or_default();
    let changed = status.topology.iter().filter_map(|now| {
        let last = before.iter().find(|t| t.shard == now.shard)?;
        let (new, old) = (now.primary.as_ref()?, last.primary.as_ref());
        (old.is_some_and(|old| old.pod != new.pod) || led_by_a_former_replica(last, &new.pod))
            .then(|| normal("FailoverCompleted", format!("{} leads shard {} now", new.pod, now.shard)))
    });
    changed.collect()
}

/// What became of a hand-over that a person has asked for.
fn requested(status: &ValkeyClusterStatus, previous: Option<&ValkeyClusterStatus>) -> Option<EventNote> {
    let now = status.hand_over.as_ref()?;
    let before = previous.and_then(|p| p.hand_over.as_ref()).filter(|b| b.request == now.request);
    if before.is_some_and(|b| b.state == now.state) {
        return None;
    }
    match now.state {
        HandOverState::Pending => None,
        HandOverState::Done => Some(normal("HandOverCompleted", now.message.clone())),
        HandOverState::Refused => {
            Some(EventNote { warning: true, reason: "HandOverRefused".to_owned(), note: now.message.clone() })
        }
    }
}

/// What became of each id that a person vouches for. One that is not known any more is forgotten, which was told.
fn vouched(
    status: &ValkeyClusterStatus,
    previous: Option<&ValkeyClusterStatus>,
) -> impl Iterator<Item = EventNote> {
    let before = previous.map(|p| p.gone.as_slice()).unwrap_or_default();
    status.gone.iter().filter(move |now| !before.contains(now)).filter_map(|now| match now.state {
        GoneState::Believed => {
            Some(normal("NodeVouchedFor", format!("A person vouches for the end of node {}", now.node)))
        }
        GoneState::Refused => {
            let note = format!("valkey.io/gone: {}", now.message);
            Some(EventNote { warning: true, reason: "VouchRefused".to_owned(), note })
        }
        GoneState::Unknown => None,
    })
}

/// The pass before saw no primary; one of the replicas that it saw has taken over.
fn led_by_a_former_replica(last: &crate::api::ShardTopology, pod: &str) -> bool {
    last.primary.is_none() && last.replicas.iter().any(|r| r.pod == pod)
}

fn transitions(status: &ValkeyClusterStatus, previous: Option<&ValkeyClusterStatus>) -> Vec<EventNote> {
    let before = previous.map(|p| p.conditions.as_slice()).unwrap_or_default();
    let turned = |now: &Condition| {
        let last = find(before, &now.type_);
        last.is_none_or(|l| l.status != now.status || l.reason != now.reason)
    };
    let mut all = Vec::new();
    if let Some(degraded) = find(&status.conditions, "Degraded").filter(|c| turned(c)) {
        let (reason, note) = (degraded.reason.clone(), degraded.message.clone());
        all.push(EventNote { warning: true, reason, note });
    }
    if let Some(note) = refused_users(status, before) {
        // What the worst trouble of all has said just now is not said twice.
        let said = all.iter().any(|e| e.reason == USER_REFUSED && e.note.contains(&note));
        all.extend((!said).then(|| EventNote { warning: true, reason: USER_REFUSED.to_owned(), note }));
    }
    if let Some(ready) = find(&status.conditions, "Ready").filter(|c| turned(c)) {
        match (ready.status.as_str(), ready.reason.as_str()) {
            ("True", _) => all.push(normal("ClusterReady", ready.message.clone())),
            (_, "MissingShards") => all.push(normal("WaitingForShards", ready.message.clone())),
            (_, "MissingReplicas") => all.push(normal("WaitingForReplicas", ready.message.clone())),
            _ => {}
        }
    }
    all
}

/// What cannot be done about the users of the spec, when it is news: whatever else troubles the cluster more.
fn refused_users(status: &ValkeyClusterStatus, before: &[Condition]) -> Option<String> {
    let refused = |all| find(all, "UsersReady").filter(|c| c.reason == USERS_REFUSED);
    let now = refused(&status.conditions)?;
    let known = refused(before).is_some_and(|last| last.message == now.message);
    (!known).then(|| now.message.clone())
}

fn find<'c>(conditions: &'c [Condition], type_: &str) -> Option<&'c Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}
