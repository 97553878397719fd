//! Decides what the cluster protocol's answers mean: a key's slot, a redirect, the slot map. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::parser::Reply;

/// The number of hash slots of a cluster, fixed by the protocol.
pub const SLOTS: u16 = 16_384;

/// Where a node says that it is: a host (mostly an IP address) and a port, as it announces them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// An IP address or a name.
    pub host: String,
    /// The client port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Endpoint {
    /// Reads `host:port`; the last colon counts, brackets around an IPv6 host are taken off. An empty host means
    /// "the node that said it", hence `said_by`.
    pub fn read(text: &str, said_by: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() || host == "?" { said_by } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

/// What an error reply says about where the key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The slot belongs to this node from now on.
    Moved(Endpoint),
    /// Only this one command, after ASKING, goes to this node.
    Ask(Endpoint),
}

impl Redirect {
    /// Reads `MOVED 3999 127.0.0.1:6381` and `ASK 3999 127.0.0.1:6381`.
    pub fn read(error: &str, said_by: &str) -> Option<Self> {
        let mut words = error.split(' ');
        let (kind, _slot, place) = (words.next()?, words.next()?, words.next()?);
        let place = Endpoint::read(place, said_by)?;
        match kind {
            "MOVED" => Some(Self::Moved(place)),
            "ASK" => Some(Self::Ask(place)),
            _ => None,
        }
    }
}

/// One row of CLUSTER SLOTS: who serves these slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot, inclusive.
    pub last: u16,
    /// The node that takes writes.
    pub primary: Endpoint,
    /// The others of the shard.
    pub replicas: Vec<Endpoint>,
}

/// One node's answer to CLUSTER SLOTS, by first slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMap {
    ranges: BTreeMap<u16, SlotRange>,
}

impl SlotMap {
    /// Reads the reply of CLUSTER SLOTS. Rows that name no usable primary are left out: a node that has just
    /// started knows slots whose owner's address it has not heard yet.
    ///
    /// # Errors
    /// If the reply is not what CLUSTER SLOTS answers.
    pub fn read(reply: &Reply, said_by: &str) -> Result<Self, String> {
        let rows = reply.items().ok_or_else(|| format!("CLUSTER SLOTS answered {reply:?}"))?;
        let mut ranges = BTreeMap::new();
        for row in rows {
            let (first, last, places) =
                read_row(row, said_by).ok_or_else(|| format!("CLUSTER SLOTS row {row:?}"))?;
            let mut places = places.into_iter();
            if let Some(Some(primary)) = places.next() {
                ranges
                    .insert(first, SlotRange { first, last, primary, replicas: places.flatten().collect() });
            }
        }
        Ok(Self { ranges })
    }

    /// The row that holds this slot.
    pub fn of(&self, slot: u16) -> Option<&SlotRange> {
        let (_, range) = self.ranges.range(..=slot).next_back()?;
        (range.last >= slot).then_some(range)
    }

    /// All rows, by first slot.
    pub fn ranges(&self) -> impl Iterator<Item = &SlotRange> {
        self.ranges.values()
    }
}

fn read_row(row: &Reply, said_by: &str) -> Option<(u16, u16, Vec<Option<Endpoint>>)> {
    let [first, last, nodes @ ..] = row.items()? else { return None };
    let (first, last) = (u16::try_from(first.number()?).ok()?, u16::try_from(last.number()?).ok()?);
    Some((first, last, nodes.iter().map(|node| read_node(node, said_by)).collect()))
}

fn read_node(node: &Reply, said_by: &str) -> Option<Endpoint> {
    let [host, port, ..] = node.items()? else { return None };
    // A nil or "?" host is a preferred endpoint that is not known; only an empty one means "myself".
    let host = host.text().filter(|host| *host != "?")?;
    let port = u16::try_from(port.number()?).ok()?;
    let host = if host.is_empty() { said_by } else { host };
    Some(Endpoint { host: host.to_owned(), port })
}

/// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it, modulo 16384.
pub fn key_slot(key: &str) -> u16 {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tagged.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % SLOTS
}

/// The first number, as text, that hashes to this slot. About 16,000 tries, a few milliseconds.
pub fn tag_for(slot: u16) -> String {
    let wanted = slot % SLOTS;
    (0..=u32::MAX).map(|n| n.to_string()).find(|tag| key_slot(tag) == wanted).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    fn node(host: Reply, port: i64) -> Reply {
        Reply::Array(vec![host, Reply::Integer(port), bulk("id"), Reply::Array(vec![])])
    }

    #[test]
    fn slots_of_keys_are_those_of_the_specification() {
        // The check value of the cluster specification's appendix A.
        assert_eq!(crc16::State::<crc16::XMODEM>::calculate(b"123456789"), 0x31C3);
        assert_eq!(key_slot("123456789"), 0x31C3 % SLOTS);
        assert_eq!(key_slot("{user1000}.following"), key_slot("{user1000}.followers"));
        assert_eq!(key_slot("foo{{bar}}zap"), key_slot("{bar"));
        assert_eq!(key_slot("foo{}{bar}"), crc16::State::<crc16::XMODEM>::calculate(b"foo{}{bar}") % SLOTS);
    }

    #[test]
    fn a_tag_is_found_for_the_first_and_last_slot() {
        for slot in [0, 1, 8191, SLOTS - 1] {
            assert_eq!(key_slot(&format!("any:{{{}}}", tag_for(slot))), slot);
        }
    }

    #[test]
    fn redirects_name_a_place_and_an_empty_host_is_the_speaker() {
        let moved = |host: &str| Some(Redirect::Moved(Endpoint { host: host.into(), port: 7000 }));
        assert_eq!(Redirect::read("MOVED 3999 10.0.0.1:7000", "x"), moved("10.0.0.1"));
        assert_eq!(Redirect::read("MOVED 3999 :7000", "10.0.0.9"), moved("10.0.0.9"));
        assert_eq!(Redirect::read("MOVED 3999 fd00::1:7000", "x"), moved("fd00::1"));
        let ask = Redirect::Ask(Endpoint { host: "h".into(), port: 1 });
        assert_eq!(Redirect::read("ASK 1 h:1", "x"), Some(ask));
        assert_eq!(Redirect::read("CLUSTERDOWN The cluster is down", "x"), None);
        assert_eq!(Redirect::read("MOVED", "x"), None);
    }

    #[test]
    fn the_slot_map_finds_owner_and_replicas_and_knows_holes() {
        let row = |first, last, nodes: Vec<Reply>| {
            Reply::Array([vec![Reply::Integer(first), Reply::Integer(last)], nodes].concat())
        };
        let reply = Reply::Array(vec![
            row(0, 99, vec![node(bulk("10.0.0.1"), 1), node(bulk("10.0.0.2"), 2), node(Reply::Nil, 3)]),
            row(200, 300, vec![node(bulk(""), 4)]),
            row(301, 400, vec![node(bulk("?"), 5)]),
        ]);
        let map = SlotMap::read(&reply, "10.0.0.9").unwrap();
        let range = map.of(99).unwrap();
        assert_eq!((range.primary.to_string(), range.replicas.len()), ("10.0.0.1:1".to_owned(), 1));
        assert_eq!(map.of(100), None);
        assert_eq!(map.of(250).unwrap().primary.host, "10.0.0.9");
        assert_eq!(map.of(350), None);
        assert!(SlotMap::read(&Reply::Simple("OK".into()), "x").is_err());
    }
}
