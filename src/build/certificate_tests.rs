use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::*;

/// 2026-06-01, in the middle of what [`Ca`] issues.
pub(crate) const NOW: Moment = Moment(1_780_272_000_000);

/// A CA of a test.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What is issued: the certificate, its chain and the key, as texts.
pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) key: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params =
        CertificateParams::new(vec![format!("{name}.ns.svc"), format!("*.{name}.ns.svc")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    params
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::until(name, 2030)
    }

    fn until(name: &str, year: i32) -> Self {
        let (mut params, key) = (Self::params(name), KeyPair::generate().unwrap());
        params.not_after = date_time_ymd(year, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2030, 1, 1));
        params
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.issue_with(&params(name))
    }

    fn issue_with(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued { pem: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A Secret as cert-manager writes it.
pub(crate) fn secret(ca: &str, certificate: &str, key: &str) -> Secret {
    let data = [(CA, ca), (CERTIFICATE, certificate), (KEY, key)];
    let mut secret = Secret::default();
    secret.metadata.name = Some("certs".to_owned());
    let bytes = |(k, text): (&str, &str)| (k.to_owned(), ByteString(text.as_bytes().to_vec()));
    secret.data = Some(data.into_iter().filter(|(_, text)| !text.is_empty()).map(bytes).collect());
    secret
}

#[test]
fn what_cert_manager_writes_is_taken() {
    let ca = Ca::new("ca");
    let issued = ca.issue("valkey-c");
    let (stock, trust) = wanted(&secret(&ca.pem, &issued.pem, &issued.key), NOW).unwrap();
    let leaf = stock.leaves.get(&trust.leaf).unwrap();
    assert_eq!(leaf.names, ["valkey-c.ns.svc", "*.valkey-c.ns.svc"]);
    assert_eq!(trust.authorities.len(), 1);
    // 2027-01-01, before the CA's own end.
    assert_eq!(stock.expires(&trust), Some(Moment(1_798_761_600_000)));
    assert!(!format!("{stock:?}").contains("PRIVATE"), "the key is never printed");
}

#[test]
fn a_chain_may_lie_in_either_file() {
    let root = Ca::new("root");
    let between = root.below("between");
    let issued = between.issue("valkey-c");
    let whole = format!("{}{}", issued.pem, between.pem);
    wanted(&secret(&root.pem, &whole, &issued.key), NOW).unwrap();
    wanted(&secret(&format!("{}{}", between.pem, root.pem), &issued.pem, &issued.key), NOW).unwrap();
    let why = wanted(&secret(&between.pem, &issued.pem, &issued.key), NOW).unwrap_err();
    assert!(why.contains("add the root"), "{why}");
    let why = wanted(&secret(&root.pem, &issued.pem, &issued.key), NOW).unwrap_err();
    assert!(why.contains("was not signed by a CA of ca.crt"), "{why}");
}

#[test]
fn what_must_not_reach_a_node_is_refused_with_what_to_do() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let good = ca.issue("valkey-c");
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = params("valkey-c");
        change(&mut params);
        ca.issue_with(&params)
    };
    let expired = with(|p| p.not_after = date_time_ymd(2026, 2, 1));
    let early = with(|p| p.not_before = date_time_ymd(2026, 12, 1));
    let server = with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let client = with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let old = Ca::until("old", 2026);
    let of_old = old.issue("valkey-c");
    let cut: String = good.pem.chars().take(200).collect();
    let sealed = good
        .key
        .replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE")
        .replace("END PRIVATE", "END ENCRYPTED PRIVATE");
    for (ca_crt, crt, key, says) in [
        ("", good.pem.as_str(), good.key.as_str(), "it has no ca.crt; add the CA"),
        (&ca.pem, "", &good.key, "it has no tls.crt"),
        (&ca.pem, &good.pem, "", "it has no tls.key"),
        (&ca.pem, &cut, &good.key, "tls.crt or tls.key: it is cut off"),
        (&ca.pem, "garbage", &good.key, "no certificate in PEM"),
        (&ca.pem, &good.pem, "garbage", "no private key in PEM"),
        (&ca.pem, &good.pem, &sealed, "without a passphrase"),
        (&ca.pem, &good.pem, &expired.key, "tls.key does not belong to tls.crt"),
        (&ca.pem, &expired.pem, &expired.key, "has expired on 2026-02-01T00:00:00Z: renew it"),
        (&ca.pem, &early.pem, &early.key, "is valid from 2026-12-01T00:00:00Z only"),
        (&other.pem, &good.pem, &good.key, "was not signed by a CA of ca.crt"),
        (&ca.pem, &server.pem, &server.key, "is not for a client (client auth)"),
        (&ca.pem, &client.pem, &client.key, "is not for a server (server auth)"),
        (&old.pem, &of_old.pem, &of_old.key, "no self-signed CA that is still valid"),
    ] {
        let why = wanted(&secret(ca_crt, crt, key), NOW).unwrap_err();
        assert!(why.starts_with("the Secret certs cannot be used for TLS: ") && why.contains(says), "{why}");
    }
}
