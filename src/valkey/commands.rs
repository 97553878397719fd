//! The commands that the operator uses, one function each. They send and read; they decide nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::snapshot::{NODENAME, RELEASED};
use crate::model::users::Shown;
use crate::model::{Mode, NodeId, PodUid, Slots};

use super::error::WireError;
use super::node::Node;
use super::parse::{AclUser, ClusterInfo, Info, NodeLine, cluster_nodes as parse_nodes, shown};
use super::reply::Reply;

/// How a replica takes its primary's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failover {
    /// The primary holds its writes until the replica has them all: nothing is lost.
    Planned,
    /// Without the primary, with the votes of the others: for a primary that is dead.
    Force,
    /// Without anybody: for a cluster without a majority.
    Takeover,
}

/// What `CLUSTER RESET` leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reset {
    /// The id stays.
    Soft,
    /// A new id, and all epochs are 0.
    Hard,
}

/// The setting that releases a Pod that was told to go: its preStop hook reads it in `nodes.conf`.
pub fn released(uid: &PodUid) -> BTreeMap<String, String> {
    BTreeMap::from([(NODENAME.to_owned(), format!("{RELEASED}{uid}"))])
}

/// `PING`.
pub async fn ping(node: &dyn Node) -> Result<(), WireError> {
    node.call(&["PING"]).await.map(|_| ())
}

/// `CLUSTER INFO`.
pub async fn cluster_info(node: &dyn Node) -> Result<ClusterInfo, WireError> {
    ClusterInfo::parse(node.call(&["CLUSTER", "INFO"]).await?.text()?)
}

/// `CLUSTER NODES`: 125 bytes a line, so 125 KB from a node that knows a thousand.
pub async fn cluster_nodes(node: &dyn Node) -> Result<Vec<NodeLine>, WireError> {
    parse_nodes(node.call(&["CLUSTER", "NODES"]).await?.text()?)
}

/// `CLUSTER MYID`.
pub async fn my_id(node: &dyn Node) -> Result<NodeId, WireError> {
    Ok(NodeId::new(node.call(&["CLUSTER", "MYID"]).await?.text()?))
}

/// `INFO` with these sections (`server`, `persistence`, `replication`, `memory`, `keyspace`).
pub async fn info(node: &dyn Node, sections: &[&str]) -> Result<Info, WireError> {
    let argv = [&["INFO"], sections].concat();
    Info::parse(node.call(&argv).await?.text()?)
}

/// `CONFIG GET`: keys that this version does not have are missing from the answer.
pub async fn config_get(node: &dyn Node, keys: &[&str]) -> Result<BTreeMap<String, String>, WireError> {
    let argv = [&["CONFIG", "GET"], keys].concat();
    node.call(&argv).await?.texts()
}

/// `CONFIG SET` of all pairs in one command: all are set or none is.
pub async fn config_set(node: &dyn Node, settings: &BTreeMap<String, String>) -> Result<(), WireError> {
    let pairs = settings.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()]);
    let argv: Vec<&str> = ["CONFIG", "SET"].into_iter().chain(pairs).collect();
    node.call(&argv).await?.ok()
}

/// `CONFIG SET`, all in one, of what makes a node speak this. To TLS, whoever is connected as a client is disconnected first: nobody goes on in plain
/// text. Both arrive as one burst, and a server takes up nothing else in between. This very connection stays, and so do those of
/// replicas and of the bus, until each is made anew by the other end, which learns of the new port within a second.
pub async fn switch(node: &dyn Node, to: Mode) -> Result<(), WireError> {
    let settings = to.settings();
    let set =
        ["CONFIG", "SET"].into_iter().chain(settings.iter().flat_map(|(key, value)| [*key, value.as_str()]));
    let mut burst = match to {
        Mode::Plain => Vec::new(),
        Mode::Tls => vec![vec!["CLIENT", "KILL", "TYPE", "normal"], vec!["CLIENT", "KILL", "TYPE", "pubsub"]],
    };
    burst.push(set.collect());
    let mut answers = node.call_many(&burst).await;
    answers.pop().unwrap_or(Err(WireError::Reset))?.ok()?;
    answers.into_iter().try_for_each(|killed| killed?.int().map(|_| ()))
}

/// `ACL SETUSER`: the rules are added to what the user has; `reset` comes first where they are to replace it.
pub async fn acl_setuser(node: &dyn Node, user: &str, rules: &[&str]) -> Result<(), WireError> {
    let argv = [&["ACL", "SETUSER", user], rules].concat();
    node.call(&argv).await?.ok()
}

/// `ACL GETUSER`: none for a user that does not exist.
pub async fn acl_getuser(node: &dyn Node, user: &str) -> Result<Option<AclUser>, WireError> {
    AclUser::parse(&node.call(&["ACL", "GETUSER", user]).await?)
}

