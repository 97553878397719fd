//! Decides which programs of the host the sandbox needs, and gets the missing ones from Debian.
//!
//! May install Debian packages, as root only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use super::machine::search_path;
use crate::command::run_shown;
use crate::progress::Progress;

/// A program and the package that holds it.
const NEEDED: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];
/// An update of the package lists and 60 MB of packages over a slow line.
const LIMIT: Duration = Duration::from_mins(10);

/// Makes sure that everything is there.
///
/// # Errors
/// If this is not root, or a package cannot be installed: the error names what is missing.
pub(super) fn ensure(progress: &Progress) -> Result<()> {
    let missing = missing();
    if !geteuid().is_root() {
        let also = if missing.is_empty() {
            String::new()
        } else {
            format!(" (it will also install the missing Debian packages {})", missing.join(" "))
        };
        bail!("the sandbox makes network namespaces and cgroups: run this as root{also}");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let step = progress.step(&format!("Debian packages {}", missing.join(" ")));
    let apt = |arguments: &[&str], packages: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).args(packages);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        run_shown(&mut command, LIMIT, &step)
    };
    apt(&["update", "-qq"], &[])?;
    apt(&["install", "-y", "-qq", "--no-install-recommends"], &missing)
        .with_context(|| format!("install these by hand: {}", missing.join(" ")))?;
    step.done("");
    let left = self::missing();
    if !left.is_empty() {
        bail!("still missing after installation: {}", left.join(" "));
    }
    Ok(())
}

/// Only root may enter network namespaces.
///
/// # Errors
/// If this is not root.
pub(super) fn need_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("the sandbox and all its namespaces belong to root: run this as root");
    }
    Ok(())
}

/// The packages whose programs are not found.
pub(super) fn missing() -> Vec<&'static str> {
    let path = search_path();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mut packages: Vec<&str> = NEEDED
        .iter()
        .filter(
            |(program, _)| {
                if program.starts_with('/') { !Path::new(program).exists() } else { !there(program) }
            },
        )
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    packages
}
