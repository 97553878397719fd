//! What a person should know of: lost primaries, refusals that do not cure themselves, pods that do not start.

use std::collections::BTreeMap;

use super::health::Health;
use crate::model::{Blocked, Code, Phase, Pod, Seen, Silence, View};

/// A pod that has not started after this many milliseconds is named, whatever Kubernetes says of it.
const PATIENCE_MS: i64 = 10_000;

/// The reason of nodes that are slow: they serve, so that the cluster may be Ready all the same.
const SLOW: &str = "NodeSlow";

/// How long a replica of an older version may be on its way into sync before that is told, in milliseconds.
const SYNC_PATIENCE_MS: i64 = 20_000;

/// A reason and its sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Trouble {
    /// Everybody is served all the same.
    pub(super) fn is_mild(&self) -> bool {
        self.reason == SLOW
    }
}

/// All troubles, the worst first. Their texts stay the same while the facts do.
pub(super) fn troubles(health: &Health<'_, '_>) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = primary_lost(health).into_iter().collect();
    all.extend(health.plan.blocked.iter().filter_map(persistent));
    all.extend(stuck_pods(health.view));
    all.extend(silent_nodes(health.view));
    all.extend(no_way_back(health.view));
    all.extend(cluster_down(health));
    all.extend(slow_nodes(health.view));
    all
}

/// Servers that turn clients away with `CLUSTERDOWN`, where no primary is missing that would explain it.
fn cluster_down(health: &Health<'_, '_>) -> Option<Trouble> {
    let s = health.view.s;
    let long = |uid| s.past.down.get(uid).is_some_and(|since| s.now.since(*since) > PATIENCE_MS);
    let down = health.view.answering().filter(|(m, _)| long(&m.pod.uid)).map(|(m, _)| m.pod.name.to_string());
    let names: Vec<String> = down.collect();
    (s.whole && health.leaderless.is_empty() && !names.is_empty()).then(|| Trouble {
        reason: "NodeClusterDown".to_owned(),
        message: format!(
            "{}: it answers clients with CLUSTERDOWN, since it does not hear the majority of the primaries: can it reach the others' \
             bus port?",
            listed(names)
        ),
    })
}

/// Servers that answer, and take long for it.
fn slow_nodes(view: &View<'_>) -> Option<Trouble> {
    let slow = view.answering().filter(|(m, _)| view.s.past.slow.contains(&m.pod.uid));
    let names: Vec<String> = slow.map(|(m, _)| m.pod.name.to_string()).collect();
    (!names.is_empty()).then(|| Trouble {
        reason: SLOW.to_owned(),
        message: format!(
            "{}: most of its answers take a quarter of a second or more, and those of the others do not: is its worker overloaded, or is it \
             busy with long commands or scripts?",
            listed(names)
        ),
    })
}

/// Replicas of an older line that do not come in sync with a newer primary: what only the newer one knows cannot be copied to them
/// (measured with 8.1.1 below 9.1.2: after one `HEXPIRE` each full sync ends in "Can't store key in RDB version 11").
fn no_way_back(view: &View<'_>) -> Option<Trouble> {
    let late =
        |id| view.s.past.older.get(id).is_some_and(|since| view.s.now.since(*since) > SYNC_PATIENCE_MS);
    let told =
        view.answering().filter(|(_, n)| late(&n.id)).map(|(m, n)| format!("{} ({})", m.pod.name, n.version));
    let names: Vec<String> = told.collect();
    (!names.is_empty()).then(|| Trouble {
        reason: "NoWayBack".to_owned(),
        message: format!(
            "{} does not come in sync with its primary, which runs a newer version: once something was written that only the newer one \
             knows, such as HEXPIRE, an older one cannot take the data; set spec.image to the newer version again, or remove such keys",
            listed(names)
        ),
    })
}

/// Servers that run and have given no report for a while, one trouble for each kind of silence.
fn silent_nodes(view: &View<'_>) -> Vec<Trouble> {
    let mut found: BTreeMap<Silence, Vec<String>> = BTreeMap::new();
    for m in view.all().filter(|m| m.pod.phase == Phase::Running && !m.pod.terminating) {
        if let Seen::Silent(kind) = m.seen
            && view.s.past.silent_for(&m.pod.uid, view.s.now) > PATIENCE_MS
        {
            found.entry(*kind).or_default().push(m.pod.name.to_string());
        }
    }
    let told = found.into_iter().map(|(kind, names)| {
        let (reason, what) = match kind {
            Silence::Refused => ("NodeRefuses", "no server listens"),
            Silence::Timeout => {
                ("NodeSilent", "no answer in time: the process, its worker or the network is stuck")
            }
            Silence::Reset => ("NodeResets", "connections break"),
            Silence::Auth => (
                "NodeRejectsOperator",
                "the operator's user or password is not accepted: has somebody changed its ACL?",
            ),
            Silence::Busy => ("NodeBusy", "it loads its data, or is busy with a script or command"),
            Silence::Garbled => ("NodeUnclear", "its answers are not understood"),
        };
        Trouble { reason: reason.to_owned(), message: format!("{}: {what}", listed(names)) }
    });
    told.collect()
}

