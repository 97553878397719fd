//! Certificates as Secrets hold them: read, checked, and told apart. Pure: the time is given.
//!
//! What passes here is what Valkey accepts, too: it wants a chain up to a self-signed CA, and one certificate for both ends of a
//! connection (a replica is its primary's client, and every node is every other's on the cluster bus).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::revision::hex;
use crate::model::{Fingerprint, Moment, Trust};

/// Entry of the referenced Secret: the CAs. The names are those of cert-manager.
pub const CA: &str = "ca.crt";
/// Entry of the referenced Secret: the certificate, followed by those between it and the CA.
pub const CERTIFICATE: &str = "tls.crt";
/// Entry of the referenced Secret: its private key.
pub const KEY: &str = "tls.key";

/// Digits of a hash that are kept: 96 bits.
const DIGITS: usize = 24;

/// A CA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    /// The certificate.
    pub der: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its chain and its key. The key is never printed.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate, then those between it and the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    pem: String,
    key_pem: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Everything at hand: CAs and certificates by their ids.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// The CAs.
    pub authorities: BTreeMap<Fingerprint, Authority>,
    /// The certificates with their keys.
    pub leaves: BTreeMap<Fingerprint, Leaf>,
}

impl Stock {
    /// Adds what another has.
    pub fn extend(&mut self, other: &Stock) {
        self.authorities.extend(other.authorities.iter().map(|(id, a)| (id.clone(), a.clone())));
        self.leaves.extend(other.leaves.iter().map(|(id, l)| (id.clone(), l.clone())));
    }

    /// The certificates of these CAs in one text; none when one is not at hand.
    pub fn bundle(&self, ids: &BTreeSet<Fingerprint>) -> Option<String> {
        ids.iter().map(|id| Some(self.authorities.get(id)?.pem.as_str())).collect()
    }

    /// The chain and the key as texts.
    pub fn texts(&self, leaf: &Fingerprint) -> Option<(&str, &str)> {
        self.leaves.get(leaf).map(|l| (l.pem.as_str(), l.key_pem.as_str()))
    }

    /// When the first of what this trust rests on ends: its certificate, one of its chain, or the last of its CAs.
    pub fn expires(&self, trust: &Trust) -> Option<Moment> {
        let chain = self.leaves.get(&trust.leaf)?.chain.iter().filter_map(|der| ends(der));
        let authorities = trust.authorities.iter().filter_map(|id| ends(&self.authorities.get(id)?.der));
        chain.min().into_iter().chain(authorities.max()).min()
    }

    /// Takes CAs in; which they are.
    pub fn add_authorities(&mut self, text: &str) -> Result<BTreeSet<Fingerprint>, String> {
        let mut ids = BTreeSet::new();
        for (der, pem) in certificates(text)? {
            let id = fingerprint([&der]);
            self.authorities.insert(id.clone(), Authority { der, pem });
            ids.insert(id);
        }
        Ok(ids)
    }

    /// Takes a certificate with its chain and key in; which it is.
    pub fn add_leaf(&mut self, chain: &str, key: &str) -> Result<Fingerprint, String> {
        let (chain, pems): (Vec<_>, Vec<String>) = certificates(chain)?.into_iter().unzip();
        let first = chain.first().ok_or("it has no certificate")?;
        let parsed = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(
            |_| "its key is no private key in PEM, or it is encrypted: give it without a passphrase",
        )?;
        let id = fingerprint(&chain);
        let names = dns_names(first);
        let leaf = Leaf {
            chain,
            key: Arc::new(parsed),
            names,
            pem: pems.concat(),
            key_pem: format!("{}\n", key.trim()),
        };
        self.leaves.insert(id.clone(), leaf);
        Ok(id)
    }
}

/// What the referenced Secret asks for, and what is needed for it.
///
/// # Errors
/// A sentence that names the Secret and says what to put right.
pub fn wanted(secret: &Secret, now: Moment) -> Result<(Stock, Trust), String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    read(secret, now).map_err(|why| format!("the Secret {name} cannot be used for TLS: {why}"))
}

fn read(secret: &Secret, now: Moment) -> Result<(Stock, Trust), String> {
    let (ca, chain, key) = (entry(secret, CA)?, entry(secret, CERTIFICATE)?, entry(secret, KEY)?);
    let mut stock = Stock::default();
    let authorities = stock.add_authorities(&ca).map_err(|why| format!("{CA}: {why}"))?;
    let leaf = stock.add_leaf(&chain, &key).map_err(|why| format!("{CERTIFICATE} or {KEY}: {why}"))?;
    let trust = Trust { authorities, leaf };
    check(&stock, &trust, now)?;
    Ok((stock, trust))
}

fn entry(secret: &Secret, key: &str) -> Result<String, String> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).filter(|ByteString(b)| !b.is_empty());
    let hint = match key {
        CA => "add the CA that has signed tls.crt (issuers such as ACME leave it out)",
        _ => "it holds ca.crt, tls.crt and tls.key, as cert-manager writes them",
    };
    let bytes = bytes.ok_or_else(|| format!("it has no {key}; {hint}"))?;
    String::from_utf8(bytes.0.clone()).map_err(|_| format!("{key} is not text in PEM"))
}

