//! Decides how a plain lane writes: one increment after the other, on schedule, sent again until acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::errors::ErrorKind;
use super::live::Book;
use super::options::Lane;
use super::router::{Miss, Router};
use crate::resp::Reply;

/// Between two attempts at a write that fails: with the timer's granularity of 1 ms still below 5 ms.
const RETRY: Duration = Duration::from_millis(1);

/// A lane with the ledger's own routing.
pub(crate) struct PlainLane {
    pub lane: Lane,
    pub router: Router,
    pub book: Book,
    pub interval: Duration,
    /// Replicas that must have a write.
    pub copies: u16,
}

impl PlainLane {
    /// Writes until told to stop; the first write is due at `due`.
    pub(crate) async fn run(mut self, mut due: Instant, stop: CancellationToken) -> Self {
        let (mut begun, mut field) = (None, None);
        while !stop.is_cancelled() {
            tokio::select! {
                () = sleep_until(due) => {}
                () = stop.cancelled() => break,
            }
            let first_attempt = *begun.get_or_insert_with(Instant::now);
            match self.increment().await {
                Ok((number, value)) => {
                    self.book.acknowledged(number, value, first_attempt.elapsed());
                    begun = None;
                    due = (due + self.interval).max(Instant::now());
                    if let Some(before) = field.replace(number).filter(|before| *before != number) {
                        self.look_back(before).await;
                    }
                }
                Err(miss) => {
                    self.book.failed(miss.kind, &miss.sentence, miss.sent);
                    due = Instant::now() + if miss.at_once { Duration::ZERO } else { RETRY };
                }
            }
        }
        self.book.account.ended(self.book.now());
        self
    }

    async fn increment(&mut self) -> Result<(u32, i64), Miss> {
        let key = &self.lane.key;
        let command = |field: u32| vec!["HINCRBY".into(), key.clone(), field.to_string(), "1".into()];
        let (number, reply) = self.router.write(&command, self.copies).await?;
        match reply.number() {
            Some(value) => Ok((number, value)),
            None => Err(unexpected(&reply, Some(number))),
        }
    }

    /// After a change of connection: does the new owner hold what was acknowledged on the earlier one? One attempt;
    /// the read-back at the end has the last word.
    async fn look_back(&mut self, field: u32) {
        let key = &self.lane.key;
        let command = |_| vec!["HGET".into(), key.clone(), field.to_string()];
        let Ok((_, reply)) = self.router.call(&command).await else { return };
        let found = reply.number().and_then(|value| u64::try_from(value).ok());
        if let Some(found) = found.or((reply == Reply::Nil).then_some(0)) {
            self.book.glimpsed(field, found);
        }
    }
}

/// Reads all counters of a key from their owner, trying until `deadline`.
///
/// # Errors
/// What the last attempt met.
pub(crate) async fn read_counters(
    router: &mut Router,
    key: &str,
    deadline: Instant,
) -> Result<BTreeMap<u32, u64>> {
    loop {
        let why = match router.call(&|_| vec!["HGETALL".into(), key.to_owned()]).await {
            Ok((_, reply)) => match counters(&reply) {
                Some(found) => return Ok(found),
                None => unexpected(&reply, None).sentence,
            },
            Err(miss) => miss.sentence,
        };
        if Instant::now() >= deadline {
            bail!("{why}");
        }
        sleep(RETRY).await;
    }
}

/// Removes a key; best effort, since a counter that stays does no harm.
pub(crate) async fn remove(router: &mut Router, key: &str) {
    for _ in 0..3 {
        if router.call(&|_| vec!["UNLINK".into(), key.to_owned()]).await.is_ok() {
            return;
        }
    }
}

fn counters(reply: &Reply) -> Option<BTreeMap<u32, u64>> {
    let pairs = reply.items()?.chunks(2).map(|pair| match pair {
        [field, value] => Some((field.text()?.parse().ok()?, value.text()?.parse().ok()?)),
        _ => None,
    });
    pairs.collect()
}

fn unexpected(reply: &Reply, sent: Option<u32>) -> Miss {
    Miss { kind: ErrorKind::Other, sentence: format!("unexpected reply {reply:?}"), sent, at_once: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_a_hash_and_from_nothing_else() {
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
        let reply = Reply::Array(vec![bulk("1"), bulk("791"), bulk("2"), bulk("9")]);
        assert_eq!(counters(&reply), Some(BTreeMap::from([(1, 791), (2, 9)])));
        assert_eq!(counters(&Reply::Array(vec![])), Some(BTreeMap::new()));
        assert_eq!(counters(&Reply::Array(vec![bulk("1")])), None);
        assert_eq!(counters(&Reply::Simple("QUEUED".into())), None);
    }
}
