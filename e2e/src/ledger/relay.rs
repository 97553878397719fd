//! Decides how a client library that opens its own sockets reaches nodes that only a connector can reach: by a relay
//! on a port of 127.0.0.1 for each node, found through the library's name resolver.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use redis::RedisFuture;
use redis::io::AsyncDNSResolver;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::topology::Directory;
use crate::resp::{Connector, Endpoint, Socket};

/// Relays to all nodes that were asked for; they end with the last clone.
#[derive(Clone)]
pub(crate) struct Relays(Arc<Inner>);

struct Inner {
    connector: Connector,
    directory: Directory,
    ports: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
    ended: CancellationToken,
    _end: DropGuard,
}

impl Relays {
    pub(crate) fn new(connector: Connector, directory: Directory) -> Self {
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        Self(Arc::new(Inner { connector, directory, ports: Mutex::default(), ended, _end: end }))
    }

    async fn port_for(&self, host: &str, port: u16) -> io::Result<SocketAddr> {
        let place = Endpoint { host: host.to_owned(), port };
        let node = self.0.directory.locate(&place).await;
        let node =
            node.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no address for {place}")))?;
        let mut ports = self.0.ports.lock().await;
        if let Some(near) = ports.get(&node) {
            return Ok(*near);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let near = listener.local_addr()?;
        ports.insert(node, near);
        tokio::spawn(serve(listener, node, Arc::clone(&self.0.connector), self.0.ended.clone()));
        Ok(near)
    }
}

impl AsyncDNSResolver for Relays {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let near = self.port_for(host, port).await?;
            Ok(Box::new(std::iter::once(near)) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

async fn serve(listener: TcpListener, node: SocketAddr, connector: Connector, ended: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended.cancelled() => return,
        };
        if let Ok((near, _)) = accepted {
            let far = connector(node);
            let ended = ended.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = pass(near, far) => {}
                    () = ended.cancelled() => {}
                }
            });
        }
    }
}

async fn pass(mut near: TcpStream, far: impl Future<Output = io::Result<Socket>>) {
    // A node that refuses becomes a connection that closes at once.
    let Ok(mut far) = far.await else { return };
    let _ = near.set_nodelay(true);
    // Either side's end is the other side's end; which error it was, the library says.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::direct;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_node_keeps_its_relay() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = node.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = node.accept().await.unwrap();
            let mut word = [0; 4];
            socket.read_exact(&mut word).await.unwrap();
            socket.write_all(b"pong").await.unwrap();
        });
        let relays = Relays::new(direct(), Directory::default());
        let near = relays.port_for("127.0.0.1", addr.port()).await.unwrap();
        assert_eq!(relays.port_for("127.0.0.1", addr.port()).await.unwrap(), near);
        let mut socket = TcpStream::connect(near).await.unwrap();
        socket.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pong");
    }
}
