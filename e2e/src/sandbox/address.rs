//! Decides every address of the sandbox. Pure.
//!
//! All of them live inside network namespaces that the sandbox makes: two sandboxes use the same ones without
//! ever meeting, and nothing outside is addressed.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The most workers a sandbox can have: their addresses are 10.200.0.11 to 10.200.0.60.
pub const MOST_WORKERS: u8 = 50;
/// The control plane: API server, and the router between the workers.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The API server inside the sandbox.
pub const API: SocketAddrV4 = SocketAddrV4::new(CONTROL, 6443);
/// Addresses of all pods.
pub const PODS: &str = "10.201.0.0/16";
/// Addresses of all services.
pub const SERVICES: &str = "10.202.0.0/16";
/// The API server as a service, the first address of [`SERVICES`].
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 1);
/// The name service.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 10);

/// A worker, counted from 1. Its name everywhere is `w1`, `w2`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker(u8);

impl Worker {
    /// The worker of that number, if a sandbox may have so many.
    pub fn new(number: u8) -> Option<Self> {
        (1..=MOST_WORKERS).contains(&number).then_some(Self(number))
    }

    /// The first `count` workers, at most [`MOST_WORKERS`].
    pub fn first(count: u8) -> impl Iterator<Item = Self> + Clone {
        (1..=count.min(MOST_WORKERS)).map(Self)
    }

    /// Its number, from 1.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its own address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, 10 + self.0)
    }

    /// The addresses of its pods.
    pub fn pods(self) -> String {
        format!("10.201.{}.0/24", self.0)
    }

    /// The control plane's end of its cable.
    pub fn cable(self) -> String {
        format!("v{}", self.0)
    }

    /// Its zone when the workers are dealt to `zones` zones in turn: `z1`, `z2`, …
    pub fn zone(self, zones: u8) -> String {
        format!("z{}", (self.0 - 1) % zones.max(1) + 1)
    }
}

impl std::fmt::Display for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl std::str::FromStr for Worker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('w').unwrap_or(text).parse().ok();
        number.and_then(Self::new).ok_or_else(|| format!("`{text}` is no worker: write w1, w2, …"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_workers_share_an_address_and_none_has_the_control_planes() {
        let all: BTreeSet<_> = Worker::first(MOST_WORKERS).map(Worker::address).collect();
        assert_eq!(all.len(), usize::from(MOST_WORKERS));
        assert!(!all.contains(&CONTROL));
        let pods: BTreeSet<_> = Worker::first(MOST_WORKERS).map(Worker::pods).collect();
        assert_eq!(pods.len(), usize::from(MOST_WORKERS));
    }

    #[test]
    fn workers_are_dealt_to_zones_in_turn() {
        let zones: Vec<_> = Worker::first(4).map(|worker| worker.zone(3)).collect();
        assert_eq!(zones, ["z1", "z2", "z3", "z1"]);
    }

    #[test]
    fn names_are_read_back_and_nonsense_is_refused_with_a_sentence() {
        assert_eq!("w3".parse::<Worker>().unwrap().to_string(), "w3");
        assert_eq!("3".parse::<Worker>().unwrap().to_string(), "w3");
        for text in ["w0", "w51", "x1", ""] {
            assert!(text.parse::<Worker>().unwrap_err().contains("write w1"), "{text}");
        }
    }
}
