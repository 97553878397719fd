//! Everything that continuous integration runs, with one count at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::count::Count;
use super::setup::{self, Target};
use super::{Stage, Suite, Told, traces};
use crate::cache::Cache;
use crate::command::{cargo, output, tail};
use crate::debs;
use crate::progress::Progress;

/// Lives of the simulated world in this suite.
const LIVES: &str = "2000";
/// The test programs that are compiled to be fast.
const FAST: [&str; 3] = ["worlds", "planner_cost", "large_lives"];
/// How the tests in them begin that are run then: they live through thousands of clusters.
const SEARCHES: [&str; 10] = [
    "random_lives::every_life_ends_well",
    "small_worlds::no_single_fault_at_any_point",
    "spec_walk::every_walk_ends",
    "spec_walk::every_change_of_size",
    "spec_walk::a_larger_budget_makes",
    "planning_grows",
    "worlds_are_what_they_say",
    "an_upgrade_stays_within",
    "a_fifth_more_shards",
    "a_zone_without_power",
];
/// What takes an hour on a slow machine and is started by hand: `just mutants`.
const BY_HAND: &str = "every_mutant_is_noticed";
/// A build of everything from nothing on two slow cores.
const CARGO: Duration = Duration::from_mins(40);
/// Lines of a command that failed.
const SHOWN: usize = 60;

/// Runs the stories of these names, or all, with TLS or without, on a cluster or on a sandbox that is brought up if there is none; it stays up.
///
/// # Errors
/// If the ground cannot be laid.
pub async fn stories(
    target: &Target,
    names: &[String],
    (suite, tls): (Suite, bool),
    progress: &Progress,
) -> Result<Count> {
    super::known(names)?;
    let mut times = Vec::new();
    let ground = setup::ground(target, progress, &mut times).await?;
    for (phase, took) in &times {
        progress.line(format_args!("{phase}: {:.1} s", took.as_secs_f64()));
    }
    let stage = Stage::new(ground.reach, ground.client, suite, progress.clone()).encrypted(tls);
    stage.sweep().await?;
    let mut count = Count::default();
    for (story, told) in super::run(names, &stage, progress).await? {
        match told {
            Told::Passed => count.add(Count::passed()),
            Told::Skipped(why) => count.add(Count::skipped(format!("{story}: {why}"))),
            Told::Failed(error) => {
                count.add(Count::failed(format!("story {story}: {error:#}")));
            }
        }
    }
    for why in stage.take_left_out() {
        count.add(Count::skipped(why));
    }
    Ok(count)
}

/// All checks, all tests, all stories; goes on after a failure, and takes the sandbox down at the end.
///
/// # Errors
/// If a check cannot be run at all.
pub async fn ci(name: &str, progress: &Progress) -> Result<Count> {
    let mut count = Count::default();
    let lint = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    count.add(check("formatting", &["fmt", "--all", "--check"], progress)?);
    count.add(check("lints", &lint, progress)?);
    count.add(tests(progress)?);
    count.add(lives(progress)?);
    count.add(super::fuzz::all(progress)?);
    let began = Instant::now();
    match stories(&Target::Sandbox(name.to_owned()), &[], (Suite::Ci, false), progress).await {
        Ok(told) => count.add(told),
        Err(error) => count.add(Count::failed(format!("stories: {error:#}"))),
    }
    progress.line(format_args!("stories: {:.0} s", began.elapsed().as_secs_f64()));
    count.add(tokio::task::block_in_place(|| traces::all(name, progress)));
    Ok(count)
}

fn check(what: &str, arguments: &[&str], progress: &Progress) -> Result<Count> {
    let step = progress.step(what);
    let output = output(&mut cargo(arguments), CARGO, Some(&step))?;
    if output.status.success() {
        step.done("");
        return Ok(Count::passed());
    }
    let line = format!("cargo {}", arguments.join(" "));
    show(&line, &output);
    Ok(Count::failed(line))
}

/// The tests that need no Kubernetes, but for the searches.
fn tests(progress: &Progress) -> Result<Count> {
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast", "--", "--include-ignored"];
    for name in SEARCHES.iter().chain([&BY_HAND]) {
        arguments.extend(["--skip", name]);
    }
    let mut command = cargo(&arguments);
    command.env("VALKEY_SERVERS", servers(progress)?);
    libtest("tests", command, progress)
}

/// The searches, compiled to be fast: seven times as fast as otherwise (measured), for two minutes of compiling.
fn lives(progress: &Progress) -> Result<Count> {
    let fast = "profile.dev.package.valkey-cluster-operator.opt-level=2";
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast", "--config", fast];
    for program in FAST {
        arguments.extend(["--test", program]);
    }
    arguments.push("--");
    arguments.extend(SEARCHES);
    let mut command = cargo(&arguments);
    command.env("LIVES", LIVES);
    libtest("lives and searches", command, progress)
}

fn libtest(what: &str, mut command: Command, progress: &Progress) -> Result<Count> {
    let step = progress.step(what);
    let output = output(&mut command, CARGO, Some(&step)).context("cargo test")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let mut count = Count::of_libtest(&told);
    for row in told.lines().filter(|line| line.starts_with('|')) {
        progress.line(format_args!("{row}"));
    }
    if output.status.success() {
        step.done(&count);
    } else {
        show(what, &output);
        // A test that does not compile is counted nowhere else.
        if count.is_good() {
            count.add(Count::failed(what.to_owned()));
        }
    }
    Ok(count)
}

fn show(what: &str, output: &std::process::Output) {
    println!("FAILED {what}");
    for stream in [&output.stdout, &output.stderr] {
        for line in tail(&String::from_utf8_lossy(stream), SHOWN) {
            println!("  {line}");
        }
    }
}

/// The servers of all versions as programs, separated by colons: what `VALKEY_SERVERS` of the tests expects.
fn servers(progress: &Progress) -> Result<String> {
    let cache = Cache::open()?;
    let mut programs = Vec::new();
    for root in debs::valkey_roots(&cache, progress)? {
        let command = root.command("valkey-server")?;
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let quoted: Vec<String> = words.map(|w| format!("'{}'", w.to_string_lossy())).collect();
        let path = std::env::temp_dir().join(format!("valkey-server-{}", root.version));
        std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" ")))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        programs.push(path.to_string_lossy().into_owned());
    }
    Ok(programs.join(":"))
}
