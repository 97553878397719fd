//! `CLUSTER INFO`: the asked node's opinion of the whole.

use crate::model::Numbers;
use crate::valkey::error::WireError;

use super::info::Info;

/// What a node thinks of its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// `cluster_state` is `ok`: it serves.
    pub ok: bool,
    /// Slots that somebody owns.
    pub slots_assigned: u16,
    /// Slots whose owner is failed.
    pub slots_failed: u16,
    /// Nodes that it lists, itself and handshakes included.
    pub known_nodes: u32,
    /// Primaries that own slots.
    pub size: u32,
    /// The highest epoch seen.
    pub current_epoch: u64,
    /// Its own config epoch; that of its primary for a replica.
    pub my_epoch: u64,
}

impl ClusterInfo {
    /// Reads the answer.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        let info = Info::parse(text)?;
        Ok(Self {
            ok: info.text("cluster_state")? == "ok",
            slots_assigned: info.number("cluster_slots_assigned")?,
            slots_failed: info.number("cluster_slots_fail")?,
            known_nodes: info.number("cluster_known_nodes")?,
            size: info.number("cluster_size")?,
            current_epoch: info.number("cluster_current_epoch")?,
            my_epoch: info.number("cluster_my_epoch")?,
        })
    }

    /// What nodes give alike that see their cluster alike.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            known_nodes: self.known_nodes,
            size: self.size,
            current_epoch: self.current_epoch,
            slots_assigned: self.slots_assigned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valkey::parse::testdata::{LINES, recorded};

    #[test]
    fn alone_formed_and_damaged_are_told_apart() {
        for version in LINES {
            let alone = ClusterInfo::parse(&recorded(version, "cluster-info-alone")).unwrap();
            assert_eq!((alone.ok, alone.known_nodes, alone.slots_assigned, alone.my_epoch), (false, 1, 0, 0));
            let formed = ClusterInfo::parse(&recorded(version, "cluster-info-formed")).unwrap();
            assert_eq!((formed.ok, formed.known_nodes, formed.slots_assigned), (true, 6, 16384));
            assert_eq!((formed.size, formed.current_epoch, formed.my_epoch), (3, 6, 1));
            let lost = ClusterInfo::parse(&recorded(version, "cluster-info-lost-shard")).unwrap();
            // 10923-16383; state stays ok because full coverage is not asked for.
            assert_eq!((lost.ok, lost.slots_failed), (true, 5461));
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = ClusterInfo::parse("cluster_state:ok\r\n").unwrap_err();
        assert!(error.to_string().contains("cluster_slots_assigned"), "{error}");
    }
}
