//! `INFO`: `name:value` lines in sections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use crate::model::{Memory, Version};
use crate::valkey::error::WireError;

/// More lines than `INFO` and `CLUSTER INFO` have, by far (9.1.2: about 250 with `everything`).
const MAX_LINES: usize = 20_000;

/// The lines of an answer by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info(BTreeMap<String, String>);

/// A replica's or primary's side of replication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replication {
    /// `role:master`.
    Primary {
        /// The connections of replicas (`slave0:…`).
        replicas: Vec<ReplicaLine>,
        /// Bytes of the replication stream written.
        offset: u64,
    },
    /// `role:slave`.
    Replica {
        /// The address that it copies from.
        host: String,
        /// `master_link_status:up`.
        up: bool,
        /// `master_sync_in_progress:1`: a full sync is under way.
        syncing: bool,
        /// Bytes of the replication stream received and applied.
        offset: u64,
        /// Seconds since the link went down (absent while it is up; −1 when it never was).
        down_seconds: Option<i64>,
    },
}

impl Replication {
    /// The addresses of the replicas that a primary passes writes on to.
    pub fn online(&self) -> Vec<IpAddr> {
        match self {
            Self::Primary { replicas, .. } => replicas.iter().filter(|r| r.online).map(|r| r.ip).collect(),
            Self::Replica { .. } => Vec::new(),
        }
    }
}

/// A replica as its primary sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaLine {
    /// Its address.
    pub ip: IpAddr,
    /// Its port for clients.
    pub port: u16,
    /// `state=online`: the full sync was sent and writes are passed on.
    pub online: bool,
    /// Bytes of the stream that it acknowledged.
    pub offset: u64,
    /// Seconds since its last acknowledgement.
    pub lag: i64,
}

