//! Decides what goes wrong, and when: a schedule made from a seed alone. Pure, so that a seed that failed can be told again.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Faults of one round, at most.
const MOST: usize = 3;

/// The size that the cluster is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    pub shards: u16,
    pub replicas: u16,
}

impl Size {
    /// Every cluster begins with this one.
    pub(super) const FIRST: Self = Self { shards: 3, replicas: 1 };
}

/// A member, by what it is at the moment of the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Primary(u16),
    Replica(u16),
}

/// A worker, by its place in the list of all.
pub(super) type WorkerAt = usize;

/// One thing that goes wrong, or that a person does. Those with a duration end by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// `kubectl delete pod`.
    Delete(Who),
    /// `kubectl delete pod --force`.
    ForceDelete(Who),
    /// SIGKILL of the server.
    Kill(Who),
    /// SIGSTOP of the server.
    Pause(Who, Duration),
    /// No packet comes to the Pod or from it.
    Isolate(Who, Duration),
    /// A worker without power.
    PowerOff(WorkerAt, Duration),
    /// A worker without a cable.
    Cut(WorkerAt, Duration),
    /// A worker that is cordoned.
    Cordon(WorkerAt, Duration),
    /// The leading operator goes without a word, or both do.
    KillOperator { both: bool },
    /// An API server that answers nothing.
    HangApi(Duration),
    /// Another size.
    Resize(Size),
    /// A rolling replacement of all members.
    Restart,
}

impl Fault {
    /// It strikes one member, which may have gone the moment before.
    pub(super) fn is_about_a_member(self) -> bool {
        matches!(
            self,
            Self::Delete(_) | Self::ForceDelete(_) | Self::Kill(_) | Self::Pause(..) | Self::Isolate(..)
        )
    }
}

/// Some faults, each some time after the one before; then everything is mended and the cluster has to become whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Round {
    pub number: usize,
    pub faults: Vec<(Duration, Fault)>,
    /// The size at the end of it.
    pub size: Size,
}

/// Rounds without end.
pub(super) struct Schedule {
    rng: StdRng,
    number: usize,
    size: Size,
    workers: usize,
}

impl Schedule {
    /// The schedule of a seed, for so many workers.
    pub(super) fn new(seed: u64, workers: usize) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), number: 0, size: Size::FIRST, workers: workers.max(1) }
    }

    fn who(&mut self) -> Who {
        let shard = self.rng.random_range(0..self.size.shards);
        if self.rng.random_bool(0.6) { Who::Primary(shard) } else { Who::Replica(shard) }
    }

    fn seconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least * 1000..=most * 1000))
    }

    fn fault(&mut self) -> Fault {
        let worker = self.rng.random_range(0..self.workers);
        match self.rng.random_range(0..20) {
            0..=2 => Fault::Delete(self.who()),
            3 | 4 => Fault::ForceDelete(self.who()),
            5..=7 => Fault::Kill(self.who()),
            8 => Fault::Pause(self.who(), self.seconds(1, 20)),
            9 | 10 => Fault::Isolate(self.who(), self.seconds(1, 25)),
            11 | 12 => Fault::PowerOff(worker, self.seconds(2, 30)),
            13 | 14 => Fault::Cut(worker, self.seconds(1, 30)),
            15 => Fault::Cordon(worker, self.seconds(5, 30)),
            16 => Fault::KillOperator { both: self.rng.random_bool(0.4) },
            17 => Fault::HangApi(self.seconds(2, 25)),
            18 => {
                let (shards, replicas) = (self.rng.random_range(2..=4), self.rng.random_range(1..=2));
                self.size = Size { shards, replicas };
                Fault::Resize(self.size)
            }
            _ => Fault::Restart,
        }
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        self.number += 1;
        let faults = (0..self.rng.random_range(1..=MOST)).map(|_| (self.seconds(0, 6), self.fault()));
        let faults = faults.collect();
        Some(Round { number: self.number, faults, size: self.size })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary(shard) => write!(f, "the primary of shard {shard}"),
            Self::Replica(shard) => write!(f, "a replica of shard {shard}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |d: &Duration| d.as_secs_f64();
        match self {
            Self::Delete(who) => write!(f, "delete {who}"),
            Self::ForceDelete(who) => write!(f, "delete {who} by force"),
            Self::Kill(who) => write!(f, "kill {who}"),
            Self::Pause(who, d) => write!(f, "stop {who} for {:.1} s", s(d)),
            Self::Isolate(who, d) => write!(f, "isolate {who} for {:.1} s", s(d)),
            Self::PowerOff(at, d) => write!(f, "worker {} without power for {:.1} s", at + 1, s(d)),
            Self::Cut(at, d) => write!(f, "worker {} cut off for {:.1} s", at + 1, s(d)),
            Self::Cordon(at, d) => write!(f, "worker {} cordoned for {:.1} s", at + 1, s(d)),
            Self::KillOperator { both: true } => write!(f, "kill both operators"),
            Self::KillOperator { both: false } => write!(f, "kill the leading operator"),
            Self::HangApi(d) => write!(f, "the API server hangs for {:.1} s", s(d)),
            Self::Resize(size) => write!(f, "resize to {}x{}", size.shards, size.replicas),
            Self::Restart => write!(f, "replace every member"),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}:", self.number)?;
        for (after, fault) in &self.faults {
            write!(f, " +{:.1} s {fault};", after.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_rounds() {
        let told = |seed| Schedule::new(seed, 3).take(50).map(|r| r.to_string()).collect::<Vec<_>>();
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn every_fault_comes_up_and_each_round_knows_its_size() {
        let rounds: Vec<Round> = Schedule::new(1, 3).take(300).collect();
        let all =
            |is: fn(&Fault) -> bool| rounds.iter().flat_map(|r| &r.faults).filter(|(_, f)| is(f)).count();
        assert!(all(|f| matches!(f, Fault::PowerOff(..))) > 10);
        assert!(all(|f| matches!(f, Fault::KillOperator { both: true })) > 0);
        assert!(all(|f| *f == Fault::Restart) > 0);
        for pair in rounds.windows(2) {
            let last = pair[1].faults.iter().rev().find_map(|(_, f)| match f {
                Fault::Resize(size) => Some(*size),
                _ => None,
            });
            assert_eq!(pair[1].size, last.unwrap_or(pair[0].size));
        }
    }
}
