//! Decides what the first process of a machine does: mounts, then starts the services, starts again those that end,
//! and waits for every orphan. Runs in the machine's own namespaces.
//!
//! May mount inside the machine's mount namespace and start processes there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getpid;

use super::machine::{Description, Service};

/// A service that ended is started again after that.
const PAUSE: Duration = Duration::from_secs(1);
/// How often gates are looked at and the ended are waited for while a service is still to be started.
const POLL: Duration = Duration::from_millis(50);
/// The same when all of them run.
const SLOW_POLL: Duration = Duration::from_millis(200);

/// Runs a machine for ever.
///
/// # Errors
/// If it is not the first process of a namespace of its own, or a mount fails.
pub fn run(file: &Path) -> Result<()> {
    if getpid().as_raw() != 1 {
        bail!("`machine` is run by the sandbox itself, as the first process of a machine");
    }
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let description: Description = serde_json::from_slice(&text)?;
    prepare(&description)?;
    let mut due: BTreeMap<usize, Instant> =
        (0..description.services.len()).map(|index| (index, Instant::now())).collect();
    let mut running: BTreeMap<i32, usize> = BTreeMap::new();
    loop {
        for (index, service) in description.services.iter().enumerate() {
            let ready = due.get(&index).is_some_and(|at| *at <= Instant::now());
            if !ready || !service.when.iter().all(|path| path.exists()) {
                continue;
            }
            match spawn(service) {
                Ok(pid) => {
                    eprintln!("{} is started", service.name);
                    due.remove(&index);
                    running.insert(pid, index);
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    due.insert(index, Instant::now() + PAUSE);
                }
            }
        }
        while let Some((pid, how)) = ended()? {
            if let Some(index) = running.remove(&pid) {
                let name = description.services.get(index).map_or("?", |service| service.name.as_str());
                eprintln!("{name} ended ({how}), is started again in {} s", PAUSE.as_secs());
                due.insert(index, Instant::now() + PAUSE);
            }
        }
        std::thread::sleep(if due.is_empty() { SLOW_POLL } else { POLL });
    }
}

fn prepare(description: &Description) -> Result<()> {
    let none: Option<&str> = None;
    for target in &description.empty {
        mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .with_context(|| format!("cannot mount on {}", target.display()))?;
    }
    for (source, target) in &description.binds {
        if !target.exists() {
            if !source.is_dir() {
                // A link into what is hidden now, such as /etc/resolv.conf: there is nothing left to replace.
                continue;
            }
            fs::create_dir_all(target)?;
        }
        mount(Some(source), target, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot bind {} on {}", source.display(), target.display()))?;
    }
    // Volumes that the kubelet mounts must be seen by containerd and the containers.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("cannot share the mounts")?;
    for path in &description.stale {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
    }
    Ok(())
}

fn spawn(service: &Service) -> Result<i32> {
    let (program, arguments) = service.command.split_first().context("a service without a command")?;
    let log = OpenOptions::new().create(true).append(true).open(&service.log)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", service.name))?;
    Ok(i32::try_from(child.id())?)
}

/// One process that has ended, if any: a service, or an orphan that the kernel gave to this process.
fn ended() -> Result<Option<(i32, String)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Ok(Some((pid.as_raw(), format!("exit status {code}")))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Ok(Some((pid.as_raw(), signal.to_string()))),
        Ok(_) | Err(Errno::ECHILD) => Ok(None),
        Err(error) => Err(error).context("cannot wait for processes"),
    }
}
