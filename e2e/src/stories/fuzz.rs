//! The fuzzers of `fuzz/`, each for a while: hostile input, searched for by what our code does with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::count::Count;
use crate::cache::Cache;
use crate::command::{cargo, output, run_shown, succeeds, tail};
use crate::progress::Progress;
use crate::sandbox::images::executable;

#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// How long each is run.
const SECONDS: u64 = 60;
/// How long one input may take, in seconds: they are a few kilobytes.
const SLOW: u32 = 2;
/// What a fuzzer may take of the machine's memory, in MiB, its corpus included.
const MEMORY: u32 = 1024;
/// Longest input: an answer of a cluster of some hundred nodes.
const LONGEST: u32 = 1 << 16;
/// At a time.
const AT_ONCE: usize = 2;
/// Its dependencies, which are few, from nothing on two slow cores.
const BUILD: Duration = Duration::from_mins(20);
/// Lines of a fuzzer that found something.
const SHOWN: usize = 40;

/// Builds the fuzzer and runs every target; one that finds something fails and shows the input.
///
/// # Errors
/// If the fuzzer cannot be built, or a folder not be made.
pub(super) fn all(progress: &Progress) -> Result<Count> {
    let mut count = Count::default();
    if !succeeds(Command::new("c++").arg("--version"), Duration::from_secs(10)) {
        for target in &TARGETS {
            count.add(Count::skipped(format!("fuzzer {}: there is no C++ compiler (c++)", target.name)));
        }
        return Ok(count);
    }
    let program = build(progress)?;
    let home = Cache::open()?.dir().join("fuzz");
    for some in TARGETS.chunks(AT_ONCE) {
        let step = progress
            .step(&format!("fuzzers {}", some.iter().map(|t| t.name).collect::<Vec<_>>().join(" and ")));
        let told: Vec<Result<String>> = std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|t| scope.spawn(|| fuzz(&program, t, &home))).collect();
            let joined = running
                .into_iter()
                .map(|r| r.join().unwrap_or_else(|_| anyhow::bail!("the thread panicked")));
            joined.collect()
        });
        for (target, told) in some.iter().zip(told) {
            match told {
                Ok(figures) => {
                    progress.line(format_args!("  fuzzer {}: {figures}", target.name));
                    count.add(Count::passed());
                }
                Err(error) => count.add(Count::failed(format!("fuzzer {}: {error:#}", target.name))),
            }
        }
        step.done("");
    }
    Ok(count)
}

/// The instrumented program: itself alone, with the modules under test in it, and none of its dependencies.
fn build(progress: &Progress) -> Result<PathBuf> {
    let step = progress.step("build the fuzzers");
    let what = ["build", "--locked", "--bin", "fuzz", "--message-format=json-render-diagnostics"];
    let where_to = ["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz"];
    let mut cargo = cargo(what.into_iter().chain(where_to));
    cargo.env("RUSTC_WORKSPACE_WRAPPER", crate::root().join("fuzz/rustc"));
    let program = executable(&run_shown(&mut cargo, BUILD, &step)?, "fuzz")?;
    step.done("");
    Ok(program)
}

/// Runs one, beginning with its seeds and with what earlier runs found worth keeping, and returns its last figures.
fn fuzz(program: &Path, target: &Target, home: &Path) -> Result<String> {
    let kept = home.join(target.name);
    fs::create_dir_all(&kept)?;
    let seeds: Vec<String> =
        target.seeds(&crate::root())?.iter().map(|path| path.display().to_string()).collect();
    let mut command = Command::new(program);
    command
        .env("FUZZ", target.name)
        .arg(format!("-max_total_time={SECONDS}"))
        .args([format!("-timeout={SLOW}"), format!("-rss_limit_mb={MEMORY}"), format!("-max_len={LONGEST}")])
        .args([format!("-seed_inputs={}", seeds.join(",")), format!("-artifact_prefix={}-", kept.display())])
        .args(["-print_final_stats=1", "-verbosity=1"])
        .arg(&kept);
    let output = output(&mut command, Duration::from_secs(SECONDS * 3), None)?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last = tail(&told, SHOWN).join("\n  ");
        anyhow::bail!(
            "it found something; try it again with `FUZZ={} {} <file>`:\n  {last}",
            target.name,
            program.display()
        );
    }
    figures(&told)
}

/// Of libFuzzer's account: how often the target ran, and how many places of the code were reached.
fn figures(told: &str) -> Result<String> {
    let runs = told
        .lines()
        .find_map(|l| l.strip_prefix("stat::number_of_executed_units:"))
        .context("no count of runs")?;
    let last = told
        .lines()
        .rfind(|l| l.starts_with('#') && l.contains(" cov: "))
        .context("no coverage: is the code instrumented?")?;
    let reached = last.split_whitespace().skip_while(|w| *w != "cov:").nth(1).context("no coverage")?;
    Ok(format!("{} runs, {reached} places of the code reached", runs.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_the_last_ones() {
        let told = "#2\tINITED cov: 12 ft: 12 corp: 1/1b\n#4096\tpulse  cov: 40 ft: 12\n\nDone 9000 runs\n\
                    stat::number_of_executed_units: 9000\n";
        assert_eq!(figures(told).unwrap(), "9000 runs, 40 places of the code reached");
        assert!(figures("stat::number_of_executed_units: 5").is_err());
    }
}
