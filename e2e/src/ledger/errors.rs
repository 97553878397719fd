//! Decides which kind an error is, and counts errors by kind. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::resp::Fault;

/// How many different sentences of the kind `other` are kept.
const MAX_SENTENCES: usize = 8;

/// What kept a write from being acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// The slot is another node's; the write is sent again there. A redirect, not a failure.
    Moved,
    /// The slot is on its way; the write is sent to its target. A redirect, not a failure.
    Ask,
    /// The cluster, or this slot, is not served.
    ClusterDown,
    /// A slot on its way does not have all keys of the command.
    TryAgain,
    /// The server reads its data set.
    Loading,
    /// No answer in time.
    Timeout,
    /// Nobody listens.
    Refused,
    /// The connection broke.
    Reset,
    /// Done, but too few replicas had it in time: nobody may rely on it.
    Unconfirmed,
    /// Anything else; its sentences are kept.
    Other,
}

/// What the ledger itself says of a write that too few replicas had in time.
pub(crate) const UNCONFIRMED: &str = "UNCONFIRMED";

impl ErrorKind {
    /// Whether the protocol asks for this in normal operation.
    pub fn is_redirect(self) -> bool {
        matches!(self, Self::Moved | Self::Ask)
    }

    /// The kind of an error reply, known by its first word.
    pub fn of_reply(text: &str) -> Self {
        match text.split(' ').next().unwrap_or_default() {
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "CLUSTERDOWN" => Self::ClusterDown,
            "TRYAGAIN" => Self::TryAgain,
            "LOADING" => Self::Loading,
            UNCONFIRMED => Self::Unconfirmed,
            _ => Self::Other,
        }
    }

    /// The kind of a command without a reply.
    pub fn of_fault(fault: &Fault) -> Self {
        match fault {
            Fault::Refused => Self::Refused,
            Fault::Reset => Self::Reset,
            Fault::Timeout(_) => Self::Timeout,
            Fault::Denied(_) | Fault::Protocol(_) | Fault::Other(_) => Self::Other,
        }
    }
}

/// Errors by kind, and what the unexpected ones said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// How many of each kind.
    pub by_kind: BTreeMap<ErrorKind, u64>,
    /// Different sentences of the kind `other`, the first eight.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sentences: BTreeSet<String>,
}

impl Errors {
    /// Counts one error.
    pub fn add(&mut self, kind: ErrorKind, sentence: &str) {
        *self.by_kind.entry(kind).or_default() += 1;
        if kind == ErrorKind::Other && self.sentences.len() < MAX_SENTENCES {
            self.sentences.insert(sentence.to_owned());
        }
    }

    /// Adds the errors of another lane.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.by_kind {
            *self.by_kind.entry(*kind).or_default() += count;
        }
        for sentence in &other.sentences {
            if self.sentences.len() < MAX_SENTENCES {
                self.sentences.insert(sentence.clone());
            }
        }
    }

    /// How many of this kind.
    pub fn of(&self, kind: ErrorKind) -> u64 {
        self.by_kind.get(&kind).copied().unwrap_or_default()
    }

    /// How many that are not redirects.
    pub fn failures(&self) -> u64 {
        self.by_kind.iter().filter(|(kind, _)| !kind.is_redirect()).map(|(_, count)| count).sum()
    }

    /// For people: `MOVED 1, timeout 2`, or `none`.
    pub fn summary(&self) -> String {
        let parts: Vec<_> =
            self.by_kind.iter().map(|(kind, count)| format!("{} {count}", kind.name())).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    }
}

impl ErrorKind {
    /// The name that Valkey or the operating system gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moved => "MOVED",
            Self::Ask => "ASK",
            Self::ClusterDown => "CLUSTERDOWN",
            Self::TryAgain => "TRYAGAIN",
            Self::Loading => "LOADING",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unconfirmed => "unconfirmed",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_known_by_their_first_word() {
        assert_eq!(ErrorKind::of_reply("MOVED 1 a:1"), ErrorKind::Moved);
        assert_eq!(ErrorKind::of_reply("CLUSTERDOWN Hash slot not served"), ErrorKind::ClusterDown);
        assert_eq!(ErrorKind::of_reply("NOREPLICAS Not enough good replicas"), ErrorKind::Other);
        assert_eq!(ErrorKind::of_reply(""), ErrorKind::Other);
    }

    #[test]
    fn redirects_are_counted_but_are_no_failures_and_sentences_are_bounded() {
        let mut errors = Errors::default();
        errors.add(ErrorKind::Moved, "MOVED 1 a:1");
        errors.add(ErrorKind::Timeout, "");
        for n in 0..20 {
            errors.add(ErrorKind::Other, &format!("ERR {n}"));
        }
        assert_eq!((errors.failures(), errors.sentences.len()), (21, MAX_SENTENCES));
        assert_eq!(errors.summary(), "MOVED 1, timeout 1, other 20");
    }
}
