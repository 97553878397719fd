//! The decisions: rules in the order that is the policy, then one place that says no.
//!
//! To add a capability: one rule file, its line in [`RULES`], its cases in `tests/plan/`.

mod admit;
mod adopt;
pub mod away;
mod balance;
mod budget;
pub mod certificates;
mod consolidate;
pub mod discard;
mod even_out;
mod evidence;
mod fill;
mod follow;
mod forget;
pub mod form;
pub mod gate;
mod heir;
mod join;
pub mod leads;
mod live;
mod lost;
pub mod migrate;
pub mod newcomers;
mod objects;
pub mod place;
mod recover;
mod release;
mod replace;
mod role;
mod scale_in;
pub mod shares;
pub mod trim;

use crate::model::plan::Attempts;
use crate::model::{Plan, Snapshot, View};

/// A rule looks at the whole cluster and says what it would do, what it refuses and what it waits for.
type Rule = fn(&View<'_>) -> Plan;

/// The table of contents of the operator; order is policy.
const RULES: &[(&str, Rule)] = &[
    ("objects", objects::rule),
    ("certificates", certificates::rule),
    ("live", live::rule),
    ("forget", forget::rule),
    ("adopt", adopt::rule),
    ("form", form::rule),
    ("join", join::rule),
    ("follow", follow::rule),
    ("recover", recover::rule),
    ("lost", lost::rule),
    ("discard", discard::rule),
    ("away", away::rule),
    ("release", release::rule),
    ("consolidate", consolidate::rule),
    ("scale in", scale_in::rule),
    ("replace", replace::rule),
    ("trim", trim::rule),
    ("fill", fill::rule),
    ("even out", even_out::rule),
    ("balance", balance::rule),
    ("gate", gate::rule),
    ("role", role::rule),
];

/// The names of the rules, in order.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}

/// Plans the whole cluster from what is seen now. The same facts give the same plan.
pub fn plan(snapshot: &Snapshot, attempts: &Attempts) -> Plan {
    let view = View::new(snapshot);
    let mut all = Plan::default();
    for (_, rule) in RULES {
        let found = rule(&view);
        all.steps.extend(found.steps);
        all.blocked.extend(found.blocked);
        all.waiting.extend(found.waiting);
    }
    admit::admit(&view, all, attempts)
}
