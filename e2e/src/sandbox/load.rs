//! Decides which images a worker still lacks, and gives it those.
//!
//! May import images into the workers' containerd.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::address::Worker;
use super::image::Archive;
use super::instance::{Instance, write};
use super::wait::wait_for;
use super::worker::{snapshotter, socket};
use crate::command::run;

/// containerd listens after that, also when it has to clean up after a crash.
const LISTEN: Duration = Duration::from_secs(30);
/// Unpacking a hundred megabytes on a busy machine.
const IMPORT: Duration = Duration::from_mins(3);

/// Imports what is missing into every one of these workers, side by side; says how many imports there were.
///
/// # Errors
/// If a worker's containerd does not answer, or refuses an image.
pub(super) fn load(instance: &Instance, workers: &[Worker], archives: &[Archive]) -> Result<usize> {
    std::thread::scope(|scope| {
        let works: Vec<_> = workers
            .iter()
            .map(|worker| scope.spawn(move || load_worker(instance, *worker, archives)))
            .collect();
        let counts =
            works.into_iter().map(|work| work.join().unwrap_or_else(|_| bail!("an importing thread died")));
        counts.sum()
    })
}

fn load_worker(instance: &Instance, worker: Worker, archives: &[Archive]) -> Result<usize> {
    wait_for(&format!("containerd of {worker}"), LISTEN, || {
        let path = socket(instance, worker);
        std::os::unix::net::UnixStream::connect(&path).map(drop).with_context(|| {
            format!("{} does not answer: see `sandbox logs {worker}-containerd`", path.display())
        })
    })?;
    let mut known = known(instance, worker);
    let mut count = 0;
    for archive in archives {
        if archive.names.iter().all(|name| known.get(name) == Some(&archive.digest)) {
            continue;
        }
        let mut import = ctr(instance, worker);
        import
            .args(["images", "import", "--snapshotter", snapshotter(&instance.worker(worker))])
            .arg(&archive.path);
        run(&mut import, IMPORT)
            .with_context(|| format!("{worker} cannot take {}", archive.names.join(", ")))?;
        known.extend(archive.names.iter().map(|name| (name.clone(), archive.digest.clone())));
        count += 1;
        write(&record(instance, worker), &serde_json::to_vec_pretty(&known)?)?;
    }
    write(&instance.images_ready(worker), b"")?;
    Ok(count)
}

/// The images that a worker was given, with their digests.
pub(super) fn known(instance: &Instance, worker: Worker) -> BTreeMap<String, String> {
    let text = fs::read(record(instance, worker)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The client of a worker's containerd, in the namespace of its pods.
pub(super) fn ctr(instance: &Instance, worker: Worker) -> Command {
    let mut command = Command::new("ctr");
    command.arg("-a").arg(socket(instance, worker)).args(["-n", "k8s.io"]);
    command
}

fn record(instance: &Instance, worker: Worker) -> PathBuf {
    instance.worker(worker).join("images.json")
}
