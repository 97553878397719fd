//! The scripts of `tests/lives` lived by real Valkey processes: the real operator over the API server of the tests, kubelets that run Pods
//! as processes at loopback addresses, and the end compared with that of the simulated world.
//!
//! `VALKEY_SERVERS=/path/valkey-server[:…] cargo test --test real_lives -- --ignored` lives a few of them;
//! `SCRIPTS=all` all that can be lived so, `SCRIPTS=cordon,create_3x1@8.0.1` these. `AT_ONCE=<n>` at a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
// The simulated world is in it: a bag of flags and short names, whose one match over all steps is best read as a whole.
#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::many_single_char_names,
    clippy::too_many_lines
)]
#![allow(unreachable_pub)]

mod addresses;
mod certificates;
mod clients;
mod ending;
mod events;
mod kubelet;
mod life;
mod list;
mod machines;
mod mischief;
mod operator;
mod person;
mod scheduler;
mod server;
#[path = "../sim/mod.rs"]
mod sim;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use valkey_cluster_operator::model::Version;

use list::{NOT, OFTEN, OLDER};
use sim::script::Script;

/// Where the cluster is.
const NAMESPACE: &str = "ns";

/// A script, and the version it is lived with instead of its own.
type Life = (String, Option<Version>);

fn scripts() -> BTreeMap<String, Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lives");
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let script = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = text.split_once("----\n").map_or(&*text, |(script, _)| script);
        (path.file_stem().unwrap().to_string_lossy().into_owned(), script.parse().unwrap())
    };
    files.map(script).collect()
}

/// The lives of this run.
fn chosen(scripts: &BTreeMap<String, Script>) -> Vec<Life> {
    let with = |name: &str, version: Option<&str>| (name.to_owned(), version.map(|v| v.parse().unwrap()));
    match std::env::var("SCRIPTS").as_deref() {
        Ok("all") => {
            let can = scripts.keys().filter(|name| NOT.iter().all(|(not, _)| not != name));
            let older = OLDER.iter().map(|(name, version)| with(name, Some(version)));
            can.map(|name| with(name, None)).chain(older).collect()
        }
        Ok(names) => {
            let one = |name: &str| name.split_once('@').map_or(with(name, None), |(n, v)| with(n, Some(v)));
            names.split(',').map(one).collect()
        }
        Err(_) => OFTEN.iter().map(|(name, version)| with(name, *version)).collect(),
    }
}

/// The servers of the environment by their versions.
fn programs() -> BTreeMap<Version, String> {
    let list = std::env::var("VALKEY_SERVERS").expect("VALKEY_SERVERS must list valkey-server programs");
    let version = |program: &str| {
        let told =
            Command::new(program).arg("--version").output().unwrap_or_else(|e| panic!("{program}: {e}"));
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let version = told.split_whitespace().find_map(|word| word.strip_prefix("v=")?.parse().ok());
        version.unwrap_or_else(|| panic!("{program} does not tell its version: {told}"))
    };
    list.split(':').map(|program| (version(program), program.to_owned())).collect()
}

fn one(
    life: &Life,
    scripts: &BTreeMap<String, Script>,
    programs: &BTreeMap<Version, String>,
) -> Result<(), String> {
    let (name, version) = life;
    let mut script = scripts.get(name).ok_or_else(|| format!("there is no script {name}"))?.clone();
    script.start.version = version.unwrap_or(script.start.version);
    let what = format!("{name} on {}", script.start.version);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ended = runtime.block_on(life::live_really(&script, programs));
    runtime.shutdown_background();
    match ended {
        Ok(took) => {
            println!("{what}: {took}");
            Ok(())
        }
        Err(why) => {
            println!("{what}: FAILED");
            Err(format!("{what}: {why}"))
        }
    }
}

#[test]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
fn scripts_end_on_real_servers_as_in_the_simulated_world() {
    let (scripts, programs) = (scripts(), programs());
    let lives = Mutex::new(VecDeque::from(chosen(&scripts)));
    let next = || lives.lock().unwrap().pop_front();
    let began = Instant::now();
    let at_once = std::env::var("AT_ONCE").map_or(3, |n| n.parse().unwrap());
    let failures: Vec<String> = std::thread::scope(|scope| {
        let lane = || {
            let mut failed = Vec::new();
            while let Some(life) = next() {
                failed.extend(one(&life, &scripts, &programs).err());
            }
            failed
        };
        let lanes: Vec<_> = (0..at_once).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    println!("all within {:.0} s", began.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn what_is_not_lived_is_there() {
    let scripts = scripts();
    let named = NOT.iter().map(|(name, _)| name).chain(OFTEN.iter().map(|(name, _)| name));
    for name in named.chain(OLDER.iter().map(|(name, _)| name)) {
        assert!(scripts.contains_key(*name), "there is no script {name}");
    }
}
