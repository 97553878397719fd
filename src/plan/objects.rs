//! Objects beside the Pods: brings Secret, `ConfigMap` and Service to what the spec asks, before any Pod needs them.

use crate::build::labels::secret_name;
use crate::model::{Blocked, Code, Object, Plan, Proposal, Step, View, Why};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for object in &v.s.drifted {
        let note = match object {
            Object::Secret if lost(v) => {
                plan.blocked.push(Blocked {
                    code: Code::CredentialsLost,
                    shard: None,
                    message: format!(
                        "Secret {} is gone while Pods run with its passwords: restore it, \
                         or delete the Pods to form the cluster anew",
                        secret_name(&v.s.desired.key.name)
                    ),
                });
                continue;
            }
            Object::Secret => "the system users need passwords before a server starts",
            Object::ConfigMap => "the configuration differs from the spec",
            Object::Service => "the service differs from the spec",
            Object::Policy => "who may connect differs from the spec",
            Object::Budget => "evictions may take one member of those that serve now",
        };
        plan.steps.push(Proposal::new(Step::Apply(*object), Why::Settings, note));
    }
    plan
}

/// New passwords would lock the operator out of the nodes that run with the old ones.
fn lost(v: &View<'_>) -> bool {
    !v.s.credentials_known && v.all().any(|m| m.pod.phase == crate::model::Phase::Running)
}
