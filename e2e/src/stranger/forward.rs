//! Decides how a node is reached from outside its cluster: by a port-forward to its Pod, as `kubectl port-forward` does.
//!
//! May open connections to the API server and, on 127.0.0.1, to itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::net::{TcpListener, TcpStream};

use crate::resp::{Connector, plain};

/// Connections to the Pods of a namespace, by their addresses.
pub(super) fn connector(client: Client, namespace: &str) -> Connector {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    std::sync::Arc::new(move |addr| {
        let pods = pods.clone();
        Box::pin(async move {
            let stream = forward(&pods, addr).await;
            stream.map(plain).map_err(|error| std::io::Error::other(format!("{error:#}")))
        })
    })
}

/// The stream of a port-forward, as a socket: a pair of sockets on 127.0.0.1 with a copy between.
async fn forward(pods: &Api<Pod>, addr: SocketAddr) -> Result<TcpStream> {
    let name = pod_at(pods, addr.ip()).await?;
    let mut forwarder = pods.portforward(&name, &[addr.port()]).await.context("port-forward")?;
    let mut far = forwarder.take_stream(addr.port()).context("a port-forward without a stream")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let (mut passed, peer) = listener.accept().await?;
    ensure!(
        peer == near.local_addr()?,
        "somebody else connected to a socket that was meant for a port-forward"
    );
    near.set_nodelay(true)?;
    passed.set_nodelay(true)?;
    tokio::spawn(async move {
        // Either side's end is the other side's end; a refusal in the Pod is an end without a byte.
        let _ = tokio::io::copy_bidirectional(&mut passed, &mut far).await;
        drop(forwarder);
    });
    Ok(near)
}

/// The Pod that has this address now.
async fn pod_at(pods: &Api<Pod>, ip: IpAddr) -> Result<String> {
    let here = ListParams::default().fields(&format!("status.podIP={ip}"));
    let found = pods.list(&here).await?.items;
    let alive = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    match found.iter().find(|pod| alive(pod)) {
        Some(pod) => Ok(pod.name_any()),
        None => bail!("no Pod has the address {ip}"),
    }
}
