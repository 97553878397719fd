//! Decides which processes belong to a sandbox, from what the kernel says about them, and ends them.
//!
//! May read /proc and kill processes that carry a sandbox's mark or live in one of its network namespaces. It
//! trusts no recorded process number: those are used again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instance::MARK;

/// How often the end of killed processes is checked.
const POLL: Duration = Duration::from_millis(20);

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number in this process-number namespace.
    pub(super) pid: i32,
    /// The mark that it carries.
    pub(super) mark: String,
    /// Whether it is the first process of a process-number namespace of its own.
    pub(super) first: bool,
}

/// All processes whose mark begins with `prefix`. A dead one that nobody has waited for (a zombie) has no
/// environment any more and is not among them.
pub(super) fn marked(prefix: &str) -> Vec<Process> {
    let mut found = Vec::new();
    for pid in pids() {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        if let Some(mark) = mark_in(&environment).filter(|mark| mark.starts_with(prefix)) {
            found.push(Process { pid, mark, first: is_first(pid) });
        }
    }
    found
}

/// The process that is number 1 of the machine with this mark.
pub(super) fn first_of(mark: &str) -> Option<i32> {
    marked(mark).into_iter().find(|process| process.first && process.mark == mark).map(|process| process.pid)
}

/// The process that is number 1 of the container with this id, which its control group is named after.
pub(super) fn first_in_container(id: &str) -> Option<i32> {
    let inside = |pid: &i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains(id) && is_first(*pid)
    };
    pids().into_iter().find(inside)
}

/// All processes whose network namespace is one of those bound at `paths`.
pub(super) fn in_netns<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<i32> {
    let wanted: BTreeSet<(u64, u64)> = paths.into_iter().filter_map(identity).collect();
    let inside = |pid: &i32| {
        identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|id| wanted.contains(&id))
    };
    if wanted.is_empty() { Vec::new() } else { pids().into_iter().filter(inside).collect() }
}

/// The file name of the program that a process runs; empty when it has ended.
pub(super) fn program(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = String::from_utf8_lossy(first);
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Device and inode of a namespace: equal for two paths exactly if they are the same namespace.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Kills whatever `find` finds, again and again until it finds nothing.
///
/// # Errors
/// If something is still found after `limit`: the error names the process numbers.
pub(super) fn kill_all(what: &str, limit: Duration, find: impl Fn() -> Vec<i32>) -> Result<usize> {
    let spared = ancestors();
    let begun = Instant::now();
    let mut killed = BTreeSet::new();
    loop {
        let found: Vec<i32> = find().into_iter().filter(|pid| !spared.contains(pid)).collect();
        if found.is_empty() {
            return Ok(killed.len());
        }
        if begun.elapsed() > limit {
            bail!("{what} did not end within {} s of SIGKILL: processes {found:?}", limit.as_secs());
        }
        for pid in found {
            // It may have ended this moment: the next round sees it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
        std::thread::sleep(POLL);
    }
}

fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn mark_in(environment: &[u8]) -> Option<String> {
    let entry = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")));
    entry.map(|mark| String::from_utf8_lossy(mark).into_owned())
}

/// Its number in the innermost namespace is 1, and that is not the one we live in.
fn is_first(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

/// This process and those that started it: never killed by a sandbox's end.
fn ancestors() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut pid = i32::try_from(std::process::id()).unwrap_or(1);
    while pid > 1 && found.insert(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_from_an_environment() {
        assert_eq!(mark_in(b"A=1\0VALKEY_SANDBOX_MACHINE=x/w1\0B=2\0").as_deref(), Some("x/w1"));
        assert_eq!(mark_in(b"OTHER_VALKEY_SANDBOX_MACHINE=x/w1\0"), None);
    }

    #[test]
    fn marked_processes_are_found_and_killed_and_no_others() {
        let mark = format!("test-{}/w1", std::process::id());
        let mut child = std::process::Command::new("sleep").arg("60").env(MARK, &mark).spawn().unwrap();
        let find = || marked(&mark).into_iter().map(|process| process.pid).collect::<Vec<_>>();
        // The child is marked as soon as it has become `sleep`; spawn returns only then.
        assert_eq!(find(), [i32::try_from(child.id()).unwrap()]);
        assert_eq!(kill_all("test", Duration::from_secs(10), find).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn this_process_is_never_killed() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(ancestors().contains(&own));
        assert_eq!(kill_all("test", Duration::from_secs(1), || vec![own]).unwrap(), 0);
    }
}
