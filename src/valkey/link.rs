//! A link: an open connection to one node that does nothing but `PING`, so that the end of a process is known within
//! milliseconds (its socket closes) and that of a worker within seconds (no answer).
//!
//! It decides nothing. What it reports is one more reason to look, never a fact about the cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::commands;
use super::error::WireError;
use super::node::{Access, Connector, Limits, Node};

/// How often a link looks, and how patiently it comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSettings {
    /// Between two `PING`s.
    pub interval: Duration,
    /// How long a connection, and each answer, may take.
    pub timeout: Duration,
    /// An answer that takes as long as this is a slow one: who asks a server at any moment of a command of half a second waits for a
    /// quarter of one, in the mean.
    pub slow: Duration,
    /// Before the first new attempt; doubled after each, up to `retry_soon` or `retry_late`.
    pub retry_first: Duration,
    /// The longest pause while the node may just be starting.
    pub retry_soon: Duration,
    /// How long that is assumed, counted from the loss or from the first attempt.
    pub soon: Duration,
    /// The longest pause after that.
    pub retry_late: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            slow: Duration::from_millis(250),
            retry_first: Duration::from_millis(20),
            retry_soon: Duration::from_millis(100),
            soon: Duration::from_secs(15),
            retry_late: Duration::from_secs(2),
        }
    }
}

impl LinkSettings {
    fn pause(&self, attempt: u32, trying: Duration) -> Duration {
        let longest = if trying < self.soon { self.retry_soon } else { self.retry_late };
        self.retry_first.saturating_mul(1 << attempt.min(16)).min(longest)
    }
}

/// What a link has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<C, M> {
    /// The cluster that the link was asked for.
    pub cluster: C,
    /// The member.
    pub member: M,
    /// What happened.
    pub change: Change,
    /// When it was known.
    pub at: Instant,
}

/// What happened to a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The node answers, for the first time or again.
    Up,
    /// The node answered and does not any more.
    Lost(WireError),
    /// The node has begun to take long for its answers, or does not any more.
    Slow(bool),
}

/// The last answers of a node: which were slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Pace {
    /// One bit each, the newest lowest.
    slow: u16,
    /// Most of them were, and not yet few enough again.
    is_slow: bool,
}

impl Pace {
    /// So many answers count.
    const SEEN: u16 = 10;
    /// With so many slow ones among them a node is slow: one long script, or a busy moment, is none of it.
    const MOST: u32 = 6;
    /// With no more than so many it is not any more.
    const FEW: u32 = 2;

    /// Counts an answer; whether the node is slow now, if that is news.
    fn see(&mut self, slow: bool) -> Option<bool> {
        self.slow = (self.slow << 1 | u16::from(slow)) & ((1 << Self::SEEN) - 1);
        let before = self.is_slow;
        let many = self.slow.count_ones();
        self.is_slow = many >= Self::MOST || before && many > Self::FEW;
        (self.is_slow != before).then_some(self.is_slow)
    }
}

/// One link. Runs until it is dropped.
pub(super) struct Link {
    pub(super) addr: SocketAddr,
    pub(super) access: Access,
    pub(super) settings: LinkSettings,
    pub(super) connector: Arc<dyn Connector>,
    /// Bounds how many connections are being opened at once over all links.
    pub(super) opening: Arc<Semaphore>,
}

impl Link {
    /// Connects, watches, reports, and begins again.
    pub(super) async fn run(mut self, mut report: impl FnMut(Change)) {
        self.access.limits =
            Limits { connect: self.settings.timeout, reply: self.settings.timeout, ..self.access.limits };
        loop {
            let node = self.open().await;
            report(Change::Up);
            let why = self.watch(node.as_ref(), &mut report).await;
            drop(node);
            report(Change::Lost(why));
        }
    }

    async fn open(&self) -> Box<dyn Node> {
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            // The semaphore is never closed; if it were, opening without it would be right.
            let turn = self.opening.acquire().await;
            let outcome = self.connector.connect(self.addr, &self.access).await;
            drop(turn);
            match outcome {
                Ok(node) => return node,
                Err(_) => sleep(self.settings.pause(attempt, begun.elapsed())).await,
            }
            attempt += 1;
        }
    }

    /// Ends with the reason why the node no longer answers. `LOADING` and `BUSY` are answers.
    async fn watch(&self, node: &dyn Node, report: &mut impl FnMut(Change)) -> WireError {
        let mut tick = interval(self.settings.interval);
        let mut pace = Pace::default();
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = node.closed() => return WireError::Reset,
                _ = tick.tick() => {}
            }
            let asked = Instant::now();
            let answer = tokio::select! {
                () = node.closed() => return WireError::Reset,
                answer = commands::ping(node) => answer,
            };
            match answer {
                Err(why) if why.is_connection() => return why,
                Ok(()) | Err(_) => {}
            }
            if let Some(slow) = pace.see(asked.elapsed() >= self.settings.slow) {
                report(Change::Slow(slow));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_that_grows_once() {
        let s = LinkSettings::default();
        let ms = |attempt, trying_s| s.pause(attempt, Duration::from_secs(trying_s)).as_millis();
        assert_eq!([ms(0, 0), ms(1, 0), ms(2, 0), ms(3, 0), ms(40, 1)], [20, 40, 80, 100, 100]);
        assert_eq!([ms(5, 20), ms(7, 20), ms(4_000_000_000, 60)], [640, 2000, 2000]);
    }

    #[test]
    fn a_node_is_slow_while_most_of_its_answers_are() {
        let mut pace = Pace::default();
        let mut see = |answers: &str| {
            let told = answers.chars().map(|c| match pace.see(c == 's') {
                None => '-',
                Some(true) => 'S',
                Some(false) => 'F',
            });
            told.collect::<String>()
        };
        assert_eq!(see("sssss.....sssss"), "---------------", "it comes and goes");
        assert_eq!(see("ss.s.s.s.s."), "S----------", "it is told once");
        assert_eq!(see("....."), "----F");
        assert_eq!(see("ss...ss.."), "---------");
    }
}
