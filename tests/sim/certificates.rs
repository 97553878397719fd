//! Certificates: what the Secrets hold, which files each Pod has, and that no two nodes ever mistrust each other.
//!
//! A certificate's id names the CA that has signed it: `m@b`.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use valkey_cluster_operator::build::tls;
use valkey_cluster_operator::model::certificates::{CA_FILE, CERT_FILE};
use valkey_cluster_operator::model::{
    Certificates, ClientAuth, Desired, Fingerprint, Given, Mode, Pod, PodName, PodUid, Target, Tls, Trust,
};

use super::kubernetes::PodObject;
use super::valkey::Node;
use super::world::World;

/// Ticks within which a kubelet brings files by itself.
const LATE: std::ops::RangeInclusive<i64> = 100..=900;
/// The same after its Pod has changed.
const SOON: std::ops::RangeInclusive<i64> = 5..=20;

/// What there is of certificates.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Secrets {
    pub certificates: Option<Certificates>,
    /// The files of each Pod.
    mounted: BTreeMap<PodUid, Given>,
    /// When its kubelet brings those that there are then.
    due: BTreeMap<PodUid, i64>,
    /// All that was ever given.
    known: Vec<Trust>,
}

impl Secrets {
    /// By its settings.
    fn runs_with(&self, node: &Node) -> Option<&Trust> {
        let same = |t: &&Trust| {
            let wanted = tls::settings(t);
            [CA_FILE, CERT_FILE].iter().all(|k| wanted.get(*k) == node.config.get(*k))
        };
        self.known.iter().find(same)
    }
}

fn trusts(a: &Trust, b: &Trust) -> bool {
    let signed_by = b.leaf.as_str().split_once('@').map(|(_, ca)| ca).unwrap_or_default();
    a.authorities.contains(&Fingerprint::from(signed_by))
}

impl World {
    /// Somebody writes these CAs and a certificate of the first into the Secret that the spec names; none spoils it,
    /// and "off" takes the wish for TLS back.
    pub(crate) fn issue(&mut self, authorities: &[String], leaf: &str) {
        let before = self.asks_for_tls();
        if leaf == "off" {
            self.resource.desired.template.tls = None;
        } else {
            self.write_secret(authorities, leaf);
        }
        // Pods with certificates are other Pods.
        if before != self.asks_for_tls() {
            self.resource.desired.generation += 1;
            self.watch.upset_at = self.now;
            self.watch.purgeable = true;
        }
    }

    fn write_secret(&mut self, authorities: &[String], leaf: &str) {
        let first = authorities.first().map(String::as_str).unwrap_or_default();
        let set: BTreeSet<Fingerprint> = authorities.iter().map(|a| Fingerprint::from(a.as_str())).collect();
        let wanted = if leaf == "spoilt" {
            Err("the Secret cannot be used".to_owned())
        } else {
            Ok(Trust { authorities: set, leaf: Fingerprint::new(format!("{leaf}@{first}")) })
        };
        self.resource.desired.template.tls =
            Some(Tls { secret: Some("certs".into()), client_auth: ClientAuth::Optional });
        let secrets = &mut self.kube.secrets;
        match &mut secrets.certificates {
            Some(there) => there.wanted = wanted,
            none => *none = Some(Certificates { wanted, given: None, missing: false, expires: None }),
        }
    }

    /// The spec does, and the Secret can be used.
    fn asks_for_tls(&self) -> (bool, bool) {
        let usable = self.kube.secrets.certificates.as_ref().is_some_and(|c| c.wanted.is_ok());
        (self.resource.desired.template.tls.is_some(), usable)
    }

    /// The operator writes its own Secret; kubelets bring the files when they come to it.
    pub(crate) fn certify(&mut self, given: &Given) {
        let Some(certificates) = &mut self.kube.secrets.certificates else { return };
        certificates.given = Some(given.clone());
        self.kube.secrets.known.extend([given.now.clone()]);
        let pods: Vec<PodUid> = self.kube.secrets.mounted.keys().cloned().collect();
        for uid in pods {
            let at = self.now + self.rng.random_range(LATE);
            self.kube.secrets.due.insert(uid, at);
        }
    }

    /// The Pod changes, and its kubelet looks at it.
    pub(crate) fn nudge(&mut self, name: &PodName, of: &Fingerprint) {
        let at = self.now + self.rng.random_range(SOON);
        if let Some(object) = self.kube.pods.get_mut(name) {
            object.pod.nudged = Some(of.clone());
            self.kube.secrets.due.insert(object.pod.uid.clone(), at);
        }
    }

    pub(crate) fn kubelets_bring_files(&mut self) {
        let Some(given) = self.kube.secrets.certificates.as_ref().and_then(|c| c.given.clone()) else {
            return;
        };
        let (secrets, now) = (&mut self.kube.secrets, self.now);
        let due: Vec<PodUid> =
            secrets.due.iter().filter(|(_, at)| **at <= now).map(|(u, _)| u.clone()).collect();
        for uid in due {
            secrets.due.remove(&uid);
            secrets.mounted.insert(uid, given.clone());
        }
    }

