//! The one place that says no to what the rules propose: pause, deletion, the budget of disruptions, one hand-over at a
//! time, and steps that failed a moment ago.

use std::collections::BTreeSet;

use super::{budget, purge};
use crate::model::past::Change;
use crate::model::plan::Attempts;
use crate::model::{
    Blocked, Certificates, Code, Lane, Plan, PodUid, Proposal, Seen, Shard, Stage, Step, View, Waiting, Why,
};

/// Admits what may be done now.
pub(super) fn admit(v: &View<'_>, proposed: Plan, attempts: &Attempts) -> Plan {
    let Plan { steps, mut blocked, mut waiting } = proposed;
    // When what everything rests on cannot be done, nothing else is.
    let halted =
        steps.iter().any(|p| p.step.lane() == Lane::First && attempts.held_back(&p.step, v.s.now).is_some());
    let busy = !waiting.is_empty() || steps.iter().any(|p| !is_aside(p));
    let leaving = leaving(&steps);
    let moving: BTreeSet<Shard> = steps.iter().filter_map(|p| ends(&p.step)).flatten().collect();
    let mut gate = Gate::new(v);
    // Who was on the way out and is kept is one of its shard again.
    gate.disrupted.extend(
        steps.iter().filter_map(|p| if let Step::Keep { on } = &p.step { Some(on.shard) } else { None }),
    );
    // Who hands over does not only wait: for a moment all others link to another primary.
    for p in &steps {
        if let Step::HandOver { on, .. } = &p.step {
            gate.stuck.remove(&on.shard);
        }
    }
    let unnoted = unnoted(&steps, v, attempts);
    let switching = steps.iter().any(|p| matches!(p.step, Step::Switch { .. }) && p.why == Why::Settings);
    let mut admitted: Vec<Proposal> = Vec::with_capacity(steps.len());
    for p in steps {
        if p.why == Why::Balance && busy {
            continue;
        }
        // A change of roles would end a job. A primary that was told to go has no time for one; others have.
        let overtaken = match &p.step {
            Step::HandOver { on, .. } => moving.contains(&on.shard) && !leaving.contains(&on.shard),
            step => ends(step).into_iter().flatten().any(|shard| leaving.contains(&shard)),
        };
        if overtaken || (switching && needs_the_bus(&p.step)) {
            continue;
        }
        match refusal(v, &p, attempts) {
            Some(no) => blocked.push(no),
            None if halted && !matches!(p.step.lane(), Lane::First | Lane::Urgent) => {}
            None if needs_note(&p.step, &unnoted) => {}
            None => match gate.pass(&p) {
                Ok(()) => admitted.push(p),
                Err(No::Blocked(no)) => blocked.push(no),
                Err(No::Waiting(later)) => waiting.push(later),
            },
        }
    }
    if v.s.desired.paused || v.s.desired.deleting || v.s.foreign.is_some() {
        waiting.clear();
    }
    blocked.sort();
    blocked.dedup_by(|a, b| a.code == b.code && a.message == b.message);
    waiting.sort();
    Plan { steps: each_once(admitted), blocked, waiting }
}

/// Two rules may come to the same step; the earlier one's reason stands.
fn each_once(steps: Vec<Proposal>) -> Vec<Proposal> {
    let mut seen = BTreeSet::new();
    let first: Vec<bool> = steps.iter().map(|p| seen.insert(&p.step)).collect();
    steps.into_iter().zip(first).filter_map(|(p, first)| first.then_some(p)).collect()
}

/// It rests on nodes that hear each other, which they do not while they are switched between plain text and TLS.
fn needs_the_bus(step: &Step) -> bool {
    matches!(
        step,
        Step::HandOver { .. }
            | Step::Migrate { .. }
            | Step::Carry { .. }
            | Step::Meet { .. }
            | Step::Replicate { .. }
    )
}

/// The shards that slots begin to move from and to.
fn ends(step: &Step) -> Option<[Shard; 2]> {
    match step {
        Step::Migrate { on, to, .. } | Step::Carry { on, to, .. } => Some([on.shard, to.shard]),
        _ => None,
    }
}

/// The shards whose primary was told to go and hands over now.
fn leaving(steps: &[Proposal]) -> BTreeSet<Shard> {
    let told = steps.iter().filter(|p| p.why == Why::Repair);
    told.filter_map(|p| if let Step::HandOver { on, .. } = &p.step { Some(on.shard) } else { None }).collect()
}

/// Goes on beside everything else: it publishes what is, or waits for quiet itself.
fn is_aside(p: &Proposal) -> bool {
    p.why == Why::Balance
        || matches!(p.step, Step::SetGate { .. } | Step::SetMetadata { .. } | Step::Apply(_))
}

/// Settings by Pod whose earlier value is not noted yet, because the note failed a moment ago.
fn unnoted(steps: &[Proposal], v: &View<'_>, attempts: &Attempts) -> BTreeSet<(PodUid, String)> {
    let held = steps.iter().filter(|p| attempts.held_back(&p.step, v.s.now).is_some());
    let notes = held.filter_map(|p| match &p.step {
        Step::Note { uid, key, .. } => Some((uid.clone(), key.clone())),
        _ => None,
    });
    notes.collect()
}

/// What is set without a note could never be taken back.
fn needs_note(step: &Step, unnoted: &BTreeSet<(PodUid, String)>) -> bool {
    match step {
        Step::Configure { on, settings, .. } => {
            settings.keys().any(|key| unnoted.contains(&(on.uid.clone(), key.clone())))
        }
        _ => false,
    }
}

