//! Decides how a sandbox ends without a trace, whatever state it is in: from what the kernel knows, not from what was
//! written down.
//!
//! May kill what carries the sandbox's mark, lives in its networks or its cgroups, and remove its namespaces, mounts,
//! cgroups and directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};

use super::instance::Instance;
use super::{cgroup, network, procfs, sysctl};
use crate::progress::Progress;

/// All processes are gone after that: SIGKILL leaves no choice but to processes that the kernel itself holds.
const END: Duration = Duration::from_secs(30);

/// Ends the sandbox; says whether there was anything to end.
///
/// # Errors
/// If something cannot be removed, or is still there afterwards: the error names it.
pub(super) fn down(instance: &Instance, progress: &Progress) -> Result<bool> {
    let _lock = instance.lock()?;
    let before = leftovers(instance);
    if before.is_empty() && !instance.dir().exists() {
        return Ok(false);
    }
    let step = progress.step("processes");
    let killed = procfs::kill_all("the sandbox", END, || processes(instance))?;
    step.done(format_args!("{killed} ended"));
    let step = progress.step("namespaces, mounts, cgroups");
    for path in network::namespaces(instance) {
        network::remove(&path)?;
    }
    for path in mounts(instance) {
        umount2(&path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
    }
    // A cgroup is busy until the kernel has done away with its last process.
    super::wait::wait_for("the cgroups to be free", END, || cgroup::remove(instance))?;
    sysctl::restore(instance)?;
    if instance.dir().exists() {
        fs::remove_dir_all(instance.dir())
            .with_context(|| format!("cannot remove {}", instance.dir().display()))?;
    }
    let left = leftovers(instance);
    if !left.is_empty() {
        bail!("the sandbox left behind: {}", left.join(", "));
    }
    step.done("");
    Ok(true)
}

/// Everything of a sandbox that the kernel knows, as short phrases.
pub(super) fn leftovers(instance: &Instance) -> Vec<String> {
    let mut left: Vec<String> = processes(instance).iter().map(|pid| format!("process {pid}")).collect();
    left.extend(
        network::namespaces(instance).iter().map(|path| format!("network namespace {}", path.display())),
    );
    left.extend(mounts(instance).iter().map(|path| format!("mount {}", path.display())));
    left.extend(cgroup::existing(instance).iter().map(|path| format!("cgroup {}", path.display())));
    left
}

/// What is to be killed next: first the first process of each machine, with which the kernel ends the machine; then
/// what else carries the mark; then strangers that were let in.
fn processes(instance: &Instance) -> Vec<i32> {
    let marked = procfs::marked(&instance.mark(""));
    let first: Vec<i32> = marked.iter().filter(|process| process.first).map(|process| process.pid).collect();
    if !first.is_empty() {
        return first;
    }
    if !marked.is_empty() {
        return marked.into_iter().map(|process| process.pid).collect();
    }
    let namespaces = network::namespaces(instance);
    let mut found = procfs::in_netns(namespaces.iter().map(PathBuf::as_path));
    found.extend(cgroup::processes(instance));
    found
}

/// What is mounted below the sandbox's directory, the innermost first. Its machines' mounts are their own and end
/// with them.
fn mounts(instance: &Instance) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .filter(|path| path.starts_with(instance.dir()))
        .map(Path::to_owned)
        .collect();
    found.reverse();
    found
}