    /// What a server of a new Pod starts with.
    pub(crate) fn first_files(&mut self, uid: &PodUid) -> BTreeMap<String, String> {
        if !self.kube.pods.values().any(|o| o.pod.uid == *uid && o.pod.encrypted) {
            return BTreeMap::new();
        }
        let Some(given) = self.kube.secrets.certificates.as_ref().and_then(|c| c.given.clone()) else {
            return BTreeMap::new();
        };
        let mut config = tls::settings(&given.now);
        config.insert("tls-auth-clients".into(), "optional".into());
        config.extend(Mode::Tls.settings().map(|(key, value)| (key.to_owned(), value)));
        self.kube.secrets.mounted.insert(uid.clone(), given);
        config
    }

    /// What the spec asks for as it can be had now, and what is known of certificates, as they are observed.
    pub(crate) fn secured(&self, pods: &BTreeMap<PodName, Pod>) -> (Desired, Option<Certificates>) {
        let mut desired = self.resource.desired.clone();
        let certificates = self.kube.secrets.certificates.clone();
        let plain = !pods.is_empty() && pods.values().all(|p| !p.encrypted);
        if plain && desired.template.tls.is_none() {
            return (desired, None);
        }
        if plain && certificates.as_ref().is_some_and(|c| c.wanted.is_err()) {
            desired.template.tls = None;
        }
        let goes = self.resource.desired.template.tls.is_none();
        let certificates = certificates.map(|c| match &c.given {
            Some(given) if goes => Certificates { wanted: Ok(given.now.clone()), ..c },
            _ => c,
        });
        (desired, certificates)
    }

    /// One node after the other; the operator may die half way.
    pub(crate) fn switch(&mut self, on: &[Target], to: Mode) -> Result<(), String> {
        for target in on {
            self.identity(target)?;
        }
        for (i, target) in on.iter().enumerate() {
            if i > 0 && self.rng.random_bool(0.15) {
                return Err("the operator died half way".to_owned());
            }
            let config = &mut self.valkey.get_mut(&target.node).config;
            config.extend(to.settings().map(|(key, value)| (key.to_owned(), value)));
        }
        Ok(())
    }

    /// The server opens the files: they must be there.
    pub(crate) fn may_load(&self, on: &Target, settings: &BTreeMap<String, String>) -> Result<(), String> {
        if !settings.contains_key(CA_FILE) {
            return Ok(());
        }
        let has = self.kube.secrets.mounted.get(&on.uid).is_some_and(|given| {
            let there = given.before.iter().chain([&given.now]).map(tls::settings);
            let all: BTreeSet<String> = there.flat_map(BTreeMap::into_values).collect();
            settings.iter().filter(|(k, _)| *k != "tls-auth-clients").all(|(_, file)| all.contains(file))
        });
        if has { Ok(()) } else { Err("Unable to update TLS configuration".to_owned()) }
    }

    /// Of those that speak TLS any may connect to any other at any moment, but for processes without a Pod that do not lead any more,
    /// or that know nobody and nobody knows.
    pub(crate) fn mistrust(&self) -> Option<String> {
        self.kube.secrets.certificates.as_ref()?;
        let has_pod = |n: &Node| self.kube.pods.values().any(|o| o.process.as_ref() == Some(&n.id));
        let of_use = |n: &Node| n.leads() || has_pod(n);
        let all = || self.valkey.nodes.values().filter(|n| n.cluster == 0 && n.config.contains_key(CA_FILE));
        let runs: Vec<(&Node, Option<&Trust>)> =
            all().filter(|n| of_use(n)).map(|n| (n, self.kube.secrets.runs_with(n))).collect();
        if let Some((node, _)) = runs.iter().find(|(_, t)| t.is_none()) {
            return Some(format!("{} runs with what nobody has given", node.id));
        }
        let runs: Vec<_> = runs.into_iter().filter(|(n, _)| n.speaks_tls()).collect();
        let pairs = runs.iter().flat_map(|a| runs.iter().map(move |b| (a, b)));
        let meet = |x: &Node, y: &Node| {
            (has_pod(x) && has_pod(y)) || x.view.contains_key(&y.id) || y.view.contains_key(&x.id)
        };
        let found = pairs
            .filter(|((x, _), (y, _))| meet(x, y))
            .filter_map(|((x, a), (y, b))| Some((x, (*a)?, y, (*b)?)))
            .find(|(_, a, _, b)| !trusts(a, b));
        found.map(|(x, _, y, _)| format!("{} does not trust the certificate of {}", x.id, y.id))
    }

    /// At the end every node runs with what is wanted.
    pub(crate) fn wrong_certificates(&self, going: bool) -> Option<String> {
        let leaves = |n: &Node| going && self.kube.by_uid(&n.uid).is_none_or(PodObject::told_to_go);
        let mut ours = self.valkey.nodes.values().filter(|n| n.cluster == 0 && !leaves(n));
        if self.resource.desired.template.tls.is_none() {
            let other = ours.find(|n| n.config.contains_key(CA_FILE))?;
            return Some(format!("{} still has certificates", other.id));
        }
        let wanted = self.kube.secrets.certificates.as_ref()?.wanted.as_ref().ok()?;
        if let Some(n) = ours.clone().find(|n| !n.speaks_tls()) {
            return Some(format!("{} speaks plain text", n.id));
        }
        let other = ours.find(|n| self.kube.secrets.runs_with(n) != Some(wanted))?;
        Some(format!("{} runs with other certificates", other.id))
    }
}
