//! A plan: the steps of this pass with their reasons, what was refused and why, and what is waited for.

use std::collections::BTreeMap;
use std::fmt;

use super::ids::{Moment, Shard};
use super::step::Step;

/// Why a step is wanted. A closed set: metrics and events are labelled with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// The cluster is being formed.
    Form,
    /// Something was lost or broken.
    Repair,
    /// A copy is missing.
    Capacity,
    /// There are more copies than wanted.
    Surplus,
    /// A member was made from an earlier spec.
    Upgrade,
    /// A worker is being emptied, or a member was told to go.
    Evacuate,
    /// A member is better off on another worker.
    Placement,
    /// Primaries are unevenly spread over workers or zones.
    Balance,
    /// Slots belong to another shard.
    Scale,
    /// Keys are dropped on purpose.
    Purge,
    /// A person has asked for it.
    Requested,
    /// A live setting differs.
    Settings,
    /// The truth about a member is published.
    Report,
}

/// A step with its reason in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The effect.
    pub step: Step,
    /// Its class.
    pub why: Why,
    /// The sentence that becomes log line, event and golden text.
    pub note: String,
}

impl Proposal {
    /// A proposal.
    pub fn new(step: Step, why: Why, note: impl Into<String>) -> Self {
        Self { step, why, note: note.into() }
    }
}

/// Why something that ought to be done is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Code {
    /// `spec.paused`.
    Paused,
    /// The custom resource is being deleted.
    Deleting,
    /// The same step failed a moment ago; it is tried again after a growing delay.
    BackingOff,
    /// A member's address is still listed under another id.
    AddressInUse,
    /// A node holds keys although it was never given slots.
    NotEmpty,
    /// A Pod exists and does not answer.
    Unseen,
    /// The data of the shards that would go does not fit into those that stay.
    WouldNotFit,
    /// The last attempt to move slots from one shard to another failed.
    MigrationFailed,
    /// Too few copies are in sync to take one away.
    WouldLoseCopy,
    /// As many shards as `spec.maxDisruptedShards` allows are short of a copy or being replaced.
    DisruptionBudget,
    /// No worker can take the copy that has to come before another leaves.
    NoWorker,
    /// Primaries have to be even over workers or zones, and no hand-over can make them so.
    PrimariesUneven,
    /// A member keeps failing right after its start.
    CrashLoop,
    /// A setting is not known to, or not accepted by, the server.
    SettingRefused,
    /// A user of the spec cannot be set: its password is missing, or the server does not take its rules.
    UserRefused,
    /// The passwords of running members are gone.
    CredentialsLost,
    /// Objects of this cluster's names belong to another manager.
    ForeignOperator,
    /// The certificate that the spec names is missing or cannot be used.
    CertificateRefused,
    /// A slot owner is silent, nobody can elect its heir, and that it is dead is not proven.
    Unproven,
}

/// A refusal that a person can read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Blocked {
    /// The code.
    pub code: Code,
    /// The shard it is about, if one.
    pub shard: Option<Shard>,
    /// What is refused, why, and what would release it.
    pub message: String,
}

/// Something that is not yet possible.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiting {
    /// The shard it is about, if one.
    pub shard: Option<Shard>,
    /// What is waited for, as a person would say it.
    pub stage: Stage,
    /// The sentence.
    pub message: String,
}

/// What is going on, as a person would say it; later ones come later in a cluster's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// All keys are dropped, because the spec says so.
    DroppingKeys,
    /// Pods are created, scheduled and started.
    AddingPods,
    /// Nodes get to know each other.
    JoiningNodes,
    /// Slots are given out.
    AssigningSlots,
    /// Replicas copy from their primaries.
    Syncing,
    /// Slots move from shard to shard.
    MovingSlots,
    /// The nodes come to the same view.
    Agreeing,
    /// Nodes load certificates.
    LoadingCertificates,
    /// Nodes are switched from plain text to TLS, or back.
    SwitchingTls,
    /// A shard has no primary: the election is under way.
    Electing,
    /// A replica takes over from a primary that is to leave.
    HandingOver,
    /// Members leave.
    RemovingPods,
}

/// The whole plan of a pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// What is done now.
    pub steps: Vec<Proposal>,
    /// What is refused.
    pub blocked: Vec<Blocked>,
    /// What is waited for.
    pub waiting: Vec<Waiting>,
}

impl Plan {
    /// Nothing to do and nothing awaited. Refusals do not count: waiting longer does not cure them.
    pub fn quiet(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_empty()
    }
}

impl fmt::Display for Plan {
    /// One line a decision: the golden form of logs and test cases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quiet() && self.blocked.is_empty() {
            return writeln!(f, "quiet");
        }
        for p in &self.steps {
            writeln!(f, "{} | {:?}: {}", p.step, p.why, p.note)?;
        }
        for b in &self.blocked {
            writeln!(f, "blocked {:?} | {}", b.code, b.message)?;
        }
        for w in &self.waiting {
            writeln!(f, "waiting {:?} | {}", w.stage, w.message)?;
        }
        Ok(())
    }
}

/// What became of a step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// The effect was asked for and accepted; the next pass sees whether it took hold.
    Done,
    /// What the step rests on is not true any more (the sentence says what): nothing was done.
    Stale(String),
    /// It was tried and refused, or its answer never came; the sentence says why.
    Failed(String),
}

/// A step of the pass with what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// The step and its reason.
    pub proposal: Proposal,
    /// What became of it.
    pub outcome: Outcome,
}

/// Hints of this process about what it has tried: safe to lose at any moment, consulted only for "how soon again".
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attempts {
    failed: BTreeMap<String, Attempt>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Attempt {
    failures: u32,
    last: Moment,
    error: String,
}

impl Attempts {
    /// The first delay after a failure, in milliseconds.
    const FIRST_MS: i64 = 500;
    /// The longest delay, in milliseconds.
    const LONGEST_MS: i64 = 30_000;

    /// Notes that a step failed.
    pub fn failed(&mut self, step: &Step, now: Moment, error: impl Into<String>) {
        let a = self.failed.entry(step.subject()).or_insert(Attempt {
            failures: 0,
            last: now,
            error: String::new(),
        });
        a.failures = a.failures.saturating_add(1);
        a.last = now;
        a.error = error.into();
    }

    /// Notes that a step was done.
    pub fn done(&mut self, step: &Step) {
        self.failed.remove(&step.subject());
    }

    /// Forgets everything: the spec has changed, so that everything is worth a new try.
    pub fn clear(&mut self) {
        self.failed.clear();
    }

    /// Until when the step is held back and what went wrong, when it failed a moment ago.
    pub fn held_back(&self, step: &Step, now: Moment) -> Option<(Moment, &str)> {
        // To spell a step's subject is dear, and nearly always nothing has failed.
        let a = if self.failed.is_empty() { None } else { self.failed.get(&step.subject()) }?;
        let shift = a.failures.saturating_sub(1).min(16);
        let delay = (Self::FIRST_MS << shift).min(Self::LONGEST_MS);
        let until = a.last.plus_ms(delay);
        (now < until).then_some((until, a.error.as_str()))
    }
}
