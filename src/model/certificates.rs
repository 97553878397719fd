//! Which certificates nodes are to have, and how they get from one set to another without a moment of mistrust. Ids only: the
//! certificates and keys themselves stay with what reads and writes them.

use std::collections::BTreeSet;

use super::ids::{Fingerprint, Moment};

/// The setting that names the file with the CAs.
pub const CA_FILE: &str = "tls-ca-cert-file";
/// The setting that names the file with the certificate.
pub const CERT_FILE: &str = "tls-cert-file";
/// The setting that names the file with its key.
pub const KEY_FILE: &str = "tls-key-file";
/// The setting that says whether clients show a certificate.
pub const AUTH_CLIENTS: &str = "tls-auth-clients";
/// What a node is asked for to know what it runs with.
pub const SETTINGS: [&str; 4] = [CA_FILE, CERT_FILE, KEY_FILE, AUTH_CLIENTS];

/// What a node runs with: the CAs that it trusts and the certificate that it shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Trust {
    /// The CAs, by the hash of each.
    pub authorities: BTreeSet<Fingerprint>,
    /// The certificate with its chain, by their hash.
    pub leaf: Fingerprint,
}

/// What the operator has put at the nodes' disposal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Given {
    /// What every node shall run with.
    pub now: Trust,
    /// What some node may still run with: its files stay until none does.
    pub before: Option<Trust>,
}

/// The certificates of a cluster that speaks TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// What the referenced Secret holds, checked; or why it cannot be used, as a sentence.
    pub wanted: Result<Trust, String>,
    /// What the nodes have at their disposal; none before the first certificate.
    pub given: Option<Given>,
    /// The Secret that Pods mount is gone, and what it held is known.
    pub missing: bool,
    /// When the certificate that the nodes have, or one that its trust rests on, ends.
    pub expires: Option<Moment>,
}

impl Given {
    /// The next state on the way to what is wanted, and why. One state at a time, and only when every node runs with the present
    /// one: any two that follow each other trust each other, whoever reconnects to whom.
    pub fn next(&self, wanted: &Trust) -> Option<(Given, &'static str)> {
        let now = &self.now;
        let step = |authorities: &BTreeSet<Fingerprint>, leaf: &Fingerprint| Given {
            now: Trust { authorities: authorities.clone(), leaf: leaf.clone() },
            before: Some(now.clone()),
        };
        if !now.authorities.is_superset(&wanted.authorities) {
            let both: BTreeSet<Fingerprint> = now.authorities.union(&wanted.authorities).cloned().collect();
            return Some((
                step(&both, &now.leaf),
                "every node trusts the new CA before one shows its certificate",
            ));
        }
        if now.leaf != wanted.leaf {
            return Some((
                step(&now.authorities, &wanted.leaf),
                "every node trusts the CA of the new certificate",
            ));
        }
        if now.authorities != wanted.authorities {
            return Some((step(&wanted.authorities, &now.leaf), "no node needs the old CA any more"));
        }
        let done = Given { now: now.clone(), before: None };
        self.before.is_some().then_some((done, "no node uses the former files any more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(authorities: &[&str], leaf: &str) -> Trust {
        Trust { authorities: authorities.iter().map(|a| Fingerprint::from(*a)).collect(), leaf: leaf.into() }
    }

    /// All states from one set of certificates to another, the first apart.
    fn way(from: Trust, to: &Trust) -> Vec<Trust> {
        let mut given = Given { now: from, before: None };
        let mut states = Vec::new();
        while let Some((next, _)) = given.next(to) {
            states.push(next.now.clone());
            given = next;
            assert!(states.len() < 9, "{states:?}");
        }
        assert_eq!(given.before, None, "what nobody uses is gone");
        states.dedup();
        states
    }

    #[test]
    fn another_certificate_of_the_same_ca_is_one_step() {
        assert_eq!(way(trust(&["a"], "l"), &trust(&["a"], "m")), [trust(&["a"], "m")]);
        assert_eq!(way(trust(&["a"], "l"), &trust(&["a"], "l")), []);
    }

    #[test]
    fn another_ca_is_trusted_first_and_the_old_one_goes_last() {
        let states = way(trust(&["a"], "l"), &trust(&["b"], "m"));
        assert_eq!(states, [trust(&["a", "b"], "l"), trust(&["a", "b"], "m"), trust(&["b"], "m")]);
    }

    #[test]
    fn a_change_of_mind_on_the_way_never_leaves_a_node_mistrusted() {
        let given = Given { now: trust(&["a", "b"], "m"), before: Some(trust(&["a", "b"], "l")) };
        let (next, _) = given.next(&trust(&["c"], "n")).unwrap();
        assert_eq!(next.now, trust(&["a", "b", "c"], "m"));
    }
}
