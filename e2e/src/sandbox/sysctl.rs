//! Decides that the kernel settings that a kubelet changes for the whole machine get their old values back.
//!
//! May read those settings and, when the last sandbox ends, write them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::instance::{Instance, write};

/// What a kubelet sets at its start, by its own list.
const CHANGED: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Keeps the present values, unless a sandbox on this machine has done so before.
///
/// # Errors
/// If they cannot be written down.
pub(super) fn save(instance: &Instance) -> Result<()> {
    let file = file(instance)?;
    if file.exists() {
        return Ok(());
    }
    let values: BTreeMap<&str, String> = CHANGED
        .into_iter()
        .filter_map(|name| Some((name, fs::read_to_string(path(name)).ok()?.trim().to_owned())))
        .collect();
    write(&file, &serde_json::to_vec_pretty(&values)?)
}

/// Puts the old values back, if no other sandbox is left on this machine.
///
/// # Errors
/// If a value is refused.
pub(super) fn restore(instance: &Instance) -> Result<()> {
    let file = file(instance)?;
    let Ok(text) = fs::read(&file) else { return Ok(()) };
    let base = file.parent().context("the state directory has no parent")?;
    let others =
        fs::read_dir(base)?.flatten().any(|entry| entry.path().is_dir() && entry.path() != instance.dir());
    if others {
        return Ok(());
    }
    let values: BTreeMap<String, String> = serde_json::from_slice(&text)?;
    for (name, value) in values {
        // An unchanged value is not written: some are read-only in containers.
        if fs::read_to_string(path(&name)).is_ok_and(|now| now.trim() != value) {
            fs::write(path(&name), &value).with_context(|| format!("cannot set {name} back to {value}"))?;
        }
    }
    Ok(fs::remove_file(&file)?)
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn file(instance: &Instance) -> Result<PathBuf> {
    Ok(instance.dir().parent().context("the state directory has no parent")?.join("sysctl.json"))
}
