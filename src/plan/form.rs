//! Form a new cluster: slots and unique epochs on nodes that know nobody, behind the latch.
//!
//! Nothing is assigned before every Pod that runs has answered, and no slot is given out unless all nodes are empty.
//! The rule goes on from whatever an earlier pass (or an earlier operator) left: what is assigned stays.

use super::leads::leads;
use crate::model::settings;
use crate::model::{
    Blocked, Code, List, Member, NodeReport, Peer, Phase, Plan, Proposal, Role, Seen, Slots, Stage, Step,
    Target, View, Waiting, Why,
};

/// A Pod that has not started after this many milliseconds does not hold the others back.
pub(super) const PATIENCE_MS: i64 = 10_000;

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if v.s.whole {
        // Gossip carries a change of roles to the last node up to a second later.
        if !complete(v) {
            let message = "the nodes do not see the cluster in the same way yet".to_owned();
            plan.waiting.push(Waiting { shard: None, stage: Stage::Agreeing, message });
        }
        return plan;
    }
    if !everyone_is_there(v) {
        let there = candidates(v).count();
        let wanted = v.s.desired.members();
        let message = format!("{there} of {wanted} servers answer");
        plan.waiting.push(Waiting { shard: None, stage: Stage::AddingPods, message });
        plan.blocked.extend(v.all().filter_map(|m| unseen(v, m)));
        return plan;
    }
    let unowned = Slots::all().minus(v.owned());
    // A process whose Pod was deleted by force still owns its slots: it hands them over or ends, and until then they are not free.
    let ghosts = v.s.ghosts.values().filter_map(Seen::now);
    let free = ghosts.fold(unowned.clone(), |left, n| left.minus(n.slots()));
    if !v.s.formed {
        plan.steps.push(Proposal::new(Step::Latch, Why::Form, "slots are given out next"));
        return plan;
    }
    if !free.is_empty() {
        match holder_of_keys(v) {
            Some(blocked) => plan.blocked.push(blocked),
            None => plan.steps.extend(assign(v, &free)),
        }
    }
    plan.steps.extend(epochs(v));
    plan.waiting.push(what_is_missing(v, &unowned));
    plan
}

/// Nodes that take part: they answer and are meant to stay.
fn candidates<'a, 'v>(v: &'v View<'a>) -> impl Iterator<Item = (&'v Member<'a>, &'a NodeReport)> {
    v.answering().filter(|(m, _)| m.stays() && v.s.desired.wants(m.pod.shard))
}

/// Every shard has a node, and every Pod either answers or visibly cannot start.
pub(super) fn everyone_is_there(v: &View<'_>) -> bool {
    if v.s.whole {
        return false;
    }
    let started = |m: &Member<'_>| {
        let hopeless = m.pod.phase == Phase::Pending
            && (m.pod.trouble.is_some() || v.s.now.since(m.pod.created) > PATIENCE_MS);
        // A replica that loads has come further than this already.
        m.node().is_some_and(|n| !n.loading || m.link().is_some()) || hopeless
    };
    // A shard that is not wanted any more may have been given slots: who is silent may own them.
    let unheard = |m: &Member<'_>| m.pod.phase == Phase::Running && m.node().is_none();
    if v.all().any(|m| m.stays() && !v.s.desired.wants(m.pod.shard) && unheard(m)) {
        return false;
    }
    v.s.desired.shards().all(|shard| {
        let members: Vec<_> = v.staying(shard).collect();
        members.len() >= v.s.desired.copies()
            && members.iter().all(|m| started(m))
            && members.iter().any(|m| m.node().is_some())
    })
}

/// All preparations are done: from here on nodes may meet.
pub(super) fn may_meet(v: &View<'_>) -> bool {
    v.s.formed
        && everyone_is_there(v)
        && v.owned().is_all()
        && candidates(v)
            .all(|(_, n)| n.admitted && (!n.is_isolated() || v.s.desired.members() == 1 || n.epoch > 0))
}

/// The formation is complete: all slots are owned, every node sees every other as that one sees itself, all say that the
/// cluster is ok, and all run with the real node-timeout again.
pub fn complete(v: &View<'_>) -> bool {
    let members: Vec<_> = v.answering().filter(|(m, _)| m.stays()).collect();
    // A member that does not answer now may still run with the low node-timeout.
    let silent = |m: &Member<'_>| m.stays() && m.pod.phase == Phase::Running && m.node().is_none();
    v.s.formed
        && (v.s.whole || !v.all().any(silent))
        && v.owned().is_all()
        && !v.s.ghosts.values().filter_map(Seen::now).any(|n| !has_real_timeout(v, n))
        && members.iter().all(|(_, n)| n.state_ok)
        // Those that are about to leave still lead and copy.
        && v.answering().all(|(_, n)| has_real_timeout(v, n))
        && members.iter().all(|(_, n)| is_known(v, n))
}

