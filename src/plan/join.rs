//! Join the isolated: every member knows every other.
//!
//! Two nodes may be introduced when at least one of them knows nobody and holds nothing, when they already share an
//! acquaintance, or when both are pieces of a formation that hold nothing: one MEET between two grown clusters would merge them and destroy the data of one (measured on 8.0.1
//! and 9.1.2). "All meet all" is what makes a newcomer known in a tenth of a second instead of five.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{form, wire};
use crate::model::{
    Blocked, Code, Member, NodeId, NodeReport, Plan, PodName, Proposal, Stage, Step, Target, View, Waiting,
    Why,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.whole && !form::may_meet(v) {
        return plan;
    }
    // A primary that was told to go leads until it has handed over, to somebody that it has to know.
    let takes_part = |m: &Member<'_>, n: &NodeReport| m.stays() || !n.slots().is_empty();
    let all: Vec<_> = v.answering().filter(|(m, n)| takes_part(m, n) && n.admitted && !n.loading).collect();
    let speaks = wire::now(v);
    let (members, deaf): (Vec<_>, Vec<_>) = all.into_iter().partition(|(m, n)| wire::hears(speaks, m, n));
    plan.blocked.extend(members.iter().filter_map(|(m, n)| stranger(v, m, n)));
    // A single node that has grown goes to the newcomers, and they wait for it: once they knew each other, each side would know of
    // nobody on the other.
    let alone = v.s.whole && members.iter().any(|(m, n)| n.is_isolated() && !m.is_unused());
    let mut meetings: BTreeMap<&PodName, (&Member<'_>, Vec<Target>)> = BTreeMap::new();
    let pairs = unacquainted(v, &members);
    let pending = pairs.len() + deaf.iter().filter(|(m, _)| m.is_unused()).count();
    let met = if pairs.is_empty() { BTreeSet::new() } else { met(v) };
    for (a, b) in pairs {
        let wait = alone && a.0.is_unused() && b.0.is_unused();
        if !wait && !shaking_hands(&met, a, b) && introducible(v, a, b) {
            // The newcomer is told of all others in one burst, and so are those who have grown of newcomers that know each other.
            let group = v.s.whole && holds_nothing(v, a.1);
            let first = a.1.is_isolated() || (!b.1.is_isolated() && !group);
            let (on, with) = if first { (a, b) } else { (b, a) };
            if let Some(with) = with.0.target() {
                meetings.entry(&on.0.pod.name).or_insert_with(|| (on.0, Vec::new())).1.push(with);
            }
        }
    }
    let why = if v.s.whole { Why::Capacity } else { Why::Form };
    plan.steps.extend(meetings.into_values().filter_map(|(on, with)| {
        let note = format!("{} members do not know it yet", with.len());
        Some(Proposal::new(Step::Meet { on: on.target()?, with }, why, note))
    }));
    if pending > 0 {
        let message = format!("{pending} pairs of nodes do not know each other yet");
        plan.waiting.push(Waiting { shard: None, stage: Stage::JoiningNodes, message });
    }
    plan
}

type Joined<'v, 'a> = (&'v Member<'a>, &'a NodeReport);

/// The pairs of which one does not list the other by its real id, in the order of the members. Where nearly all know each other,
/// as they nearly always do, this looks at each list once and not at each pair.
fn unacquainted<'l, 'v, 'a>(
    v: &View<'a>,
    members: &'l [Joined<'v, 'a>],
) -> Vec<(&'l Joined<'v, 'a>, &'l Joined<'v, 'a>)> {
    let places: BTreeMap<&NodeId, usize> = members.iter().enumerate().map(|(i, (_, n))| (&n.id, i)).collect();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for list in v.lists().iter() {
        let lacks = list.lacks(places.iter().map(|(id, place)| (*id, place)));
        if lacks.is_empty() {
            continue;
        }
        let of: Vec<usize> = list.of.iter().filter_map(|(_, n)| places.get(&n.id).copied()).collect();
        for other in lacks {
            pairs.extend(of.iter().filter(|own| *own != other).map(|own| (*own.min(other), *own.max(other))));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs.into_iter().filter_map(|(a, b)| Some((members.get(a)?, members.get(b)?))).collect()
}

/// The addresses that a node shakes hands with.
type Met<'a> = BTreeSet<(&'a NodeId, IpAddr)>;

fn met<'a>(v: &View<'a>) -> Met<'a> {
    let mut met = Met::new();
    for list in v.lists().iter() {
        for ip in list.lines().filter(|(_, p)| p.handshake).filter_map(|(_, p)| p.ip) {
            met.extend(list.of.iter().map(|(_, n)| (&n.id, ip)));
        }
    }
    met
}

