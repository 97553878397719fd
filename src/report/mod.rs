//! What is said of a pass: status, events and gauges. Pure: no client, and the only clock is the snapshot's.
//!
//! Derived from what was seen and planned, never from a phase that was stored. Texts change only when facts do, so a settled
//! cluster causes no writes.

mod conditions;
mod events;
mod health;
mod operation;
mod topology;
mod trouble;

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    api::{
        State, ValkeyCluster, ValkeyClusterStatus,
        status::{GoneNode, GoneState, HandOver, HandOverState},
    },
    build::labels::leader_selector,
    model::{Done, Moment, Outcome, Plan, Shape, Snapshot, Step, View},
    plan::{
        purge,
        request::{Verdict, verdict},
        vouch,
    },
};
use health::Health;

/// Everything that a pass has to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The status to be written, if it differs from the one before.
    pub status: ValkeyClusterStatus,
    /// What happened, for people.
    pub events: Vec<EventNote>,
    /// Numbers for the metrics.
    pub gauges: Gauges,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// A Warning, else Normal.
    pub warning: bool,
    /// One `CamelCase` word.
    pub reason: String,
    /// The sentence.
    pub note: String,
}

/// Numbers of one cluster. The keys are closed sets, each always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Wanted shards by state: `ready`, `short` of copies, `lost` (no primary answers).
    pub shards: BTreeMap<String, i64>,
    /// Pods by state: `ready`, `joining`, `silent`, `pending`, `ended`, `leaving`.
    pub members: BTreeMap<String, i64>,
    /// Primaries on the fullest worker minus primaries on the emptiest open one.
    pub worker_spread: i64,
    /// When the certificate ends, in seconds since 1970; none without TLS.
    pub certificate_expires: Option<i64>,
}

/// The report of a pass. `previous` is the status written last: times of unchanged conditions and the latches come from it.
pub fn report(
    snapshot: &Snapshot,
    plan: &Plan,
    done: &[Done],
    previous: Option<&ValkeyClusterStatus>,
) -> Report {
    let view = crate::plan::view(snapshot);
    let health = Health::new(&view, plan);
    let conditions = conditions::conditions(&health, previous);
    let (state, reason, message) = conditions::summary(&health, &conditions);
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let status = ValkeyClusterStatus {
        observed_generation: Some(snapshot.desired.generation),
        state: Some(state),
        reason,
        message,
        shards: count(health.serving_shards),
        ready_shards: count(health.ready.len()),
        replicas: count(snapshot.pods.len()),
        selector: Some(leader_selector(&snapshot.desired.key)),
        formed: snapshot.formed || latched(done) || previous.is_some_and(|p| p.formed),
        shape: purged(done).or_else(|| purge::shape(&view)).map(|s| s.to_string()),
        operation: operation::operation(&health, previous),
        hand_over: hand_over(&view),
        gone: vouched(&view),
        topology: topology::topology(&health, previous),
        conditions,
    };
    let events = events::events(&status, done, previous);
    Report { gauges: health.gauges(), status, events }
}

/// What became of the hand-over that a person asks for, if one is.
fn hand_over(view: &View<'_>) -> Option<HandOver> {
    let request = view.s.request.as_ref()?;
    let from = request.from.clone();
    let (state, from, message) = match verdict(view)? {
        Verdict::Refused(why) => (HandOverState::Refused, from, why),
        Verdict::New { leads } => {
            let message = format!("asked for while {leads} leads");
            (HandOverState::Pending, Some(leads), message)
        }
        Verdict::Pending(message) => (HandOverState::Pending, from, message),
        Verdict::Done(message) => (HandOverState::Done, from, message),
    };
    Some(HandOver { request: request.wanted.clone(), state, from: from.map(|f| f.to_string()), message })
}

/// What became of the ids that a person vouches for.
fn vouched(view: &View<'_>) -> Vec<GoneNode> {
    let told = vouch::verdicts(view).map(|(id, verdict)| {
        let (state, message) = match verdict {
            vouch::Verdict::Believed => (GoneState::Believed, String::new()),
            vouch::Verdict::Refused(why) => (GoneState::Refused, why),
            vouch::Verdict::Unknown => {
                let why = "no node lists this id: it is forgotten already, or mistyped (an id has 40 digits)";
                (GoneState::Unknown, why.to_owned())
            }
        };
        GoneNode { node: id.to_string(), state, message }
    });
    told.collect()
}

/// The status of a spec that cannot be planned for, with the sentence that says what to change. What was known stays.
pub fn refusal(cr: &ValkeyCluster, sentence: &str, now: Moment) -> ValkeyClusterStatus {
    let previous = cr.status.as_ref();
    let generation = cr.metadata.generation.unwrap_or_default();
    ValkeyClusterStatus {
        observed_generation: Some(generation),
        state: Some(State::Failed),
        reason: "InvalidSpec".to_owned(),
        message: sentence.to_owned(),
        conditions: conditions::refused(sentence, generation, now, previous),
        operation: None,
        ..previous.cloned().unwrap_or_default()
    }
}

/// What the data is spread for, when its keys were dropped in this pass.
fn purged(done: &[Done]) -> Option<Shape> {
    let steps = done.iter().filter(|d| d.outcome == Outcome::Done).map(|d| &d.proposal.step);
    steps
        .filter_map(|s| if let Step::Purge { shape, .. } = s { Some(shape.clone()) } else { None })
        .next_back()
}

fn latched(done: &[Done]) -> bool {
    done.iter().any(|d| d.proposal.step == Step::Latch && d.outcome == Outcome::Done)
}

/// A moment as the API has it, in whole seconds.
fn time(moment: Moment) -> Time {
    Time(Timestamp::from_second(moment.0.div_euclid(1000)).unwrap_or_default())
}