/// All that stay see this node as it sees itself.
pub(super) fn is_known(v: &View<'_>, node: &NodeReport) -> bool {
    let stays = |list: &&List<'_>| list.of.iter().any(|(m, _)| m.stays());
    // A list of one node has no line about that node; a shared one has a line about everybody.
    let own = |list: &List<'_>| matches!(list.of.as_slice(), [(_, only)] if only.id == node.id);
    v.lists().iter().filter(stays).all(|list| own(list) || agrees(list, node))
}

/// The node is listed by its id, with the slots that it says it owns, or as a replica of whom it follows.
fn agrees(list: &List<'_>, node: &NodeReport) -> bool {
    let role = |p: &Peer| match &node.role {
        Role::Primary { slots } => p.replica_of.is_none() && p.slots == *slots,
        Role::Replica { of, .. } => p.replica_of.as_ref() == Some(of),
    };
    list.line(&node.id).is_some_and(|p| !p.handshake && role(p))
}

pub(super) fn has_real_timeout(v: &View<'_>, node: &NodeReport) -> bool {
    let real = v.s.desired.node_timeout_ms().to_string();
    settings::holds(node, "cluster-node-timeout", &real, &v.s.applied)
}

/// A running server that does not answer blocks the formation: it may hold anything.
fn unseen(v: &View<'_>, m: &Member<'_>) -> Option<Blocked> {
    let silent = matches!(m.seen, Seen::Silent(_)) && m.pod.phase == Phase::Running;
    (silent && v.s.now.since(m.pod.created) > PATIENCE_MS).then(|| Blocked {
        code: Code::Unseen,
        shard: Some(m.pod.shard),
        message: format!(
            "{} runs and does not answer the operator ({:?}): see its log, or delete the Pod to replace it",
            m.pod.name, m.seen
        ),
    })
}

/// Slots are only given out while nobody holds a key.
fn holder_of_keys(v: &View<'_>) -> Option<Blocked> {
    v.answering().find(|(_, n)| n.keys > 0).map(|(m, n)| Blocked {
        code: Code::NotEmpty,
        shard: Some(m.pod.shard),
        message: format!(
            "{} holds {} keys before all slots are assigned: slots are not given out; delete the Pod if its keys may go",
            m.pod.name, n.keys
        ),
    })
}

/// Each leader without slots gets its share; what nobody's share covers goes to the leader with the fewest.
fn assign(v: &View<'_>, unowned: &Slots) -> Vec<Proposal> {
    let leads = leads(v);
    let mut left = unowned.clone();
    let mut out: Vec<(Target, Slots)> = Vec::new();
    for (shard, member) in &leads {
        let empty = member.node().is_some_and(|n| n.slots().is_empty());
        let share = Slots::share(shard.0, v.s.desired.shards).and(&left);
        if let Some(on) = member.target().filter(|_| empty && !share.is_empty()) {
            left = left.minus(&share);
            out.push((on, share));
        }
    }
    let everyone = leads.len() == usize::from(v.s.desired.shards);
    let fewest = leads.values().min_by_key(|m| m.node().map_or(0, |n| n.slots().len()));
    if let Some(on) =
        fewest.and_then(|m| m.target()).filter(|_| everyone && !left.is_empty() && out.is_empty())
    {
        out.push((on, left));
    }
    out.into_iter()
        .map(|(on, slots)| {
            let note = format!("primary of shard {}", on.shard);
            Proposal::new(Step::AssignSlots { on, slots }, Why::Form, note)
        })
        .collect()
}

/// Unique epochs, given while nodes know nobody: replicas too, else they collide at 0 and bump epochs for seconds.
/// Each is higher than any that is known, so that what takes a dead node's place also takes its slots in every view.
fn epochs(v: &View<'_>) -> Vec<Proposal> {
    let listed = v.lists().lines().map(|(_, p)| p.epoch);
    let known = listed.chain(v.answering().map(|(_, n)| n.epoch));
    let fresh = candidates(v).filter(|(_, n)| n.is_isolated() && n.epoch == 0);
    let free = known.max().unwrap_or(0).saturating_add(1)..;
    let give =
        |(on, epoch)| Proposal::new(Step::SetEpoch { on, epoch }, Why::Form, "unique from the first moment");
    fresh.filter_map(|(m, _)| m.target()).zip(free).map(give).collect()
}

fn what_is_missing(v: &View<'_>, unowned: &Slots) -> Waiting {
    let (stage, message) = if unowned.is_empty() {
        let ok = candidates(v).filter(|(_, n)| n.state_ok).count();
        (Stage::Agreeing, format!("{ok} of {} nodes say that the cluster is ok", v.s.desired.members()))
    } else {
        (Stage::AssigningSlots, format!("{} of 16384 slots are assigned", v.owned().len()))
    };
    Waiting { shard: None, stage, message }
}
