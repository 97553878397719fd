//! Decides who has which certificate: one authority of the sandbox's own, one certificate for each component.
//!
//! May write into the sandbox's `pki` directory. What is there already is kept, so that a second `up` goes on with
//! the same identities.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};

use super::address::{API_SERVICE, CONTROL, Worker};
use super::instance::{Instance, write};

/// Somebody who gets a certificate.
struct Subject<'a> {
    file: String,
    name: String,
    group: &'a str,
    addresses: Vec<String>,
}

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The certificate, PEM.
    pub(super) certificate: PathBuf,
    /// Its private key, PEM.
    pub(super) key: PathBuf,
}

/// Where the certificate of that name is or will be.
pub(super) fn identity(instance: &Instance, name: &str) -> Identity {
    let file = |ending: &str| instance.path(format!("pki/{name}.{ending}"));
    Identity { certificate: file("crt"), key: file("key") }
}

/// The key that service account tokens are signed with, and its public half.
pub(super) fn service_accounts(instance: &Instance) -> Identity {
    Identity { certificate: instance.path("pki/sa.pub"), key: instance.path("pki/sa.key") }
}

/// Issues every certificate that is missing.
///
/// # Errors
/// If a key cannot be made or read, or the file system refuses.
pub(super) fn ensure(instance: &Instance, workers: u8) -> Result<()> {
    let authority = authority(instance, "ca")?;
    for subject in subjects(workers) {
        issue(instance, &authority, &subject)?;
    }
    // What the API server shows to extension API servers must come from an authority of its own.
    let front = self::authority(instance, "front-proxy-ca")?;
    issue(instance, &front, &subject("front-proxy", "front-proxy-client", "sandbox"))?;
    let tokens = service_accounts(instance);
    if !tokens.certificate.exists() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write(&tokens.key, key.serialize_pem().as_bytes())?;
        write(&tokens.certificate, key.public_key_pem().as_bytes())?;
    }
    Ok(())
}

fn subject<'a>(file: &str, name: &str, group: &'a str) -> Subject<'a> {
    Subject { file: file.to_owned(), name: name.to_owned(), group, addresses: Vec::new() }
}

fn subjects(workers: u8) -> Vec<Subject<'static>> {
    let mut api = subject("apiserver", "kube-apiserver", "sandbox");
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    api.addresses = vec![CONTROL.to_string(), API_SERVICE.to_string(), "127.0.0.1".to_owned()];
    api.addresses.extend(names.map(str::to_owned));
    api.addresses.push("kubernetes.default.svc.cluster.local".to_owned());
    let mut all = vec![
        api,
        subject("admin", "admin", "system:masters"),
        subject("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        subject("controller-manager", "system:kube-controller-manager", "sandbox"),
        subject("scheduler", "system:kube-scheduler", "sandbox"),
        subject("proxy", "system:kube-proxy", "system:node-proxier"),
    ];
    all.extend(Worker::first(workers).map(|worker| Subject {
        file: worker.to_string(),
        name: format!("system:node:{worker}"),
        group: "system:nodes",
        addresses: vec![worker.address().to_string(), worker.to_string()],
    }));
    all
}

fn authority(instance: &Instance, name: &str) -> Result<Issuer<'static, KeyPair>> {
    let files = identity(instance, name);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, format!("sandbox {name}"));
    let key = if files.certificate.exists() {
        let pem =
            fs::read_to_string(&files.key).with_context(|| format!("cannot read {}", files.key.display()))?;
        KeyPair::from_pem(&pem)?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write(&files.key, key.serialize_pem().as_bytes())?;
        write(&files.certificate, params.self_signed(&key)?.pem().as_bytes())?;
        key
    };
    Ok(Issuer::new(params, key))
}

fn issue(instance: &Instance, authority: &Issuer<'_, KeyPair>, subject: &Subject<'_>) -> Result<()> {
    let files = identity(instance, &subject.file);
    if files.certificate.exists() {
        return Ok(());
    }
    let mut params = CertificateParams::new(subject.addresses.clone())?;
    params.distinguished_name.push(DnType::OrganizationName, subject.group);
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(&files.key, key.serialize_pem().as_bytes())?;
    write(&files.certificate, params.signed_by(&key, authority)?.pem().as_bytes())
}
