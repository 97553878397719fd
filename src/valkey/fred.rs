//! The connection over TCP, by the client library fred 10.
//!
//! Five things that fred does and that must not reach the rest (each is covered by a test below, the last by
//! `tests/many_nodes.rs`): it keeps socket and task after the last handle is dropped, so the task is owned and aborted; it queues commands
//! for ever after the connection has died, so a finished task is checked first, every wait has a limit, and a
//! connection with an overdue answer is closed; it would run a second attempt of a command that may already have been
//! carried out, so attempts are 1; it reconnects by itself when given a policy, so it is given none; it tells of a connection
//! only those who listen already, so listening comes before connecting (seen otherwise: one of 8,000 connections on a busy machine
//! was open and waited for until the limit).
//!
//! It greets with `HELLO 3 AUTH user password` in one plain line: user and password must be without spaces and quotes
//! (those that the operator generates are letters and digits).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::fred::clients::Client;
use ::fred::error::{Error, ErrorKind};
use ::fred::interfaces::ClientLike;
use ::fred::types::config::{
    Config, Options, Server, ServerConfig, TlsConfig, TlsConnector, UnresponsiveConfig,
};
use ::fred::types::{Builder, ClusterHash, CustomCommand, RespVersion, Value};
use futures::future::BoxFuture;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::error::WireError;
use super::node::{Access, Connector, Limits, Node};
use super::reply::Reply;

/// What a wait gets on top of fred's own limit: fred's is the more precise one, ours is the one that always comes.
const SLACK: Duration = Duration::from_millis(250);

/// Opens connections over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct FredConnector;

impl Connector for FredConnector {
    fn connect<'a>(
        &'a self,
        addr: SocketAddr,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Box<dyn Node>, WireError>> {
        Box::pin(async move {
            let (access, at) = access.towards(addr);
            let mut said = WireError::Refused;
            for at in at {
                match known(at, &access).await {
                    Ok(node) => return Ok(Box::new(node) as Box<dyn Node>),
                    // What it says at the port that all have is what counts.
                    Err(why) if at == addr => said = why,
                    Err(_) => {}
                }
            }
            Err(said)
        })
    }
}

/// Between two passwords nobody knows which one this server takes.
async fn known(addr: SocketAddr, access: &Access) -> Result<FredNode, WireError> {
    match (FredNode::connect(addr, access).await, &access.former) {
        (Err(WireError::Auth(_)), Some(former)) => {
            let access = Access { password: Some(former.clone()), ..access.clone() };
            FredNode::connect(addr, &access).await
        }
        (node, _) => node,
    }
}

struct FredNode {
    client: Client,
    limits: Limits,
    /// fred's task that owns the socket.
    task: AbortHandle,
    /// Cancelled when that task has ended.
    ended: CancellationToken,
    /// An answer was overdue.
    given_up: AtomicBool,
}

impl Drop for FredNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FredNode {
    async fn connect(addr: SocketAddr, access: &Access) -> Result<Self, WireError> {
        let client = client(addr, access).map_err(|e| from_fred(&e))?;
        let waits = client.clone();
        let mut open = Box::pin(async move { waits.wait_for_connect().await });
        // The first poll begins to listen; nothing is there to hear yet.
        let _ = futures::poll!(&mut open);
        // Owned before the first await, so that a cancelled connect frees the socket.
        let task = client.connect();
        let ended = CancellationToken::new();
        let this = Self {
            client,
            limits: access.limits,
            task: task.abort_handle(),
            ended: ended.clone(),
            given_up: AtomicBool::new(false),
        };
        let outcome = tokio::spawn(async move {
            let outcome = task.await;
            ended.cancel();
            outcome
        });
        // Once for the socket, once for the greeting.
        within(access.limits.connect * 2, async {
            tokio::select! {
                open = open => open.map_err(|e| from_fred(&e)),
                end = outcome => match end {
                    Ok(Ok(Err(e))) => Err(from_fred(&e)),
                    Ok(Ok(Ok(())) | Err(_)) | Err(_) => Err(WireError::Reset),
                },
            }
        })
        .await?;
        Ok(this)
    }

    fn is_closed(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) || self.task.is_finished()
    }

    /// Once an answer is overdue nobody can tell what the next one belongs to, nor whether the command was carried out.
    fn give_up_if_late<T>(&self, outcome: Result<T, WireError>) -> Result<T, WireError> {
        if matches!(outcome, Err(WireError::Timeout)) {
            self.given_up.store(true, Ordering::Relaxed);
            self.task.abort();
        }
        outcome
    }

    async fn call_one(&self, argv: &[&str]) -> Result<Reply, WireError> {
        if self.is_closed() {
            return Err(WireError::Reset);
        }
        let argv: Vec<&[u8]> = argv.iter().map(|w| w.as_bytes()).collect();
        let (name, rest) = split(&argv)?;
        let limit = self.limit(&argv);
        let client = self.client.with_options(&once(limit));
        within(limit, async { client.custom::<Value, _>(name, rest).await.map_err(|e| from_fred(&e)) })
            .await
            .map(from_value)
    }

    async fn call_all(&self, commands: &[Vec<&[u8]>]) -> Result<Vec<Result<Reply, WireError>>, WireError> {
        if self.is_closed() {
            return Err(WireError::Reset);
        }
        let limit = commands.iter().map(|argv| self.limit(argv)).max().unwrap_or(self.limits.reply);
        let pipeline = self.client.pipeline();
        let pipeline = pipeline.with_options(&once(limit));
        for argv in commands {
            let (name, rest) = split(argv)?;
            // This only puts the command into the pipeline; its answer comes from `try_all`.
            pipeline.custom::<Value, _>(name, rest).await.map_err(|e| from_fred(&e))?;
        }
        let answers = within(limit, async { Ok(pipeline.try_all::<Value>().await) }).await?;
        Ok(answers.into_iter().map(|a| a.map(from_value).map_err(|e| from_fred(&e))).collect())
    }

    fn limit(&self, argv: &[&[u8]]) -> Duration {
        let words: Vec<&str> =
            argv.iter().take(2).map(|w| std::str::from_utf8(w).unwrap_or_default()).collect();
        self.limits.of(&words)
    }
}

