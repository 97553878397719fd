//! Plain text or TLS: what the nodes shall speak, and the burst that switches them.
//!
//! It follows from what is seen, and no phase is stored. A member without certificates can speak plain text alone, so that as long
//! as there is one all do; a newcomer, which starts with TLS, is switched before it is introduced. When there is none, and the spec
//! asks for TLS, all are switched at once; when the spec does not ask for it any more they are switched back first, and replaced then.
//! Between the first and the last node the two kinds do not hear each other: nobody fails over meanwhile (measured: decision 0034), so that
//! what an operator has begun another goes on with.

use super::certificates;
use crate::model::{Member, Mode, NodeReport, Phase, Plan, Proposal, Stage, Step, View, Waiting, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let (goal, now) = (goal(v), now(v));
    for on in others(v, now).filter(|(m, _)| m.is_unused()).filter_map(|(m, _)| m.target()) {
        let note = format!("the cluster that it is to join speaks {now}");
        plan.steps.push(Proposal::new(Step::Switch { on: vec![on], to: now }, Why::Capacity, note));
    }
    let members: Vec<_> = others(v, goal).filter(|(m, _)| !m.is_unused()).collect();
    if members.is_empty() {
        plan.waiting.extend(last_without(v));
        return plan;
    }
    // That is said already, and waiting longer does not cure it.
    if now != goal && v.s.certificates.as_ref().is_some_and(|c| c.wanted.is_err()) {
        return plan;
    }
    let message = if let Some(why) = obstacle(v, goal).filter(|_| now != goal) {
        why
    } else {
        let on = members.iter().filter_map(|(m, _)| m.target()).collect();
        let note = match goal {
            Mode::Tls => "the spec asks for TLS, and every member has certificates",
            Mode::Plain if v.s.desired.template.tls.is_some() => "a member has no certificates",
            Mode::Plain => "the spec does not ask for TLS any more",
        };
        plan.steps.push(Proposal::new(Step::Switch { on, to: goal }, Why::Settings, note));
        format!("{} nodes do not speak {goal} yet", members.len())
    };
    plan.waiting.push(Waiting { shard: None, stage: Stage::SwitchingTls, message });
    plan
}

/// The last members without certificates are on their way out. Perhaps nothing else is left to do until they are gone, and yet the nodes do
/// not speak what the spec asks for.
fn last_without(v: &View<'_>) -> Option<Waiting> {
    let usable = v.s.certificates.as_ref().is_some_and(|c| c.wanted.is_ok());
    let bare: Vec<_> = v.answering().filter(|(m, _)| !m.pod.encrypted && !m.is_unused()).collect();
    let last = bare.iter().all(|(m, _)| m.told_to_go());
    let (m, _) = bare.first().filter(|_| last && usable && v.s.desired.template.tls.is_some())?;
    let message = format!("{} has no certificates and is still there", m.pod.name);
    Some(Waiting { shard: None, stage: Stage::SwitchingTls, message })
}

/// What the nodes shall speak in the end, as far as that is known from the members that there are.
fn goal(v: &View<'_>) -> Mode {
    let bare = v.answering().any(|(m, _)| !m.pod.encrypted && !m.is_unused());
    if v.s.desired.template.tls.is_some() && !bare { Mode::Tls } else { Mode::Plain }
}

/// What the nodes shall speak now: the other thing while something keeps the burst from beginning, so that who is to join can.
pub(super) fn now(v: &View<'_>) -> Mode {
    let goal = goal(v);
    let mut members =
        can(v).filter(|(m, _)| !m.is_unused()).map(|(_, n)| Mode::of(n) == Some(goal)).peekable();
    let begun = members.peek().is_none() || members.any(|there| there);
    match goal {
        _ if begun || obstacle(v, goal).is_none() => goal,
        Mode::Tls => Mode::Plain,
        Mode::Plain => Mode::Tls,
    }
}

/// Members that speak otherwise.
pub fn left(v: &View<'_>) -> usize {
    others(v, goal(v)).filter(|(m, _)| !m.is_unused()).count()
}

/// Whether it hears those that speak this.
pub(super) fn hears(speaks: Mode, member: &Member<'_>, node: &NodeReport) -> bool {
    if member.pod.encrypted { Mode::of(node) == Some(speaks) } else { speaks == Mode::Plain }
}

type Answering<'v, 'a> = (&'v Member<'a>, &'a NodeReport);

/// Those that can speak TLS.
fn can<'v, 'a>(v: &'v View<'a>) -> impl Iterator<Item = Answering<'v, 'a>> {
    v.answering().filter(|(m, n)| m.pod.encrypted && !n.config.is_empty())
}

fn others<'v, 'a>(v: &'v View<'a>, to: Mode) -> impl Iterator<Item = Answering<'v, 'a>> {
    can(v).filter(move |(_, n)| Mode::of(n) != Some(to))
}

/// What keeps the burst from beginning. Links are made anew by it: that is for a cluster in which nothing else is under way. Back to plain text no more than
/// that is asked for, since what is lost meanwhile comes back without certificates, and could not join.
fn obstacle(v: &View<'_>, to: Mode) -> Option<String> {
    let past = &v.s.past;
    let electing = past.headless.is_some_and(|since| v.s.now.since(since) < ELECTING_MS);
    let moving = v.answering().any(|(_, n)| n.is_moving_slots());
    if electing || moving || past.handing_over(v.s.now).next().is_some() {
        return Some("slots or roles are on their way: nodes are switched when they have arrived".to_owned());
    }
    if to == Mode::Plain {
        return None;
    }
    let running = |m: &&Member<'_>| m.pod.phase == Phase::Running && m.pod.encrypted;
    if let Some(m) = v.all().filter(running).find(|m| m.node().is_none()) {
        return Some(format!("{} does not answer: all nodes are switched at once", m.pod.name));
    }
    if let Some(why) = not_at_hand(v) {
        return Some(why);
    }
    let wanted = usize::from(v.s.desired.replicas);
    let short = v.s.desired.shards().find(|s| v.primary(*s).is_none() || v.in_sync(*s).len() < wanted)?;
    Some(format!("shard {short} lacks a copy in sync: nodes are switched when it is whole"))
}

/// For so many milliseconds a shard without a primary is about to get one.
const ELECTING_MS: i64 = 30_000;

fn not_at_hand(v: &View<'_>) -> Option<String> {
    let bare = |m: &&Member<'_>| !m.pod.encrypted && !matches!(m.pod.phase, Phase::Finished { .. });
    if let Some(m) = v.all().find(bare) {
        return Some(format!("{} has no certificates and is still there", m.pod.name));
    }
    let certificates = v.s.certificates.as_ref()?;
    let given = certificates.given.as_ref().map(|g| &g.now);
    if certificates.wanted.as_ref().ok() != given || given.is_none() {
        return Some("the nodes do not have the certificate that the spec names".to_owned());
    }
    let behind = certificates::behind(v);
    (behind > 0).then(|| format!("{behind} nodes have not loaded the certificates yet"))
}
