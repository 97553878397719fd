//! The decisions: rules in the order that is the policy, then one place that says no.
//!
//! To add a capability: one rule file, its line in [`RULES`], its cases in `tests/plan/`.

mod admit;
mod adopt;
mod apart;
pub mod away;
mod balance;
mod budget;
pub mod certificates;
mod consolidate;
pub mod discard;
mod dress;
pub mod even;
mod even_out;
mod evidence;
mod fill;
mod follow;
mod forget;
pub mod form;
pub mod gate;
mod ghost;
mod heir;
mod join;
pub mod leads;
mod live;
mod lost;
pub mod migrate;
pub mod misplaced;
pub mod newcomers;
mod objects;
mod place;
pub mod purge;
mod recover;
mod release;
mod replace;
pub mod request;
mod role;
mod scale_in;
pub mod shares;
mod stranded;
mod tally;
pub mod trim;
mod turn;
pub mod users;
pub mod vouch;
pub mod wire;

use crate::model::plan::Attempts;
use crate::model::{Plan, Snapshot, View};

/// A rule looks at the whole cluster and says what it would do, what it refuses and what it waits for.
type Rule = fn(&View<'_>) -> Plan;

/// The table of contents of the operator; order is policy.
const RULES: &[(&str, Rule)] = &[
    ("objects", objects::rule),
    ("certificates", certificates::rule),
    ("live", live::rule),
    ("users", users::rule),
    ("wire", wire::rule),
    ("forget", forget::rule),
    ("adopt", adopt::rule),
    ("form", form::rule),
    ("join", join::rule),
    ("follow", follow::rule),
    ("recover", recover::rule),
    ("ghost", ghost::rule),
    ("lost", lost::rule),
    ("discard", discard::rule),
    ("away", away::rule),
    ("release", release::rule),
    ("purge", purge::rule),
    ("consolidate", consolidate::rule),
    ("scale in", scale_in::rule),
    ("apart", apart::rule),
    ("replace", replace::rule),
    ("hand over", request::rule),
    ("stranded", stranded::rule),
    ("trim", trim::rule),
    ("fill", fill::rule),
    ("even out", even_out::rule),
    ("balance", balance::rule),
    ("gate", gate::rule),
    ("role", role::rule),
    ("dress", dress::rule),
];

/// The names of the rules, in order.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}

/// The facts as the rules see them.
pub fn view(snapshot: &Snapshot) -> View<'_> {
    let mut view = View::new(snapshot);
    view.misplaced = misplaced::misplaced(&view);
    view
}

/// Plans the whole cluster from what is seen now. The same facts give the same plan.
pub fn plan(snapshot: &Snapshot, attempts: &Attempts) -> Plan {
    plan_with(snapshot, attempts, |_| true)
}

/// The plan of some of the rules, by their names: tests leave them out one by one, to see that each is missed.
pub fn plan_with(snapshot: &Snapshot, attempts: &Attempts, has: impl Fn(&str) -> bool) -> Plan {
    let view = view(snapshot);
    let mut all = Plan::default();
    for (_, rule) in RULES.iter().filter(|(name, _)| has(name)) {
        let found = rule(&view);
        all.steps.extend(found.steps);
        all.blocked.extend(found.blocked);
        all.waiting.extend(found.waiting);
    }
    let mut plan = admit::admit(&view, all, attempts);
    place::assign(&view, &mut plan);
    plan
}
