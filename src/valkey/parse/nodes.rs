//! `CLUSTER NODES`: one line a node, as the asked node sees it.
//!
//! `id ip:port@busport[,hostname[,aux=value]*] flags primary ping pong epoch link slot…`
//! (`clusterGenNodeDescription`, Valkey 8.0 to 9.1).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{NodeId, SLOTS, SlotRange, Slots};
use crate::valkey::error::WireError;

/// More lines than a cluster can have nodes that matter: 16384 slot owners, and as many replicas.
const MAX_LINES: usize = 2 * SLOTS as usize;

/// One node in the view of another (or of itself).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLine {
    /// Its id; a placeholder while `Flag::Handshake` is set.
    pub id: NodeId,
    /// Its address; none when the asked node has lost it (`noaddr`), or when it is the asked node itself and has not
    /// yet learned its own.
    pub ip: Option<IpAddr>,
    /// The port for clients; 0 when unknown.
    pub port: u16,
    /// The port of the cluster bus; 0 when unknown.
    pub bus_port: u16,
    /// The host name that it announces.
    pub hostname: Option<String>,
    /// Its flags; unknown ones are passed over.
    pub flags: BTreeSet<Flag>,
    /// The primary that it is a replica of.
    pub primary: Option<NodeId>,
    /// Its config epoch; that of its primary for a replica.
    pub epoch: u64,
    /// The bus link from the asked node to it is open.
    pub connected: bool,
    /// The slots that it owns.
    pub slots: Slots,
    /// Slots half way to or from somebody else; shown only in the asked node's own line.
    pub open: Vec<OpenSlot>,
}

impl NodeLine {
    /// Whether it has this flag.
    pub fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

/// What the asked node holds a node for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Flag {
    /// The asked node itself.
    Myself,
    /// `master`.
    Primary,
    /// `slave`.
    Replica,
    /// `fail?`: the asked node has no answer from it.
    Suspected,
    /// `fail`: a majority of the primaries has none.
    Failed,
    /// It is being introduced; its id is a placeholder.
    Handshake,
    /// Its address is lost.
    NoAddress,
    /// It does not stand for election.
    NoFailover,
}

/// A slot that is being moved key by key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpenSlot {
    /// The slot.
    pub slot: u16,
    /// Which way it moves.
    pub direction: Direction,
    /// The node on the other side.
    pub other: NodeId,
}

/// Which way an open slot moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// `[7->-id]`: away from the asked node.
    Migrating,
    /// `[7-<-id]`: to the asked node.
    Importing,
}

/// Reads a whole answer.
pub fn cluster_nodes(text: &str) -> Result<Vec<NodeLine>, WireError> {
    let lines = text.lines().filter(|l| !l.trim().is_empty()).take(MAX_LINES + 1);
    let nodes: Result<Vec<NodeLine>, WireError> = lines.map(line).collect();
    let nodes = nodes?;
    if nodes.len() > MAX_LINES {
        return Err(WireError::Protocol(format!("CLUSTER NODES has more than {MAX_LINES} lines")));
    }
    Ok(nodes)
}

fn line(text: &str) -> Result<NodeLine, WireError> {
    read_line(text).ok_or_else(|| {
        let start: String = text.chars().take(120).collect();
        WireError::Protocol(format!("a line of CLUSTER NODES: {start:?}"))
    })
}