/// `ACL DELUSER`: closes the user's connections. One that is not there is fine.
pub async fn acl_deluser(node: &dyn Node, user: &str) -> Result<(), WireError> {
    node.call(&["ACL", "DELUSER", user]).await?.int().map(|_| ())
}

/// `ACL LIST`: every user with all that it has, passwords as SHA-256.
pub async fn acl_list(node: &dyn Node) -> Result<Shown, WireError> {
    shown(&node.call(&["ACL", "LIST"]).await?)
}

/// `CLUSTER ADDSLOTSRANGE`. Refused as a whole when the node lists one of them under any owner.
pub async fn add_slots(node: &dyn Node, slots: &Slots) -> Result<(), WireError> {
    let ends: Vec<String> =
        slots.ranges().iter().flat_map(|r| [r.first.to_string(), r.last.to_string()]).collect();
    let argv: Vec<&str> =
        ["CLUSTER", "ADDSLOTSRANGE"].into_iter().chain(ends.iter().map(String::as_str)).collect();
    node.call(&argv).await?.ok()
}

/// `CLUSTER SET-CONFIG-EPOCH`: accepted only while the node knows nobody and its epoch is 0.
pub async fn set_config_epoch(node: &dyn Node, epoch: u64) -> Result<(), WireError> {
    node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await?.ok()
}

/// `CLUSTER BUMPEPOCH`: `BUMPED n` or `STILL n`.
pub async fn bump_epoch(node: &dyn Node) -> Result<(), WireError> {
    node.call(&["CLUSTER", "BUMPEPOCH"]).await.map(|_| ())
}

/// `CLUSTER MEET`: begins a handshake; whether it succeeds shows in `CLUSTER NODES`.
pub async fn meet(node: &dyn Node, ip: IpAddr, port: u16, bus_port: u16) -> Result<(), WireError> {
    let argv = ["CLUSTER", "MEET", &ip.to_string(), &port.to_string(), &bus_port.to_string()];
    node.call(&argv).await?.ok()
}

/// `CLUSTER REPLICATE`: the node must know the primary, own no slots and hold no keys (unless it is a replica already).
pub async fn replicate(node: &dyn Node, primary: &NodeId) -> Result<(), WireError> {
    node.call(&["CLUSTER", "REPLICATE", primary.as_str()]).await?.ok()
}

/// `CLUSTER FORGET`: the id is also refused for the next 60 s.
pub async fn forget(node: &dyn Node, id: &NodeId) -> Result<(), WireError> {
    node.call(&["CLUSTER", "FORGET", id.as_str()]).await?.ok()
}

/// `CLUSTER FAILOVER`, sent to the replica. `OK` means that it was begun, not that it will succeed.
pub async fn failover(node: &dyn Node, kind: Failover) -> Result<(), WireError> {
    let argv: &[&str] = match kind {
        Failover::Planned => &["CLUSTER", "FAILOVER"],
        Failover::Force => &["CLUSTER", "FAILOVER", "FORCE"],
        Failover::Takeover => &["CLUSTER", "FAILOVER", "TAKEOVER"],
    };
    node.call(argv).await?.ok()
}

/// `CLUSTER MIGRATESLOTS` (9.0 and newer), sent to the owner. `OK` means that the job was begun, not that it will succeed.
pub async fn migrate_slots(node: &dyn Node, slots: &Slots, to: &NodeId) -> Result<(), WireError> {
    let ends: Vec<String> =
        slots.ranges().iter().flat_map(|r| [r.first.to_string(), r.last.to_string()]).collect();
    let ranges = ends.iter().map(String::as_str);
    let argv: Vec<&str> = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"]
        .into_iter()
        .chain(ranges)
        .chain(["NODE", to.as_str()])
        .collect();
    node.call(&argv).await?.ok()
}

