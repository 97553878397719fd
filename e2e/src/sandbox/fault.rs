//! Decides what happens when something breaks on purpose: a worker loses its power, a process gets a signal.
//!
//! May kill and start the machines of the sandbox and signal its containers.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use super::address::Worker;
use super::instance::{Instance, Machine};
use super::{cgroup, cluster, load, machine, network, up, wait};
use crate::command::run;
use crate::progress::Step;

/// containerd hands a signal on at once.
const SIGNAL: Duration = Duration::from_secs(10);
/// The kernel has done away with the killed containers by then.
const FREE: Duration = Duration::from_secs(20);

/// A container of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The container's name in the pod.
    pub name: &'a str,
}

/// A loss of power: first nothing is heard of the worker any more, then everything on it is gone. Were it the other
/// way round, the kernel would take leave of every peer.
///
/// # Errors
/// If there is no such worker or a process outlives SIGKILL.
pub(super) fn kill(instance: &Instance, worker: Worker) -> Result<()> {
    let _lock = instance.lock()?;
    network::set_cable(instance, worker, false)?;
    machine::kill(instance, Machine::Worker(worker))?;
    wait::wait_for("the cgroups to be free", FREE, || cgroup::remove_pods(instance, worker))
}

/// The worker's power is back.
///
/// # Errors
/// If it is not Ready in time.
pub(super) fn start(instance: &Instance, worker: Worker, step: &Step) -> Result<()> {
    let _lock = instance.lock()?;
    let since = up::start_worker(instance, worker)?;
    cluster::wait_workers(instance, &[(worker, since)], step)
        .map_err(|error| super::logs::with_tail(instance, &error, &format!("{worker}-kubelet")))
}

/// Sends a signal to the first process of a container through its worker's containerd.
///
/// # Errors
/// If the container does not run or the signal is unknown.
pub(super) async fn signal(
    instance: &Instance,
    client: Client,
    container: &Container<'_>,
    signal: &str,
) -> Result<()> {
    let Container { namespace, pod, name } = container;
    let found = Api::<Pod>::namespaced(client, namespace).get(pod).await?;
    let worker =
        found.spec.and_then(|spec| spec.node_name).with_context(|| format!("{pod} is on no worker"))?;
    let worker: Worker = worker.parse().map_err(anyhow::Error::msg)?;
    let containers = found.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let id = containers
        .iter()
        .find(|status| status.name == *name)
        .and_then(|status| status.container_id.as_deref());
    let id = id.with_context(|| format!("{pod} has no running container {name}"))?;
    let mut kill = load::ctr(instance, worker);
    kill.args(["tasks", "kill", "--signal", signal, id.trim_start_matches("containerd://")]);
    tokio::task::spawn_blocking(move || run(&mut kill, SIGNAL)).await??;
    Ok(())
}
