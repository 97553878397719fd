//! Live settings: every pass corrects what differs, and above all gives back the low node-timeout of the formation.
//!
//! A node runs with the low timeout only while an empty cluster forms, or while it waits empty for its first slots, and only as
//! long as its own state is not ok yet, or (decision 0030) the others of a young cluster have not heard of it
//! (a lost `CONFIG SET` heals here: the configuration file carries the real value).
//!
//! Before `spec.config` sets a key on a server for the first time, the value that it started with is noted on its Pod. That is
//! where the key goes back to when it is removed from `spec.config`, whichever operator sees it (the Pod lives as long as its server).

use std::collections::{BTreeMap, BTreeSet};

use super::{certificates, form, newcomers};
use crate::model::settings::{self, FORMING_TIMEOUT_LARGE_MS, FORMING_TIMEOUT_MS};
use crate::model::{Blocked, Code, Member, NodeReport, Plan, Proposal, Step, Version, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let forming = form::everyone_is_there(v) && v.answering().all(|(_, n)| n.keys == 0);
    let few = v.s.desired.shards().filter(|s| newcomers::is_new(v, *s)).count() <= FAST_NEWCOMERS;
    let mut known = Known::new();
    for (member, node) in v.answering().filter(|(_, n)| !n.config.is_empty()) {
        let empty = forming || (few && is_empty_newcomer(v, member, node));
        managed(v, member, node, empty, &mut known, &mut plan);
        certificates::load(v, member, node, &mut plan);
        users(v, member, node, &mut plan);
        removed(v, member, node, &mut plan);
    }
    plan
}

/// It will lead a shard that has no slots yet, and none are on their way: nothing can be lost by it, and its vote does not count.
fn is_empty_newcomer(v: &View<'_>, member: &Member<'_>, node: &NodeReport) -> bool {
    let shard = member.pod.shard;
    newcomers::is_new(v, shard)
        && newcomers::is_empty_primary(node)
        && !node.is_moving_slots()
        && newcomers::head(v, shard).is_some_and(|(m, _)| m.pod.uid == member.pod.uid)
}

/// New shards that may ask at the pace of a forming cluster at one time.
const FAST_NEWCOMERS: usize = 10;

/// The node-timeout that this node should run with now, in milliseconds.
pub(super) fn node_timeout(v: &View<'_>, node: &NodeReport, forming: bool) -> u32 {
    let real = v.s.desired.node_timeout_ms();
    if !forming || (node.state_ok && !is_news(v, node)) {
        return real;
    }
    let low = if v.s.whole {
        // The others run with the real one, so a few that ask more often are no burden.
        FORMING_TIMEOUT_MS
    } else if v.s.desired.members() <= v.s.low_timeout_budget {
        FORMING_TIMEOUT_MS
    } else {
        FORMING_TIMEOUT_LARGE_MS
    };
    real.min(low)
}

/// Somebody has not heard what this node is by now. With the low timeout it tells everybody within a quarter of a second, with the
/// real one within a whole one.
fn is_news(v: &View<'_>, node: &NodeReport) -> bool {
    let young = || v.all().map(|m| m.pod.created).max().is_some_and(|last| v.s.now.since(last) < YOUNG_MS);
    !v.s.whole && young() && !form::has_real_timeout(v, node) && !form::is_known(v, node)
}

/// A cluster whose youngest Pod is older, in milliseconds, does not wait for the last to hear of the last.
const YOUNG_MS: i64 = 30_000;

/// What is wanted of a node, by its version and node-timeout: nearly all have the same.
type Known = BTreeMap<(Version, u32), BTreeMap<String, String>>;

fn managed(
    v: &View<'_>,
    member: &Member<'_>,
    node: &NodeReport,
    forming: bool,
    known: &mut Known,
    plan: &mut Plan,
) {
    let timeout = node_timeout(v, node, forming);
    let wanted =
        known.entry((node.version, timeout)).or_insert_with(|| settings::managed(node.version, timeout));
    let differs = |(k, value): &(&String, &String)| !settings::holds(node, k, value, &v.s.applied);
    let differ: BTreeMap<String, String> =
        wanted.iter().filter(differs).map(|(k, value)| (k.clone(), value.clone())).collect();
    let Some(on) = member.target().filter(|_| !differ.is_empty()) else { return };
    plan.steps.push(Proposal::new(
        Step::Configure { on, settings: differ, only_empty: timeout < v.s.desired.node_timeout_ms() },
        if v.s.whole { Why::Settings } else { Why::Form },
        if node.state_ok { "the node runs with other values" } else { "the node is being prepared" },
    ));
}

/// One step a key, so that a value that the server refuses holds back nothing else.
fn users(v: &View<'_>, member: &Member<'_>, node: &NodeReport, plan: &mut Plan) {
    for (key, value) in settings::users(&v.s.desired) {
        if !node.config.contains_key(key) {
            plan.blocked.push(Blocked {
                code: Code::SettingRefused,
                shard: None,
                message: format!(
                    "spec.config: Valkey {} has no setting {key:?}; correct or remove it",
                    node.version
                ),
            });
        } else if !settings::holds(node, key, value, &v.s.applied)
            && let Some(on) = member.target()
        {
            // First in its lane: what is set without a note is never taken back.
            if let Some(before) = node.config.get(key).filter(|_| !member.pod.before.contains_key(key)) {
                plan.steps.push(note(member, key, Some(before), "before spec.config sets it"));
            }
            let settings = BTreeMap::from([(key.clone(), value.clone())]);
            plan.steps.push(Proposal::new(
                Step::Configure { on, settings, only_empty: false },
                Why::Settings,
                format!("spec.config sets {key}"),
            ));
        }
    }
}

/// What `spec.config` has set once and sets no more goes back to where the server started.
fn removed(v: &View<'_>, member: &Member<'_>, node: &NodeReport, plan: &mut Plan) {
    let still: BTreeSet<&String> = settings::users(&v.s.desired).map(|(key, _)| key).collect();
    for (key, before) in member.pod.before.iter().filter(|(key, _)| !still.contains(key)) {
        if !node.config.contains_key(key) || settings::holds(node, key, before, &v.s.applied) {
            plan.steps.push(note(member, key, None, "spec.config sets it no more"));
        } else if let Some(on) = member.target() {
            let settings = BTreeMap::from([(key.clone(), before.clone())]);
            plan.steps.push(Proposal::new(
                Step::Configure { on, settings, only_empty: false },
                Why::Settings,
                format!("spec.config sets {key} no more: back to what the server started with"),
            ));
        }
    }
}

fn note(member: &Member<'_>, key: &str, before: Option<&String>, why: &str) -> Proposal {
    let (name, uid) = (member.pod.name.clone(), member.pod.uid.clone());
    let step =
        Step::Note { name, uid, shard: member.pod.shard, key: key.to_owned(), before: before.cloned() };
    Proposal::new(step, Why::Settings, why)
}