fn read_line(text: &str) -> Option<NodeLine> {
    let mut words = text.split_ascii_whitespace();
    let id = words.next().filter(|id| id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let (ip, port, bus_port, hostname) = address(words.next()?)?;
    let flags = words.next()?.split(',').filter_map(flag).collect();
    let primary = Some(words.next()?).filter(|p| *p != "-").map(NodeId::new);
    let (_ping, _pong) = (words.next()?, words.next()?);
    let epoch = words.next()?.parse().ok()?;
    let connected = words.next()? == "connected";
    let (mut ranges, mut open) = (Vec::new(), Vec::new());
    for word in words {
        if word.starts_with('[') {
            open.push(open_slot(word)?);
        } else {
            ranges.push(range(word)?);
        }
    }
    let slots = Slots::from_ranges(ranges);
    Some(NodeLine {
        id: NodeId::new(id),
        ip,
        port,
        bus_port,
        hostname,
        flags,
        primary,
        epoch,
        connected,
        slots,
        open,
    })
}

/// `ip:port@busport[,hostname[,aux=value]*]`. An IPv6 address has no brackets, so the last colon counts.
fn address(word: &str) -> Option<(Option<IpAddr>, u16, u16, Option<String>)> {
    let mut parts = word.split(',');
    let (client, bus) = parts.next()?.split_once('@')?;
    let (ip, port) = client.rsplit_once(':')?;
    let ip = if ip.is_empty() { None } else { Some(ip.trim_matches(['[', ']']).parse().ok()?) };
    let hostname = parts.next().filter(|h| !h.is_empty() && !h.contains('=')).map(str::to_owned);
    Some((ip, port.parse().ok()?, bus.parse().ok()?, hostname))
}

fn flag(word: &str) -> Option<Flag> {
    match word {
        "myself" => Some(Flag::Myself),
        "master" => Some(Flag::Primary),
        "slave" => Some(Flag::Replica),
        "fail?" => Some(Flag::Suspected),
        "fail" => Some(Flag::Failed),
        "handshake" => Some(Flag::Handshake),
        "noaddr" => Some(Flag::NoAddress),
        "nofailover" => Some(Flag::NoFailover),
        _ => None,
    }
}

fn range(word: &str) -> Option<SlotRange> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let range = SlotRange { first: slot(first)?, last: slot(last)? };
    (range.first <= range.last).then_some(range)
}

fn open_slot(word: &str) -> Option<OpenSlot> {
    let inner = word.strip_prefix('[')?.strip_suffix(']')?;
    let (number, direction, other) = match inner.split_once("->-") {
        Some((number, other)) => (number, Direction::Migrating, other),
        None => inner.split_once("-<-").map(|(number, other)| (number, Direction::Importing, other))?,
    };
    Some(OpenSlot { slot: slot(number)?, direction, other: NodeId::new(other) })
}

