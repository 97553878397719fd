//! Decides how the way to a node is encrypted: TLS over the connection that a connector opens. May open sockets through it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::connection::{Connector, Socket};

/// The same way, by TLS; the node must have a certificate for this name.
pub fn encrypted(over: Connector, config: Arc<ClientConfig>, name: ServerName<'static>) -> Connector {
    let tls = TlsConnector::from(config);
    Arc::new(move |addr| {
        let (over, tls, name) = (Arc::clone(&over), tls.clone(), name.clone());
        Box::pin(async move {
            let stream = tls.connect(name, over(addr).await?).await?;
            Ok(Box::new(stream) as Socket)
        })
    })
}

/// Whichever way the node speaks at the time: it is asked for a word in plain text, which a server that expects TLS does not answer.
pub fn either(plain: Connector, tls: Connector) -> Connector {
    Arc::new(move |addr| {
        let (plain, tls) = (Arc::clone(&plain), Arc::clone(&tls));
        Box::pin(async move {
            let mut stream = plain(addr).await?;
            match answers(&mut stream).await {
                Ok(true) => Ok(stream),
                Ok(false) | Err(_) => tls(addr).await,
            }
        })
    })
}

/// Whether the other end takes a command, whatever it says to it.
async fn answers(stream: &mut Socket) -> io::Result<bool> {
    stream.write_all(b"PING\r\n").await?;
    if !matches!(stream.read_u8().await?, b'+' | b'-') {
        return Ok(false);
    }
    while stream.read_u8().await? != b'\n' {}
    Ok(true)
}

/// The certificate that a node shows now.
///
/// # Errors
/// If there is no connection, or the node's certificate is not accepted.
pub async fn shown(
    over: &Connector,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    addr: SocketAddr,
) -> io::Result<CertificateDer<'static>> {
    let stream = TlsConnector::from(config).connect(name, over(addr).await?).await?;
    let (_, session) = stream.get_ref();
    let first = session.peer_certificates().and_then(|chain| chain.first());
    first.map(|c| c.clone().into_owned()).ok_or_else(|| io::Error::other("it has shown no certificate"))
}
