//! Decides which log a person means, and which part of it an error shows.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::instance::Instance;
use crate::command::tail;

/// How many of the last lines an error shows.
const SHOWN: usize = 12;
/// How many of the last bytes of a log are read for that.
const READ: u64 = 64 * 1024;

/// The log files of all components, by the name that a person gives: `ctl-etcd`, `w1-kubelet`, `relay`, `audit`, …
///
/// # Errors
/// If there is no sandbox.
pub fn names(instance: &Instance) -> Result<Vec<String>> {
    let dir = instance.path("log");
    let entries =
        fs::read_dir(&dir).with_context(|| format!("there are no logs in {}: is it up?", dir.display()))?;
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| stem(entry.path())).collect();
    names.sort();
    Ok(names)
}

/// The log of a component, found by its whole name or by the part behind the machine's (`etcd`, `kube-scheduler`).
pub fn find(instance: &Instance, name: &str) -> Option<PathBuf> {
    let names = names(instance).ok()?;
    let wanted = [name.to_owned(), format!("ctl-{name}"), format!("ctl-kube-{name}")];
    let found = wanted.into_iter().find(|wanted| names.contains(wanted))?;
    Some(instance.path("log").join(format!("{found}.log")))
}

/// The last lines of a file.
///
/// # Errors
/// If it cannot be read.
pub fn last_lines(path: &Path, count: usize) -> Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(tail(&String::from_utf8_lossy(&bytes), count).into_iter().map(str::to_owned).collect())
}

/// The error with the end of a component's log and the command that shows the rest.
pub fn with_tail(instance: &Instance, error: &anyhow::Error, component: &str) -> anyhow::Error {
    let path = instance.path(format!("log/{component}.log"));
    let lines = last_lines(&path, SHOWN).unwrap_or_default();
    let lines = lines.join("\n  | ");
    anyhow::anyhow!("{error:#}\nthe last lines of `cargo sandbox logs {component}`:\n  | {lines}")
}
