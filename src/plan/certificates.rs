//! Certificates: what nodes get at their disposal, one state after another, and that each loads it.
//!
//! The next state comes only when every node shows that it runs with the present one (see `model::certificates`). What it shows are names
//! of files, and a file is named after its contents, so that names are proof. A node that is silent holds the next state back, and so does
//! a process without a Pod while it leads: nothing new can be brought to it, and who takes over from it has to trust it.

use std::collections::BTreeMap;

use crate::build::tls;
use crate::model::certificates::AUTH_CLIENTS;
use crate::model::{
    Blocked, Code, Given, Member, NodeReport, Phase, Plan, Proposal, Seen, Stage, Step, Trust, View, Waiting,
    Why, settings,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(certificates) = &v.s.certificates else { return plan };
    if let (Some(given), true) = (&certificates.given, certificates.missing) {
        plan.steps.push(certify(given.clone(), "the Secret with the certificates of the nodes is gone"));
        return plan;
    }
    match (&certificates.wanted, &certificates.given) {
        (Err(why), given) => {
            let bare = v.all().next().is_some() && v.all().all(|m| !m.pod.encrypted);
            plan.blocked.push(refused(why, bare, given.is_some()));
        }
        (Ok(wanted), None) => {
            let given = Given { now: wanted.clone(), before: None };
            plan.steps.push(certify(given, "nodes need a certificate before they start"));
        }
        (Ok(wanted), Some(given)) => {
            if let Some((next, why)) = given.next(wanted) {
                let behind = behind(v);
                if behind == 0 {
                    plan.steps.push(certify(next, why));
                } else {
                    plan.waiting.push(loading(v, behind));
                }
            }
        }
    }
    plan
}

fn refused(why: &str, plain: bool, given: bool) -> Blocked {
    let until = match (plain, given) {
        (true, _) => "; until then the cluster goes on in plain text",
        (false, true) => "; until then the nodes keep the certificate that they have",
        (false, false) => "",
    };
    Blocked { code: Code::CertificateRefused, shard: None, message: format!("{why}{until}") }
}

fn certify(given: Given, why: &str) -> Proposal {
    Proposal::new(Step::Certify(given), Why::Settings, why)
}

fn loading(v: &View<'_>, behind: usize) -> Waiting {
    let all = v.all().filter(|m| m.pod.encrypted).count() + leading_ghosts(v).count();
    let message = format!("{} of {all} nodes have loaded the certificates", all - behind);
    Waiting { shard: None, stage: Stage::LoadingCertificates, message }
}

/// Nodes that do not run with what they are given, or do not say so.
pub fn behind(v: &View<'_>) -> usize {
    let Some(given) = v.s.certificates.as_ref().and_then(|c| c.given.as_ref()) else { return 0 };
    let members = v.all().filter(|m| m.pod.encrypted && !runs_with(v, m, &given.now));
    let ghosts = leading_ghosts(v).filter(|n| !differing(v, n, &given.now).is_empty());
    members.count() + ghosts.count()
}

/// Processes without a Pod that own slots.
fn leading_ghosts<'a>(v: &View<'a>) -> impl Iterator<Item = &'a NodeReport> {
    v.s.ghosts.values().filter_map(Seen::now).filter(|n| !n.slots().is_empty())
}

/// A Pod without a worker starts with what there is then; one that has ended loads nothing any more.
fn runs_with(v: &View<'_>, member: &Member<'_>, trust: &Trust) -> bool {
    match member.pod.phase {
        Phase::Finished { .. } => true,
        Phase::Pending => member.pod.worker.is_none(),
        Phase::Running => member.node().is_some_and(|node| differing(v, node, trust).is_empty()),
    }
}

/// All files in one command, or the certificate would not fit its key.
fn differing(v: &View<'_>, node: &NodeReport, trust: &Trust) -> BTreeMap<String, String> {
    let wanted = tls::settings(trust);
    let same = wanted.iter().all(|(k, value)| settings::holds(node, k, value, &v.s.applied));
    if same { BTreeMap::new() } else { wanted }
}

/// Has a node load what it is given. Refused by the node, and tried again, until the kubelet has brought the files.
///
/// What is asked of clients goes with the files, changed or not: only then does the server forget the sessions that it would
/// resume without asking anew, for five minutes (seen on 9.1.2).
pub(super) fn load(v: &View<'_>, member: &Member<'_>, node: &NodeReport, plan: &mut Plan) {
    let given = v.s.certificates.as_ref().and_then(|c| c.given.as_ref());
    let (Some(given), Some(on), true) = (given, member.target(), member.pod.encrypted) else { return };
    let auth = v.s.desired.template.tls.as_ref().map(|tls| tls::auth_clients(tls.client_auth));
    let mut why = "the spec asks otherwise whether clients show a certificate";
    if !differing(v, node, &given.now).is_empty() {
        why = "other certificates are given to the nodes";
        let of = tls::mark(&given.now);
        if member.pod.nudged.as_ref() != Some(&of) {
            let (name, uid) = (member.pod.name.clone(), member.pod.uid.clone());
            let step = Step::Nudge { name, uid, shard: member.pod.shard, of };
            plan.steps.push(Proposal::new(step, Why::Settings, "its kubelet brings the files sooner"));
        }
    } else if auth.is_none_or(|auth| settings::holds(node, AUTH_CLIENTS, auth, &v.s.applied)) {
        return;
    }
    let mut settings = tls::settings(&given.now);
    settings.extend(auth.map(|auth| (AUTH_CLIENTS.to_owned(), auth.to_owned())));
    plan.steps.push(Proposal::new(Step::Configure { on, settings, only_empty: false }, Why::Settings, why));
}