impl Node for FredNode {
    fn call<'a>(&'a self, argv: &'a [&'a str]) -> BoxFuture<'a, Result<Reply, WireError>> {
        Box::pin(async move { self.give_up_if_late(self.call_one(argv).await) })
    }

    fn call_many_bytes<'a>(
        &'a self,
        commands: &'a [Vec<&'a [u8]>],
    ) -> BoxFuture<'a, Vec<Result<Reply, WireError>>> {
        Box::pin(async move {
            match self.call_all(commands).await {
                Ok(answers) if answers.len() == commands.len() => answers,
                // fred answers with one error when the whole burst failed.
                Ok(answers) => {
                    let why = answers.into_iter().find_map(Result::err).unwrap_or(WireError::Reset);
                    vec![self.give_up_if_late(Err(why)); commands.len()]
                }
                Err(why) => vec![self.give_up_if_late(Err(why)); commands.len()],
            }
        })
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.ended.cancelled())
    }
}

fn client(addr: SocketAddr, access: &Access) -> Result<Client, Error> {
    // fred joins host and port with a colon and parses that.
    let host = match addr.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let mut server = Server::new(host, addr.port());
    // Told to nobody's verifier but ours, which knows better (see `tls`): an address in brackets is no name.
    server.tls_server_name = access.tls.as_ref().map(|_| "valkey".into());
    let tls =
        access.tls.as_ref().map(|tls| TlsConfig::from(TlsConnector::from(tls.config().as_ref().clone())));
    let config = Config {
        fail_fast: true,
        username: access.username.clone(),
        password: access.password.clone(),
        version: RespVersion::RESP3,
        server: ServerConfig::Centralized { server },
        tls,
        ..Default::default()
    };
    Builder::from_config(config)
        .with_connection_config(|c| {
            c.connection_timeout = access.limits.connect;
            c.internal_command_timeout = access.limits.connect;
            c.max_command_attempts = 1;
            c.max_redirections = 0;
            // Off: it would end the connection during a long command.
            c.unresponsive = UnresponsiveConfig::default();
            c.tcp.nodelay = Some(true);
        })
        .with_performance_config(|p| p.default_command_timeout = access.limits.reply)
        .build()
}

fn once(limit: Duration) -> Options {
    Options { timeout: Some(limit), max_attempts: Some(1), fail_fast: true, ..Default::default() }
}

fn split(argv: &[&[u8]]) -> Result<(CustomCommand, Vec<Value>), WireError> {
    let (name, rest) =
        argv.split_first().ok_or_else(|| WireError::Protocol("an empty command".to_owned()))?;
    let name = CustomCommand::new(String::from_utf8_lossy(name).into_owned(), ClusterHash::Random, false);
    Ok((name, rest.iter().map(|a| argument(a)).collect()))
}

fn argument(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::Bytes(bytes.to_vec().into()),
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    tokio::time::timeout(limit + SLACK, work).await.unwrap_or(Err(WireError::Timeout))
}

fn from_value(value: Value) -> Reply {
    match value {
        Value::Null => Reply::Nil,
        Value::Boolean(b) => Reply::Int(i64::from(b)),
        Value::Integer(n) => Reply::Int(n),
        Value::Double(d) => Reply::Text(d.to_string()),
        Value::String(text) => Reply::Text(text.to_string()),
        Value::Bytes(bytes) => match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Reply::Text(text),
            Err(other) => Reply::Bytes(other.into_bytes()),
        },
        Value::Queued => Reply::Text("QUEUED".to_owned()),
        Value::Array(items) => Reply::List(items.into_iter().map(from_value).collect()),
        Value::Map(map) => Reply::Map(
            map.inner()
                .into_iter()
                .map(|(k, v)| (k.as_str_lossy().into_owned(), from_value(v)))
                .collect::<BTreeMap<_, _>>(),
        ),
    }
}

/// fred has the server's errors and its own in one type. A server's begins with a word in capitals; fred's own
/// details are sentences, and for input and output the debug text of `std::io::Error`.
fn from_fred(error: &Error) -> WireError {
    let text = error.details();
    let first = text.split_whitespace().next().unwrap_or_default();
    if first.len() > 1 && first.bytes().all(|b| b.is_ascii_uppercase()) {
        return WireError::from_answer(text);
    }
    match error.kind() {
        ErrorKind::Timeout => WireError::Timeout,
        ErrorKind::Auth => WireError::Auth(text.to_owned()),
        ErrorKind::IO if text.contains("ConnectionRefused") => WireError::Refused,
        ErrorKind::IO if text.contains("Unreachable") => WireError::Unreachable,
        ErrorKind::IO if text.contains("TimedOut") => WireError::Timeout,
        ErrorKind::IO | ErrorKind::Canceled => WireError::Reset,
        _ => WireError::Protocol(format!("{error}")),
    }
}

#[cfg(test)]
#[path = "fred_tests.rs"]
mod tests;
