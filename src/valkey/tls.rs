//! How a node proves that it is one of the cluster's, and the operator that it is the operator.
//!
//! Nodes are spoken to by their addresses, which no certificate names. What proves a node is better than a name: it shows
//! exactly a certificate that the operator itself has given to the nodes, and holds the key of it. A certificate that it did not
//! give is accepted only when a CA of the cluster has signed it, it is in time, and it has a name of those that were given.
//! An exact match needs no date: nodes whose certificate has expired must be reached to be given a new one.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// The client's side of TLS towards the nodes of one cluster. Two are equal when they trust the same and show the same.
#[derive(Clone)]
pub struct Tls {
    id: Vec<u8>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts these certificates, and those that these CAs have signed for one of these names; shows `own`.
    ///
    /// # Errors
    /// A sentence, when a certificate or the key is none.
    pub fn new(
        authorities: &[CertificateDer<'static>],
        leaves: &[CertificateDer<'static>],
        names: &[String],
        own: (&[CertificateDer<'static>], &PrivateKeyDer<'static>),
    ) -> Result<Self, String> {
        let mut hash = Sha256::new();
        for der in authorities.iter().chain(leaves).chain(own.0) {
            hash.update(der.as_ref());
        }
        for name in names {
            hash.update(name.as_bytes());
        }
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|e| format!("a CA is not understood: {e}"))?;
        }
        let by_ca = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| format!("no CA is usable: {e}"))?;
        let names = names.iter().filter_map(|n| ServerName::try_from(named(n)).ok()).collect();
        let verifier = OneOfOurs { leaves: leaves.to_vec(), names, by_ca };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(own.0.to_vec(), own.1.clone_key())
            .map_err(|e| format!("the operator cannot show the certificate: {e}"))?;
        // Every connection is verified anew: nodes share a name, and tickets of one would be offered to another.
        config.resumption = Resumption::disabled();
        Ok(Self { id: hash.finalize().to_vec(), config: Arc::new(config) })
    }

    /// For a connection.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }
}

/// A name that a wildcard stands for: any will do.
fn named(name: &str) -> String {
    name.strip_prefix("*.").map_or_else(|| name.to_owned(), |rest| format!("node.{rest}"))
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(hidden)")
    }
}

#[derive(Debug)]
struct OneOfOurs {
    leaves: Vec<CertificateDer<'static>>,
    names: Vec<ServerName<'static>>,
    by_ca: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OneOfOurs {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.leaves.iter().any(|leaf| leaf == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut refused = Error::InvalidCertificate(CertificateError::NotValidForName);
        for name in &self.names {
            match self.by_ca.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
                Ok(verified) => return Ok(verified),
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_ca.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    use super::*;
    use crate::build::certificate::{Stock, tests as made};

    struct End {
        leaf: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
        ca: CertificateDer<'static>,
    }

    fn end(ca: &made::Ca, name: &str) -> End {
        let (issued, mut stock) = (ca.issue(name), Stock::default());
        let id = stock.add_leaf(&issued.pem, &issued.key).unwrap();
        let leaf = stock.leaves.remove(&id).unwrap();
        stock.add_authorities(&ca.pem).unwrap();
        let ca = stock.authorities.values().next().unwrap().der.clone();
        End { leaf: leaf.chain.first().unwrap().clone(), key: leaf.key.clone_key(), ca }
    }

    fn operator(own: &End, names: &[&str]) -> Tls {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let leaves = [own.leaf.clone()];
        Tls::new(std::slice::from_ref(&own.ca), &leaves, &names, (&leaves, &own.key)).unwrap()
    }

    /// Both ends in memory; what the client says of it.
    fn handshake(tls: &Tls, node: &End) -> Result<(), Error> {
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![node.leaf.clone()], node.key.clone_key())?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        let name = ServerName::try_from("valkey").unwrap();
        let mut client = ClientConnection::new(Arc::clone(tls.config()), name)?;
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_node_is_proven_by_the_very_certificate_or_by_ca_and_name() {
        let (ca, stranger) = (made::Ca::new("ca"), made::Ca::new("stranger"));
        let own = end(&ca, "valkey-c");
        let tls = operator(&own, &["valkey-c.ns.svc"]);
        handshake(&tls, &own).unwrap();
        // Expired long ago or not: it is the one that was given, and only its key opens it. Another is judged by its date.
        let renewed = end(&ca, "valkey-c");
        let judged = handshake(&tls, &renewed);
        let in_time = UnixTime::now().as_secs() < 1_798_761_600;
        assert_eq!(judged.is_ok(), in_time, "{judged:?}");
        handshake(&tls, &end(&ca, "valkey-other")).expect_err("another cluster of the same CA");
        handshake(&tls, &end(&stranger, "valkey-c")).expect_err("the right name by a foreign CA");
        let thief = End { leaf: own.leaf.clone(), key: renewed.key, ca: own.ca.clone() };
        assert!(handshake(&tls, &thief).is_err(), "the certificate without its key");
    }

    #[test]
    fn a_member_without_certificates_alone_is_spoken_to_in_plain_text() {
        use crate::valkey::{Access, Ways};
        let ca = made::Ca::new("ca");
        let tls = operator(&end(&ca, "valkey-c"), &["x"]);
        let [bare, aside, other] = ["10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379"]
            .map(|text| text.parse::<std::net::SocketAddr>().unwrap());
        let ways = Ways { bare: [bare.ip()].into(), aside: [(bare.ip(), true), (aside.ip(), true)].into() };
        let access = Access { tls: Some(tls.clone()), ways, ..Access::default() };
        let (towards, at) = access.towards(bare);
        assert_eq!((towards.tls, at), (None, vec![bare]));
        let (towards, at) = access.towards(aside);
        assert_eq!((towards.tls, at.len(), at.last()), (Some(tls.clone()), 2, Some(&aside)));
        let (towards, at) = access.towards(other);
        assert_eq!((towards.tls, at), (Some(tls), vec![other]));
    }

    #[test]
    fn the_same_material_is_the_same_access() {
        let ca = made::Ca::new("ca");
        let (a, b) = (end(&ca, "valkey-c"), end(&ca, "valkey-c"));
        assert_eq!(operator(&a, &["x"]), operator(&a, &["x"]));
        assert_ne!(operator(&a, &["x"]), operator(&a, &["y"]));
        assert_ne!(operator(&a, &["x"]), operator(&b, &["x"]));
        assert_eq!(format!("{:?}", operator(&a, &["x"])), "Tls(hidden)");
    }
}
