//! What a story breaks, and how it is mended: at the latest when the story ends, whichever way it ends.

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::cluster::Cluster;
use super::operator;
use super::stage::Stage;
use crate::progress::Progress;
use crate::sandbox::address::Worker;
use crate::sandbox::{Container, Running, Sandbox};

/// Where nodes talk to each other.
pub(super) const BUS_PORT: u16 = 16379;

type Repair = Box<dyn FnOnce() -> Result<()> + Send>;

/// Something that is broken until this is told to mend it, or dropped.
pub(super) struct Mend {
    what: String,
    repair: Option<Repair>,
}

impl Mend {
    fn new(what: String, repair: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self { what, repair: Some(Box::new(repair)) }
    }

    /// Mends it.
    ///
    /// # Errors
    /// If that does not work.
    pub(super) fn now(mut self) -> Result<()> {
        let repair = self.repair.take().context("it is mended already")?;
        tokio::task::block_in_place(repair).with_context(|| format!("cannot mend {}", self.what))
    }
}

impl Drop for Mend {
    fn drop(&mut self) {
        if let Some(repair) = self.repair.take()
            && let Err(error) = tokio::task::block_in_place(repair)
        {
            eprintln!("cannot mend {}: {error:#}", self.what);
        }
    }
}

/// A worker as the sandbox calls it.
///
/// # Errors
/// If that is no worker of a sandbox.
pub(super) fn worker(name: &str) -> Result<Worker> {
    name.parse().map_err(anyhow::Error::msg)
}

/// Pulls the cable of a worker.
///
/// # Errors
/// If there is no such worker.
pub(super) fn cut(sandbox: &Sandbox, name: &str) -> Result<Mend> {
    let (at, sandbox) = (worker(name)?, sandbox.clone());
    sandbox.cut(at)?;
    Ok(Mend::new(format!("the cable of {name}"), move || sandbox.heal(at)))
}

/// Takes the power of a worker; to mend it waits until the worker is Ready.
///
/// # Errors
/// If there is no such worker.
pub(super) fn power_off(sandbox: &Sandbox, name: &str) -> Result<Mend> {
    let (at, sandbox) = (worker(name)?, sandbox.clone());
    let mend = sandbox.clone();
    let mend = Mend::new(format!("the power of {name}"), move || mend.start(at, &Progress::hidden()));
    tokio::task::block_in_place(|| sandbox.kill(at))?;
    Ok(mend)
}

/// Taints a worker: `key=value:Effect`, as kubectl takes it.
///
/// # Errors
/// If there is no such worker.
pub(super) async fn taint(stage: &Stage, worker: &str, taint: &str) -> Result<Mend> {
    let (effectless, effect) = taint.split_once(':').context("a taint has an effect")?;
    let key = effectless.split('=').next().unwrap_or_default();
    let (off, node, reach) = (format!("{key}:{effect}-"), worker.to_owned(), stage.reach().clone());
    stage.kubectl(&["taint", "node", worker, taint]).await?;
    Ok(Mend::new(format!("the taint {taint} of {worker}"), move || {
        reach.kubectl(&["taint", "node", &node, &off]).map(drop)
    }))
}

/// Stops a component of the control plane where it stands.
///
/// # Errors
/// If it does not run.
pub(super) fn hang(sandbox: &Sandbox, component: &'static str) -> Result<Mend> {
    sandbox.hang(component)?;
    let sandbox = sandbox.clone();
    Ok(Mend::new(component.to_owned(), move || sandbox.go_on(component)))
}

/// Stops a server where it stands; nothing is left to mend when it has ended meanwhile.
///
/// # Errors
/// If it does not run.
pub(super) fn pause(sandbox: &Sandbox, server: Running) -> Result<Mend> {
    sandbox.signal_running(&server, Signal::SIGSTOP)?;
    let sandbox = sandbox.clone();
    Ok(Mend::new("a server that was stopped".to_owned(), move || {
        let _ = sandbox.signal_running(&server, Signal::SIGCONT);
        Ok(())
    }))
}

/// Drops all packets from and to a Pod.
///
/// # Errors
/// If there is no such worker.
pub(super) fn isolate(sandbox: &Sandbox, on: &str, pod: std::net::IpAddr) -> Result<Mend> {
    let (at, sandbox) = (worker(on)?, sandbox.clone());
    sandbox.isolate(at, pod)?;
    Ok(Mend::new(format!("the network of {pod}"), move || sandbox.rejoin(at, pod)))
}

/// Drops what a Pod and others say to each other over the cluster's bus: clients, replicas and the operator notice nothing.
///
/// # Errors
/// If there is no such worker.
pub(super) fn deafen(sandbox: &Sandbox, on: &str, pod: std::net::IpAddr) -> Result<Mend> {
    let (at, sandbox) = (worker(on)?, sandbox.clone());
    sandbox.filter(at, pod, BUS_PORT, true)?;
    Ok(Mend::new(format!("the bus of {pod}"), move || sandbox.filter(at, pod, BUS_PORT, false)))
}

/// The running server of a member, for a signal at any later moment.
///
/// # Errors
/// [`super::stage::Skipped`] elsewhere than on the sandbox; if it does not run.
pub(super) async fn server(stage: &Stage, cluster: &Cluster, pod: &str) -> Result<Running> {
    let container = Container { namespace: &cluster.namespace, pod, name: "server" };
    stage.sandbox("it kills processes on the workers")?.find(&container).await
}

/// SIGKILL of a server.
///
/// # Errors
/// [`super::stage::Skipped`] elsewhere than on the sandbox; if it does not run.
pub(super) async fn kill(stage: &Stage, cluster: &Cluster, pod: &str) -> Result<()> {
    let container = Container { namespace: &cluster.namespace, pod, name: "server" };
    stage.sandbox("it kills processes on the workers")?.signal(&container, Signal::SIGKILL).await
}

/// SIGKILL of an operator's process: nothing is given back, and its Pod starts it again.
///
/// # Errors
/// [`super::stage::Skipped`] elsewhere than on the sandbox; if it does not run.
pub(super) async fn kill_operator(stage: &Stage, pod: &str) -> Result<()> {
    let container = Container { namespace: operator::NAMESPACE, pod, name: operator::CONTAINER };
    stage.sandbox("it kills processes on the workers")?.signal(&container, Signal::SIGKILL).await
}
