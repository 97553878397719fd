//! The operator as a process beside the sandbox, for stories that kill it at any moment and start it again at once.
//! (In a Pod, a loop of kills ends in the kubelet's growing back-off and a new identity waits for the lease.)

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::stage::Stage;
use crate::sandbox::Sandbox;

/// Sets the random moments of a story, so that a run can be told again.
const SEED: &str = "SEED";

/// A running operator; it is killed when dropped.
pub(super) struct OperatorProcess {
    child: Child,
}

impl OperatorProcess {
    /// Starts the operator in the control plane's network, where it reaches every Pod.
    ///
    /// # Errors
    /// If it does not start.
    pub(super) fn start(sandbox: &Sandbox, program: &Path, identity: &str) -> Result<Self> {
        let log = sandbox.instance().path("log").join(format!("operator-{identity}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command: Command = sandbox.command_in_control(program);
        command
            .env("KUBECONFIG", sandbox.instance().path("kubeconfigs/admin"))
            .args([
                "--lease-namespace",
                super::operator::NAMESPACE,
                "--identity",
                identity,
                "--listen",
                "127.0.0.1:0",
            ])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child })
    }

    /// SIGKILL: it has no chance to say anything.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.kill();
    }
}

/// The operator that was built with this program.
///
/// # Errors
/// If it was not built.
pub(super) fn program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name("valkey-cluster-operator");
    ensure!(path.exists(), "there is no {}: `cargo build` makes it", path.display());
    Ok(path)
}

/// The number that the random moments of a story come from: `SEED`, or a new one, which is printed.
///
/// # Errors
/// If `SEED` is no number.
pub(super) fn seed(stage: &Stage) -> Result<u64> {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED}={text} is no number"))?,
        Err(_) => rand::random(),
    };
    stage.say(format_args!("{SEED}={seed}"));
    Ok(seed)
}
