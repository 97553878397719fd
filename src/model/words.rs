//! What a step is called: in a metric, in a log line and in the golden texts.

use std::fmt;

use super::ids::Fingerprint;
use super::step::{Step, Target};

impl Step {
    /// A short name for metrics and events: a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Latch => "Latch",
            Step::Apply(_) => "Apply",
            Step::Certify(_) => "Certify",
            Step::CreatePod { .. } => "CreatePod",
            Step::DeletePod { .. } => "DeletePod",
            Step::SetGate { .. } => "SetGate",
            Step::Note { .. } => "Note",
            Step::Nudge { .. } => "Nudge",
            Step::SetRole { .. } => "SetRole",
            Step::SetApart { .. } => "SetApart",
            Step::SetMetadata { .. } => "SetMetadata",
            Step::Migrate { .. } => "Migrate",
            Step::Carry { .. } => "Carry",
            Step::Close { .. } => "Close",
            Step::Inherit { .. } => "Inherit",
            Step::Purge { .. } => "Purge",
            Step::Switch { .. } => "Switch",
            Step::Configure { .. } => "Configure",
            Step::SetUser { .. } => "SetUser",
            Step::RemoveUser { .. } => "RemoveUser",
            Step::LogIn { .. } => "LogIn",
            Step::Renew => "Renew",
            Step::Settle => "Settle",
            Step::Admit { .. } => "Admit",
            Step::AssignSlots { .. } => "AssignSlots",
            Step::SetEpoch { .. } => "SetEpoch",
            Step::Meet { .. } => "Meet",
            Step::Replicate { .. } => "Replicate",
            Step::Retire { .. } => "Retire",
            Step::Keep { .. } => "Keep",
            Step::HandOver { .. } => "HandOver",
            Step::Release { .. } => "Release",
            Step::Forget { .. } => "Forget",
            Step::Promote { .. } => "Promote",
            Step::Abandon { .. } => "Abandon",
            Step::Restore { .. } => "Restore",
        }
    }
}

fn pods(of: &[Target]) -> String {
    of.iter().map(|t| t.pod.as_str()).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Step {
    /// The golden form: what a person reads in logs and in the test cases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Latch => write!(f, "latch formed"),
            Step::Apply(object) => write!(f, "apply {object:?}"),
            Step::Certify(given) => {
                let list: Vec<&str> = given.now.authorities.iter().map(Fingerprint::as_str).collect();
                let kept = if given.before.is_some() { ", former files stay" } else { "" };
                write!(f, "certify {} by {}{kept}", given.now.leaf, list.join(" "))
            }
            Step::CreatePod { name, worker, demands, .. } => {
                write!(f, "create {name}")?;
                if let Some(w) = worker {
                    write!(f, " on {w}{}", if demands.only { " only" } else { "" })?;
                }
                write!(f, "{demands}")
            }
            Step::DeletePod { name, only_if, .. } => write!(f, "delete {name} ({only_if:?})"),
            Step::SetGate { name, ready, .. } => write!(f, "gate {name} {ready}"),
            Step::Note { name, key, before, .. } => match before {
                Some(value) => write!(f, "note {name} {key} was {value:?}"),
                None => write!(f, "note {name} {key} is as it was"),
            },
            Step::Nudge { name, of, .. } => write!(f, "nudge {name} {of}"),
            Step::SetRole { name, leads, .. } => {
                write!(f, "role {name} {}", if *leads { "primary" } else { "none" })
            }
            Step::SetApart { name, counts, .. } => {
                write!(f, "{} {name} apart", if *counts { "count" } else { "no longer count" })
            }
            Step::SetMetadata { name, given, .. } => write!(f, "dress {name} {given}"),
            Step::Migrate { on, to, slots } => write!(f, "migrate {} to {} {slots}", on.pod, to.pod),
            Step::Carry { on, to, slots } => write!(f, "carry {} to {} {slots}", on.pod, to.pod),
            Step::Inherit { on, from, slots, .. } => write!(f, "inherit {slots} on {} from {from}", on.pod),
            Step::Close { on, slots } => write!(f, "close {slots} on {}", on.pod),
            Step::Purge { on, shape } => write!(f, "purge {} primaries for {shape}", on.len()),
            Step::Switch { on, to } => write!(f, "switch {} to {to}", pods(on)),
            Step::Configure { on, settings, .. } => {
                let list: Vec<String> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "configure {} {}", on.pod, list.join(" "))
            }
            // Without the rules: they hold the passwords' hashes.
            Step::SetUser { on, user, .. } => write!(f, "user {user} on {}", on.pod),
            Step::RemoveUser { on, user } => write!(f, "no user {user} on {}", on.pod),
            Step::LogIn { on } => write!(f, "log in anew {}", on.pod),
            Step::Renew => write!(f, "renew passwords"),
            Step::Settle => write!(f, "settle passwords"),
            Step::Admit { on } => write!(f, "admit {}", on.pod),
            Step::AssignSlots { on, slots } => write!(f, "slots {} {slots}", on.pod),
            Step::SetEpoch { on, epoch } => write!(f, "epoch {} {epoch}", on.pod),
            Step::Meet { on, with } => write!(f, "meet {} with {}", on.pod, pods(with)),
            Step::Replicate { on, primary } => write!(f, "replicate {} of {primary}", on.pod),
            Step::Retire { on } => write!(f, "retire {}", on.pod),
            Step::Keep { on } => write!(f, "keep {}", on.pod),
            Step::HandOver { on, from } => write!(f, "hand over {} to {}", from.pod, on.pod),
            Step::Release { on, only_if: Some(only_if) } => write!(f, "release {} ({only_if:?})", on.pod),
            Step::Release { on, only_if: None } => write!(f, "release {}", on.pod),
            Step::Forget { id, on } => write!(f, "forget {id} on {} nodes", on.len()),
            Step::Promote { on, dead, by, .. } => write!(f, "promote {} for {dead} ({by:?})", on.pod),
            Step::Abandon { id, on, .. } => write!(f, "abandon {id} on {} nodes", on.len()),
            Step::Restore { on, slots } => write!(f, "restore {} {slots}", on.pod),
        }
    }
}