impl Info {
    /// Reads the answer to `INFO`, whatever its sections, or to `CLUSTER INFO`.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        if text.lines().nth(MAX_LINES).is_some() {
            return Err(WireError::Protocol(format!("INFO has more than {MAX_LINES} lines")));
        }
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        let pairs = lines.filter_map(|l| l.trim_end().split_once(':'));
        Ok(Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// A value, if the server has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that every server has.
    pub fn text(&self, name: &str) -> Result<&str, WireError> {
        self.get(name).ok_or_else(|| WireError::Protocol(format!("{name} is missing")))
    }

    /// A number that every server has.
    pub fn number<N: FromStr>(&self, name: &str) -> Result<N, WireError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| WireError::Protocol(format!("{name} is {text:?} and no number in range")))
    }

    /// Whether a value is 1; a server that does not have it says no.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// The version (section `server`). `redis_version` is the version that Valkey is compatible with; it counts only
    /// where there is no `valkey_version`.
    pub fn version(&self) -> Result<Version, WireError> {
        let text = match self.get("valkey_version") {
            Some(text) => text,
            None => self.text("redis_version")?,
        };
        text.parse().map_err(WireError::Protocol)
    }

    /// Milliseconds since the process started, in whole seconds (section `server`).
    pub fn uptime_ms(&self) -> Result<i64, WireError> {
        Ok(self.number::<i64>("uptime_in_seconds")?.saturating_mul(1000))
    }

    /// A dataset is being loaded, from a file or from the primary (section `persistence`).
    pub fn is_loading(&self) -> bool {
        self.flag("loading") || self.flag("async_loading")
    }

    /// What lies in it (section `memory`); none when the section was not asked for.
    pub fn memory(&self) -> Option<Memory> {
        let bytes = |name: &str| self.get(name)?.parse::<u64>().ok();
        let apart = bytes("mem_not_counted_for_evict").unwrap_or(0);
        Some(Memory {
            used: bytes("used_memory")?.saturating_sub(apart),
            data: bytes("used_memory_dataset")?,
            limit: bytes("maxmemory")?,
        })
    }

    /// Keys in all databases (section `keyspace`).
    pub fn keys(&self) -> Result<u64, WireError> {
        let databases = self.0.iter().filter(|(name, _)| {
            name.strip_prefix("db").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        databases
            .map(|(name, line)| field::<u64>(name, line, "keys"))
            .try_fold(0, |sum: u64, keys| Ok(sum.saturating_add(keys?)))
    }

    /// Replication (section `replication`).
    pub fn replication(&self) -> Result<Replication, WireError> {
        match self.text("role")? {
            "master" => Ok(Replication::Primary {
                replicas: self.replicas()?,
                offset: self.number("master_repl_offset")?,
            }),
            "slave" => Ok(Replication::Replica {
                host: self.text("master_host")?.to_owned(),
                up: self.text("master_link_status")? == "up",
                syncing: self.flag("master_sync_in_progress"),
                // While it has never synced the server says -1 or 0 or 1: no data in each case.
                offset: self.number::<i64>("slave_repl_offset")?.max(0).unsigned_abs(),
                down_seconds: self.get("master_link_down_since_seconds").and_then(|v| v.parse().ok()),
            }),
            other => Err(WireError::Protocol(format!("role is {other:?}"))),
        }
    }

    fn replicas(&self) -> Result<Vec<ReplicaLine>, WireError> {
        let lines = self.0.iter().filter(|(name, _)| {
            name.strip_prefix("slave").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        lines
            .map(|(name, line)| {
                Ok(ReplicaLine {
                    ip: field(name, line, "ip")?,
                    port: field(name, line, "port")?,
                    online: field::<String>(name, line, "state")? == "online",
                    offset: field::<i64>(name, line, "offset")?.max(0).unsigned_abs(),
                    lag: field(name, line, "lag")?,
                })
            })
            .collect()
    }
}

/// One of `key=value,key=value`.
fn field<T: FromStr>(name: &str, line: &str, key: &str) -> Result<T, WireError> {
    line.split(',')
        .filter_map(|pair| pair.split_once('='))
        .find(|(k, _)| *k == key)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| WireError::Protocol(format!("{key} of {name} in {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valkey::parse::testdata::{LINES, recorded};

    fn read(version: &str, what: &str) -> Info {
        Info::parse(&recorded(version, what)).unwrap()
    }

    #[test]
    fn the_version_is_valkeys_own() {
        let versions = ["8.0.1", "8.1.1", "9.1.2"];
        for (line, version) in LINES.into_iter().zip(versions) {
            assert_eq!(read(line, "info-primary").version().unwrap().to_string(), version);
        }
        assert_eq!(Info::parse("redis_version:7.2.4\r\n").unwrap().version().unwrap(), Version::new(7, 2, 4));
        assert!(Info::parse("").unwrap().version().is_err());
    }

    #[test]
    fn a_primary_lists_its_replicas() {
        for version in LINES {
            let info = read(version, "info-primary");
            let Replication::Primary { replicas, offset } = info.replication().unwrap() else { panic!() };
            assert_eq!(replicas.len(), 1);
            assert!(replicas[0].online && replicas[0].offset <= offset && replicas[0].port == 7000);
            assert!(replicas[0].ip.to_string().ends_with(".0.4"));
            assert_eq!(info.keys().unwrap(), 32);
            assert!(!info.is_loading() && info.uptime_ms().unwrap() > 0);
            assert!(info.number::<u64>("used_memory").unwrap() > 0);
        }
    }

    #[test]
    fn a_replica_says_where_it_copies_from_and_how_far_it_is() {
        for version in LINES {
            let info = read(version, "info-replica");
            let Replication::Replica { host, up, syncing, offset, down_seconds } =
                info.replication().unwrap()
            else {
                panic!()
            };
            assert!(host.ends_with(".0.1") && up && !syncing && offset > 0 && down_seconds.is_none());
            assert_eq!(info.keys().unwrap(), 32);
        }
    }

    #[test]
    fn a_broken_link_has_an_age() {
        for version in ["8.1", "9.1"] {
            let info = read(version, "info-replica-link-down");
            let Replication::Replica { up, down_seconds, .. } = info.replication().unwrap() else { panic!() };
            assert_eq!((up, down_seconds), (false, Some(0)), "{version}");
        }
    }

    /// What the fence is for: this replica of 8.0.1 had 32 keys, and a new process at its primary's address had none.
    #[test]
    fn a_link_can_be_up_with_nothing_behind_it() {
        let info = read("8.0", "info-replica-link-down");
        let Replication::Replica { up, offset, .. } = info.replication().unwrap() else { panic!() };
        assert_eq!((up, offset, info.keys().unwrap()), (true, 0, 0));
    }

    #[test]
    fn no_beginning_of_an_answer_panics() {
        let text = recorded("9.1", "info-primary");
        for cut in 0..text.len() {
            let info = Info::parse(&text[..cut]).unwrap();
            let _ = (info.version(), info.keys(), info.replication(), info.uptime_ms());
        }
        assert!(Info::parse("role:king").unwrap().replication().is_err());
        assert!(Info::parse("db0:keys=many").unwrap().keys().is_err());
    }
}
