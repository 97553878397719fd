//! Decides what INFO and CLUSTER INFO say about replication and state. Pure.

use std::collections::BTreeMap;

/// A replica as its primary lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The address that it replicates from.
    pub ip: String,
    /// Its client port.
    pub port: u16,
    /// `online` once it has the data set.
    pub state: String,
    /// Up to where it has acknowledged the stream.
    pub offset: u64,
}

/// One node's own words about replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each one line of INFO")]
pub struct Replication {
    /// It takes writes.
    pub primary: bool,
    /// Where its primary is, by its own words; `None` on a primary.
    pub copies_from: Option<String>,
    /// Its link to its primary is up; false on a primary.
    pub link_up: bool,
    /// It is receiving a full copy.
    pub syncing: bool,
    /// It is reading a data set, from its disk or from the network.
    pub loading: bool,
    /// The replicas that it serves.
    pub replicas: Vec<Listed>,
    /// The end of its own stream, or up to where it has read its primary's.
    pub offset: u64,
}

/// The `name:value` lines of an INFO or CLUSTER INFO answer.
pub(crate) fn lines(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

impl Replication {
    /// Reads `INFO replication persistence`.
    pub fn read(text: &str) -> Self {
        let lines = lines(text);
        let yes = |name: &str| lines.get(name).is_some_and(|value| *value != "0");
        let primary = lines.get("role") == Some(&"master");
        let offset = if primary { "master_repl_offset" } else { "slave_repl_offset" };
        Self {
            primary,
            copies_from: lines.get("master_host").map(|host| (*host).to_owned()),
            link_up: lines.get("master_link_status") == Some(&"up"),
            syncing: yes("master_sync_in_progress"),
            loading: yes("loading") || yes("async_loading"),
            replicas: lines.iter().filter_map(|(name, value)| listed(name, value)).collect(),
            offset: lines.get(offset).and_then(|value| value.parse().ok()).unwrap_or_default(),
        }
    }

    /// What keeps this replica from being in sync by its own words; `None` if nothing does.
    pub fn behind(&self) -> Option<&'static str> {
        match self {
            Self { primary: true, .. } => Some("takes itself for a primary"),
            Self { loading: true, .. } => Some("is loading its data set"),
            Self { syncing: true, .. } => Some("is receiving a full copy"),
            Self { link_up: false, .. } => Some("has no link to its primary"),
            _ => None,
        }
    }
}

/// `slave0:ip=127.0.1.4,port=7000,state=online,offset=42,lag=0`
fn listed(name: &str, value: &str) -> Option<Listed> {
    name.strip_prefix("slave")?.parse::<u32>().ok()?;
    let fields: BTreeMap<_, _> = value.split(',').filter_map(|field| field.split_once('=')).collect();
    Some(Listed {
        ip: (*fields.get("ip")?).to_owned(),
        port: fields.get("port")?.parse().ok()?,
        state: (*fields.get("state")?).to_owned(),
        offset: fields.get("offset")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_lists_its_replicas() {
        let text = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=127.0.1.4,port=7000,state=online,offset=42,lag=0,type=replica\r\n\
                    slave1:ip=127.0.1.5,port=7000,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave_repl_offset:7\r\nmaster_repl_offset:42\r\n# Persistence\r\nloading:0\r\nasync_loading:0\r\n";
        let replication = Replication::read(text);
        assert!(replication.primary && !replication.loading);
        assert_eq!((replication.offset, &replication.copies_from), (42, &None));
        let states: Vec<_> = replication.replicas.iter().map(|listed| listed.state.as_str()).collect();
        assert_eq!(states, ["online", "wait_bgsave"]);
    }

    #[test]
    fn a_replica_says_what_keeps_it_behind() {
        let with = |change: &str| {
            let text = "role:slave\nmaster_link_status:up\nmaster_sync_in_progress:0\nloading:0\nslave_repl_offset:9\n";
            let (name, _) = change.split_once(':').unwrap();
            let kept: Vec<_> = text.lines().filter(|line| !line.starts_with(name)).chain([change]).collect();
            Replication::read(&kept.join("\n")).behind()
        };
        assert_eq!(with("x:0"), None);
        assert_eq!(with("master_link_status:down"), Some("has no link to its primary"));
        assert_eq!(with("master_sync_in_progress:1"), Some("is receiving a full copy"));
        assert_eq!(with("loading:1"), Some("is loading its data set"));
        assert_eq!(with("role:master"), Some("takes itself for a primary"));
    }
}
