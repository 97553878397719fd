//! The program of an earlier build of the operator, made from the history of this repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::stage::{Skipped, Stage};
use crate::cache::Cache;
use crate::command::{cargo, run_shown, succeeds};

/// A program of somebody's choice, instead.
const PROGRAM: &str = "EARLIER";
/// Of November 22nd: the operator's own user may do less, that of the replication more, the preStop hook and the network policy read
/// otherwise, and the status has fields less.
const REVISION: &str = "2f568cf5ae3937c030d282e5f83a82d6a4f37491";
/// What it is called.
const NAME: &str = "valkey-cluster-operator";
/// Everything from nothing on two slow cores.
const BUILD: Duration = Duration::from_mins(30);
/// git looks into its own files.
const GIT: Duration = Duration::from_secs(10);

/// The one that `EARLIER` names, if it names one.
pub(super) fn given() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The one that `EARLIER` names, or that of the revision, which is built once and kept.
///
/// # Errors
/// [`Skipped`] where the history is not there, as in a shallow clone; if it does not compile.
pub(super) fn program(stage: &Stage) -> Result<PathBuf> {
    if let Some(given) = given() {
        ensure!(given.is_file(), "{PROGRAM}={} is no program", given.display());
        return Ok(given);
    }
    let mut known = git(&["cat-file", "-e", REVISION]);
    if !succeeds(&mut known, GIT) {
        let why = format!(
            "the history of this repository does not go back to {REVISION}: {PROGRAM} may name a program"
        );
        return Err(Skipped(why).into());
    }
    let built = Cache::open()?.entry("earlier", REVISION, |dir| build(stage, dir))?;
    Ok(built.join(NAME))
}

/// Builds it, and keeps nothing but the program.
fn build(stage: &Stage, dir: &Path) -> Result<()> {
    let step = stage.progress.step("build an earlier operator");
    let (source, target) = (dir.join("source"), dir.join("target"));
    std::fs::create_dir_all(&source)?;
    let mut archive = git(&["archive", REVISION]).stdout(Stdio::piped()).spawn()?;
    let text = archive.stdout.take().context("git has no output")?;
    let unpacked = Command::new("tar").arg("-x").current_dir(&source).stdin(text).status()?;
    ensure!(archive.wait()?.success() && unpacked.success(), "the sources of {REVISION} cannot be unpacked");
    let mut compile = cargo(["build", "--locked", "--package", NAME, "--bin", NAME]);
    compile.current_dir(&source).env("CARGO_TARGET_DIR", &target);
    run_shown(&mut compile, BUILD, &step)?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    std::fs::copy(target.join(triple).join("debug").join(NAME), dir.join(NAME)).context("where is it?")?;
    std::fs::remove_dir_all(&source)?;
    std::fs::remove_dir_all(&target)?;
    step.done("");
    Ok(())
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(crate::root());
    command
}
