//! Decides how a machine of the sandbox is started and ended: a first process with network, mounts and process
//! numbers of its own, so that the kernel itself ends everything in it when that process ends.
//!
//! May start and kill the processes of that machine.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::instance::{Instance, MARK, Machine, write};
use super::procfs;
use super::wait::wait_for;

/// A killed machine is empty after that: the kernel kills all its processes at once.
const END: Duration = Duration::from_secs(20);
/// A started machine has its first process after that.
const START: Duration = Duration::from_secs(10);

/// What a machine runs, as its first process reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    /// An empty file system of its own is mounted on each of these.
    pub(super) empty: Vec<PathBuf>,
    /// The second path is replaced by the first, for this machine only.
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
    /// Removed at start: left behind by a life that ended without warning.
    pub(super) stale: Vec<PathBuf>,
    /// The programs.
    pub(super) services: Vec<Service>,
}

/// A program that is started again whenever it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Its short name.
    pub(super) name: String,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Where its output is appended.
    pub(super) log: PathBuf,
    /// It is started when all of these exist.
    pub(super) when: Vec<PathBuf>,
}

/// Whether the machine runs.
pub(super) fn is_running(instance: &Instance, machine: Machine) -> bool {
    procfs::first_of(&instance.mark(&machine.to_string())).is_some()
}

/// Starts a machine that does not run, in its network namespace, which exists.
///
/// # Errors
/// If its first process does not come up.
pub(super) fn start(instance: &Instance, machine: Machine, description: &Description) -> Result<()> {
    let file = instance.path(format!("{machine}.json"));
    write(&file, &serde_json::to_vec_pretty(description)?)?;
    let log = instance.log(machine, "init");
    let mut command = Command::new("setsid");
    command
        .args(["nsenter".into(), format!("--net={}", instance.netns_path(machine).display())])
        .args(["unshare", "--mount", "--pid", "--fork", "--mount-proc"])
        .arg(own_program()?)
        .arg("machine")
        .arg(&file);
    detached(&mut command, instance, &machine.to_string(), &log)?;
    let mark = instance.mark(&machine.to_string());
    wait_for(&format!("the first process of {machine}"), START, || {
        procfs::first_of(&mark).map(drop).with_context(|| format!("not there yet: see {}", log.display()))
    })
}

/// Ends a machine as a loss of power does.
///
/// # Errors
/// If its processes outlive SIGKILL.
pub(super) fn kill(instance: &Instance, machine: Machine) -> Result<()> {
    let mark = instance.mark(&machine.to_string());
    // With the first process the kernel ends all the others.
    procfs::kill_all(&format!("machine {machine}"), END, || procfs::first_of(&mark).into_iter().collect())?;
    Ok(())
}

/// Starts a program of the sandbox that goes on when this one ends.
///
/// # Errors
/// If it cannot be started.
pub(super) fn detached(command: &mut Command, instance: &Instance, part: &str, log: &Path) -> Result<()> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = command
        .env(MARK, instance.mark(part))
        .env("PATH", search_path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot start {part}"))?;
    // Its end is nobody's concern, but as long as this process lives it must be waited for, or it stays a zombie.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// The person's search path and the places where Debian keeps administrators' programs.
pub(super) fn search_path() -> String {
    let given = std::env::var("PATH").unwrap_or_default();
    format!("{given}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
}

/// The sandbox's own program, also when its library is used by another one, such as a test, of the same build.
///
/// # Errors
/// If it is not beside the running program.
pub(super) fn own_program() -> Result<PathBuf> {
    let running = std::env::current_exe()?;
    running
        .ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("sandbox"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("there is no `sandbox` beside {}: cargo build -p e2e --bin sandbox", running.display())
        })
}
