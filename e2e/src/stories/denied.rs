//! After every story: no node has refused a command to a user of the operator's own. What they are granted is enough.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use valkey_cluster_operator::build::credentials::{OPERATOR_USER, SYSTEM_USERS};

use super::cluster::Cluster;
use crate::resp::{Connection, Reply};

/// A user that may read the log of refusals, which none of the operator's may; for the end of a story.
const READER: &str = "refusals";
const ASK: Duration = Duration::from_secs(2);
/// More than a node keeps.
const ALL: &str = "1000";

/// Asks every node of the cluster that answers. A cluster that is gone has nobody to ask.
///
/// # Errors
/// Which node has refused what to whom.
pub(super) async fn nobody_was(cluster: &Cluster) -> Result<usize> {
    let Ok(nodes) = cluster.addresses().await else { return Ok(0) };
    let mut asked = 0;
    for (pod, node) in nodes {
        // A story may end with nodes that hang, or whose certificate nobody knows any more.
        let Ok(log) = log(cluster, node, ALL).await else { continue };
        let told: Vec<String> = log.items().unwrap_or_default().iter().filter_map(refusal).collect();
        ensure!(told.is_empty(), "{pod} refused {}", told.join("; "));
        asked += 1;
    }
    Ok(asked)
}

/// Forgets what was refused so far: a story asked for it on purpose.
///
/// # Errors
/// If a node cannot be asked.
pub(super) async fn forget(cluster: &Cluster) -> Result<()> {
    for (pod, node) in cluster.addresses().await? {
        log(cluster, node, "RESET").await.with_context(|| pod)?;
    }
    Ok(())
}

async fn log(cluster: &Cluster, node: SocketAddr, what: &str) -> Result<Reply> {
    let access = cluster.access().await?;
    let mut connection = Connection::open(&access, node, ASK + access.slack).await?;
    let user = ["ACL", "SETUSER", READER, "on", "nopass", "+acl|log"];
    let answers = connection
        .pipeline(&[&user, &["AUTH", READER, "none"], &["ACL", "LOG", what]], ASK + access.slack)
        .await?;
    let last = answers.into_iter().next_back().context("no answer")?;
    ensure!(last.error().is_none(), "{:?}", last.error());
    Ok(last)
}

/// Of one entry: who was refused what, when it is one of ours. A password that is no longer known is no refusal of a command: while
/// passwords change, both are tried.
fn refusal(entry: &Reply) -> Option<String> {
    let fields = entry.items()?;
    let field = |name: &str| {
        fields.chunks(2).find(|pair| pair.first().and_then(Reply::text) == Some(name))?.get(1)?.text()
    };
    let user = field("username").filter(|user| SYSTEM_USERS.contains(user))?;
    let reason = field("reason").filter(|reason| *reason != "auth")?;
    Some(format!(
        "{} {} ({reason})",
        if user == OPERATOR_USER { "the operator" } else { user },
        field("object")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(user: &str, reason: &str) -> Reply {
        let words =
            ["count", "1", "reason", reason, "context", "toplevel", "object", "flushall", "username", user];
        Reply::Array(words.iter().map(|w| Reply::Bulk(w.as_bytes().to_vec())).collect())
    }

    #[test]
    fn refusals_of_others_and_passwords_are_none() {
        assert_eq!(
            refusal(&entry("_operator", "command")).as_deref(),
            Some("the operator flushall (command)")
        );
        assert_eq!(refusal(&entry("_replication", "key")).as_deref(), Some("_replication flushall (key)"));
        assert_eq!(refusal(&entry("_operator", "auth")), None);
        assert_eq!(refusal(&entry("app", "command")), None);
        assert_eq!(refusal(&Reply::Nil), None);
    }
}