fn refusal(v: &View<'_>, p: &Proposal, attempts: &Attempts) -> Option<Blocked> {
    let blocked = |code, message| Some(Blocked { code, shard: None, message });
    if let Some(sentence) = &v.s.foreign {
        return blocked(Code::ForeignOperator, sentence.clone());
    }
    if v.s.desired.deleting && !matches!(p.step, Step::Release { .. }) {
        return blocked(
            Code::Deleting,
            "the cluster is being deleted: nothing is changed any more".to_owned(),
        );
    }
    if v.s.desired.paused && !matches!(p.step, Step::SetGate { .. }) {
        return blocked(
            Code::Paused,
            "spec.paused is true: nothing is changed until it is set to false".to_owned(),
        );
    }
    if let (Step::CreatePod { .. }, Some(Certificates { wanted: Err(why), given: None, .. }), true) =
        (&p.step, &v.s.certificates, v.s.desired.template.tls.is_some())
    {
        return blocked(Code::CertificateRefused, why.clone());
    }
    let (until, error) = attempts.held_back(&p.step, v.s.now)?;
    blocked(
        Code::BackingOff,
        format!(
            "{} failed: {error} (tried again in {} s)",
            p.step.kind(),
            (until.since(v.s.now) + 999) / 1000
        ),
    )
}

enum No {
    Blocked(Blocked),
    Waiting(Waiting),
}

/// What the steps admitted so far leave room for.
struct Gate {
    disrupted: BTreeSet<Shard>,
    /// Those of them that only wait for a worker.
    stuck: BTreeSet<Shard>,
    most: usize,
    /// The shard whose hand-over is on its way, if one is.
    moving: Option<Shard>,
    /// A failover was forced a moment ago, and nobody can see yet how it ended.
    forced: bool,
    /// Shards that changed their primary so short a time ago that 8.0 denies another vote.
    resting: BTreeSet<Shard>,
    /// The keys were dropped: there is no reason to replace one shard after another.
    at_once: bool,
}

impl Gate {
    fn new(v: &View<'_>) -> Self {
        // One whose Pod was deleted right after it took over leads nevertheless.
        let ghost =
            |c: &Change| v.s.ghosts.get(&c.heir).and_then(Seen::now).is_some_and(|n| !n.slots().is_empty());
        let leads = |c: &Change| v.primary(c.shard).is_some_and(|(_, n)| n.id == c.heir) || ghost(c);
        Self {
            disrupted: budget::disrupted(v),
            stuck: budget::stuck(v),
            most: usize::from(v.s.desired.max_disrupted_shards).max(1),
            moving: v.s.past.handing_over(v.s.now).filter(|c| !leads(c)).map(|c| c.shard).min(),
            forced: v.s.past.forced(v.s.now),
            resting: v.s.past.resting(v),
            at_once: purge::dropped(v),
        }
    }

    fn pass(&mut self, p: &Proposal) -> Result<(), No> {
        self.fits(p)?;
        if let Step::HandOver { on, .. } = &p.step {
            self.one_at_a_time(on.shard)?;
        }
        Ok(())
    }

    fn fits(&mut self, p: &Proposal) -> Result<(), No> {
        let Some(shard) = budget::disrupts(p) else { return Ok(()) };
        let most = if self.at_once && p.why == Why::Upgrade { usize::MAX } else { self.most };
        let stuck = |s: &&Shard| p.why == Why::Evacuate && self.stuck.contains(s);
        // What has begun goes on; a successor begins, whatever its own shard has lost a moment ago.
        let goes_on = self.disrupted.contains(&shard) && !matches!(p.step, Step::CreatePod { .. });
        let others = self.disrupted.iter().filter(|s| **s != shard && !stuck(s));
        let before: BTreeSet<Shard> = others.copied().collect();
        if !goes_on && before.len() >= most {
            let message = format!(
                "shard {shard} waits its turn: spec.maxDisruptedShards is {}, and {} first",
                self.most,
                names(&before)
            );
            return Err(No::Blocked(Blocked { code: Code::DisruptionBudget, shard: Some(shard), message }));
        }
        self.disrupted.insert(shard);
        Ok(())
    }

    /// Several at one moment deny each other votes, and the loser holds its writes for the whole time-out (measured on
    /// 8.0.1: 6 of 8 in parallel succeed, all of 8 one after another).
    fn one_at_a_time(&mut self, shard: Shard) -> Result<(), No> {
        let wait = |message| No::Waiting(Waiting { shard: Some(shard), stage: Stage::HandingOver, message });
        if let Some(other) = self.moving {
            return Err(wait(format!("shard {shard} hands over after shard {other}")));
        }
        if self.forced {
            return Err(wait(format!("shard {shard} hands over after the failover that is under way")));
        }
        if self.resting.contains(&shard) {
            return Err(wait(format!("shard {shard} has just changed its primary")));
        }
        self.moving = Some(shard);
        Ok(())
    }
}

/// Shards for a sentence that a person reads: some by number.
fn names(shards: &BTreeSet<Shard>) -> String {
    const SHOWN: usize = 10;
    let list: Vec<String> = shards.iter().take(SHOWN).map(ToString::to_string).collect();
    let what = if list.len() == 1 { "shard" } else { "shards" };
    match shards.len() - list.len() {
        0 => format!("{what} {}", list.join(", ")),
        more => format!("{what} {} and {more} others", list.join(", ")),
    }
}
