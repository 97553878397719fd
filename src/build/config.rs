//! `valkey.conf`: what every node starts with. Pure.
//!
//! Only keys that Valkey 8.0, 8.1 and 9.x all know: a server refuses to start on an unknown one. What later versions add, and
//! what a person may change on a running server, is set live when a node is adopted.

use std::fmt::Write;

use super::{quantity, revision, tls};
use crate::model::Desired;
use crate::model::certificates::AUTH_CLIENTS;

/// Port for clients.
pub const CLIENT_PORT: i32 = 6379;
/// Port of the cluster bus: the client port plus 10000, as Valkey has it.
pub const BUS_PORT: i32 = 16379;
/// Where `valkey.conf` is mounted.
pub const CONFIG_DIR: &str = "/etc/valkey";
/// Where the parts of the Secret that the server needs are mounted.
pub const ACCESS_DIR: &str = "/etc/valkey-access";
/// Name of the configuration file, in the `ConfigMap` and on the mount.
pub const CONFIG_FILE: &str = "valkey.conf";
/// Name of the users' file, in the Secret and on the mount.
pub const USERS_FILE: &str = "users.acl";
/// Name of the file with the node's own credentials towards its primary, in the Secret and on the mount.
pub const PRIMARY_FILE: &str = "primary.conf";

/// Where the server listens for those inside its own container.
pub const SOCKET: &str = "/dev/shm/valkey.sock";

/// Share of the memory limit that data may take, in percent. The rest is for what `maxmemory` does not count:
/// replication backlog and buffers, copies of pages while a child process writes, fragmentation.
const MAXMEMORY_PERCENT: u64 = 65;
/// Replication backlog without a memory limit, in bytes: a break of seconds stays a partial sync.
const BACKLOG: u64 = 64 << 20;
/// Least replication backlog, in bytes.
const BACKLOG_LEAST: u64 = 1 << 20;
/// Share of the memory limit that the backlog may take, as a divisor: it lies outside of `maxmemory`.
const BACKLOG_SHARE: u64 = 32;

/// The text of `valkey.conf` for this cluster.
pub fn valkey_conf(desired: &Desired) -> String {
    let limit = memory_limit(desired);
    let backlog = limit.map_or(BACKLOG, |l| (l / BACKLOG_SHARE).clamp(BACKLOG_LEAST, BACKLOG));
    let timeout = desired.node_timeout_ms();
    let mut text = format!(
        r#"# Written by {operator}. Changes made here are overwritten: set spec.config instead.
{ports}
bind * -::*
unixsocket {SOCKET}
unixsocketperm 700
protected-mode no
tcp-keepalive 60

# Membership. The operator decides who leads and who follows; a replica that never held the data is never elected.
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout {timeout}
cluster-require-full-coverage no
cluster-allow-replica-migration no
cluster-replica-validity-factor 10

# No disk. /dev/shm holds nodes.conf, which must not outlive the process.
dir /dev/shm
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db

# Replication.
repl-backlog-size {backlog}
repl-timeout 20
repl-ping-replica-period 2
client-output-buffer-limit replica 512mb 256mb 60
dual-channel-replication-enabled yes

# Users. The replication user is off until the operator has adopted the process.
aclfile {ACCESS_DIR}/{USERS_FILE}
include {ACCESS_DIR}/{PRIMARY_FILE}
"#,
        operator = super::labels::OPERATOR,
        ports = ports(desired),
    );
    if let Some(bytes) = limit {
        let _ = write!(
            text,
            "\n# {MAXMEMORY_PERCENT} % of the container's memory limit.\nmaxmemory {}\n",
            share(bytes)
        );
    }
    let mut settings = revision::at_start(&desired.config).peekable();
    if settings.peek().is_some() {
        text.push_str("\n# From spec.config, as far as a running server does not change it.\n");
    }
    for (key, value) in settings {
        let _ = writeln!(text, "{key} {}", quoted(value));
    }
    text
}

/// Where clients are listened to, and how everything that is sent is encrypted.
fn ports(desired: &Desired) -> String {
    let Some(tls) = &desired.template.tls else { return format!("port {CLIENT_PORT}") };
    format!(
        "port 0\ntls-port {CLIENT_PORT}\ntls-replication yes\ntls-cluster yes\n{} {}\ninclude {}/{}",
        AUTH_CLIENTS,
        tls::auth_clients(tls.client_auth),
        tls::DIR,
        tls::CONF
    )
}

/// The memory limit of the container in bytes, when it has one.
fn memory_limit(desired: &Desired) -> Option<u64> {
    let limits = desired.template.resources.limits.as_ref()?;
    quantity::whole(&limits.get("memory")?.0).filter(|bytes| *bytes > 0)
}

/// Rounded down; a limit so large that this overflows is no limit.
fn share(bytes: u64) -> u64 {
    bytes / 100 * MAXMEMORY_PERCENT + bytes % 100 * MAXMEMORY_PERCENT / 100
}

/// One argument as the configuration file reads it (`sdssplitargs`): in double quotes, with escapes.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_argument() {
        assert_eq!(quoted("a b"), r#""a b""#);
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }

    #[test]
    fn the_share_of_any_limit_fits() {
        assert_eq!(share(100), 65);
        assert_eq!(share(1 << 30), 697_932_185);
        assert!(share(u64::MAX) < u64::MAX);
    }
}
