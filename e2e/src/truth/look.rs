//! Decides how nodes are asked: all at once, each bounded, over connections that are kept. Reads only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;

use super::info::{Replication, lines};
use super::nodes::View;
use crate::resp::{Access, Connection, Fault, Reply};

/// What one node answered about itself and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The id of its shard; replicas have their primary's.
    pub shard: String,
    /// All nodes, as it sees them.
    pub view: View,
    /// It says `cluster_state:ok`.
    pub state_ok: bool,
    /// Its replication.
    pub replication: Replication,
    /// Its cluster-node-timeout in milliseconds; `None` if it may not be read.
    pub node_timeout_ms: Option<u64>,
}

/// What became of asking one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It answered everything.
    Answered(Box<Facts>),
    /// It did not, for this reason.
    Silent(String),
}

/// Asks nodes, again and again, over connections that it keeps.
#[derive(Debug)]
pub struct Looker {
    access: Access,
    limit: Duration,
    connections: BTreeMap<SocketAddr, Connection>,
}

impl Looker {
    /// Each node has `limit` to be connected to, and `limit` to answer.
    pub fn new(access: Access, limit: Duration) -> Self {
        Self { access, limit, connections: BTreeMap::new() }
    }

    /// With the bound of a single look: half a second, and the slack of the way.
    pub fn patient(access: Access) -> Self {
        let limit = super::ANSWER + access.slack;
        Self::new(access, limit)
    }

    /// Asks all nodes at the same time.
    pub async fn ask(&mut self, nodes: &[SocketAddr]) -> BTreeMap<SocketAddr, Seen> {
        let mut kept = std::mem::take(&mut self.connections);
        let (access, limit) = (&self.access, self.limit);
        let asked = nodes.iter().map(|addr| {
            let connection = kept.remove(addr);
            async move { (*addr, ask_one(access, *addr, connection, limit).await) }
        });
        let mut seen = BTreeMap::new();
        for (addr, answer) in join_all(asked).await {
            let answer = match answer {
                Ok((facts, connection)) => {
                    self.connections.insert(addr, connection);
                    Seen::Answered(Box::new(facts))
                }
                Err(why) => Seen::Silent(why),
            };
            seen.insert(addr, answer);
        }
        seen
    }
}

async fn ask_one(
    access: &Access,
    addr: SocketAddr,
    kept: Option<Connection>,
    limit: Duration,
) -> Result<(Facts, Connection), String> {
    if let Some(mut connection) = kept {
        match connection.pipeline(&QUESTIONS, limit).await {
            Ok(replies) => return Ok((facts(&replies)?, connection)),
            Err(silence @ Fault::Timeout(_)) => return Err(silence.to_string()),
            // The node may have been replaced at the same address: a broken old connection says nothing about it.
            Err(_) => {}
        }
    }
    let mut connection = Connection::open(access, addr, limit).await.map_err(|fault| fault.to_string())?;
    let replies = connection.pipeline(&QUESTIONS, limit).await.map_err(|fault| fault.to_string())?;
    Ok((facts(&replies)?, connection))
}

const QUESTIONS: [&[&str]; 5] = [
    &["CLUSTER", "NODES"],
    &["CLUSTER", "INFO"],
    &["CLUSTER", "MYSHARDID"],
    &["INFO", "replication", "persistence"],
    &["CONFIG", "GET", "cluster-node-timeout"],
];

fn facts(replies: &[Reply]) -> Result<Facts, String> {
    let [nodes, info, shard, replication, config] = replies else {
        return Err(format!("{} answers to {} questions", replies.len(), QUESTIONS.len()));
    };
    let view = View::read(text(nodes)?)?;
    if view.myself().is_none() {
        return Err("its CLUSTER NODES has no line about itself".to_owned());
    }
    let node_timeout_ms = config.items().and_then(|pair| pair.last()).and_then(Reply::text);
    Ok(Facts {
        shard: text(shard)?.to_owned(),
        view,
        state_ok: lines(text(info)?).get("cluster_state") == Some(&"ok"),
        replication: Replication::read(text(replication)?),
        node_timeout_ms: node_timeout_ms.and_then(|value| value.parse().ok()),
    })
}

fn text(reply: &Reply) -> Result<&str, String> {
    let otherwise = || reply.error().map_or_else(|| format!("an unexpected answer {reply:?}"), str::to_owned);
    reply.text().ok_or_else(otherwise)
}
