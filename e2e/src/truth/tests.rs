//! The judgement of the truth check, on answers as Valkey gives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;

fn addr(n: usize) -> SocketAddr {
    format!("127.0.1.{n}:7000").parse().unwrap()
}

/// The line about node `n` of a 2+2 cluster, seen by `viewer`: 1 and 2 are primaries, 3 and 4 their replicas.
fn line(n: usize, viewer: usize) -> String {
    let (role, slots) = match n {
        1 => ("master -", " 0-8191"),
        2 => ("master -", " 8192-16383"),
        3 => ("slave id1", ""),
        _ => ("slave id2", ""),
    };
    let myself = if n == viewer { "myself," } else { "" };
    let (role, primary) = role.split_once(' ').unwrap();
    let epoch = if n % 2 == 1 { 1 } else { 2 };
    format!("id{n} 127.0.1.{n}:7000@17000 {myself}{role} {primary} 0 0 {epoch} connected{slots}\n")
}

fn facts(viewer: usize) -> Facts {
    let text: String = (1..=4).map(|n| line(n, viewer)).collect();
    let replication = match viewer {
        1 | 2 => {
            format!("role:master\nslave0:ip=127.0.1.{},port=7000,state=online,offset=1,lag=0\n", viewer + 2)
        }
        _ => "role:slave\nmaster_link_status:up\nmaster_sync_in_progress:0\nloading:0\n".to_owned(),
    };
    Facts {
        shard: format!("shard{}", if viewer % 2 == 1 { 1 } else { 2 }),
        view: View::read(&text).unwrap(),
        state_ok: true,
        replication: Replication::read(&replication),
        node_timeout_ms: Some(2000),
    }
}

fn whole() -> BTreeMap<usize, Facts> {
    (1..=4).map(|n| (n, facts(n))).collect()
}

fn truth(nodes: &BTreeMap<usize, Facts>) -> Truth {
    let seen = (1..=4).map(|n| match nodes.get(&n) {
        Some(facts) => (addr(n), Seen::Answered(Box::new(facts.clone()))),
        None => (addr(n), Seen::Silent("connection refused".to_owned())),
    });
    Truth { seen: seen.collect() }
}

fn problems(change: impl FnOnce(&mut BTreeMap<usize, Facts>)) -> Vec<String> {
    let mut nodes = whole();
    change(&mut nodes);
    truth(&nodes).problems()
}

/// Replaces text in one node's view.
fn edit(nodes: &mut BTreeMap<usize, Facts>, viewer: usize, from: &str, to: &str) {
    let text: String = (1..=4).map(|n| line(n, viewer)).collect();
    assert!(text.contains(from), "{text}");
    nodes.get_mut(&viewer).unwrap().view = View::read(&text.replace(from, to)).unwrap();
}

#[test]
fn a_whole_cluster_has_no_problems_and_says_who_is_where() {
    let truth = truth(&whole());
    assert_eq!(truth.problems(), Vec::<String>::new());
    assert!(truth.formed());
    assert_eq!(truth.covered(), 16_384);
    let shards = truth.shards();
    let found: Vec<_> = shards.iter().map(|s| (s.id.as_str(), s.primary_addr, s.slots, s.copies())).collect();
    assert_eq!(found, [("shard1", Some(addr(1)), 8192, 2), ("shard2", Some(addr(2)), 8192, 2)]);
    assert_eq!(shards[0].replicas[0].addr, addr(3));
    let expected = Expected { shards: Some(2), replicas: Some(1), node_timeout_ms: Some(2000) };
    assert_eq!(truth.problems_against(&expected), Vec::<String>::new());
    let expected = Expected { shards: Some(3), replicas: Some(2), node_timeout_ms: Some(5000) };
    assert_eq!(truth.problems_against(&expected).len(), 1 + 2 + 4);
}

