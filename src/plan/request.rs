//! A hand-over that a person asks for, by an annotation that names a Pod or a shard.
//!
//! It is noted in the status before it is begun, with who led then: so it is known to be done whoever did it, and never done twice.
//! While the annotation stays the balance leaves that shard alone.

use super::fill;
use super::heir::{hand_over, heirs};
use crate::model::{Member, Plan, PodName, Proposal, Request, Shard, Stage, View, Waiting, Why};

/// How far a request is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It can never be done: why, and what to write instead.
    Refused(String),
    /// It is not noted yet.
    New {
        /// Who leads now.
        leads: PodName,
    },
    /// It is still to be done: what it waits for.
    Pending(String),
    /// It was done.
    Done(String),
}

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some((verdict, step)) = judge(v) else { return plan };
    let message = match verdict {
        Verdict::Pending(message) => message,
        Verdict::New { .. } => "the request to hand over is being noted".to_owned(),
        Verdict::Refused(_) | Verdict::Done(_) => return plan,
    };
    plan.waiting.push(Waiting { shard: shard(v), stage: Stage::HandingOver, message });
    plan.steps.extend(step);
    plan
}

/// The shard that a request is about: its role is a person's business.
pub(super) fn shard(v: &View<'_>) -> Option<Shard> {
    aim(v, v.s.request.as_ref()?).ok().map(|(shard, _)| shard)
}

/// What became of the request, if there is one.
pub fn verdict(v: &View<'_>) -> Option<Verdict> {
    judge(v).map(|(verdict, _)| verdict)
}

fn judge(v: &View<'_>) -> Option<(Verdict, Option<Proposal>)> {
    let request = v.s.request.as_ref().filter(|_| v.s.whole)?;
    let alone = |verdict| Some((verdict, None));
    let done = || Verdict::Done(format!("handed over as asked: {}", request.wanted));
    if request.done {
        return alone(done());
    }
    let (shard, to) = match aim(v, request) {
        Ok(aim) => aim,
        Err(why) => return alone(Verdict::Refused(why)),
    };
    let Some((primary, _)) = v.primary(shard) else {
        return alone(Verdict::Pending(format!("shard {shard} has no primary that answers")));
    };
    if is_done(request, primary, to) {
        return alone(done());
    }
    if request.from.is_none() {
        return alone(Verdict::New { leads: primary.pod.name.clone() });
    }
    let mut heirs = heirs(v, shard).into_iter();
    let Some(heir) = heirs.find(|m| to.is_none_or(|to| m.pod.uid == to.pod.uid)) else {
        let who = to.map_or_else(|| "a replica".to_owned(), |m| m.pod.name.to_string());
        return alone(Verdict::Pending(format!(
            "shard {shard} waits until {who} is in sync and known as a replica by every slot owner"
        )));
    };
    let message = format!("{} takes over shard {shard} from {}", heir.pod.name, primary.pod.name);
    let step = hand_over(primary, heir, Why::Requested, "a person has asked for it");
    Some((Verdict::Pending(message), step))
}

fn is_done(request: &Request, primary: &Member<'_>, to: Option<&Member<'_>>) -> bool {
    match to {
        Some(to) => to.pod.uid == primary.pod.uid,
        None => request.from.as_ref().is_some_and(|from| *from != primary.pod.name),
    }
}

/// The shard, and who shall lead it if that was said.
type Aim<'v, 'a> = (Shard, Option<&'v Member<'a>>);

fn aim<'v, 'a>(v: &'v View<'a>, request: &Request) -> Result<Aim<'v, 'a>, String> {
    let wanted = request.wanted.as_str();
    let help = "the annotation names a pod of this cluster that shall lead, or a shard by its number";
    if let Ok(number) = wanted.parse::<u16>() {
        let shard = Shard(number);
        return if fill::is_served(v, shard) {
            Ok((shard, None))
        } else {
            Err(format!("there is no shard {number}: {help}"))
        };
    }
    let found = v.all().find(|m| m.pod.name.as_str() == wanted && m.stays());
    found.map(|m| (m.pod.shard, Some(m))).ok_or_else(|| format!("there is no pod {wanted}: {help}"))
}
