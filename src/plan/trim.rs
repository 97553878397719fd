//! Trim the surplus: a shard with more copies than wanted lets one go at a time.
//!
//! Removal is two observed facts: the replica is retired (it cannot be elected any more), then its Pod is deleted. A
//! retirement is taken back as soon as the copy is needed again. Where members are to be replaced, the surplus is their
//! successor, so that it is one of them that goes.

use super::stranded::moves;
use super::{away, replace, turn};
use crate::model::{
    Blocked, Code, Member, NodeReport, Plan, Proposal, Shard, Stage, Step, View, Waiting, Why,
    step::Removable,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (shard, _) in v.shards() {
        let served = super::fill::is_served(v, shard);
        if !served && !v.s.desired.wants(shard) {
            unwanted(v, shard, &mut plan);
            continue;
        }
        plan.steps.extend(v.staying(shard).filter(|m| strays(v, m)).filter_map(|m| stray(v, m)));
        let have = away::present(v, shard).count();
        if have <= v.s.desired.copies() {
            plan.steps.extend(keep(v, shard, |_| true));
        } else {
            surplus(v, shard, have - v.s.desired.copies(), &mut plan);
        }
    }
    plan
}

/// Members of a shard that has no slots and gets none may go while they hold nothing. That another shard has all slots is
/// proven by their owners, not by silence.
fn unwanted(v: &View<'_>, shard: Shard, plan: &mut Plan) {
    let left = v.staying(shard).count();
    if left > 0 {
        let message = format!("{left} Pods of shard {shard} are to go: it has no slots any more");
        plan.waiting.push(Waiting { shard: Some(shard), stage: Stage::RemovingPods, message });
    }
    let covered = v.owned().is_all();
    let idle = |m: &Member<'_>| {
        m.is_unused()
            || never_started(m)
            || (is_empty(m) && (covered || copies_nothing(v, m)) && !moves(v, m))
    };
    let gone = v.staying(shard).filter(|m| idle(m));
    // Not as a retired replica, even if it is one: its primary may be gone, and there is no copy to keep.
    plan.steps.extend(gone.map(|m| remove(m, idle_as(m), "its shard is not wanted any more")));
    plan.steps.extend(v.staying(shard).filter(|m| strays(v, m)).filter_map(|m| stray(v, m)));
}

/// It leads nobody's slots and copies nobody who has any: by its own word and by that of its primary.
fn copies_nothing(v: &View<'_>, m: &Member<'_>) -> bool {
    let empty = |id| v.by_id(id).and_then(Member::node).is_some_and(|n| n.slots().is_empty());
    m.node().is_some() && m.link().is_none_or(|(of, _)| empty(of))
}

/// A primary whose last slots went to a node that had none follows that node (Valkey takes it for a failover), and so does one
/// that comes back to find its slots elsewhere: it then holds a copy of another shard's data. It cannot be pointed elsewhere,
/// since it may be the last copy of that, and leaves as any copy does.
fn strays(v: &View<'_>, m: &Member<'_>) -> bool {
    let primary = m.link().and_then(|(of, _)| v.by_id(of));
    let elsewhere =
        |p: &Member<'_>| p.pod.shard != m.pod.shard && p.node().is_some_and(|n| !n.slots().is_empty());
    m.node().is_some_and(|n| n.keys > 0) && primary.is_some_and(elsewhere)
}

/// Asked to leave first, then deleted, while the other shard has its copies without it.
fn stray(v: &View<'_>, m: &Member<'_>) -> Option<Proposal> {
    if m.node().is_some_and(NodeReport::is_retiring) {
        return delete(m, v.s.desired.replicas, "it copies a shard that is not its own, and it is retired");
    }
    m.target()
        .map(|on| Proposal::new(Step::Retire { on }, Why::Surplus, "it copies a shard that is not its own"))
}

/// It owns no slots and holds no key.
fn is_empty(m: &Member<'_>) -> bool {
    m.node().is_some_and(|n| n.slots().is_empty() && n.keys == 0)
}

