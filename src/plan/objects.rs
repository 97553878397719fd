//! Objects beside the Pods: brings Secret, `ConfigMap` and Service to what the spec asks, before any Pod needs them.

use crate::model::{Object, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let steps = v.s.drifted.iter().map(|object| {
        let note = match object {
            Object::Secret => "the system users need passwords before a server starts",
            Object::ConfigMap => "the configuration differs from the spec",
            Object::Service => "the service differs from the spec",
        };
        Proposal::new(Step::Apply(*object), Why::Settings, note)
    });
    Plan { steps: steps.collect(), ..Plan::default() }
}
