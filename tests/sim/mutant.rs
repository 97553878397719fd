//! The operator as it would be with something left out: a rule, a reason to say no, or a guard.

use std::fmt;

use valkey_cluster_operator::model::{Attempts, Desired, Past, Plan, Snapshot};
use valkey_cluster_operator::plan;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Mutant {
    /// Nothing: the operator as it is.
    #[default]
    None,
    /// One rule of the table.
    Rule(&'static str),
    /// One reason for which admission says no.
    Admission(&'static str),
    /// One guard: where it refuses, the effect is tried nevertheless.
    Guard(&'static str),
}

const BUDGET: &str = "the budget of disruptions";
const CHANGES: &str = "changes of roles that are on their way";
const BACK_OFF: &str = "the delay after a failure";
const PAUSE: &str = "the pause";

/// What admission can be made to overlook.
pub(crate) const ADMISSIONS: &[&str] = &[BUDGET, CHANGES, BACK_OFF, PAUSE];

/// The guards of the executor that the simulated world runs.
pub(crate) const GUARDS: &[&str] = &[
    "identity",
    "introduce",
    "assign",
    "epoch",
    "replicate",
    "configure",
    "migrate",
    "close",
    "inherit",
    "move_slots",
    "drop_keys",
    "purge: the spec is read again",
    "retire",
    "hand_over",
    "forget",
    "forget: it answers",
    "unused",
    "alone",
    "empty",
    "stranded",
    "all_seen",
    "retired",
    "holds_data",
    "enough_others",
    "delete: its server answers",
    "delete: its server has started",
    "delete: its worker is heard",
    "promote",
    "abandon",
    "abandon: it answers",
    "restore",
];

impl Mutant {
    /// The plan that it makes.
    pub(crate) fn plan(self, snapshot: &Snapshot, attempts: &Attempts) -> Plan {
        let as_if = |s: Snapshot| plan::plan(&s, attempts);
        let s = || snapshot.clone();
        match self {
            Mutant::Rule(left_out) => plan::plan_with(snapshot, attempts, |rule| rule != left_out),
            Mutant::Admission(BACK_OFF) => plan::plan(snapshot, &Attempts::default()),
            Mutant::Admission(BUDGET) => {
                let desired = Desired { max_disrupted_shards: u16::MAX, ..s().desired };
                as_if(Snapshot { desired, ..s() })
            }
            Mutant::Admission(CHANGES) => {
                let past = Past { changes: Vec::new(), ..s().past };
                as_if(Snapshot { past, ..s() })
            }
            Mutant::Admission(PAUSE) => {
                let desired = Desired { paused: false, ..s().desired };
                as_if(Snapshot { desired, ..s() })
            }
            Mutant::None | Mutant::Admission(_) | Mutant::Guard(_) => plan::plan(snapshot, attempts),
        }
    }

    /// What the guard of this name says; what would be done anyhow when it is left out.
    pub(crate) fn guarded<T, E>(
        self,
        name: &str,
        said: Result<T, E>,
        anyhow: impl FnOnce() -> T,
    ) -> Result<T, E> {
        debug_assert!(GUARDS.contains(&name), "{name} is not listed");
        if self == Mutant::None || !matches!(self, Mutant::Guard(off) if off == name) {
            return said;
        }
        said.or_else(|_| Ok(anyhow()))
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mutant::None => write!(f, "nothing"),
            Mutant::Rule(name) => write!(f, "rule {name}"),
            Mutant::Admission(name) => write!(f, "admission: {name}"),
            Mutant::Guard(name) => write!(f, "guard {name}"),
        }
    }
}