#[test]
fn doubts_of_one_node_about_another_are_named() {
    let seen = problems(|nodes| {
        edit(nodes, 4, "id1 127.0.1.1:7000@17000 master", "id1 127.0.1.1:7000@17000 master,fail?");
    });
    assert_eq!(seen, ["127.0.1.4:7000 sees 127.0.1.1:7000 as fail?"]);
    let seen = problems(|nodes| edit(nodes, 4, "slave id1", "master -"));
    assert_eq!(seen, ["127.0.1.4:7000 and 127.0.1.3:7000 disagree on the role or primary of 127.0.1.3:7000"]);
    let seen = problems(|nodes| edit(nodes, 3, " 8192-16383", " 8192-16000"));
    assert_eq!(seen, ["127.0.1.3:7000 sees 7809 slots at 127.0.1.2:7000, it owns 8192"]);
    let seen = problems(|nodes| edit(nodes, 2, "id4 127.0.1.4", "ghost 127.0.1.9"));
    assert_eq!(seen.len(), 2, "does not know one, knows a stranger: {seen:?}");
    assert!(seen[1].contains("ghost at 127.0.1.9:7000"), "{seen:?}");
}

#[test]
fn holes_double_owners_and_open_slots_are_found() {
    let seen = problems(|nodes| (1..=4).for_each(|viewer| edit(nodes, viewer, " 8192-16383", " 8193-16383")));
    assert_eq!(seen, ["1 slots have no owner that answers"]);
    let seen = problems(|nodes| (1..=4).for_each(|viewer| edit(nodes, viewer, " 8192-16383", " 8191-16383")));
    assert_eq!(seen, ["1 slots have several owners, e.g. 8191: [127.0.1.1:7000, 127.0.1.2:7000]"]);
    let seen = problems(|nodes| edit(nodes, 1, " 0-8191", " 0-8191 [7->-id2]"));
    assert_eq!(seen, ["127.0.1.1:7000 has slots on their way: [7->-id2]"]);
}

#[test]
fn shared_epochs_and_bad_states_are_found() {
    let seen = problems(|nodes| {
        (1..=4).for_each(|viewer| {
            let myself = if viewer == 2 { "myself," } else { "" };
            let from = format!("{myself}master - 0 0 2");
            edit(nodes, viewer, &from, &from.replace("0 0 2", "0 0 1"));
        });
        nodes.get_mut(&3).unwrap().state_ok = false;
    });
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("config epoch 1 is shared"), "{seen:?}");
    assert_eq!(seen[1], "127.0.1.3:7000 says that the cluster state is not ok");
}

#[test]
fn a_replica_is_in_sync_only_if_both_sides_say_so() {
    let seen = problems(|nodes| nodes.get_mut(&3).unwrap().replication.link_up = false);
    assert_eq!(seen, ["replica 127.0.1.3:7000 has no link to its primary"]);
    let seen =
        problems(|nodes| nodes.get_mut(&1).unwrap().replication.replicas[0].state = "wait_bgsave".into());
    assert_eq!(seen, ["replica 127.0.1.3:7000 is not listed online by its primary"]);
    let mut nodes = whole();
    nodes.get_mut(&3).unwrap().replication.syncing = true;
    let copies: Vec<_> = truth(&nodes).shards().iter().map(Shard::copies).collect();
    assert_eq!(copies, [1, 2]);
}

#[test]
fn a_silent_primary_leaves_a_shard_without_copies_under_the_same_id() {
    let mut nodes = whole();
    nodes.remove(&1);
    let truth = truth(&nodes);
    let found: Vec<_> = truth.shards().iter().map(|s| (s.id.clone(), s.primary_addr, s.copies())).collect();
    assert_eq!(found, [("shard1".to_owned(), None, 0), ("shard2".to_owned(), Some(addr(2)), 2)]);
    assert!(!truth.formed());
    assert_eq!(truth.covered(), 8192);
    assert!(truth.problems()[0].contains("does not answer: connection refused"));
}
