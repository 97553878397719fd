//! The certificates that a script speaks of by letters: a CA for each, and a certificate for each pair.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use valkey_cluster_operator::valkey::Tls;

/// The name of the Secret that the spec names.
pub(crate) const SECRET: &str = "certs";
/// A name of the Service.
const NAME: &str = "valkey-c.ns.svc";

/// Who has signed what so far.
#[derive(Default)]
pub(crate) struct Issued {
    authorities: BTreeMap<String, (String, Issuer<'static, KeyPair>)>,
    /// By its letter and that of its CA: the certificate and its key.
    leaves: BTreeMap<(String, String), (String, String)>,
}

impl Issued {
    /// A Secret as cert-manager writes it: a certificate of the first CA, and all of them; without one it cannot be used.
    pub(crate) fn secret(&mut self, leaf: &str, authorities: &[String]) -> Secret {
        let mut data: BTreeMap<&str, String> =
            ["tls.crt", "tls.key", "ca.crt"].map(|k| (k, "spoilt".into())).into();
        if let Some(first) = authorities.first() {
            let (chain, key) = self.leaf(leaf, first);
            let bundle: String = authorities.iter().map(|ca| self.authority(ca).0.clone()).collect();
            data = [("tls.crt", chain), ("tls.key", key), ("ca.crt", bundle)].into();
        }
        let mut secret = Secret::default();
        (secret.metadata.name, secret.metadata.namespace) =
            (Some(SECRET.into()), Some(super::NAMESPACE.into()));
        let bytes = |(key, text): (&str, String)| (key.to_owned(), ByteString(text.into_bytes()));
        secret.data = Some(data.into_iter().map(bytes).collect());
        secret
    }

    fn authority(&mut self, name: &str) -> &(String, Issuer<'static, KeyPair>) {
        self.authorities.entry(name.to_owned()).or_insert_with(|| {
            let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
        })
    }

    fn leaf(&mut self, leaf: &str, authority: &str) -> (String, String) {
        let name = (leaf.to_owned(), authority.to_owned());
        if let Some(known) = self.leaves.get(&name) {
            return known.clone();
        }
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, leaf);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.authority(authority).1).unwrap().pem();
        let issued = (pem, key.serialize_pem());
        self.leaves.insert(name, issued.clone());
        issued
    }

    /// How clients speak to nodes with any of these; none before there is one.
    pub(crate) fn client(&self) -> Option<Tls> {
        let der = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let authorities: Vec<_> = self.authorities.values().map(|(pem, _)| der(pem)).collect();
        let leaves: Vec<_> = self.leaves.values().map(|(pem, _)| der(pem)).collect();
        let (_, (chain, key)) = self.leaves.iter().next_back()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Tls::new(&authorities, &leaves, &[NAME.to_owned()], (&[der(chain)], &key)).ok()
    }
}