/// Whether nodes with these would accept each other, and clients them.
fn check(stock: &Stock, trust: &Trust, now: Moment) -> Result<(), String> {
    let leaf = stock.leaves.get(&trust.leaf).ok_or("tls.crt is missing")?;
    let first = leaf.chain.first().ok_or("tls.crt has no certificate")?;
    let provider = Arc::new(ring::default_provider());
    belongs(leaf, &provider)?;
    in_time(first, now)?;
    let mut roots = RootCertStore::empty();
    for authority in trust.authorities.iter().filter_map(|id| stock.authorities.get(id)) {
        if is_self_signed(&authority.der) && ends(&authority.der).is_some_and(|end| end > now) {
            roots.add(authority.der.clone()).map_err(|e| format!("{CA}: {e}"))?;
        }
    }
    if roots.is_empty() {
        return Err(format!(
            "{CA} has no self-signed CA that is still valid: add the root, Valkey trusts no other"
        ));
    }
    // What lies between may be in either file.
    let listed = trust.authorities.iter().filter_map(|id| stock.authorities.get(id)).map(|a| &a.der);
    let between = leaf.chain.iter().skip(1).chain(listed.filter(|der| !is_self_signed(der)));
    let between: Vec<CertificateDer<'static>> = between.cloned().collect();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.0).unwrap_or_default()));
    let parsed = ParsedCertificate::try_from(first).map_err(|e| format!("{CERTIFICATE}: {e}"))?;
    let known = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &between, at, known)
        .map_err(|e| told(&e, "a server (server auth)"))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| format!("{CA}: {e}"))?;
    clients.verify_client_cert(first, &between, at).map_err(|e| told(&e, "a client (client auth)"))?;
    Ok(())
}

fn belongs(leaf: &Leaf, provider: &CryptoProvider) -> Result<(), String> {
    let key = provider.key_provider.load_private_key(leaf.key.clone_key());
    let key = key.map_err(|_| {
        format!("{KEY} is of a kind that is not supported: use RSA from 2048 bits, ECDSA P-256 or P-384")
    })?;
    match CertifiedKey::new(leaf.chain.clone(), key).keys_match() {
        Ok(()) => Ok(()),
        Err(Error::InconsistentKeys(_)) => {
            Err(format!("{KEY} does not belong to {CERTIFICATE}: write both of one issuance"))
        }
        Err(e) => Err(format!("{CERTIFICATE}: {e}")),
    }
}

fn in_time(certificate: &CertificateDer<'_>, now: Moment) -> Result<(), String> {
    let (from, to) =
        validity(certificate).ok_or_else(|| format!("{CERTIFICATE} has no readable validity"))?;
    if to <= now {
        return Err(format!("{CERTIFICATE} has expired on {}: renew it", date(to)));
    }
    if from > now {
        return Err(format!("{CERTIFICATE} is valid from {} only: wait, or compare the clocks", date(from)));
    }
    Ok(())
}

fn told(error: &Error, end: &str) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "{CERTIFICATE} was not signed by a CA of {CA}: put the CA into {CA}, and what is between into {CERTIFICATE}"
        ),
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => format!(
            "{CERTIFICATE} is not for {end}: nodes are both, so issue it with the usages server auth and client auth"
        ),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("a certificate between {CERTIFICATE} and its CA has expired: renew it")
        }
        Error::InvalidCertificate(why) => format!("{CERTIFICATE} is not accepted ({why:?})"),
        other => format!("{CERTIFICATE} is not accepted ({other})"),
    }
}

/// The certificates of a text, each with its own lines.
fn certificates(text: &str) -> Result<Vec<(CertificateDer<'static>, String)>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let body = block.split(END).next().filter(|b| b.len() < block.len()).ok_or("it is cut off")?;
        let pem = format!("{BEGIN}{}{END}\n", body.replace('\r', ""));
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "it is no certificate in PEM")?;
        parsed(&der).ok_or("it is no X.509 certificate")?;
        found.push((der, pem));
    }
    if found.is_empty() { Err("it is no certificate in PEM".to_owned()) } else { Ok(found) }
}

fn fingerprint<'a>(ders: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Fingerprint {
    let mut hash = Sha256::new();
    for der in ders {
        hash.update(der.as_ref());
    }
    Fingerprint::new(hex(&hash.finalize()).get(..DIGITS).unwrap_or_default())
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der.as_ref()).ok().map(|(_, certificate)| certificate)
}

fn is_self_signed(der: &CertificateDer<'_>) -> bool {
    parsed(der).is_some_and(|c| c.issuer().as_raw() == c.subject().as_raw())
}

fn validity(der: &CertificateDer<'_>) -> Option<(Moment, Moment)> {
    let validity = parsed(der)?.validity().clone();
    let moment = |seconds: i64| Moment(seconds.saturating_mul(1000));
    Some((moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp())))
}

fn ends(der: &CertificateDer<'_>) -> Option<Moment> {
    validity(der).map(|(_, to)| to)
}

fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Some(certificate) = parsed(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let dns = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(n) = name { Some((*n).to_owned()) } else { None }
    };
    names.map(|n| n.value.general_names.iter().filter_map(dns).collect()).unwrap_or_default()
}

fn date(moment: Moment) -> String {
    Timestamp::from_millisecond(moment.0).map_or_else(|_| "an unknown date".to_owned(), |t| t.to_string())
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
pub(crate) mod tests;
