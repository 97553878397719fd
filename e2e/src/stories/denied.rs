//! After every story: no node has refused a command to a user of the operator's own. What they are granted is enough.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use valkey_cluster_operator::build::credentials::{OPERATOR_USER, SYSTEM_USERS};

use super::cluster::Cluster;
use crate::resp::{Connection, Reply};

/// A user that may read the log of refusals, which none of the operator's may. By its first letter the operator leaves it alone.
const READER: &str = "_refusals";
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

/// No node was offered a wrong password of this user since the log was forgotten.
///
/// # Errors
/// Which was, or which cannot be asked.
pub(super) async fn no_wrong_password(cluster: &Cluster, user: &str) -> Result<()> {
    for (pod, node) in cluster.addresses().await? {
        let log = log(cluster, node, ALL).await.with_context(|| pod.clone())?;
        let wrong = |entry: &Reply| field(entry, "username") == Some(user) && is_password(entry);
        ensure!(
            !log.items().unwrap_or_default().iter().any(wrong),
            "{pod} was offered a wrong password of {user}"
        );
    }
    Ok(())
}

/// Of one entry: who was refused what, when it is one of ours. A password that a node does not know is no refusal of a command: while
/// passwords change, the operator offers its new one and then the former one to each node that it opens a connection to.
fn refusal(entry: &Reply) -> Option<String> {
    let user = field(entry, "username").filter(|user| SYSTEM_USERS.contains(user))?;
    let reason = field(entry, "reason").filter(|_| !is_password(entry))?;
    Some(format!(
        "{} {} ({reason})",
        if user == OPERATOR_USER { "the operator" } else { user },
        field(entry, "object")?
    ))
}

/// It tells of a login, not of a command.
fn is_password(entry: &Reply) -> bool {
    field(entry, "reason") == Some("auth")
}

fn field<'a>(entry: &'a Reply, name: &str) -> Option<&'a str> {
    let mut pairs = entry.items()?.chunks(2);
    pairs.find(|pair| pair.first().and_then(Reply::text) == Some(name))?.get(1)?.text()
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
