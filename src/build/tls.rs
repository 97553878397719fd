//! How certificates reach a node: the Secret that Pods mount, the names of the files in it, and the settings that name them. Pure.
//!
//! A file is named after what is in it, so that the setting which names it tells what a node runs with: Valkey keeps the
//! former one when a file is not there yet or does not fit (measured on 8.0.1 and 9.1.2). The kubelet needs up to a minute to bring new files.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use sha2::{Digest, Sha256};

use super::{
    certificate::Stock,
    labels::{CLUSTER_UID, certificates_name, metadata},
    revision::hex,
};
use crate::model::certificates::{CA_FILE, CERT_FILE, KEY_FILE};
use crate::model::{ClientAuth, Desired, Fingerprint, Given, Trust};

/// Where the Secret is mounted.
pub const DIR: &str = "/etc/valkey-certificates";
/// The settings that name the files, for a node that starts.
pub const CONF: &str = "tls.conf";

/// The settings of a node that runs with this.
pub fn settings(trust: &Trust) -> BTreeMap<String, String> {
    let path = |file: String| format!("{DIR}/{file}");
    BTreeMap::from([
        (CA_FILE.to_owned(), path(ca_file(trust))),
        (CERT_FILE.to_owned(), path(format!("{}.crt", trust.leaf))),
        (KEY_FILE.to_owned(), path(format!("{}.key", trust.leaf))),
    ])
}

/// Whether clients show a certificate, as Valkey says it.
pub fn auth_clients(auth: ClientAuth) -> &'static str {
    match auth {
        ClientAuth::Optional => "optional",
        ClientAuth::Required => "yes",
        ClientAuth::Disabled => "no",
    }
}

fn ca_file(trust: &Trust) -> String {
    let list: Vec<&str> = trust.authorities.iter().map(Fingerprint::as_str).collect();
    let hash = hex(&Sha256::digest(list.concat().as_bytes()));
    format!("ca-{}.crt", hash.get(..24).unwrap_or_default())
}

/// What tells this from all others.
pub fn mark(trust: &Trust) -> Fingerprint {
    let list: Vec<&str> = trust.authorities.iter().chain([&trust.leaf]).map(Fingerprint::as_str).collect();
    Fingerprint::new(hex(&Sha256::digest(list.concat().as_bytes())).get(..12).unwrap_or_default())
}

/// The Secret that Pods mount; none when something of it is not at hand. Without an owner, like the one with the passwords: the
/// operator needs it until the last Pod is gone.
pub fn secret(desired: &Desired, stock: &Stock, given: &Given) -> Option<Secret> {
    let mut data = BTreeMap::new();
    for trust in given.before.iter().chain([&given.now]) {
        let (chain, key) = stock.texts(&trust.leaf)?;
        data.insert(ca_file(trust), stock.bundle(&trust.authorities)?);
        data.insert(format!("{}.crt", trust.leaf), chain.to_owned());
        data.insert(format!("{}.key", trust.leaf), key.to_owned());
    }
    let lines = settings(&given.now).into_iter().map(|(key, value)| format!("{key} {value}\n"));
    data.insert(CONF.to_owned(), lines.collect());
    let annotations = BTreeMap::from([(CLUSTER_UID.to_owned(), desired.key.uid.clone())]);
    Some(Secret {
        metadata: ObjectMeta {
            annotations: Some(annotations),
            ..metadata(desired, certificates_name(&desired.key.name))
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data.into_iter().map(|(k, text)| (k, ByteString(text.into_bytes()))).collect()),
        ..Default::default()
    })
}

/// What that Secret holds.
///
/// # Errors
/// A sentence, when it was altered so that it is not understood.
pub fn given(secret: &Secret) -> Result<(Stock, Given), String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    read(secret).map_err(|why| {
        format!("the Secret {name}, which the operator keeps for itself, was altered ({why}); delete it, and it is written anew")
    })
}

fn read(secret: &Secret) -> Result<(Stock, Given), String> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let text = |file: &str| {
        let bytes = data.get(file).ok_or_else(|| format!("{file} is missing"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| format!("{file} is not text"))
    };
    let conf = text(CONF)?;
    let named = |key: &str| {
        let line =
            conf.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_prefix(DIR)?.strip_prefix('/'));
        line.map(str::to_owned).ok_or_else(|| format!("{CONF} has no {key}"))
    };
    let (ca, cert) = (named(CA_FILE)?, named(CERT_FILE)?);
    let mut stock = Stock::default();
    let mut all = BTreeMap::new();
    for file in data.keys().filter(|f| f.starts_with("ca-")) {
        all.insert(file.clone(), stock.add_authorities(&text(file)?)?);
    }
    let mut leaves = BTreeMap::new();
    let leaf = |file: &&String| file.strip_suffix(".crt").is_some_and(|name| !name.starts_with("ca-"));
    for file in data.keys().filter(leaf) {
        let key = text(&file.replace(".crt", ".key"))?;
        leaves.insert(file.clone(), stock.add_leaf(&text(file)?, &key)?);
    }
    let authorities = all.remove(&ca).ok_or_else(|| format!("{ca} is missing"))?;
    let leaf = leaves.remove(&cert).ok_or_else(|| format!("{cert} is missing"))?;
    let now = Trust { authorities, leaf };
    // At most one of each is left: what changed last.
    let (other_ca, other_leaf) = (all.into_values().next(), leaves.into_values().next());
    let before = (other_ca.is_some() || other_leaf.is_some()).then(|| Trust {
        authorities: other_ca.unwrap_or_else(|| now.authorities.clone()),
        leaf: other_leaf.unwrap_or_else(|| now.leaf.clone()),
    });
    Ok((stock, Given { now, before }))
}

#[cfg(test)]
mod tests {
    use super::super::certificate::{self, tests as made};
    use super::*;
    use crate::api::{self, ValkeyCluster, ValkeyClusterSpec};

    fn desired() -> Desired {
        let mut cr = ValkeyCluster::new("c", ValkeyClusterSpec::default());
        cr.metadata.namespace = Some("ns".into());
        cr.metadata.uid = Some("u-1".into());
        api::desired(&cr).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (old, new) = (made::Ca::new("old"), made::Ca::new("new"));
        let (first, second) = (old.issue("valkey-c"), new.issue("valkey-c"));
        let read =
            |ca: &str, i: &made::Issued| certificate::wanted(&made::secret(ca, &i.pem, &i.key), made::NOW);
        let (mut stock, before) = read(&old.pem, &first).unwrap();
        let (more, wanted) = read(&new.pem, &second).unwrap();
        stock.extend(&more);
        let mut given = Given { now: before, before: None };
        let mut states = 0;
        loop {
            let secret = secret(&desired(), &stock, &given).unwrap();
            let (held, again) = super::given(&secret).unwrap();
            assert_eq!(again, given);
            assert!(held.leaves.contains_key(&given.now.leaf));
            states += 1;
            match given.next(&wanted) {
                Some((next, _)) => given = next,
                None => break,
            }
        }
        assert_eq!((states, given.now == wanted), (5, true));
    }

    #[test]
    fn what_is_not_at_hand_is_not_written() {
        let trust = Trust { authorities: ["a".into()].into(), leaf: "l".into() };
        assert_eq!(secret(&desired(), &Stock::default(), &Given { now: trust, before: None }), None);
        let why = given(&Secret::default()).unwrap_err();
        assert!(why.contains("delete it, and it is written anew"), "{why}");
    }
}