/// Retirements that are no longer wanted are taken back.
fn keep(v: &View<'_>, shard: Shard, which: impl Fn(&Member<'_>) -> bool) -> Vec<Proposal> {
    let retiring = |m: &&Member<'_>| m.node().is_some_and(NodeReport::is_retiring) && !strays(v, m);
    let retired = v.staying(shard).filter(|m| retiring(m) && which(m));
    retired
        .filter_map(Member::target)
        .map(|on| Proposal::new(Step::Keep { on }, Why::Repair, "its shard needs every copy it has"))
        .collect()
}

fn surplus(v: &View<'_>, shard: Shard, too_many: usize, plan: &mut Plan) {
    plan.waiting.push(Waiting {
        shard: Some(shard),
        stage: Stage::RemovingPods,
        message: format!("shard {shard} has {too_many} copies more than wanted"),
    });
    let replacing = v.staying(shard).any(|m| v.unfit(m).is_some());
    if replacing {
        // The spec or the worker has changed back: others leave now.
        plan.steps.extend(keep(v, shard, |m| v.unfit(m).is_none()));
    }
    let may_go = |m: &&Member<'_>| !replacing || v.unfit(m).is_some();
    let idle: Vec<_> =
        v.staying(shard).filter(may_go).filter(|m| never_started(m) || m.is_unused()).collect();
    if let (Some(m), Some((_, _))) = (idle.iter().max_by_key(|m| m.pod.index), v.primary(shard)) {
        plan.steps.extend(delete(m, 0, "one copy more than wanted, and it never joined"));
        return;
    }
    let Some((_, primary)) = v.primary(shard) else { return };
    if replacing && replace::primary_goes_first(v, shard) {
        return;
    }
    let Some(victim) = turn::next(v, shard, primary, replacing) else { return };
    let left = v.in_sync(shard).iter().filter(|m| m.pod.uid != victim.pod.uid).count();
    if left < usize::from(v.s.desired.replicas) && replacing {
        // The successor is on its way: nobody is refused anything.
        plan.waiting.push(Waiting {
            shard: Some(shard),
            stage: Stage::Syncing,
            message: format!("{} stays until its successor is in sync", victim.pod.name),
        });
    } else if left < usize::from(v.s.desired.replicas) {
        plan.blocked.push(Blocked {
            code: Code::WouldLoseCopy,
            shard: Some(shard),
            message: format!(
                "{} stays: without it shard {shard} has {left} replicas in sync, and {} are wanted",
                victim.pod.name, v.s.desired.replicas
            ),
        });
    } else if let Some(coming) = turn::parted_soon(v, shard, victim) {
        plan.waiting.push(Waiting {
            shard: Some(shard),
            stage: Stage::Syncing,
            message: format!(
                "{} stays until {coming} is in sync: the others share a worker",
                victim.pod.name
            ),
        });
    } else if victim.node().is_some_and(NodeReport::is_retiring) {
        plan.steps.extend(delete(
            victim,
            v.s.desired.replicas,
            "one copy more than wanted, and it is retired",
        ));
    } else if let Some(on) = victim.target() {
        plan.steps.push(Proposal::new(Step::Retire { on }, Why::Surplus, "one copy more than wanted"));
    }
}

fn never_started(m: &Member<'_>) -> bool {
    m.pod.phase == crate::model::Phase::Pending
}

/// What a member that holds nothing is deleted as.
fn idle_as(m: &Member<'_>) -> Removable {
    if never_started(m) {
        Removable::NotRunning
    } else if m.is_unused() {
        Removable::Unused
    } else {
        Removable::Empty
    }
}

/// `others` replicas have to stay in sync when it is a retired replica that goes.
fn delete(m: &Member<'_>, others: u16, note: &str) -> Option<Proposal> {
    let retired = m.node().is_some_and(NodeReport::is_retiring) && m.link().is_some();
    // One whose primary handed over to it as it ended leads again, though it was retired, and nobody follows it.
    let only_if = match idle_as(m) {
        Removable::Empty if retired => Removable::Retired { others },
        Removable::Empty if !is_empty(m) => return None,
        only_if => only_if,
    };
    Some(remove(m, only_if, note))
}

fn remove(m: &Member<'_>, only_if: Removable, note: &str) -> Proposal {
    let (name, uid) = (m.pod.name.clone(), m.pod.uid.clone());
    Proposal::new(Step::DeletePod { name, uid, shard: m.pod.shard, only_if }, Why::Surplus, note)
}
