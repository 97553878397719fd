//! What is fed with input that nobody meant to write: each target reads an answer of a node, or a spec, and says what must hold
//! whatever comes. Two feed it: libFuzzer, led by what the code does with it (`cargo ci`), and `tests/mutations.rs`, in every run of the tests.

#![allow(dead_code, reason = "who feeds the targets and who starts those that do use a part each")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::build;
use valkey_cluster_operator::model::{NodeId, SLOTS, Slots, users};
use valkey_cluster_operator::valkey::error::WireError;
use valkey_cluster_operator::valkey::parse::{
    AclUser, ClusterInfo, Info, cluster_nodes, jobs, shown, slots_of_stats,
};
use valkey_cluster_operator::valkey::reply::Reply;

/// What is fed, and where it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Its name; seeds of its own are in `fuzz/seeds/<name>`.
    pub(crate) name: &'static str,
    /// What the recorded answers that are its seeds have in their names.
    recorded: Option<&'static str>,
    /// Reads a text.
    pub(crate) run: fn(&str),
}

/// All of them.
pub(crate) const TARGETS: [Target; 7] = [
    Target { name: "nodes", recorded: Some("-nodes-"), run: nodes },
    Target { name: "cluster-info", recorded: Some("-cluster-info-"), run: cluster_info },
    Target { name: "info", recorded: Some("-info-"), run: info },
    Target { name: "jobs", recorded: None, run: migrations },
    Target { name: "slot-stats", recorded: None, run: slot_stats },
    Target { name: "users", recorded: None, run: acl },
    Target { name: "spec", recorded: None, run: spec },
];

impl Target {
    /// The files that it begins with, in this repository.
    ///
    /// # Errors
    /// If a folder of this repository cannot be read.
    pub(crate) fn seeds(self, root: &Path) -> io::Result<Vec<PathBuf>> {
        let (folder, has) = match self.recorded {
            Some(has) => (root.join("src/valkey/testdata"), has),
            None => (root.join("fuzz/seeds").join(self.name), ""),
        };
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
        files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(has)));
        files.sort();
        Ok(files)
    }
}

/// The longest sentence about an answer that was not understood: it goes to the log at every look.
const SENTENCE: usize = 1000;

fn understood<T>(outcome: Result<T, WireError>) -> Option<T> {
    outcome.map_err(|error| assert!(error.to_string().len() < SENTENCE, "{error}")).ok()
}

/// `CLUSTER NODES`.
fn nodes(text: &str) {
    let Some(lines) = understood(cluster_nodes(text)) else { return };
    let told = text.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(lines.len(), told, "each line is a node");
    for line in lines {
        sound(&line.slots);
        assert!(line.open.iter().all(|open| open.slot < SLOTS), "{:?}", line.open);
    }
}

fn sound(slots: &Slots) {
    assert!(slots.len() <= SLOTS);
    assert!(slots.ranges().iter().all(|r| r.first <= r.last && r.last < SLOTS), "{slots}");
    assert!(slots.is_empty() || slots.to_string().parse::<Slots>().as_ref() == Ok(slots), "{slots}");
}

/// `CLUSTER INFO`.
fn cluster_info(text: &str) {
    understood(ClusterInfo::parse(text));
}

/// `INFO`.
fn info(text: &str) {
    let Some(info) = understood(Info::parse(text)) else { return };
    understood(info.version());
    understood(info.keys());
    understood(info.uptime_ms());
    understood(info.number::<i64>("server_time_usec"));
    let _ = (info.is_loading(), info.memory());
    if let Some(replication) = understood(info.replication()) {
        assert!(replication.online().len() <= text.lines().count());
    }
}