/// What `CLUSTER SETSLOT` makes of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotState<'a> {
    /// It arrives from this node.
    Importing(&'a NodeId),
    /// It leaves for this node.
    Migrating(&'a NodeId),
    /// It belongs to this node.
    Node(&'a NodeId),
    /// It is not on its way.
    Stable,
}

/// `CLUSTER SETSLOT` of each slot, in one burst: each waits for the replicas (8.0 and newer), up to two seconds. The
/// first refusal, when all have been answered.
pub async fn set_slots(node: &dyn Node, slots: &[u16], state: SlotState<'_>) -> Result<(), WireError> {
    let (word, id) = match state {
        SlotState::Importing(id) => ("IMPORTING", Some(id)),
        SlotState::Migrating(id) => ("MIGRATING", Some(id)),
        SlotState::Node(id) => ("NODE", Some(id)),
        SlotState::Stable => ("STABLE", None),
    };
    let slots: Vec<String> = slots.iter().map(u16::to_string).collect();
    let words = |slot| ["CLUSTER", "SETSLOT", slot, word].into_iter().chain(id.map(NodeId::as_str));
    let burst: Vec<Vec<&str>> = slots.iter().map(|slot| words(slot.as_str()).collect()).collect();
    node.call_many(&burst).await.into_iter().try_for_each(|answer| answer?.ok())
}

/// A key's name: any bytes.
pub type Key = Vec<u8>;

/// Up to `count` keys of each slot, and whether the node was a primary when it had listed them (all in one burst).
pub async fn keys_in_slots(
    node: &dyn Node,
    slots: &[u16],
    count: usize,
) -> Result<(Vec<Vec<Key>>, bool), WireError> {
    let count = count.to_string();
    let slots: Vec<String> = slots.iter().map(u16::to_string).collect();
    let lists = slots.iter().map(|slot| vec!["CLUSTER", "GETKEYSINSLOT", slot.as_str(), &count]);
    let burst: Vec<Vec<&str>> = lists.chain([vec!["ROLE"]]).collect();
    let mut answers = node.call_many(&burst).await;
    let leads = match answers.pop().unwrap_or(Err(WireError::Reset))? {
        Reply::List(role) => matches!(role.first(), Some(Reply::Text(t)) if t == "master"),
        _ => return Err(WireError::Protocol("ROLE is no list".to_owned())),
    };
    let listed = answers.into_iter().map(|answer| match answer? {
        Reply::List(keys) => keys.iter().map(Reply::bytes).collect(),
        _ => Err(WireError::Protocol("GETKEYSINSLOT is no list".to_owned())),
    });
    Ok((listed.collect::<Result<_, WireError>>()?, leads))
}

/// `MEMORY USAGE` of each key in bytes, in one burst; 0 for one that is gone, of which a slot that leaves answers that it is elsewhere.
pub async fn memory_usage(node: &dyn Node, keys: &[&Key]) -> Result<Vec<u64>, WireError> {
    let burst: Vec<Vec<&[u8]>> = keys.iter().map(|k| vec![&b"MEMORY"[..], &b"USAGE"[..], k]).collect();
    let answers = node.call_many_bytes(&burst).await;
    let bytes = |answer| match answer {
        Ok(Reply::Nil) => Ok(0),
        Err(WireError::Server(text)) if text.starts_with("ASK ") => Ok(0),
        other => Ok(u64::try_from(other?.int()?).unwrap_or(0)),
    };
    answers.into_iter().map(bytes).collect()
}

/// `MIGRATE … REPLACE AUTH2 … KEYS …` for the keys of each slot, in one burst, with this limit for all of them together: a key that an
/// attempt without an answer has left at both ends is replaced by the source's, which is the one that clients were served. Keys that are
/// gone by now are passed over.
pub async fn migrate(
    node: &dyn Node,
    (host, port): (&str, &str),
    (user, password): (&str, &str),
    limit: Duration,
    slots: &[Vec<Key>],
) -> Result<(), WireError> {
    let timeout = (limit.as_millis() / slots.len().max(1) as u128).to_string();
    let words = ["MIGRATE", host, port, "", "0", &timeout, "REPLACE", "AUTH2", user, password, "KEYS"];
    let lines =
        slots.iter().map(|keys| words.iter().map(|w| w.as_bytes()).chain(keys.iter().map(Vec::as_slice)));
    let burst: Vec<Vec<&[u8]>> = lines.map(Iterator::collect).collect();
    node.call_many_bytes(&burst).await.into_iter().try_for_each(|answer| match answer?.text()? {
        "OK" | "NOKEY" => Ok(()),
        other => Err(WireError::Protocol(format!("MIGRATE answers {other:?}"))),
    })
}

/// `FLUSHALL ASYNC`, by a user that may do so for as long as this takes: the operator's own has no right to drop keys at any other
/// time.
pub async fn flush_all(node: &dyn Node, user: &str) -> Result<(), WireError> {
    let burst = [
        vec!["ACL", "SETUSER", user, "+flushall"],
        vec!["FLUSHALL", "ASYNC"],
        vec!["ACL", "SETUSER", user, "-flushall"],
    ];
    node.call_many(&burst).await.into_iter().try_for_each(|answer| answer?.ok())
}

/// `CLUSTER RESET`: refused on a primary that holds keys; a replica's data is flushed.
pub async fn reset(node: &dyn Node, kind: Reset) -> Result<(), WireError> {
    let word = match kind {
        Reset::Soft => "SOFT",
        Reset::Hard => "HARD",
    };
    node.call(&["CLUSTER", "RESET", word]).await?.ok()
}

/// `DBSIZE`: the keys of database 0.
pub async fn dbsize(node: &dyn Node) -> Result<u64, WireError> {
    let count = node.call(&["DBSIZE"]).await?.int()?;
    u64::try_from(count).map_err(|_| WireError::Protocol(format!("DBSIZE is {count}")))
}
