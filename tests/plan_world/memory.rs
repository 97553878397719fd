//! The lines about what the process remembers, and about what others think of a node.

use valkey_cluster_operator::model::past::Change;
use valkey_cluster_operator::model::{Moment, NodeId, Past, PodUid, Seen, Shard, Snapshot, WorkerName};

use super::apply::{parse, place};
use super::{NOW, node_id};

type Done = Result<(), String>;

/// What is remembered: `lost`, `refused w1`, `home 1-0 w2`, `headless <ms ago>`, `flight <id> <ms ago> [<first ms ago>]`, `silent 1-0 <ms ago>`.
pub(super) fn past(s: &mut Snapshot, words: &[&str]) -> Done {
    let ago = |text: &str| Ok::<_, String>(Moment(NOW - parse::<i64>(text)?));
    match words {
        ["lost"] => s.past = Past::default(),
        ["refused", worker] => drop(s.past.refused.insert(WorkerName::new(*worker), Moment(NOW))),
        ["home", at, worker] => {
            let (shard, index) = place(at)?;
            s.past.homes.insert(node_id(shard, index), WorkerName::new(*worker));
        }
        ["headless", text] => s.past.headless = Some(ago(text)?),
        ["flight", id, last, first @ ..] if first.len() < 2 => {
            let (at, since) = (ago(last)?, ago(first.first().unwrap_or(last))?);
            let (heir, dead) = (NodeId::new("heir"), Some(NodeId::new(*id)));
            s.past.changes.push(Change { at, since, shard: Shard(0), heir, dead });
        }
        ["silent", at, text] => {
            let (shard, index) = place(at)?;
            s.past.silent.insert(PodUid::new(format!("u{shard}-{index}")), ago(text)?);
        }
        _ => return Err("unknown line".to_owned()),
    }
    Ok(())
}

/// Everybody suspects it.
pub(super) fn suspected(s: &mut Snapshot, (shard, index): (Shard, u16)) {
    let id = node_id(shard, index);
    for seen in s.nodes.values_mut() {
        if let Seen::Now(n) = seen
            && let Some(p) = n.peers.lines_mut().get_mut(&id)
        {
            p.suspected = true;
        }
    }
}
