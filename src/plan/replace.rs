//! Replace the unfit: a member from an earlier spec, or on a worker that is being emptied, leaves after its successor is
//! in sync. Upgrade, resize and evacuation are this one thing.
//!
//! The shard gets one member more than it needs (the surge). Once that is in sync, `trim` takes an unfit replica. The primary's
//! role is handed over when nobody else is unfit and while the surge is there (after a change of roles all others have to link to
//! the new primary, decision 0037); before, when otherwise all copies would share a worker; or at once when its worker is being
//! emptied.

use super::heir::{hand_over, heirs};
use super::migrate::is_too_new;
use super::{away, fill, place, purge, turn};
use crate::model::{Demands, Member, Plan, Shard, Stage, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole || v.s.desired.deleting {
        return plan;
    }
    let mut todo: Vec<(Why, Shard)> = v
        .shards()
        .filter(|(shard, _)| v.s.desired.wants(*shard) || is_too_new(v, *shard))
        .filter(|(shard, _)| fill::is_served(v, *shard))
        .filter_map(|(shard, _)| Some((urgency(v, shard)?, shard)))
        // What is being emptied or mended does not ask what the spec says.
        .filter(|(why, _)| *why != Why::Upgrade || !purge::pending(v))
        .collect();
    // A worker that is being emptied will not wait; an earlier spec does, and a better place even more so.
    todo.sort_by_key(|(why, shard)| (*why != Why::Evacuate, *why == Why::Placement, *shard));
    for (why, shard) in todo {
        one(v, shard, why, &mut plan);
    }
    plan
}

/// Why members of the shard are to be replaced, the more pressing reason first.
fn urgency(v: &View<'_>, shard: Shard) -> Option<Why> {
    let mut reasons = v.staying(shard).filter(|m| !away::is_leaving(m)).filter_map(|m| v.unfit(m));
    let first = reasons.next()?;
    Some(if reasons.chain([first]).any(|w| w == Why::Evacuate) { Why::Evacuate } else { first })
}

fn one(v: &View<'_>, shard: Shard, why: Why, plan: &mut Plan) {
    let Some((primary, _)) = v.primary(shard) else { return };
    if let Some(heir) = successor(v, shard, primary) {
        let note = reason(why, &format!("{} leads shard {shard}", primary.pod.name));
        plan.waiting.push(Waiting {
            shard: Some(shard),
            stage: Stage::HandingOver,
            message: format!("{} takes over shard {shard} from {}", heir.pod.name, primary.pod.name),
        });
        plan.steps.extend(hand_over(primary, heir, why, note));
        return;
    }
    // Who was asked to leave and is fit after all is kept: the spec has changed back.
    let goes = |m: &Member<'_>| away::is_leaving(m) && v.unfit(m).is_some();
    let remaining = || away::present(v, shard).filter(|m| !goes(m));
    let (have, wanted) = (remaining().count(), copies(v, shard));
    let unfit = remaining().filter(|m| v.unfit(m).is_some()).count();
    plan.waiting.push(Waiting {
        shard: Some(shard),
        stage: if have > wanted { Stage::Syncing } else { Stage::AddingPods },
        message: reason(why, &format!("{unfit} of {have} members of shard {shard} are to be replaced")),
    });
    // A shard that is short of a copy gets that first.
    if have == wanted && v.in_sync(shard).len() + 1 >= wanted {
        surge(v, shard, why, plan);
    }
}

/// The replica that the role goes to, when it is the primary's turn.
fn successor<'v, 'a>(v: &'v View<'a>, shard: Shard, primary: &Member<'a>) -> Option<&'v Member<'a>> {
    let why = v.unfit(primary).filter(|_| primary.stays())?;
    let others = v.staying(shard).filter(|m| m.pod.uid != primary.pod.uid);
    let spare = v.in_sync(shard).len() >= copies(v, shard);
    let last = || others.into_iter().all(|m| v.unfit(m).is_none());
    let turn = why == Why::Evacuate || (spare && (last() || turn::of_primary(v, shard, primary)));
    heirs(v, shard).first().copied().filter(|heir| turn && v.unfit(heir).is_none())
}

/// The primary is about to hand over although a replica is to be replaced, too: without that the data would be on one worker.
pub(super) fn primary_goes_first(v: &View<'_>, shard: Shard) -> bool {
    let first = |p: &Member<'_>| turn::of_primary(v, shard, p) && successor(v, shard, p).is_some();
    v.primary(shard).is_some_and(|(p, _)| first(p))
}

/// How many it has without a surge. One that gives its slots away is not filled any more: those that it still has are replaced.
fn copies(v: &View<'_>, shard: Shard) -> usize {
    let unfit = || away::present(v, shard).filter(|m| v.unfit(m).is_some()).count();
    if v.s.desired.wants(shard) { v.s.desired.copies() } else { unfit().clamp(1, v.s.desired.copies()) }
}

fn surge(v: &View<'_>, shard: Shard, why: Why, plan: &mut Plan) {
    if !place::has_room(v) {
        plan.blocked.push(place::no_worker(v, shard, &Demands::default()));
        return;
    }
    let note = reason(why, "the successor comes before the member leaves");
    plan.steps.extend(fill::create(v, shard, 0, (why, note)));
}

fn reason(why: Why, what: &str) -> String {
    let because = match why {
        Why::Evacuate => "its worker is being emptied",
        Why::Placement => "it is better off on another worker",
        _ => "the spec has changed",
    };
    format!("{what}: {because}")
}