/// A MEET is already on its way between the two.
fn shaking_hands(met: &Met<'_>, a: &Joined<'_, '_>, b: &Joined<'_, '_>) -> bool {
    let sees = |n: &NodeReport, other: &Member<'_>| other.pod.ip.is_some_and(|ip| met.contains(&(&n.id, ip)));
    sees(a.1, b.0) || sees(b.1, a.0)
}

fn introducible(v: &View<'_>, a: &Joined<'_, '_>, b: &Joined<'_, '_>) -> bool {
    let fresh = |(m, n): &Joined<'_, '_>| m.is_unused() || (!v.s.whole && n.is_isolated() && n.keys == 0);
    let new = || fresh(a) || fresh(b) || (v.s.whole && (holds_nothing(v, a.1) || holds_nothing(v, b.1)));
    share(a.1, b.1)
        || (!contested(a.1, b.1) && !contested(b.1, a.1) && new())
        || (!v.s.whole && pieces(a.1, b.1))
}

/// The one knows the other, or somebody whom that one knows.
fn share(a: &NodeReport, b: &NodeReport) -> bool {
    let mut known = a.peers.iter().filter(|(_, p)| !p.handshake);
    a.peers.get(&b.id).is_some_and(|p| !p.handshake)
        || (!b.is_isolated() && known.any(|(id, _)| b.peers.contains_key(id)))
}

/// Nothing is in it, nor in any node that it knows: newcomers that have met nobody but each other.
fn holds_nothing(v: &View<'_>, n: &NodeReport) -> bool {
    let empty = |n: &NodeReport| n.slots().is_empty() && n.keys == 0;
    let mut known = n.peers.iter().filter(|(_, p)| !p.handshake);
    empty(n)
        && known.all(|(id, p)| p.slots.is_empty() && v.by_id(id).and_then(Member::node).is_some_and(empty))
}

/// The network was cut in two while the cluster formed: both sides are ours, hold nothing and know of owners of different slots.
fn pieces(a: &NodeReport, b: &NodeReport) -> bool {
    let listed = |n: &NodeReport| {
        n.peers.values().filter(|p| !p.handshake).fold(n.slots().clone(), |all, p| all.or(&p.slots))
    };
    a.keys == 0 && b.keys == 0 && !listed(a).overlaps(&listed(b))
}

/// `a` owns slots that `b` still lists for somebody else (a dead owner, before that one is forgotten): introduced now,
/// they would argue about them. The executor refuses it, too, and a refused step ends the pass of its shard.
fn contested(a: &NodeReport, b: &NodeReport) -> bool {
    let mut others = b.peers.iter().filter(|(id, p)| !p.handshake && **id != a.id);
    !a.slots().is_empty()
        && (b.slots().overlaps(a.slots()) || others.any(|(_, p)| p.slots.overlaps(a.slots())))
}

/// A grown node that knows nobody is not a newcomer beside others that have grown: whatever it holds, it must not be
/// merged in. The last node of a cluster that has lost or trimmed all others is alone by right.
fn stranger(v: &View<'_>, m: &Member<'_>, n: &NodeReport) -> Option<Blocked> {
    let others = || v.answering().any(|(o, other)| o.pod.uid != m.pod.uid && !holds_nothing(v, other));
    let grown = v.s.whole && n.is_isolated() && !m.is_unused() && others();
    grown.then(|| Blocked {
        code: Code::NotEmpty,
        shard: Some(m.pod.shard),
        message: format!(
            "{} knows no other node but holds {} slots and {} keys: it is not joined; delete the Pod to replace it",
            m.pod.name,
            n.slots().len(),
            n.keys
        ),
    })
}
