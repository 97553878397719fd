//! Certificates of a cluster that speaks TLS: two CAs, what they issue, and what its clients trust. As cert-manager would write them.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use serde_json::{Value, json};

use crate::resp::{Connector, encrypted};

/// The certificates of one cluster.
pub(super) struct Pki {
    namespace: String,
    secret: String,
    /// The name that clients check, and that each certificate has.
    name: ServerName<'static>,
    dns: Vec<String>,
    first: Ca,
    second: Ca,
    /// What is in the Secret now.
    now: Mutex<Option<CertificateDer<'static>>>,
    /// Lines of the keys that were ever in it.
    keys: Mutex<Vec<String>>,
    provider: Arc<CryptoProvider>,
    /// What clients show.
    shown: Arc<Shown>,
    config: Arc<ClientConfig>,
}

/// The certificate that clients show from now on, if any: every connection that is made asks anew.
#[derive(Debug, Default)]
struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.lock().ok()?.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.lock().is_ok_and(|shown| shown.is_some())
    }
}

/// A CA.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }
}

impl Pki {
    /// Two CAs and clients that trust both, as an application does that is told of a new CA before it is used.
    ///
    /// # Errors
    /// If no key can be made.
    pub(super) fn new(namespace: &str, cluster: &str) -> Result<Self> {
        let service = format!("valkey-{cluster}.{namespace}.svc");
        let (first, second) = (Ca::new("first")?, Ca::new("second")?);
        let mut roots = RootCertStore::empty();
        for ca in [&first, &second] {
            roots.add(
                CertificateDer::from_pem_slice(ca.pem.as_bytes()).map_err(|e| anyhow::anyhow!("{e:?}"))?,
            )?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = Arc::new(Shown::default());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
        Ok(Self {
            namespace: namespace.to_owned(),
            secret: format!("{cluster}-tls"),
            name: ServerName::try_from(service.clone())?,
            dns: vec![service.clone(), format!("*.{service}")],
            first,
            second,
            now: Mutex::default(),
            keys: Mutex::default(),
            provider,
            shown,
            config: Arc::new(config),
        })
    }

    /// The CA that the cluster is made with.
    pub(super) fn first(&self) -> &Ca {
        &self.first
    }

    /// Another one.
    pub(super) fn second(&self) -> &Ca {
        &self.second
    }

    /// What the spec says of it.
    pub(super) fn networking(&self) -> Value {
        json!({ "tls": { "certificates": { "server": { "secretName": self.secret } } } })
    }

    /// Writes another certificate of this CA into the Secret, in one write, as an issuer does.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(super) async fn issue(&self, client: &Client, ca: &Ca) -> Result<()> {
        let mut params = CertificateParams::new(self.dns.clone())?;
        params.distinguished_name.push(DnType::CommonName, "valkey");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let issued = params.signed_by(&key, &ca.issuer)?;
        let key = key.serialize_pem();
        let lines = key.lines().filter(|line| !line.starts_with('-')).map(str::to_owned);
        self.keys.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.extend(lines);
        self.write(client, json!({ "ca.crt": ca.pem, "tls.crt": issued.pem(), "tls.key": key })).await?;
        *self.now.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Some(issued.der().clone());
        Ok(())
    }

    /// Clients show a certificate of their own from now on, of this CA.
    ///
    /// # Errors
    /// If none can be made.
    pub(super) fn clients_show(&self, ca: &Ca) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "application");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let issued = params.signed_by(&key, &ca.issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let certified = CertifiedKey::from_der(vec![issued.der().clone()], private, &self.provider)?;
        self.set_shown(Some(certified))
    }

    /// Clients show none from now on.
    ///
    /// # Errors
    /// Never in practice: only if another story panicked at this very place.
    pub(super) fn clients_show_none(&self) -> Result<()> {
        self.set_shown(None)
    }

    fn set_shown(&self, certified: Option<CertifiedKey>) -> Result<()> {
        *self.shown.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = certified.map(Arc::new);
        Ok(())
    }

    /// Writes these entries into the Secret.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(super) async fn write(&self, client: &Client, entries: Value) -> Result<()> {
        let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": self.secret },
            "type": "Opaque", "stringData": entries });
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        api.patch(&self.secret, &PatchParams::apply("story").force(), &Patch::Apply(&body)).await?;
        Ok(())
    }

    /// Deletes the Secret.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(super) async fn delete(&self, client: &Client) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        api.delete(&self.secret, &DeleteParams::default()).await?;
        Ok(())
    }

    /// What nobody may read of the keys, in lines.
    ///
    /// # Errors
    /// Never in practice: only if another story panicked at this very place.
    pub(super) fn keys(&self) -> Result<Vec<String>> {
        Ok(self.keys.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone())
    }

    /// The same way, by TLS.
    pub(super) fn connector(&self, over: Connector) -> Connector {
        encrypted(over, Arc::clone(&self.config), self.name.clone())
    }

    /// Whether a node at the end of this way shows the certificate that was issued last.
    ///
    /// # Errors
    /// That it shows another one, or none.
    pub(super) async fn is_shown(&self, over: &Connector, addr: std::net::SocketAddr) -> Result<()> {
        let shown = crate::resp::shown(over, Arc::clone(&self.config), self.name.clone(), addr).await?;
        let wanted = self.now.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        let wanted = wanted.context("no certificate was issued")?;
        ensure!(shown == wanted, "{addr} shows another certificate at {}", Timestamp::now());
        Ok(())
    }
}
