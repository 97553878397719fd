//! What the operator is doing, with a counter that only grows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{conditions::first_stage, health::Health, time};
use crate::{
    api::{Operation, OperationBytes, OperationKind, ValkeyClusterStatus},
    model::{Member, SLOTS, Stage, View, Why},
    plan::{certificates, migrate, purge, wire},
};

/// The operation under way, if one is. Its kind is kept from the pass before while the work goes on.
pub(super) fn operation(
    health: &Health<'_, '_>,
    previous: Option<&ValkeyClusterStatus>,
) -> Option<Operation> {
    let stage = first_stage(health)?.stage;
    let before = previous.and_then(|p| p.operation.as_ref());
    let kind = kind(health, stage, previous);
    let name = format!("{stage:?}");
    let moves = kind == OperationKind::Rebalancing && health.view.misplaced.is_some();
    let replacing = moves || matches!(kind, OperationKind::Upgrading | OperationKind::Evacuating);
    let (left, natural, unit) = if replacing { to_replace(health.view) } else { left(health, stage) };
    let same = before.filter(|b| b.kind == kind);
    let counting = same.filter(|b| (replacing || b.stage == name) && b.unit == unit);
    let total = counting.map_or(natural, |b| b.total.max(natural));
    let done = (total - left).max(counting.map_or(0, |b| b.done)).clamp(0, total);
    let now = time(health.view.s.now);
    let since = same.and_then(|b| b.since.clone()).unwrap_or_else(|| now.clone());
    let same_stage = same.filter(|b| b.stage == name);
    let stage_since = same_stage.and_then(|b| b.stage_since.clone()).unwrap_or(now);
    let mut operation = Operation::new(kind, &name, (done, total), unit, Some(since));
    if stage == Stage::MovingSlots {
        operation = operation.with_bytes(bytes(health.view, same_stage, done, &stage_since));
    }
    Some(Operation { stage_since: Some(stage_since), ..operation })
}

/// The data that moves. It is looked at anew when slots have moved, not whenever a client writes.
fn bytes(v: &View<'_>, before: Option<&Operation>, done: i64, since: &Time) -> OperationBytes {
    let known = before.and_then(|b| Some((b.done, b.bytes?)));
    if let Some((_, bytes)) = known.filter(|(slots, _)| *slots == done) {
        return bytes;
    }
    let last = known.map(|(_, bytes)| bytes).unwrap_or_default();
    let left = i64::try_from(migrate::bytes_left(v)).unwrap_or(i64::MAX);
    let total = last.total.max(left);
    let done = (total - left).max(last.done);
    let ms = v.s.now.0 - since.0.as_millisecond();
    OperationBytes { done, total, per_second: done.saturating_mul(1000) / ms.max(1000) }
}

fn kind(health: &Health<'_, '_>, stage: Stage, previous: Option<&ValkeyClusterStatus>) -> OperationKind {
    let s = health.view.s;
    if !s.whole {
        return OperationKind::Forming;
    }
    let v = health.view;
    let before = previous.and_then(|p| p.operation.as_ref()).map(|o| o.kind);
    // What began with dropped keys is told so to its end.
    if purge::pending(v) || (before == Some(OperationKind::Purging) && health.leaderless.is_empty()) {
        return OperationKind::Purging;
    }
    if stage == Stage::SwitchingTls {
        return OperationKind::SwitchingTls;
    }
    if let Some(kind) = replacing(health, previous) {
        return kind;
    }
    if stage == Stage::LoadingCertificates {
        return OperationKind::RotatingCertificates;
    }
    if stage == Stage::RemovingPods || v.shards().any(|(shard, m)| !s.desired.wants(shard) && !m.is_empty()) {
        return OperationKind::ScalingIn;
    }
    if !health.new.is_empty() {
        return OperationKind::ScalingOut;
    }
    let spec_changed = previous.is_some_and(|p| p.observed_generation != Some(s.desired.generation));
    // Copies that are missing right after a change of the spec were never there; at any other time they were lost.
    match before {
        _ if !health.leaderless.is_empty() => OperationKind::Repairing,
        // Its own slots were the last: the others are still to be evened out.
        Some(kind @ (OperationKind::ScalingIn | OperationKind::Rebalancing))
            if stage == Stage::MovingSlots =>
        {
            kind
        }
        Some(OperationKind::Forming | OperationKind::Repairing) | None if stage == Stage::MovingSlots => {
            OperationKind::Rebalancing
        }
        Some(kind @ (OperationKind::ScalingOut | OperationKind::Repairing | OperationKind::Forming))
            if !spec_changed =>
        {
            kind
        }
        _ if spec_changed => OperationKind::ScalingOut,
        _ => OperationKind::Repairing,
    }
}

