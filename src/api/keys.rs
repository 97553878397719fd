//! Which settings of Valkey belong to whom: refused by name, read at start only, or changed live.
//!
//! Pure. The refused names are here; which of the others a running server does not change is in
//! [`settings::IMMUTABLE`], so that no key is ever in two places or in none.

use crate::model::settings;

/// A group of settings that the operator keeps for itself, refused in `spec.config` with one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagedClass {
    /// Short name of the group, used to tell the rules apart.
    pub name: &'static str,
    /// Settings of the group. Old and new spellings both, since Valkey takes either.
    pub keys: &'static [&'static str],
    /// Everything that starts so belongs to the group too.
    pub prefixes: &'static [&'static str],
    /// Why, and what to write instead; follows "spec.config: <keys> ".
    pub why: &'static str,
}

impl ManagedClass {
    /// Whether the setting belongs to this group.
    pub fn holds(&self, key: &str) -> bool {
        self.keys.contains(&key) || self.prefixes.iter().any(|p| key.starts_with(p))
    }
}

/// The settings that `spec.config` must not hold.
///
/// Source of the names: `CONFIG GET *` of Valkey 8.0.1, 8.1.1 and 9.1.2, and the directives that only a file can
/// hold (user, include, loadmodule, rename-command).
pub const MANAGED: &[ManagedClass] = &[
    ManagedClass {
        name: "network",
        keys: &[
            "availability-zone",
            "bind",
            "bind-source-addr",
            "cluster-port",
            "cluster-preferred-endpoint-type",
            "port",
            "protected-mode",
            "unixsocket",
            "unixsocketgroup",
            "unixsocketperm",
        ],
        prefixes: &["cluster-announce-", "rdma-", "replica-announce", "slave-announce-"],
        why: "must not be set: addresses and ports are the operator's (6379 for clients, 16379 for the cluster bus); remove it and use the Service of the cluster",
    },
    ManagedClass {
        name: "membership",
        keys: &[
            "cluster-allow-replica-migration",
            "cluster-blacklist-ttl",
            "cluster-config-file",
            "cluster-config-save-behavior",
            "cluster-enabled",
            "cluster-manual-failover-timeout",
            "cluster-migration-barrier",
            "cluster-replica-no-failover",
            "cluster-replica-validity-factor",
            "cluster-slave-no-failover",
            "cluster-slave-validity-factor",
            "repl-ping-replica-period",
            "repl-ping-slave-period",
            "replica-priority",
            "replica-read-only",
            "replicaof",
            "slave-priority",
            "slave-read-only",
            "slaveof",
        ],
        prefixes: &[],
        why: "must not be set: who belongs to the cluster and who follows whom is the operator's; remove it and set spec.shards and spec.replicas",
    },
    ManagedClass {
        name: "persistence",
        keys: &[
            "appenddirname",
            "appendfilename",
            "appendfsync",
            "appendonly",
            "dbfilename",
            "dir",
            "no-appendfsync-on-rewrite",
            "rdb-del-sync-files",
            "repl-diskless-sync",
            "save",
        ],
        prefixes: &["aof-", "auto-aof-"],
        why: "must not be set: pods have no disk, data is kept in memory on several workers; remove it and raise spec.replicas for more copies",
    },
    ManagedClass {
        name: "access",
        keys: &[
            "aclfile",
            "enable-debug-command",
            "enable-module-command",
            "enable-protected-configs",
            "masterauth",
            "masteruser",
            "primaryauth",
            "primaryuser",
            "requirepass",
            "user",
        ],
        prefixes: &[],
        why: "must not be set: users and passwords of the nodes are the operator's; remove it",
    },
    ManagedClass {
        name: "process",
        keys: &[
            "daemonize",
            "include",
            "loadmodule",
            "logfile",
            "pidfile",
            "rename-command",
            "shutdown-on-sigint",
            "shutdown-on-sigterm",
            "supervised",
        ],
        prefixes: &["syslog-"],
        why: "must not be set: the process, its log and its commands are the operator's; remove it",
    },
    ManagedClass {
        name: "tls",
        keys: &[],
        prefixes: &["tls-"],
        why: "must not be set: TLS settings are the operator's; remove it and set spec.networking.tls",
    },
];

/// Whose a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The operator's: refused in `spec.config`.
    Managed(&'static str),
    /// The person's, read when the process starts: part of the file and of the revision.
    AtStart,
    /// The person's, changed by `CONFIG SET` on a running node. Also every name not known here: the
    /// node's own answer tells whether it exists.
    Live,
}

/// Whose the setting is. The name is in lower case, as admission demands.
pub fn owner(key: &str) -> Owner {
    if let Some(class) = MANAGED.iter().find(|class| class.holds(key)) {
        return Owner::Managed(class.name);
    }
    if settings::is_live(key) { Owner::Live } else { Owner::AtStart }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of real servers: name, then one column for each version (ok, immutable, protected, absent).
    const MEASURED: &str = include_str!("../../tests/golden/config-set.txt");

    #[test]
    fn every_setting_that_a_server_calls_immutable_is_managed_or_read_at_start() {
        let mut immutable = 0;
        for line in MEASURED.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let key = words.next().unwrap();
            let fixed = words.any(|answer| answer == "immutable" || answer == "protected");
            immutable += usize::from(fixed);
            match owner(key) {
                Owner::Live => assert!(!fixed, "{key} cannot be changed live"),
                Owner::AtStart => assert!(fixed, "{key} can be changed live everywhere"),
                Owner::Managed(_) => {}
            }
        }
        assert!(immutable > 30, "the table was read: {immutable}");
    }

    #[test]
    fn every_known_name_read_at_start_exists_in_some_version() {
        for key in settings::IMMUTABLE {
            assert!(MEASURED.lines().any(|l| l.split_whitespace().next() == Some(key)), "{key}");
        }
    }

    #[test]
    fn no_setting_has_two_owners() {
        for key in settings::IMMUTABLE {
            let class = MANAGED.iter().find(|c| c.holds(key));
            assert!(class.is_none(), "{key} is in {class:?}");
        }
        for class in MANAGED {
            for key in class.keys {
                let holders = MANAGED.iter().filter(|c| c.holds(key)).count();
                assert_eq!(holders, 1, "{key}");
            }
        }
    }

    #[test]
    fn what_people_set_most_is_live() {
        for key in
            ["maxmemory", "maxmemory-policy", "timeout", "cluster-node-timeout", "notify-keyspace-events"]
        {
            assert_eq!(owner(key), Owner::Live, "{key}");
        }
        assert_eq!(owner("port"), Owner::Managed("network"));
        assert_eq!(owner("cluster-announce-ip"), Owner::Managed("network"));
        assert_eq!(owner("tls-port"), Owner::Managed("tls"));
        assert_eq!(owner("databases"), Owner::AtStart);
    }
}
