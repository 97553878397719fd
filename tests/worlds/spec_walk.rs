//! Walks from spec to spec: each is changed at a random moment, in the middle of anything, and the end must be what a fresh cluster
//! with the last spec is. The fresh cluster is the oracle: nobody has to say what is right.
//!
//! `WALKS=<n>` says how many (default 40), `WALK=<seed>` walks one with its log.

use std::collections::{BTreeMap, BTreeSet};

use crate::number;
use crate::sim::kubernetes;
use crate::sim::life::CALM;
use crate::sim::tally::Tally;
use crate::sim::trace::Trace;
use crate::sim::valkey::Node;
use crate::sim::world::{Start, World};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use valkey_cluster_operator::api::{self, ValkeyCluster, ValkeyClusterSpec};
use valkey_cluster_operator::model::{Desired, Shard, Version, WorkerName};

const WORKERS: usize = 4;

/// A spec that admission lets pass.
fn spec(rng: &mut StdRng) -> ValkeyClusterSpec {
    let mut config = BTreeMap::new();
    let mut set = |key: &str, values: &[&str]| {
        if rng.random_bool(0.4) {
            config.insert(key.to_owned(), values[rng.random_range(0..values.len())].to_owned());
        }
    };
    set("maxmemory-policy", &["allkeys-lru", "volatile-ttl"]);
    set("timeout", &["60", "300"]);
    set("cluster-node-timeout", &["1500", "3000"]);
    // Fixed while a server runs: new Pods.
    set("databases", &["2", "4"]);
    ValkeyClusterSpec {
        shards: rng.random_range(1..=4),
        replicas: rng.random_range(0..=2),
        image: ["valkey:8.1.1", "valkey:9.1.2", "valkey:9.1.3"][rng.random_range(0..3)].to_owned(),
        config,
        max_disrupted_shards: IntOrString::Int(rng.random_range(1..=3)),
        restarted_at: rng.random_bool(0.2).then(|| "2026-01-31T12:00:00Z".to_owned()),
        ..ValkeyClusterSpec::default()
    }
}

fn desired(spec: &ValkeyClusterSpec, generation: i64) -> Desired {
    let mut cr = ValkeyCluster::new("c", spec.clone());
    cr.metadata.namespace = Some("default".to_owned());
    cr.metadata.uid = Some("uid-c".to_owned());
    cr.metadata.generation = Some(generation);
    api::desired(&cr).unwrap()
}

fn world(spec: &ValkeyClusterSpec, seed: u64, trace: Trace) -> World {
    let version = if seed.is_multiple_of(4) { Version::new(8, 1, 1) } else { Version::new(9, 1, 2) };
    let start = Start {
        shards: 1,
        replicas: 0,
        workers: WORKERS,
        version,
        seed,
        reuse_addresses: true,
        brief: false,
        zones: 0,
        strict: false,
        strict_zones: false,
    };
    let mut world = World::new(&start, trace);
    world.resource.desired = desired(spec, 1);
    world
}

/// What must be equal in the end, whatever names and addresses the Pods have.
#[derive(PartialEq, Debug)]
struct Shape {
    /// For each shard its Pods, primaries, and Pods with the role label, with the revision of all.
    shards: Vec<(usize, usize, usize, BTreeSet<String>)>,
    /// How many slots the shards own, in order of size.
    slots: Vec<u16>,
    /// The settings of all nodes.
    settings: BTreeSet<BTreeMap<String, String>>,
    /// All Pods are Ready.
    ready: bool,
    /// No worker has two copies of a shard.
    apart: bool,
}