fn primary_lost(health: &Health<'_, '_>) -> Option<Trouble> {
    let deleting = health.view.s.desired.deleting;
    let lost = (health.view.s.whole && !deleting).then_some(&health.leaderless).filter(|l| !l.is_empty())?;
    let names = listed(lost.iter().map(ToString::to_string).collect());
    let shards = if lost.len() == 1 { "shard" } else { "shards" };
    Some(Trouble {
        reason: "PrimaryLost".to_owned(),
        message: format!(
            "No primary answers in {shards} {names}: keys there can be neither read nor written"
        ),
    })
}

/// What a person asked for, or what is over soon by itself: no trouble.
pub(super) fn waits_for_a_person(code: Code) -> bool {
    matches!(code, Code::Paused | Code::Deleting)
}

fn persistent(blocked: &Blocked) -> Option<Trouble> {
    let message = blocked.message.clone();
    match blocked.code {
        Code::Paused
        | Code::Deleting
        | Code::WouldLoseCopy
        | Code::DisruptionBudget
        | Code::MigrationFailed => None,
        Code::BackingOff => needs_a_person(&message),
        code @ (Code::AddressInUse
        | Code::NotEmpty
        | Code::Unseen
        | Code::WouldNotFit
        | Code::CrashLoop
        | Code::NoWorker
        | Code::PrimariesUneven
        | Code::SettingRefused
        | Code::UserRefused
        | Code::CredentialsLost
        | Code::ForeignOperator
        | Code::CertificateRefused
        | Code::Unproven) => Some(Trouble { reason: format!("{code:?}"), message }),
    }
}

/// A quota, a policy or a webhook says no, or a key is too large to be moved: that is for a person. A node that is not ready for a
/// command cures itself.
fn needs_a_person(message: &str) -> Option<Trouble> {
    let reason = step_reason(message.split_whitespace().next()?)?;
    // The seconds until the next try change all the time.
    let steady = message.split(" (tried again").next().unwrap_or(message);
    Some(Trouble { reason: reason.to_owned(), message: steady.to_owned() })
}

/// The reason that a failed step of this kind is told under; none for steps on a Valkey node that cure themselves.
pub(super) fn step_reason(kind: &str) -> Option<&'static str> {
    match kind {
        "CreatePod" => Some("PodCreateFailed"),
        "DeletePod" => Some("PodDeleteFailed"),
        "SetMetadata" => Some("PodUpdateFailed"),
        "Apply" | "Certify" => Some("ApplyFailed"),
        "Latch" => Some("StatusFailed"),
        "Renew" | "Settle" => Some("PasswordsFailed"),
        "Carry" => Some("SlotsStuck"),
        "Switch" => Some("SwitchFailed"),
        _ => None,
    }
}

/// Pods that do not start, one trouble for each reason.
fn stuck_pods(view: &View<'_>) -> Vec<Trouble> {
    let mut found: Vec<(Trouble, usize)> = Vec::new();
    // A server that runs has trouble only with a container beside it.
    let beside = |p: &Pod| p.phase == Phase::Running && p.trouble.is_some();
    let waiting =
        view.all().map(|m| m.pod).filter(|p| (p.phase == Phase::Pending || beside(p)) && !p.terminating);
    for trouble in waiting.filter_map(|pod| stuck(view, pod)) {
        match found.iter_mut().find(|(known, _)| known.reason == trouble.reason) {
            Some((_, more)) => *more += 1,
            None => found.push((trouble, 0)),
        }
    }
    let others = |n: usize| match n {
        0 => String::new(),
        1 => " (and 1 more pod)".to_owned(),
        n => format!(" (and {n} more pods)"),
    };
    found
        .into_iter()
        .map(|(Trouble { reason, message }, more)| Trouble { reason, message: message + &others(more) })
        .collect()
}

fn stuck(view: &View<'_>, pod: &Pod) -> Option<Trouble> {
    let Some(trouble) = &pod.trouble else {
        return (view.s.now.since(pod.created) > PATIENCE_MS).then(|| Trouble {
            reason: "PodNotStarted".to_owned(),
            message: format!(
                "{} has not started within {} s: see kubectl describe pod",
                pod.name,
                PATIENCE_MS / 1000
            ),
        });
    };
    let reason = match trouble.reason.as_str() {
        "" => "PodNotStarted",
        "Unschedulable" => "PodUnschedulable",
        // The kubelet tells the two in turn; one name keeps the reason steady.
        "ErrImagePull" => "ImagePullBackOff",
        other => other,
    };
    let what = if pod.phase == Phase::Running { "is not complete" } else { "cannot start" };
    let words = if trouble.message.is_empty() { trouble.reason.as_str() } else { trouble.message.as_str() };
    Some(Trouble { reason: reason.to_owned(), message: format!("{} {what}: {words}", pod.name) })
}

/// The first of them, and how many more.
pub(super) fn listed(items: Vec<String>) -> String {
    const SHOWN: usize = 6;
    let more = items.len().saturating_sub(SHOWN);
    let shown: Vec<String> = items.into_iter().take(SHOWN).collect();
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_too_large_is_told_and_what_cures_itself_is_not() {
        let told = needs_a_person("Carry failed: c-0-0: the key \"a\" is too large (tried again in 3 s)");
        let message = "Carry failed: c-0-0: the key \"a\" is too large".to_owned();
        assert_eq!(told, Some(Trouble { reason: "SlotsStuck".to_owned(), message }));
        assert_eq!(needs_a_person("Meet failed: no answer in time (tried again in 1 s)"), None);
    }
}
