//! Decides which cgroups the kubelets work in: `valkey-sandbox/<instance>/<worker>` under every controller.
//!
//! May make, read and remove those directories.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::address::Worker;
use super::instance::{CGROUP, Instance};

const ROOT: &str = "/sys/fs/cgroup";

/// Makes a worker's cgroup in every hierarchy (cgroup v1), or once with all controllers handed down (v2).
///
/// # Errors
/// If the kernel refuses.
pub(super) fn ensure(instance: &Instance, worker: Worker) -> Result<()> {
    let below = instance.cgroup().join(worker.to_string());
    for hierarchy in hierarchies() {
        let mut dir = hierarchy.clone();
        hand_down(&dir)?;
        for part in &below {
            dir.push(part);
            if !dir.is_dir() {
                fs::create_dir(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
                inherit_cpuset(&dir)?;
            }
            hand_down(&dir)?;
        }
    }
    Ok(())
}

/// Removes everything below a sandbox's cgroups whose processes have ended.
///
/// # Errors
/// If one is still in use.
pub(super) fn remove(instance: &Instance) -> Result<usize> {
    let mut removed = 0;
    for hierarchy in hierarchies() {
        removed += remove_tree(&hierarchy.join(instance.cgroup()))?;
        // The parent is shared by all instances: it goes with the last of them.
        let _ = fs::remove_dir(hierarchy.join(CGROUP));
    }
    Ok(removed)
}

/// Removes what a worker's pods had, as a restart of a real machine does.
///
/// # Errors
/// If one is still in use.
pub(super) fn remove_pods(instance: &Instance, worker: Worker) -> Result<()> {
    let below = instance.cgroup().join(worker.to_string()).join("kubepods");
    hierarchies().iter().try_for_each(|hierarchy| remove_tree(&hierarchy.join(&below)).map(drop))
}

/// The sandbox's cgroups that are there.
pub(super) fn existing(instance: &Instance) -> Vec<PathBuf> {
    let paths = hierarchies().into_iter().map(|hierarchy| hierarchy.join(instance.cgroup()));
    paths.filter(|path| path.is_dir()).collect()
}

/// All processes in a sandbox's cgroups: containers, whatever network they have.
pub(super) fn processes(instance: &Instance) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.join(instance.cgroup()), &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn collect(dir: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in children(dir) {
        collect(&child, found);
    }
}

fn remove_tree(dir: &Path) -> Result<usize> {
    if !dir.is_dir() {
        return Ok(0);
    }
    let mut removed = 0;
    for child in children(dir) {
        removed += remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the cgroup {}", dir.display()))
        }
        _ => Ok(removed + 1),
    }
}

/// The processor time of a Pod in seconds, whichever class of service and whichever version of cgroups it is in.
///
/// # Errors
/// If it has no cgroup on this worker.
pub(super) fn pod_cpu_seconds(instance: &Instance, worker: Worker, uid: &str) -> Result<f64> {
    let below = instance.cgroup().join(worker.to_string()).join("kubepods");
    for root in hierarchies() {
        for class in ["burstable", "besteffort", ""] {
            let pod = root.join(&below).join(class).join(format!("pod{uid}"));
            let used = |file: &str| fs::read_to_string(pod.join(file)).ok();
            if let Some(ns) = used("cpuacct.usage") {
                return Ok(Duration::from_nanos(ns.trim().parse()?).as_secs_f64());
            }
            let stat = used("cpu.stat").unwrap_or_default();
            if let Some(us) = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
                return Ok(Duration::from_micros(us.trim().parse()?).as_secs_f64());
            }
        }
    }
    bail!("Pod {uid} has no cgroup on {worker}")
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

/// The roots of all hierarchies: one with cgroup v2, one for each controller with v1.
fn hierarchies() -> Vec<PathBuf> {
    if is_v2(Path::new(ROOT)) {
        return vec![PathBuf::from(ROOT)];
    }
    // Some names are links to the hierarchy of several controllers: those are not directories.
    let mut found = children(Path::new(ROOT));
    found.retain(|path| path.join("cgroup.procs").exists());
    found.sort();
    found
}

fn is_v2(dir: &Path) -> bool {
    dir.join("cgroup.controllers").exists()
}

/// With cgroup v2 a directory's children have only the controllers that it hands down.
fn hand_down(dir: &Path) -> Result<()> {
    if !is_v2(dir) {
        return Ok(());
    }
    let all = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let words: Vec<String> = all.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(dir.join("cgroup.subtree_control"), words.join(" "))
        .with_context(|| format!("cannot hand down controllers in {}", dir.display()))
}

/// With cgroup v1 a new cpuset is empty and accepts no process.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        if !is_v2(dir) && file.exists() && fs::read_to_string(&file)?.trim().is_empty() {
            fs::write(&file, fs::read_to_string(parent.join(name))?)?;
        }
    }
    Ok(())
}
