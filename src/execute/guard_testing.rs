//! Views of nodes in a few letters, for the tests of the guards.

use std::net::IpAddr;

use super::Facts;
use crate::model::{NodeId, Slots};
use crate::valkey::parse::cluster_nodes;
use crate::valkey::parse::testdata::recorded;

pub(crate) fn id(name: char) -> NodeId {
    NodeId::new(name.to_string().repeat(40))
}

pub(crate) fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// A view, one node a word: `a1 myself,master 0-9` is `<id digit><last part of the address> flags slots`; a replica
/// is `b2 slave:a`, and `!` at the end says that the bus link is broken. The first line is the node's own.
pub(crate) fn facts(keys: u64, view: &[&str]) -> Facts {
    let lines = view.iter().enumerate().map(|(i, text)| {
        let mut words = text.split(' ');
        let name = words.next().unwrap();
        let (name, last) = name.split_at(1);
        let role = words.next().unwrap();
        let (flags, primary) = match role.split_once(':') {
            Some((flags, primary)) => (flags, primary.repeat(40)),
            None => (role, "-".to_owned()),
        };
        let me = if i == 0 { "myself," } else { "" };
        let mut slots: Vec<&str> = words.collect();
        let link = if slots.pop_if(|w| *w == "!").is_some() { "disconnected" } else { "connected" };
        format!(
            "{} 10.0.0.{last}:6379@16379 {me}{flags} {primary} 0 0 0 {link} {}\n",
            name.repeat(40),
            slots.join(" ")
        )
    });
    Facts::new(cluster_nodes(&lines.collect::<String>()).unwrap(), keys).unwrap()
}

pub(crate) fn of_recorded(line: &str, what: &str, keys: u64) -> Facts {
    Facts::new(cluster_nodes(&recorded(line, what)).unwrap(), keys).unwrap()
}

pub(crate) fn slots(text: &str) -> Slots {
    text.parse().unwrap()
}