/// `CLUSTER GETSLOTMIGRATIONS`: an empty line begins another job, a line is the name and the value of a field.
fn migrations(text: &str) {
    let job = |part: &str| Reply::Map(part.lines().map(field).collect());
    let flat = |part: &str| Reply::List(part.lines().map(word).collect());
    let parts = || text.split("\n\n");
    for (reply, now) in [
        (Reply::List(parts().map(job).collect()), i64::MAX),
        (Reply::List(parts().map(flat).collect()), i64::MIN),
        (Reply::List(text.lines().map(word).collect()), 0),
    ] {
        let Some(found) = understood(jobs(&reply, now)) else { continue };
        assert!(found.len() <= parts().count());
        for job in found {
            sound(&job.slots);
            assert!(job.age_ms >= 0, "{}", job.age_ms);
        }
    }
}

/// `CLUSTER SLOT-STATS`: a line is a slot and what is told of it.
fn slot_stats(text: &str) {
    let one = |line: &str| Reply::List(line.split(' ').map(word).collect());
    let all = Reply::List(text.lines().map(one).collect());
    for reply in [all, Reply::List(text.lines().map(word).collect()), word(text)] {
        let Some(found) = understood(slots_of_stats(&reply)) else { continue };
        sound(&found);
        assert!(usize::from(found.len()) <= text.lines().count());
    }
}

fn word(text: &str) -> Reply {
    match text.parse() {
        Ok(number) => Reply::Int(number),
        Err(_) if text == "nil" => Reply::Nil,
        Err(_) => Reply::Text(text.to_owned()),
    }
}

fn field(line: &str) -> (String, Reply) {
    let (name, value) = line.split_once(' ').unwrap_or((line, ""));
    (name.to_owned(), word(value))
}

/// `ACL LIST` and `ACL GETUSER`.
fn acl(text: &str) {
    let map: BTreeMap<String, Reply> = text.lines().map(field).collect();
    understood(AclUser::parse(&Reply::Map(map)));
    let lists = |line: &str| match line.split_once(' ') {
        Some((name, values)) => [word(name), Reply::List(values.split(' ').map(word).collect())],
        None => [word(line), Reply::Nil],
    };
    understood(AclUser::parse(&Reply::List(text.lines().flat_map(lists).collect())));
    let list = Reply::List(text.lines().map(|l| Reply::Text(l.to_owned())).collect());
    for (name, line) in understood(shown(&list)).unwrap_or_default() {
        assert!(!name.contains(' '), "{name:?}");
        let hashes = users::passwords(&line).count();
        assert!(hashes <= line.split_whitespace().count());
        let rules = users::Rules::new(line.split_whitespace().map(str::to_owned).collect());
        let _ = (users::is_on(&line), users::text(&rules.words));
        users::holds(&NodeId::new("n"), &name, Some(&line), &rules, &users::Applied::new());
    }
}

/// A `ValkeyCluster`: objects are built of it, or a sentence says why not.
fn spec(text: &str) {
    let Ok(cr) = serde_json::from_str::<ValkeyCluster>(text) else { return };
    let desired = match api::desired(&cr) {
        Ok(desired) => desired,
        Err(sentence) => return assert!(sentence.len() > 10, "{sentence:?}"),
    };
    assert_eq!(build::revision(&desired), build::revision(&desired));
    let files = build::config_map(&desired).data.unwrap_or_default();
    let lines = |key: &str| {
        files.values().flat_map(|f| f.lines()).filter(|l| l.split(' ').next() == Some(key)).count()
    };
    // A value that made a line of its own could open a port, or name other users.
    assert_eq!((lines("port"), lines("aclfile"), lines("unixsocket")), (1, 1, 1), "{files:?}");
    for (name, user) in &desired.users {
        assert!(!name.starts_with('_') && !name.contains(char::is_whitespace), "{name:?}");
        let secret =
            |rule: &String| rule.contains(char::is_whitespace) || rule.starts_with(['>', '<', '#', '!']);
        assert!(!user.rules.iter().any(secret), "{:?}", user.rules);
    }
    let _ = (build::policy(&desired), build::service(&desired));
}
