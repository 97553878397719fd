//! Decides how a cluster of local processes is formed for a test: the quickest recipe that Valkey's own rules allow,
//! by commands to the nodes alone. It is apart from the operator on purpose: a test of the ledger or the truth check
//! must not depend on what those are to judge.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use super::Shape;
use crate::resp::{Access, Connection, Reply};
use crate::truth::{Expected, Truth};

/// One command.
const ANSWER: Duration = Duration::from_secs(2);
/// The whole formation: half a second on an idle machine, plus Valkey's floor of 2 s after a start.
const WHOLE: Duration = Duration::from_secs(30);
/// A low node time-out shortens the wait of a new primary (clamped to 500 ms at least) until it serves.
const FORMING_TIMEOUT: &str = "500";

/// Forms the nodes into a cluster of this shape, and restores cluster-node-timeout.
pub(super) async fn form(nodes: &[SocketAddr], shape: Shape) -> Result<()> {
    let access = Access::default();
    let mut links = Vec::new();
    for addr in nodes {
        links.push(Link { addr: *addr, connection: Connection::open(&access, *addr, ANSWER).await? });
    }
    let mut real = Vec::new();
    for (number, link) in links.iter_mut().enumerate() {
        real.push(link.config("cluster-node-timeout").await?);
        link.ok(&["CONFIG", "SET", "cluster-node-timeout", FORMING_TIMEOUT]).await?;
        if number < shape.shards {
            let (first, last) = shape.slots(number);
            link.ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
        }
        link.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await?;
    }
    for (number, link) in links.iter_mut().enumerate() {
        for other in nodes.iter().skip(number + 1) {
            link.ok(&["CLUSTER", "MEET", &other.ip().to_string(), &other.port().to_string()]).await?;
        }
    }
    let mut ids = Vec::new();
    for link in &mut links {
        ids.push(link.text(&["CLUSTER", "MYID"]).await?);
    }
    for (number, link) in links.iter_mut().enumerate().skip(shape.shards) {
        let primary = ids.get(shape.primary_of(number)).context("a replica without a primary")?;
        link.replicate(primary).await?;
    }
    let expected =
        Expected { shards: Some(shape.shards), replicas: Some(shape.replicas), node_timeout_ms: None };
    Truth::wait(&access, nodes, &expected, WHOLE).await?;
    for (link, value) in links.iter_mut().zip(&real) {
        link.ok(&["CONFIG", "SET", "cluster-node-timeout", value]).await?;
    }
    Ok(())
}

struct Link {
    addr: SocketAddr,
    connection: Connection,
}

impl Link {
    async fn call(&mut self, command: &[&str]) -> Result<Reply> {
        let reply = self.connection.call(command, ANSWER).await;
        reply.with_context(|| format!("{} did not answer {}", self.addr, command.join(" ")))
    }

    async fn text(&mut self, command: &[&str]) -> Result<String> {
        let reply = self.call(command).await?;
        let text = reply.text().map(str::to_owned);
        text.with_context(|| format!("{} answered {reply:?} to {}", self.addr, command.join(" ")))
    }

    async fn ok(&mut self, command: &[&str]) -> Result<()> {
        match self.text(command).await?.as_str() {
            "OK" => Ok(()),
            other => bail!("{} answered {other:?} to {}", self.addr, command.join(" ")),
        }
    }

    async fn config(&mut self, name: &str) -> Result<String> {
        let reply = self.call(&["CONFIG", "GET", name]).await?;
        let value = reply.items().and_then(|pair| pair.last()).and_then(Reply::text).map(str::to_owned);
        value.with_context(|| format!("{} has no {name}: {reply:?}", self.addr))
    }

    /// A node is refused as unknown until the handshake with it is over.
    async fn replicate(&mut self, primary: &str) -> Result<()> {
        let deadline = Instant::now() + WHOLE;
        loop {
            let reply = self.call(&["CLUSTER", "REPLICATE", primary]).await?;
            match reply.error() {
                None => return Ok(()),
                Some(error) if !error.contains("Unknown node") || Instant::now() >= deadline => {
                    bail!("{} cannot follow {primary}: {error}", self.addr)
                }
                Some(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}
