//! What a person sees who watches: the lines of `kubectl get vkc -w`, as they come.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};

use super::cluster::Cluster;
use super::stage::Stage;

/// A running `kubectl get vkc -w`; it is ended when dropped.
pub(super) struct Watching {
    child: Child,
    lines: PathBuf,
}

impl Watching {
    /// Starts it.
    ///
    /// # Errors
    /// If there is no kubectl.
    pub(super) fn start(stage: &Stage, cluster: &Cluster) -> Result<Self> {
        let lines = std::env::temp_dir().join(format!("valkey-watching-{:016x}", rand::random::<u64>()));
        let mut command = stage.reach().kubectl_command();
        command.args(["get", "vkc", &cluster.name, "-n", &cluster.namespace, "-w"]);
        let output = File::create(&lines)?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("start kubectl")?, lines })
    }

    /// Ends it and returns what it has printed, heading first; a line that repeats the one before is left out.
    ///
    /// # Errors
    /// If what it printed cannot be read.
    pub(super) fn end(mut self) -> Result<Vec<String>> {
        self.stop();
        let mut text = String::new();
        File::open(&self.lines)?.read_to_string(&mut text)?;
        let mut lines: Vec<String> = text.lines().map(|l| l.trim_end().to_owned()).collect();
        // Only the age differs.
        let shown = |l: &String| l.rsplit_once(' ').map_or(l.clone(), |(rest, _)| rest.trim_end().to_owned());
        lines.dedup_by_key(|l| shown(l));
        Ok(lines)
    }

    fn stop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.lines);
    }
}
