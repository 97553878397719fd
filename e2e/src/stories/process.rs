//! The operator as a process beside the sandbox, for stories that kill it at any moment and start it again at once.
//! (In a Pod, a loop of kills ends in the kubelet's growing back-off and a new identity waits for the lease.)

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::operator;
use super::stage::Stage;
use crate::sandbox::Sandbox;

/// Under this name it holds the lease, so that one that is started again need not wait for it.
const IDENTITY: &str = "story";

/// An operator that is killed at random moments, and started again at once; it ends when dropped.
pub(super) struct Victim<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
    process: OperatorProcess,
    random: StdRng,
}

impl<'a> Victim<'a> {
    fn start(sandbox: &'a Sandbox, seed: u64) -> Result<Self> {
        let program = program()?;
        let process = OperatorProcess::start(sandbox, &program)?;
        Ok(Self { sandbox, program, process, random: StdRng::seed_from_u64(seed) })
    }

    /// Kills it this often in about this time, and says when: milliseconds, each from the one before.
    ///
    /// # Errors
    /// If it does not start again.
    pub(super) async fn killed(&mut self, times: usize, within: Duration) -> Result<String> {
        let most = u64::try_from(within.as_millis())? / u64::try_from(times.max(1))?;
        let moments: Vec<u64> = (0..times).map(|_| self.random.random_range(0..most.max(1))).collect();
        for moment in &moments {
            tokio::time::sleep(Duration::from_millis(*moment)).await;
            self.process.kill()?;
            self.process = OperatorProcess::start(self.sandbox, &self.program)?;
        }
        Ok(format!("killed after {moments:?} ms"))
    }
}

/// Tells a story with an operator that can be killed in the place of the one in the cluster, which is back at the end; `why` ends
/// the sentence "needs the sandbox: it …".
///
/// # Errors
/// Those of the story; [`super::stage::Skipped`] elsewhere than on the sandbox.
pub(super) async fn with_victim(
    stage: &Stage,
    why: &str,
    told: impl AsyncFnOnce(&mut Victim<'_>) -> Result<()>,
) -> Result<()> {
    let sandbox = stage.sandbox(why)?;
    let seed = stage.seed()?;
    operator::scale(&stage.client, 0).await?;
    let told = async { told(&mut Victim::start(sandbox, seed)?).await }.await;
    operator::scale(&stage.client, 2).await?;
    told
}

/// A running operator; it is killed when dropped.
pub(super) struct OperatorProcess {
    child: Child,
}

impl OperatorProcess {
    /// Starts the operator in the control plane's network, where it reaches every Pod.
    ///
    /// # Errors
    /// If it does not start.
    pub(super) fn start(sandbox: &Sandbox, program: &Path) -> Result<Self> {
        let log = sandbox.instance().path("log").join(format!("operator-{IDENTITY}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command: Command = sandbox.command_in_control(program);
        command
            .env("KUBECONFIG", sandbox.instance().path("kubeconfigs/admin"))
            .args([
                "--lease-namespace",
                operator::NAMESPACE,
                "--identity",
                IDENTITY,
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
    fn kill(&mut self) -> Result<()> {
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
fn program() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name("valkey-cluster-operator");
    ensure!(path.exists(), "there is no {}: `cargo build` makes it", path.display());
    Ok(path)
}
