//! Answers and specs that nobody meant to write: recorded ones, changed at random, never make a parser panic, work long, or
//! return more than there is. `MUTATIONS=1000000 cargo test --test mutations` for more, `FIRST=<seed>` for others.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::build;
use valkey_cluster_operator::model::{NodeId, users};
use valkey_cluster_operator::valkey::Reply;
use valkey_cluster_operator::valkey::commands::{AclUser, shown};
use valkey_cluster_operator::valkey::parse::{ClusterInfo, Info, cluster_nodes, jobs};

/// What numbers and words of the protocol look like when somebody means harm.
const POISON: &[&str] = &[
    "18446744073709551616",
    "-1",
    "99999999999999999999999999999999",
    "0-16384",
    "16383-0",
    "[0->-",
    "[",
    "]",
    "-",
    "myself,",
    "\n",
    "\r\n",
    "\0",
    " ",
    "::1",
    "@",
    ",",
    "=",
    ":",
    "~*",
    "+@all",
    "(",
    ")",
    "#",
    "\u{202e}",
    "é",
];
/// No single input may take longer: a parser that is quadratic in its input shows here.
const SLOW: Duration = Duration::from_secs(1);

fn seeds(has: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/valkey/testdata");
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let found: Vec<String> = files
        .filter(|p| p.file_name().unwrap().to_string_lossy().contains(has))
        .map(|p| fs::read_to_string(p).unwrap())
        .collect();
    assert!(found.len() >= 3, "recorded answers of three versions: {}", found.len());
    found
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn mutate(text: &str, others: &[String], rng: &mut StdRng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=chars.len());
        let end = (at + rng.random_range(0..40)).min(chars.len());
        match rng.random_range(0..6) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let again: Vec<char> = chars[at..end].to_vec();
                let times = rng.random_range(1..50);
                chars.splice(at..at, (0..times).flat_map(|_| again.clone()));
            }
            2 => chars.truncate(at),
            3 if at < chars.len() => chars[at] = char::from(rng.random_range(0_u8..128)),
            4 => {
                let other: Vec<char> = others[rng.random_range(0..others.len())].chars().collect();
                let from = rng.random_range(0..=other.len());
                chars.truncate(at);
                chars.extend(&other[from..]);
            }
            _ => {
                let poison = POISON[rng.random_range(0..POISON.len())];
                chars.splice(at..end, poison.chars());
            }
        }
    }
    chars.into_iter().collect()
}

/// Feeds changed seeds to a parser; a panic names the seed of the generator.
fn feed(seeds: &[String], target: impl Fn(&str) + std::panic::RefUnwindSafe) {
    let (first, count) = (number("FIRST", 0), number("MUTATIONS", 4000));
    for seed in first..first + count {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = mutate(&seeds[rng.random_range(0..seeds.len())], seeds, &mut rng);
        let began = Instant::now();
        let ended = std::panic::catch_unwind(|| target(&text));
        assert!(ended.is_ok(), "FIRST={seed} MUTATIONS=1: {text:?}");
        assert!(
            began.elapsed() < SLOW,
            "FIRST={seed} MUTATIONS=1: {:?} for {} bytes",
            began.elapsed(),
            text.len()
        );
    }
}

#[test]
fn cluster_nodes_is_read_or_refused() {
    feed(&seeds("nodes"), |text| {
        if let Ok(lines) = cluster_nodes(text) {
            assert!(lines.len() <= text.lines().count(), "more nodes than lines");
            assert!(lines.iter().all(|l| l.slots.len() <= 16384));
        }
    });
}

#[test]
fn info_is_read_or_refused() {
    feed(&seeds("info"), |text| {
        let _ = ClusterInfo::parse(text);
        if let Ok(info) = Info::parse(text) {
            let _ = (info.version(), info.keys(), info.uptime_ms(), info.memory(), info.is_loading());
            let _ = (info.replication(), info.number::<i64>("server_time_usec"));
        }
    });
}

#[test]
fn jobs_and_users_are_read_or_refused() {
    let job = "name j1\noperation EXPORT\nslot_ranges 0-100 200\ntarget_node abc\nsource_node def\ncreate_time 1\nlast_update_time 2\nstate \
               success\nmessage \ncow_size 0\nremaining_repl_size 0";
    let acl = "user default on nopass sanitize-payload ~* &* +@all\nuser a on #aa ~k:* resetchannels -@all +get (~x +set)";
    feed(&[job.to_owned(), acl.to_owned()], |text| {
        let pairs = || text.lines().map(|l| l.split_once(' ').unwrap_or((l, "")));
        let field = |(k, v): (&str, &str)| (k.to_owned(), Reply::Text(v.to_owned()));
        let map: BTreeMap<String, Reply> = pairs().map(field).collect();
        let _ = jobs(&Reply::List(vec![Reply::Map(map.clone()), Reply::Nil]), i64::MAX);
        let _ = jobs(&Reply::List(text.lines().map(|l| Reply::Text(l.to_owned())).collect()), i64::MIN);
        let _ = AclUser::parse(&Reply::Map(map));
        let list = Reply::List(text.lines().map(|l| Reply::Text(l.to_owned())).collect());
        for (name, line) in shown(&list).unwrap_or_default() {
            let rules = users::Rules::new(line.split_whitespace().map(str::to_owned).collect());
            let _ = users::holds(&NodeId::new("n"), &name, Some(&line), &rules, &users::Applied::new());
        }
    });
}

#[test]
fn a_spec_is_built_or_gets_a_sentence() {
    let spec = r#"{"apiVersion":"valkey.io/v1alpha1","kind":"ValkeyCluster","metadata":{"name":"c","namespace":"ns","uid":"u"},
        "spec":{"shards":3,"replicas":1,"image":"valkey:9","config":{"maxmemory":"1gb","cluster-node-timeout":"2000"},
        "maxDisruptedShards":"25%","terminationGracePeriodSeconds":30,"resources":{"limits":{"memory":"1Gi","cpu":"1"}},
        "users":[{"name":"app","permissions":"+get","keys":{"readOnly":["a:*"]},"passwordSecret":{"name":"s","keys":["k"]}}]}}"#;
    feed(&[spec.to_owned()], |text| {
        let Ok(cr) = serde_json::from_str::<ValkeyCluster>(text) else { return };
        match api::desired(&cr) {
            Ok(desired) => {
                let _ = build::revision(&desired);
                let conf = build::config_map(&desired).data.unwrap_or_default();
                let lines = conf.values().flat_map(|text| text.lines());
                let mut ports = lines.filter(|l| l.starts_with("port "));
                assert_eq!(
                    (ports.next(), ports.next()),
                    (Some("port 6379"), None),
                    "a value made a line of its own"
                );
            }
            Err(sentence) => assert!(sentence.len() > 10, "{sentence:?}"),
        }
    });
}