fn slot(text: &str) -> Option<u16> {
    text.parse().ok().filter(|n| *n < SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valkey::parse::testdata::{LINES, recorded};

    fn read(line: &str, what: &str) -> Vec<NodeLine> {
        cluster_nodes(&recorded(line, what)).unwrap_or_else(|e| panic!("{line} {what}: {e}"))
    }

    fn by_host(nodes: &[NodeLine], last: u8) -> &NodeLine {
        let ends = |n: &&NodeLine| matches!(n.ip, Some(IpAddr::V4(ip)) if ip.octets()[3] == last);
        nodes.iter().find(ends).unwrap()
    }

    #[test]
    fn a_node_alone_knows_itself_and_not_yet_its_address() {
        for version in LINES {
            let nodes = read(version, "nodes-alone");
            assert_eq!(nodes.len(), 1, "{version}");
            assert!(nodes[0].is(Flag::Myself) && nodes[0].is(Flag::Primary) && nodes[0].slots.is_empty());
            assert_eq!((nodes[0].port, nodes[0].bus_port, nodes[0].epoch), (7000, 17000, 0));
        }
    }

    #[test]
    fn a_formed_cluster_has_all_slots_and_every_replica_its_primary() {
        for version in LINES {
            let nodes = read(version, "nodes-formed");
            assert_eq!(nodes.len(), 6);
            let owned = nodes.iter().fold(Slots::none(), |all, n| all.or(&n.slots));
            assert_eq!(owned, Slots::all());
            for (replica, primary) in [(4, 1), (5, 2), (6, 3)] {
                let (replica, primary) = (by_host(&nodes, replica), by_host(&nodes, primary));
                assert_eq!(replica.primary.as_ref(), Some(&primary.id));
                assert!(replica.is(Flag::Replica) && primary.is(Flag::Primary) && primary.connected);
                assert_eq!(replica.epoch, primary.epoch);
            }
        }
    }

    #[test]
    fn open_slots_show_in_the_own_line_only() {
        for version in LINES {
            let nodes = read(version, "nodes-open-source");
            let (source, target) = (by_host(&nodes, 1), by_host(&nodes, 2));
            let moving = |slot, to: &NodeLine| OpenSlot {
                slot,
                direction: Direction::Migrating,
                other: to.id.clone(),
            };
            assert_eq!(source.open, [moving(7, target), moving(100, by_host(&nodes, 3))]);
            assert_eq!(source.slots.to_string(), "0-199 300-399 401-5460");
            assert_eq!(source.hostname.as_deref(), Some("valkey-a-0-0.valkey-a.default.svc"));
            assert!(target.open.is_empty());
            assert!(by_host(&nodes, 4).is(Flag::NoFailover));

            let nodes = read(version, "nodes-open-target");
            let coming = &by_host(&nodes, 2).open;
            assert_eq!((coming[0].slot, coming[0].direction), (7, Direction::Importing));
            assert_eq!(coming[0].other, by_host(&nodes, 1).id);
        }
    }

    #[test]
    fn a_handshake_is_a_placeholder_without_a_role() {
        for version in LINES {
            let nodes = read(version, "nodes-handshake");
            assert_eq!(nodes.len(), 7);
            let dead = by_host(&nodes, 99);
            assert_eq!(dead.flags, BTreeSet::from([Flag::Handshake]));
            assert!(!dead.connected && dead.primary.is_none());
        }
    }

    #[test]
    fn suspected_and_failed_are_told_apart() {
        for version in LINES {
            let suspected = read(version, "nodes-pfail");
            let dead = by_host(&suspected, 6);
            assert!(dead.is(Flag::Suspected) && !dead.is(Flag::Failed) && !dead.connected);
            let failed = read(version, "nodes-failed-replica");
            let dead = by_host(&failed, 6);
            assert!(dead.is(Flag::Failed) && !dead.is(Flag::Suspected));
            let lost = read(version, "nodes-lost-shard");
            let owner = by_host(&lost, 3);
            assert!(owner.is(Flag::Failed) && owner.slots.contains(16383));
        }
    }

    #[test]
    fn a_node_without_address_keeps_its_id_and_slots() {
        for version in LINES {
            let nodes = read(version, "nodes-noaddr");
            let lost = nodes.iter().find(|n| n.is(Flag::NoAddress)).unwrap();
            assert_eq!((lost.ip, lost.port, lost.bus_port), (None, 0, 0));
            // 8.0 leaves the slots with the ghost; later ones let the replica take over.
            let heir = by_host(&nodes, 5);
            assert!(lost.slots.contains(6000) || heir.slots.contains(6000), "{version}");
            assert_eq!(lost.is(Flag::Failed), version != "8.0");
        }
    }

    #[test]
    fn other_forms_of_an_address_are_read() {
        let id = "e121ce34f14a4d1af0367b9403d28abb0a881d39";
        let rest = "myself,master,shiny - 0 0 1 connected 5";
        let v6 = cluster_nodes(&format!("{id} fd00::1:6379@16379,,shard-id=abc,future=1 {rest}")).unwrap();
        assert_eq!(v6[0].ip, Some("fd00::1".parse().unwrap()));
        assert_eq!((v6[0].port, v6[0].hostname.as_deref()), (6379, None));
        assert_eq!(v6[0].slots.to_string(), "5");
    }

    #[test]
    fn what_is_malformed_is_an_error_and_not_a_missing_node() {
        let good = recorded("9.1", "nodes-formed");
        for cut in 0..good.len() {
            // Every beginning is either read or refused; none panics.
            if let Ok(nodes) = cluster_nodes(&good[..cut]) {
                assert!(nodes.len() <= 6);
            }
        }
        let id = "e121ce34f14a4d1af0367b9403d28abb0a881d39";
        for bad in [
            "x".to_owned(),
            format!("{id} 1.2.3.4:1@2 master - 0 0 one connected"),
            format!("{id} 1.2.3.4:1@2 master - 0 0 1 connected 16384"),
            format!("{id} 1.2.3.4:1@2 master - 0 0 1 connected 9-5"),
            format!("{id} 1.2.3.4:1@2 master - 0 0 1 connected [5-x]"),
            format!("{id} nowhere master - 0 0 1 connected"),
        ] {
            assert!(cluster_nodes(&bad).is_err(), "{bad}");
        }
    }
}
