//! Decides how a client lane writes: through the `redis` crate's cluster client, with the library's defaults, as an
//! application would. Reported beside the plain lanes, and judged by nothing but lost writes: what it retries on its own is its
//! business.

use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{ErrorKind as LibraryKind, RedisError};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::errors::ErrorKind;
use super::live::Book;
use super::options::Lane;
use super::relay::Relays;
use crate::resp::Credentials;

/// Between two attempts to make the client at all.
const RECONNECT: Duration = Duration::from_millis(100);
/// The longest that one call of the library may take before the lane gives it up, retries included.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long a write that is on its way when the ledger stops is waited for.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What makes the library's client.
#[derive(Clone)]
pub(crate) struct ClientMaker {
    /// `host:port`
    pub seeds: Vec<String>,
    pub credentials: Credentials,
    /// Only where the library cannot connect by itself.
    pub relays: Option<Relays>,
}

impl ClientMaker {
    async fn connect(&self) -> Result<ClusterConnection, RedisError> {
        let seeds: Vec<_> = self.seeds.iter().map(|seed| format!("redis://{seed}")).collect();
        let mut builder = ClusterClientBuilder::new(seeds);
        if let Some(password) = &self.credentials.password {
            builder = builder.password(password);
        }
        if let Some(user) = &self.credentials.user {
            builder = builder.username(user);
        }
        if let Some(relays) = &self.relays {
            builder = builder.async_dns_resolver(relays.clone());
        }
        builder.build()?.get_async_connection().await
    }
}

/// A lane of the client library.
pub(crate) struct ClientLane {
    pub lane: Lane,
    pub maker: ClientMaker,
    pub book: Book,
    pub interval: Duration,
}

impl ClientLane {
    /// Writes until told to stop; the first write is due at `due`.
    pub(crate) async fn run(mut self, mut due: Instant, stop: CancellationToken) -> Self {
        // A field ends with each write of unknown fate, as on a plain lane; the library's connections are not seen.
        let (mut field, mut connection, mut begun) = (1_u32, None, None);
        while !stop.is_cancelled() {
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
            let first_attempt = *begun.get_or_insert_with(Instant::now);
            let result = tokio::select! {
                result = self.attempt(&mut connection, field) => result,
                () = stopped_for_long(&stop) => {
                    self.book.failed(ErrorKind::Timeout, "stopped while the library was at work", Some(field));
                    break;
                }
            };
            match result {
                Ok(value) => {
                    self.book.acknowledged(field, value, first_attempt.elapsed());
                    begun = None;
                    due = (due + self.interval).max(Instant::now());
                }
                Err(Attempt { kind, sentence, sent }) => {
                    self.book.failed(kind, &sentence, sent.then_some(field));
                    field += u32::from(sent);
                    due = Instant::now() + Duration::from_millis(1);
                }
            }
        }
        self.book.account.ended(self.book.now());
        self
    }

    async fn attempt(&self, slot: &mut Option<ClusterConnection>, field: u32) -> Result<i64, Attempt> {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => match self.maker.connect().await {
                Ok(connection) => connection,
                Err(error) => {
                    sleep(RECONNECT).await;
                    return Err(Attempt::failed(&error, false));
                }
            },
        };
        let mut command = redis::cmd("HINCRBY");
        command.arg(&self.lane.key).arg(field).arg(1);
        let Ok(result) = tokio::time::timeout(GIVE_UP, command.query_async(&mut connection)).await else {
            // A library that hangs is made anew.
            let sentence = format!("the library gave no answer within {GIVE_UP:?}");
            return Err(Attempt { kind: ErrorKind::Timeout, sentence, sent: true });
        };
        *slot = Some(connection);
        result.map_err(|error| Attempt::failed(&error, true))
    }
}

/// A write that is on its way when the ledger stops may still be answered.
async fn stopped_for_long(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(LAST_ANSWER).await;
}

struct Attempt {
    kind: ErrorKind,
    sentence: String,
    sent: bool,
}

impl Attempt {
    fn failed(error: &RedisError, sent: bool) -> Self {
        let kind = match error.kind() {
            _ if error.is_timeout() => ErrorKind::Timeout,
            _ if error.is_connection_refusal() => ErrorKind::Refused,
            LibraryKind::Server(_) | LibraryKind::Extension => {
                ErrorKind::of_reply(error.code().unwrap_or_default())
            }
            _ if error.is_connection_dropped() => ErrorKind::Reset,
            _ => ErrorKind::Other,
        };
        Self { kind, sentence: error.to_string(), sent }
    }
}
