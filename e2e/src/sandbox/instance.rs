//! Decides where one sandbox keeps its things and how they are named, so that two never meet.
//!
//! May touch the sandbox's own directory.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::address::Worker;

/// Set in the environment of everything that the sandbox starts, to `<instance>/<machine>`: what carries it can be
/// found again even if every file was lost.
pub const MARK: &str = "VALKEY_SANDBOX_MACHINE";
/// The cgroup under which every instance has its own.
pub const CGROUP: &str = "valkey-sandbox";
/// The longest name of an instance: names of network namespaces and socket paths (108 bytes) are made from it.
const LONGEST: usize = 20;

/// One sandbox: its name and its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    dir: PathBuf,
}

/// A set of processes with a network, mounts and process numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// etcd, API server, controller manager, scheduler.
    Control,
    /// containerd, kubelet, kube-proxy and the pods.
    Worker(Worker),
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control => write!(f, "ctl"),
            Self::Worker(worker) => write!(f, "{worker}"),
        }
    }
}

/// What a person asked for; kept so that other commands and a second `up` know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// How many workers there are.
    pub workers: u8,
    /// In how many zones they are; 0 = they carry no zone.
    pub zones: u8,
    /// The port of the API server on 127.0.0.1.
    pub port: u16,
}

impl Instance {
    /// The instance of a name, under `$SANDBOX_STATE` or `/var/lib/valkey-sandbox`.
    ///
    /// # Errors
    /// If the name is empty, too long, or holds anything but small letters, digits and dashes.
    pub fn named(name: &str) -> Result<Self> {
        let fits = (1..=LONGEST).contains(&name.len());
        if !fits || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            bail!("`{name}` cannot name a sandbox: use 1 to {LONGEST} small letters, digits and dashes");
        }
        let base = std::env::var_os("SANDBOX_STATE").filter(|value| !value.is_empty());
        let base = base.map_or_else(|| PathBuf::from("/var/lib/valkey-sandbox"), PathBuf::from);
        Ok(Self { name: name.to_owned(), dir: base.join(name) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in its directory.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// The directory of a worker.
    pub fn worker(&self, worker: Worker) -> PathBuf {
        self.dir.join(worker.to_string())
    }

    /// The log of a service of a machine.
    pub fn log(&self, machine: Machine, service: &str) -> PathBuf {
        self.dir.join("log").join(format!("{machine}-{service}.log"))
    }

    /// The API server's audit log: one JSON event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("log/audit.log")
    }

    /// The kubeconfig for use on this machine, outside the sandbox's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The prefix of the names of all its network namespaces.
    pub fn netns_prefix(&self) -> String {
        format!("vs-{}-", self.name)
    }

    /// The name of a machine's network namespace.
    pub fn netns(&self, machine: Machine) -> String {
        format!("{}{machine}", self.netns_prefix())
    }

    /// Where that namespace is bound.
    pub fn netns_path(&self, machine: Machine) -> PathBuf {
        netns_dir().join(self.netns(machine))
    }

    /// The mark of everything that belongs to a part of it: `<instance>/<part>`.
    pub fn mark(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    /// Its cgroup, below every controller's root.
    pub fn cgroup(&self) -> PathBuf {
        Path::new(CGROUP).join(&self.name)
    }

    /// The file whose existence tells every machine that the API server answers.
    pub fn api_ready(&self) -> PathBuf {
        self.dir.join("api-ready")
    }

    /// The file whose existence tells a worker that its images are there.
    pub fn images_ready(&self, worker: Worker) -> PathBuf {
        self.worker(worker).join("images-ready")
    }

    /// The shape of a sandbox that exists, `None` if there is none of this name.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn shape(&self) -> Result<Option<Shape>> {
        let path = self.dir.join("shape.json");
        match fs::read(&path) {
            Ok(text) => {
                Ok(Some(serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Records the shape.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn set_shape(&self, shape: &Shape) -> Result<()> {
        write(&self.dir.join("shape.json"), &serde_json::to_vec_pretty(shape)?)
    }

    /// Keeps other commands from changing this sandbox as long as the returned file is open.
    ///
    /// # Errors
    /// If another command is at work on it.
    pub fn lock(&self) -> Result<File> {
        let base = self.dir.parent().context("the state directory has no parent")?;
        fs::create_dir_all(base).with_context(|| format!("cannot make {}: are you root?", base.display()))?;
        let file = File::create(base.join(format!("{}.lock", self.name)))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "another command is changing the sandbox `{}`: wait until it is over, or give this one another --name",
                self.name
            ),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the sandbox"),
        }
    }
}

/// Where named network namespaces are bound, by the convention of iproute2.
pub fn netns_dir() -> &'static Path {
    Path::new("/run/netns")
}

/// Writes a file whole or not at all, making its directory if needed.
///
/// # Errors
/// If the file system refuses.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let half = path.with_extension("half");
    fs::write(&half, content).with_context(|| format!("cannot write {}", half.display()))?;
    fs::rename(&half, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_no_name() {
        let (one, two) = (Instance::named("one").unwrap(), Instance::named("two").unwrap());
        let machine = Machine::Worker(Worker::new(1).unwrap());
        assert_eq!(one.netns(machine), "vs-one-w1");
        assert_ne!(one.netns(machine), two.netns(machine));
        assert_ne!(one.cgroup(), two.cgroup());
        assert_ne!(one.dir(), two.dir());
    }

    #[test]
    fn a_bad_name_is_refused() {
        for name in ["", "Upper", "a/b", "..", "a-name-that-is-far-too-long"] {
            assert!(Instance::named(name).is_err(), "{name}");
        }
    }
}