fn shape(w: &World) -> Shape {
    let own = ["cluster-announce-human-nodename"];
    let pods = || w.kube.pods.values();
    let shards: BTreeSet<Shard> = pods().map(|o| o.pod.shard).collect();
    let of = |shard: Shard| pods().filter(move |o| o.pod.shard == shard);
    let leads = |o: &&kubernetes::PodObject| w.process(&o.pod.name).is_some_and(Node::leads);
    let summary = |shard: Shard| {
        let revisions = of(shard).map(|o| o.pod.revision.to_string()).collect();
        (
            of(shard).count(),
            of(shard).filter(leads).count(),
            of(shard).filter(|o| o.pod.leads).count(),
            revisions,
        )
    };
    let owned = |shard: Shard| of(shard).filter_map(|o| w.process(&o.pod.name)).map(|n| n.slots.len()).sum();
    let mut slots: Vec<u16> = shards.iter().map(|s| owned(*s)).collect();
    slots.sort_unstable();
    let settings = w.valkey.nodes.values().map(|n| {
        n.config
            .iter()
            .filter(|(k, _)| !own.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    });
    let workers =
        |shard: Shard| of(shard).filter_map(|o| o.pod.worker.clone()).collect::<BTreeSet<WorkerName>>();
    Shape {
        slots,
        settings: settings.collect(),
        ready: pods().all(|o| o.pod.gate == Some(true)),
        apart: shards.iter().all(|s| workers(*s).len() == of(*s).count()),
        shards: shards.into_iter().map(summary).collect(),
    }
}

/// Walks, and compares its end with that of the oracle.
fn walk(seed: u64, trace: Trace) -> (World, Result<(), String>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let specs: Vec<ValkeyClusterSpec> = (0..rng.random_range(2..=6)).map(|_| spec(&mut rng)).collect();
    let mut walked = world(&specs[0], seed, trace);
    for (i, next) in specs.iter().enumerate().skip(1) {
        let until = walked.now + rng.random_range(0..=400);
        while walked.now < until {
            walked.step();
        }
        let line = format!("spec {} x {}, {}, {:?}", next.shards, next.replicas, next.image, next.config);
        walked.note(&line);
        walked.tally.one("spec changed at a random moment");
        walked.resource.desired = desired(next, i64::try_from(i).unwrap() + 1);
    }
    let mut fresh = world(specs.last().unwrap(), seed, Trace::default());
    let told = walked.rest().and_then(|()| fresh.rest().map_err(|why| format!("the fresh one: {why}")));
    let told = told.and_then(|()| {
        let (here, there) = (shape(&walked), shape(&fresh));
        if here == there { Ok(()) } else { Err(format!("walked: {here:#?}\nfresh: {there:#?}")) }
    });
    (walked, told)
}

#[test]
fn every_walk_ends_where_a_fresh_cluster_begins() {
    if let Some(seed) = number("WALK") {
        let (world, told) = walk(seed, Trace::on());
        println!("{}", world.trace.text);
        told.unwrap_or_else(|why| panic!("walk {seed}: {why}"));
        return;
    }
    let walks = number("WALKS").unwrap_or(40);
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    for seed in 0..walks {
        let (world, told) = walk(seed, Trace::default());
        tally.add(&world.tally);
        failures.extend(told.err().map(|why| format!("walk {seed}: {why}")));
    }
    println!("{walks} walks\n{tally}");
    assert!(
        failures.is_empty(),
        "{} of {walks} walks; see one with WALK=<seed> cargo test --test worlds spec_walk -- --nocapture\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Shards, one number after another. The third comes when the second has begun to move slots.
const SIZES: [&[i32]; 7] = [&[3, 4], &[4, 3], &[3, 6], &[6, 3], &[1, 3], &[3, 1], &[3, 6, 4]];

/// Replicas before the first change and from it on.
const COPIES: [(i32, i32); 5] = [(0, 0), (1, 1), (2, 2), (0, 1), (2, 1)];

/// A cluster that is made larger and smaller without any fault, until all is as the last spec asks.
fn resized(sizes: &[i32], copies: (i32, i32), image: &str, trace: Trace) -> (World, Result<(), String>) {
    let spec = |shards, replicas| ValkeyClusterSpec {
        shards,
        replicas,
        image: image.to_owned(),
        ..ValkeyClusterSpec::default()
    };
    let mut w = world(&spec(sizes[0], copies.0), 1, trace);
    let mut told = w.rest();
    for (generation, shards) in (2..).zip(&sizes[1..]) {
        w.resource.desired = desired(&spec(*shards, copies.1), generation);
        let last = usize::try_from(generation).is_ok_and(|n| n == sizes.len());
        while told.is_ok() && !last && !has_moved(&w, sizes[0]) {
            w.step();
        }
        if last {
            told = told.and_then(|()| w.rest());
        }
    }
    (w, told)
}

/// One of the new shards has slots.
fn has_moved(w: &World, before: i32) -> bool {
    let new = w.kube.pods.values().filter(|o| i32::from(o.pod.shard.0) >= before);
    new.filter_map(|o| w.process(&o.pod.name)).any(Node::leads)
}

#[test]
fn every_change_of_size_ends_even_and_loses_nothing() {
    let (mut failures, mut writes) = (Vec::new(), 0);
    for sizes in SIZES {
        for copies in COPIES {
            for image in ["valkey:8.1.1", "valkey:9.1.2"] {
                let (w, told) = resized(sizes, copies, image, Trace::default());
                let case = format!("shards {sizes:?}, replicas {copies:?}, {image}");
                failures.extend(told.err().map(|why| format!("{case}: {why}")));
                // Nothing was excused: no process ended but by the operator's will.
                assert_eq!(w.clients.excused, 0, "{case}");
                writes += w.clients.acknowledged_writes;
            }
        }
    }
    println!("{writes} writes acknowledged, and none lost");
    assert!(writes > 0 && failures.is_empty(), "{}", failures.join("\n"));
}

/// Upgrades that are summed up: whether primaries have to be made even at an end is chance.
const WORLDS: u64 = 6;

/// How many ticks an upgrade of a 6×1 takes with this budget, in the world of this seed (which says how long Pods take to start).
fn upgrade_ticks(seed: u64, max_disrupted: i32) -> i64 {
    let spec = ValkeyClusterSpec {
        shards: 6,
        replicas: 1,
        image: "valkey:9".to_owned(),
        max_disrupted_shards: IntOrString::Int(max_disrupted),
        ..ValkeyClusterSpec::default()
    };
    let mut w = world(&spec, seed, Trace::default());
    w.rest().unwrap();
    let began = w.now;
    w.resource.desired = desired(&ValkeyClusterSpec { image: "valkey:10".to_owned(), ..spec }, 2);
    w.rest().unwrap();
    // Less the time for which it has to be quiet.
    w.now - began - 2 * CALM
}

#[test]
fn a_larger_budget_makes_an_upgrade_faster() {
    let of = |max| (1..=WORLDS).map(|seed| upgrade_ticks(seed, max)).sum::<i64>();
    let (one, three) = (of(1), of(3));
    println!("6x1 upgraded {WORLDS} times in {one} ticks with maxDisruptedShards 1, in {three} with 3");
    assert!(one * 10 >= three * 25, "{one} ticks and {three}: less than 2.5 times");
}
