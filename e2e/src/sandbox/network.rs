//! Decides how the machines are wired: one network namespace each, a cable from every worker to a bridge in the
//! control plane's, and static routes to everybody's pods.
//!
//! May make and remove the network namespaces of its sandbox, and change what is in them; nothing else.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::address::{CONTROL, Worker};
use super::instance::{Instance, Machine, netns_dir};
use super::machine::search_path;
use crate::command::run;

/// Everything here is a few system calls.
const LIMIT: Duration = Duration::from_secs(20);

/// Makes whatever is missing of the network of the control plane and `count` workers.
///
/// # Errors
/// If `ip` fails.
pub(super) fn ensure(instance: &Instance, count: u8) -> Result<()> {
    if ensure_netns(instance, Machine::Control)? {
        let script = format!(
            "link set lo up\nlink add br0 type bridge\naddr add {CONTROL}/24 dev br0\nlink set br0 up\n"
        );
        batch(instance, Machine::Control, &script)?;
        route(instance, Machine::Control)?;
    }
    for worker in Worker::first(count) {
        ensure_worker(instance, worker)?;
    }
    for worker in Worker::first(count) {
        let others = Worker::first(count).filter(|other| *other != worker);
        batch(instance, Machine::Worker(worker), &routes(others))?;
    }
    batch(instance, Machine::Control, &routes(Worker::first(count)))
}

fn ensure_worker(instance: &Instance, worker: Worker) -> Result<()> {
    let machine = Machine::Worker(worker);
    if ensure_netns(instance, machine)? {
        route(instance, machine)?;
    }
    if !cable_exists(instance, worker) {
        let (cable, netns) = (worker.cable(), instance.netns(machine));
        let script = format!(
            "link add {cable} type veth peer name eth0 netns {netns}\nlink set {cable} master br0\nlink set {cable} up\n"
        );
        batch(instance, Machine::Control, &script)?;
        let script = format!(
            "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute replace default via {CONTROL}\n",
            worker.address()
        );
        batch(instance, machine, &script)?;
    }
    set_cable(instance, worker, true)
}

fn routes(workers: impl Iterator<Item = Worker>) -> String {
    workers.fold(String::new(), |mut script, worker| {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "route replace {} via {}", worker.pods(), worker.address());
        script
    })
}

/// Plugs a worker's cable in or out, at the control plane's end.
///
/// # Errors
/// If there is no such worker.
pub(super) fn set_cable(instance: &Instance, worker: Worker, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    batch(instance, Machine::Control, &format!("link set {} {state}\n", worker.cable()))
        .with_context(|| format!("cannot set the cable of {worker} {state}: is there such a worker?"))
}

/// Whether a worker's cable is plugged in.
pub(super) fn is_plugged(instance: &Instance, worker: Worker) -> bool {
    let mut command = Command::new("ip");
    command.args([
        "-n",
        &instance.netns(Machine::Control),
        "-o",
        "link",
        "show",
        "dev",
        &worker.cable(),
        "up",
    ]);
    run(command.env("PATH", search_path()), LIMIT).is_ok_and(|text| !text.trim().is_empty())
}

fn cable_exists(instance: &Instance, worker: Worker) -> bool {
    let mut command = Command::new("ip");
    command.args(["-n", &instance.netns(Machine::Control), "link", "show", "dev", &worker.cable()]);
    run(command.env("PATH", search_path()), LIMIT).is_ok()
}

/// A command that runs `program` in a machine's network; files and process numbers stay the host's.
pub(super) fn inside(instance: &Instance, machine: Machine, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", instance.netns_path(machine).display())).arg("--").arg(program);
    command
}

/// Runs `work` on a thread that is in a machine's network: sockets made there belong to it, wherever they are used.
///
/// # Errors
/// If the namespace does not exist, or this process may not enter it.
pub(super) fn on_thread_inside<T: Send>(
    instance: &Instance,
    machine: Machine,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    let path = instance.netns_path(machine);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            enter(&path)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|_| bail!("the thread inside {machine} died"))
    })
}

/// Moves this thread into the network namespace bound at `path`.
///
/// # Errors
/// If it does not exist, or this process may not enter it.
pub(super) fn enter(path: &Path) -> Result<()> {
    let file =
        fs::File::open(path).with_context(|| format!("there is no network namespace {}", path.display()))?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))
}

/// Every bound network namespace that carries this sandbox's name, also stale ones.
pub(super) fn namespaces(instance: &Instance) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(netns_dir()) else { return Vec::new() };
    let prefix = instance.netns_prefix();
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(&prefix).is_some_and(|rest| rest == "ctl" || rest.parse::<Worker>().is_ok())
    };
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

/// Removes a bound network namespace. What was in it goes with it when its last process has ended.
///
/// # Errors
/// If it cannot be unbound.
pub(super) fn remove(path: &Path) -> Result<()> {
    // A stale name is a plain file without a mount: then there is nothing to unmount.
    let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    fs::remove_file(path).with_context(|| format!("cannot remove the network namespace {}", path.display()))
}

/// Makes the namespace unless it is there; says whether it is new.
fn ensure_netns(instance: &Instance, machine: Machine) -> Result<bool> {
    let name = instance.netns(machine);
    if run(Command::new("ip").args(["-n", &name, "link"]).env("PATH", search_path()), LIMIT).is_ok() {
        return Ok(false);
    }
    let path = instance.netns_path(machine);
    if path.exists() {
        remove(&path)?;
    }
    run(Command::new("ip").args(["netns", "add", &name]).env("PATH", search_path()), LIMIT)?;
    Ok(true)
}

/// Lets a machine pass on packets that are not for itself.
fn route(instance: &Instance, machine: Machine) -> Result<()> {
    // /proc/sys/net shows the network of the thread that reads it.
    let write = || fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    on_thread_inside(instance, machine, write)?.context("cannot switch on ip_forward")
}

fn batch(instance: &Instance, machine: Machine, script: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", &instance.netns(machine), "-batch", "-"])
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("ip failed in {machine}: {}\n{script}", why.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_route_to_everybodys_pods() {
        let script = routes(Worker::first(2));
        assert_eq!(
            script,
            "route replace 10.201.1.0/24 via 10.200.0.11\nroute replace 10.201.2.0/24 via 10.200.0.12\n"
        );
    }
}
