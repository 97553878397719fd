//! Which configuration is set live on which node, and how two texts of one value are compared.
//!
//! Keys that a running server refuses to change are written into `valkey.conf` and are part of the
//! revision; all others are set live, so that changing them replaces no Pod.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::Desired;
use super::ids::Version;
use super::snapshot::{NODENAME, NodeReport, Pod};

/// Default of `cluster-node-timeout` in milliseconds: a lost primary is replaced by Valkey itself within 2–4 s.
/// Measured on 9.1.2: 3.1 s from SIGKILL to the next acknowledged write.
pub const NODE_TIMEOUT_MS: u32 = 2000;

/// The timeout while an empty cluster forms: `cluster_state` turns ok after clamp(timeout, 500, 5000) ms
/// of hearing a majority (`clusterUpdateState` of Valkey 8.0 to 9.1).
pub const FORMING_TIMEOUT_MS: u32 = 500;

/// The same for clusters beyond the budget of fast nodes: 100 nodes at 500 ms drown in pings (measured: 13.7 s against 4.0 s).
pub const FORMING_TIMEOUT_LARGE_MS: u32 = 1000;

/// Milliseconds after which a hand-over that cannot succeed gives the writes back (default 5000).
pub const MANUAL_FAILOVER_TIMEOUT_MS: u32 = 1000;

/// Slots are moved as a whole by `CLUSTER MIGRATESLOTS` from this version on.
pub const JOBS_SINCE: Version = Version::new(9, 0, 0);

/// Keys that a person may set and that a running server does not change: they are in the file and in a Pod's revision.
///
/// Measured: `CONFIG SET` of at least one of Valkey 8.0.1, 8.1.1 and 9.1.2 answers "can't set immutable config"
/// (all answers: `tests/golden/config-set.txt`; a test keeps this list and that table together). The version of an
/// image is not known before it runs, so one version that refuses is enough: `io-threads` is live from 9.0 on and yet here.
pub const IMMUTABLE: &[&str] = &[
    "always-show-logo",
    "bgsave-cpulist",
    "bio-cpulist",
    "cluster-databases",
    "databases",
    "disable-thp",
    "hash-seed",
    "io-threads",
    "io-threads-do-reads",
    "mptcp",
    "rdbchecksum",
    "repl-mptcp",
    "server-cpulist",
    "set-proc-title",
    "socket-mark-id",
    "tcp-backlog",
];

/// Whether `key` is set live rather than written into `valkey.conf`.
pub fn is_live(key: &str) -> bool {
    !IMMUTABLE.contains(&key)
}

/// The keys that nodes are asked for in each pass: what the operator manages, what the person sets, and what the person
/// has set before on one of these Pods.
pub fn asked<'a>(desired: &'a Desired, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<String> {
    let managed = [
        "cluster-node-timeout",
        "cluster-replica-no-failover",
        "cluster-manual-failover-timeout",
        NODENAME,
        "shutdown-on-sigterm",
    ];
    let mut keys: Vec<String> = managed.iter().map(|k| (*k).to_owned()).collect();
    let pods: Vec<&Pod> = pods.into_iter().collect();
    if desired.template.tls.is_some() || pods.iter().any(|p| p.encrypted) {
        keys.extend(
            super::certificates::SETTINGS.into_iter().chain(super::wire::SETTINGS).map(str::to_owned),
        );
    }
    let noted = pods.into_iter().flat_map(|p| p.before.keys());
    let more: BTreeSet<&String> = desired.config.keys().filter(|k| is_live(k)).chain(noted).collect();
    keys.extend(more.into_iter().filter(|k| !managed.contains(&k.as_str())).cloned());
    keys
}

/// What the operator itself wants set on a node of this version.
pub fn managed(version: Version, node_timeout_ms: u32) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([("cluster-node-timeout".to_owned(), node_timeout_ms.to_string())]);
    if version >= Version::new(8, 1, 0) {
        out.insert("cluster-manual-failover-timeout".to_owned(), MANUAL_FAILOVER_TIMEOUT_MS.to_string());
    }
    if version >= Version::new(9, 0, 0) {
        out.insert("shutdown-on-sigterm".to_owned(), "failover".to_owned());
    }
    out
}

/// The person's live settings. The node-timeout is among the managed ones, where forming may lower it.
pub fn users(desired: &Desired) -> impl Iterator<Item = (&String, &String)> {
    desired.config.iter().filter(|(k, _)| is_live(k) && k.as_str() != "cluster-node-timeout")
}

/// Whether the node shows `wanted` for `key`, or has shown it in its own spelling right after it was set.
pub fn holds(
    node: &NodeReport,
    key: &str,
    wanted: &str,
    applied: &BTreeMap<(super::NodeId, String), (String, String)>,
) -> bool {
    let Some(shown) = node.config.get(key) else { return false };
    if shown == wanted || canonical(shown) == canonical(wanted) {
        return true;
    }
    applied
        .get(&(node.id.clone(), key.to_owned()))
        .is_some_and(|(set, read_back)| set == wanted && read_back == shown)
}

/// One spelling for one value: sizes in bytes, words in lower case, no quotes around.
/// Sizes as in the header of `valkey.conf`: `1k` = 1000 bytes, `1kb` = 1024 bytes.
fn canonical(value: &str) -> String {
    let text = value.trim().trim_matches('"').to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.strip_prefix(digits) {
        Some("b") => 1,
        Some("k") => 1000,
        Some("kb") => 1 << 10,
        Some("m") => 1_000_000,
        Some("mb") => 1 << 20,
        Some("g") => 1_000_000_000,
        Some("gb") => 1 << 30,
        _ => return text,
    };
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) => bytes.to_string(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_value_are_equal() {
        assert_eq!(canonical("100mb"), canonical("104857600"));
        assert_eq!(canonical("1k"), "1000");
        assert_eq!(canonical("YES"), canonical("yes"));
        assert_eq!(canonical("allkeys-lru"), "allkeys-lru");
        assert_eq!(canonical("\"\""), "");
    }

    #[test]
    fn newer_settings_are_not_sent_to_older_servers() {
        assert!(!managed(Version::new(8, 0, 1), 2000).contains_key("cluster-manual-failover-timeout"));
        assert!(managed(Version::new(8, 1, 1), 2000).contains_key("cluster-manual-failover-timeout"));
        assert_eq!(managed(Version::new(9, 1, 2), 2000).get("shutdown-on-sigterm").unwrap(), "failover");
    }
}
