//! Decides how the Go programs of the sandbox are built: from modules in this repository, which name every
//! dependency by version and hash.
//!
//! May run the Go toolchain, which fetches modules if they are not in its own cache, and write into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, key};
use crate::command::{run, run_shown};
use crate::progress::Progress;

/// Kubernetes takes less than five minutes on two slow cores, and may have to be fetched first.
const BUILD: Duration = Duration::from_mins(40);

/// A Go program: its name, its files, its linker flags.
pub(super) struct GoProgram {
    name: &'static str,
    files: &'static [(&'static str, &'static [u8])],
    linker_flags: &'static str,
    hint: &'static str,
}

/// Every component of Kubernetes and etcd in one program; it is picked by the name under which it is called.
pub(super) const KUBERNETES: GoProgram = GoProgram {
    name: "kube",
    files: &[
        ("go.mod", include_bytes!("../../kubernetes/go.mod")),
        ("go.sum", include_bytes!("../../kubernetes/go.sum")),
        ("main.go", include_bytes!("../../kubernetes/main.go")),
    ],
    linker_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
                   -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
    hint: "about five minutes on two cores if Go has not built it before",
};

/// The name service.
pub(super) const COREDNS: GoProgram = GoProgram {
    name: "coredns",
    files: &[
        ("go.mod", include_bytes!("../../addons/coredns/go.mod")),
        ("go.sum", include_bytes!("../../addons/coredns/go.sum")),
        ("main.go", include_bytes!("../../addons/coredns/main.go")),
        ("dns.go", include_bytes!("../../addons/coredns/dns.go")),
    ],
    linker_flags: "-s -w",
    hint: "about one minute if Go has not built it before",
};

/// What autoscalers ask for the processor time of pods. A module of its own: it needs other libraries than Kubernetes 1.34.
pub(super) const METRICS: GoProgram = GoProgram {
    name: "metrics-server",
    files: &[
        ("go.mod", include_bytes!("../../addons/metrics-server/go.mod")),
        ("go.sum", include_bytes!("../../addons/metrics-server/go.sum")),
        ("main.go", include_bytes!("../../addons/metrics-server/main.go")),
    ],
    linker_flags: "-s -w",
    hint: "about two minutes if Go has not built it before",
};

/// The container that holds a pod's namespaces.
pub(super) const PAUSE: GoProgram = GoProgram {
    name: "pause",
    files: &[
        ("go.mod", include_bytes!("../../addons/pause/go.mod")),
        ("main.go", include_bytes!("../../addons/pause/main.go")),
    ],
    linker_flags: "-s -w",
    hint: "a few seconds",
};

/// The built program; from the cache if it was built from the same files before.
///
/// # Errors
/// If Go is missing or the build fails.
pub(super) fn build(program: &GoProgram, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let mut parts: Vec<&[u8]> = vec![program.linker_flags.as_bytes(), std::env::consts::ARCH.as_bytes()];
    for (name, content) in program.files {
        parts.extend([name.as_bytes(), *content]);
    }
    let entry = cache.entry(program.name, &key(&parts), |dir| {
        progress
            .line(format_args!("{} is not in the cache: building it takes {}", program.name, program.hint));
        let step = progress.step(&format!("build {}", program.name));
        compile(program, dir, &step)?;
        step.done("");
        Ok(())
    });
    let entry = entry.with_context(|| format!("cannot build {}", program.name))?;
    Ok(entry.join(program.name))
}

fn compile(program: &GoProgram, dir: &Path, step: &crate::progress::Step) -> Result<()> {
    run(Command::new("go").arg("version"), Duration::from_secs(20)).context(
        "Go is needed to build Kubernetes: install version 1.24 or newer and put `go` on the PATH",
    )?;
    let source = dir.join("source");
    fs::create_dir(&source)?;
    for (name, content) in program.files {
        fs::write(source.join(name), content)?;
    }
    let mut build = Command::new("go");
    build
        .args(["build", "-trimpath", "-ldflags", program.linker_flags, "-o"])
        .arg(dir.join(program.name))
        .arg(".")
        .current_dir(&source)
        .env("CGO_ENABLED", "0");
    run_shown(&mut build, BUILD, step)?;
    fs::remove_dir_all(&source)?;
    Ok(())
}
