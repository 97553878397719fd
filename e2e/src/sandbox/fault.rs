//! Decides what happens when something breaks on purpose: a worker loses its power, a process gets a signal.
//!
//! May kill and start the machines of the sandbox, signal its containers and the control plane's programs, and drop pods'
//! packets.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::address::Worker;
use super::instance::{Instance, Machine};
use super::{cgroup, cluster, machine, network, procfs, up, wait};
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

/// The next pod of this worker gets this address, if it is free: the allocator goes on from the one before.
///
/// # Errors
/// If the file of the allocator cannot be written.
pub(super) fn give_next(instance: &Instance, worker: Worker, address: Ipv4Addr) -> Result<()> {
    let before = Ipv4Addr::from(u32::from(address).saturating_sub(1));
    let file = instance.worker(worker).join("addresses/pods/last_reserved_ip.0");
    std::fs::write(&file, before.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

/// A container that runs, as its worker's containerd knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    id: String,
}

/// Finds a container on its worker.
///
/// # Errors
/// If it does not run.
pub(super) async fn find(client: Client, container: &Container<'_>) -> Result<Running> {
    let Container { namespace, pod, name } = container;
    let found = Api::<Pod>::namespaced(client, namespace).get(pod).await?;
    let containers = found.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let id = containers
        .iter()
        .find(|status| status.name == *name)
        .and_then(|status| status.container_id.as_deref());
    let id = id.with_context(|| format!("{pod} has no running container {name}"))?;
    Ok(Running { id: id.trim_start_matches("containerd://").to_owned() })
}

/// Sends a signal to the first process of a container: neither an API server nor containerd is asked, which take long on a busy machine.
///
/// # Errors
/// If the container does not run any more.
pub(super) fn signal(container: &Running, signal: Signal) -> Result<()> {
    let found = procfs::first_in_container(&container.id);
    let first = found.with_context(|| format!("container {} does not run any more", container.id))?;
    nix::sys::signal::kill(Pid::from_raw(first), signal)
        .with_context(|| format!("container {} does not take {signal}", container.id))
}

/// Stops a component of the control plane where it stands (it takes connections and answers nothing), or lets it go on.
///
/// # Errors
/// If no such component runs.
pub(super) fn hang(instance: &Instance, component: &str, hangs: bool) -> Result<()> {
    let netns = instance.netns_path(Machine::Control);
    let all = procfs::in_netns([netns.as_path()]);
    let found: Vec<i32> = all.into_iter().filter(|pid| procfs::program(*pid) == component).collect();
    ensure!(!found.is_empty(), "the control plane runs no {component}");
    for pid in found {
        let what = if hangs { Signal::SIGSTOP } else { Signal::SIGCONT };
        nix::sys::signal::kill(Pid::from_raw(pid), what)
            .with_context(|| format!("{component} does not take the signal"))?;
    }
    Ok(())
}

/// Drops every packet from and to a pod on its worker, or those alone that go to this port (of the pod, or of others that it asks), or
/// lets them pass again. The pod and the kubelet live on.
///
/// # Errors
/// If there is no such worker, or nothing to let pass.
pub(super) fn isolate(
    instance: &Instance,
    worker: Worker,
    (pod, port): (IpAddr, Option<u16>),
    alone: bool,
) -> Result<()> {
    let action = if alone { "-I" } else { "-D" };
    let port = port.map(|port| port.to_string());
    let only = port.iter().flat_map(|port| ["-p", "tcp", "--dport", port.as_str()]);
    let only: Vec<&str> = only.collect();
    for side in ["-s", "-d"] {
        let mut rule = network::inside(instance, Machine::Worker(worker), "iptables");
        rule.args(["-w", "5", action, "FORWARD", side, &pod.to_string()]).args(&only).args(["-j", "DROP"]);
        run(rule.env("PATH", machine::search_path()), SIGNAL)?;
    }
    Ok(())
}