/// Members are replaced, or the last of those that were replaced is leaving.
fn replacing(health: &Health<'_, '_>, previous: Option<&ValkeyClusterStatus>) -> Option<OperationKind> {
    let v = health.view;
    let mut reasons = v.all().filter(|m| m.stays()).filter_map(|m| v.unfit(m));
    if let Some(first) = reasons.next() {
        let most = reasons.chain([first]).fold(OperationKind::Rebalancing, |most, why| match (most, why) {
            (_, Why::Evacuate) | (OperationKind::Evacuating, _) => OperationKind::Evacuating,
            (_, Why::Upgrade) => OperationKind::Upgrading,
            (most, _) => most,
        });
        return Some(most);
    }
    let before = previous.and_then(|p| p.operation.as_ref()).map(|o| o.kind);
    // What the operator itself has removed, emptied or retired, is not evacuated.
    let removed = |m: &Member<'_>| {
        !v.s.desired.wants(m.pod.shard) || m.node().is_some_and(crate::model::NodeReport::is_retiring)
    };
    let told = v.all().any(|m| m.told_to_go() && m.node().is_some() && !removed(m));
    match before {
        Some(kind @ (OperationKind::Upgrading | OperationKind::Evacuating))
            if health.leaderless.is_empty() =>
        {
            Some(kind)
        }
        Some(OperationKind::Rebalancing) if told && health.leaderless.is_empty() => before,
        _ => (told && health.leaderless.is_empty()).then_some(OperationKind::Evacuating),
    }
}

/// Members that are still to be replaced, of all.
fn to_replace(v: &View<'_>) -> (i64, i64, &'static str) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let leaves = |m: &&Member<'_>| m.node().is_some() && (m.told_to_go() || v.unfit(m).is_some());
    (count(v.all().filter(leaves).count()), count(v.s.desired.members()), "pods")
}

/// What is left of the stage, how much there is of it altogether, and in what it is counted.
fn left(health: &Health<'_, '_>, stage: Stage) -> (i64, i64, &'static str) {
    let v = health.view;
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let members = count(v.s.desired.members());
    let minus = |total: i64, there: usize| (total - count(there)).max(0);
    match stage {
        Stage::DroppingKeys => {
            let primaries = count(usize::from(v.s.desired.shards));
            (primaries, primaries, "shards")
        }
        Stage::AddingPods => {
            (minus(members, v.answering().filter(|(m, _)| m.stays()).count()), members, "pods")
        }
        Stage::JoiningNodes => (minus(members, acquainted(v)), members, "nodes"),
        Stage::AssigningSlots => {
            (i64::from(SLOTS.saturating_sub(health.known_slots)), i64::from(SLOTS), "slots")
        }
        Stage::Syncing => {
            let wanted = count(usize::from(v.s.desired.shards) * usize::from(v.s.desired.replicas));
            let in_sync =
                v.s.desired.shards().map(|s| v.in_sync(s).len().min(v.s.desired.replicas.into())).sum();
            (minus(wanted, in_sync), wanted, "replicas")
        }
        Stage::MovingSlots => {
            let left = i64::from(migrate::slots_left(v));
            (left, left, "slots")
        }
        Stage::Agreeing => {
            (minus(members, v.answering().filter(|(_, n)| n.state_ok).count()), members, "nodes")
        }
        Stage::LoadingCertificates => (count(certificates::behind(v)), count(v.all().count()), "nodes"),
        Stage::SwitchingTls => (count(wire::left(v)), count(v.all().count()), "nodes"),
        Stage::HandingOver => (1, 1, "shards"),
        Stage::Electing => (count(health.leaderless.len()), i64::from(v.s.desired.shards), "shards"),
        Stage::RemovingPods => {
            let surplus = v.shards().map(|(shard, _)| surplus(v, shard)).sum();
            (count(surplus), count(surplus), "pods")
        }
    }
}

fn surplus(v: &View<'_>, shard: crate::model::Shard) -> usize {
    let wanted = if v.s.desired.wants(shard) { v.s.desired.copies() } else { 0 };
    v.staying(shard).count().saturating_sub(wanted)
}

/// Nodes that know, and are known by, all others that answer.
fn acquainted(v: &View<'_>) -> usize {
    let all: Vec<_> = v.answering().filter(|(m, _)| m.stays()).map(|(_, n)| n).collect();
    all.iter().filter(|a| all.iter().all(|b| a.id == b.id || View::acquainted(a, b))).count()
}
