//! Decides which images the workers have, and what is in them: Valkey named as the public images are, the operator
//! and the ledger from this repository, and what Kubernetes itself needs.
//!
//! May build programs, read the package roots and write into the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::golang::{self, COREDNS, GoProgram};
use super::image::{Archive, Image, Item};
use crate::cache::{Cache, key};
use crate::command::{cargo, output, run, shown, succeeds, tail};
use crate::debs::{ValkeyRoot, valkey_roots};
use crate::progress::{Progress, Step};

/// The image that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:1";
/// The operator's, as built from this repository.
pub const OPERATOR: &str = "localhost/valkey-cluster-operator:dev";
/// The write ledger's, as built from this repository.
pub const LEDGER: &str = "localhost/valkey-ledger:dev";
/// Under this name Valkey's public images are known.
pub const VALKEY: &str = "docker.io/valkey/valkey";
const DNS: &str = "localhost/coredns:1.15.0";
const METRICS: &str = "localhost/metrics-server:0.9.0";

/// The user of the operator's image: nobody's number on any host.
const NOBODY: &str = "65532:65532";
/// The number of the user `valkey` in the public images.
const VALKEY_USER: u64 = 999;
/// Changed whenever the way to put an image together changes.
const RECIPE: &str = "2";
/// The whole workspace on two slow cores, and the time that another build holds cargo's lock.
const CARGO: Duration = Duration::from_mins(40);
/// A program that only prints something.
const SHORT: Duration = Duration::from_secs(30);
/// How many of the compiler's last lines are shown.
const COMPILER: usize = 60;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As the public images do: arguments alone are meant for the server.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -e
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- valkey-server "$@"
fi
exec "$@"
"#;

/// The images that do not change with this repository's programs: Valkey's and Kubernetes' own.
///
/// # Errors
/// If something cannot be fetched, built or written.
pub fn fixed(cache: &Cache, progress: &Progress) -> Result<Vec<Archive>> {
    let mut all =
        vec![go_image(&golang::PAUSE, PAUSE, cache, progress)?, go_image(&COREDNS, DNS, cache, progress)?];
    for root in valkey_roots(cache, progress)? {
        all.push(valkey(&root, cache, progress)?);
    }
    Ok(all)
}

/// The image of the metrics server, which only a sandbox that is asked for it has.
///
/// # Errors
/// If it cannot be built or written.
pub fn metrics(cache: &Cache, progress: &Progress) -> Result<Archive> {
    go_image(&golang::METRICS, METRICS, cache, progress)
}

/// The images of this repository's programs, built now.
///
/// # Errors
/// If they do not compile: the error holds what the compiler said.
pub fn own(cache: &Cache, progress: &Progress) -> Result<Vec<Archive>> {
    let step = progress.step("build operator and ledger");
    let messages = cargo_build(&[], &step)?;
    let operator = executable(&messages, "valkey-cluster-operator")?;
    let ledger = executable(&messages, "ledger")?;
    let operator = static_image("valkey-cluster-operator", &operator, OPERATOR, NOBODY, cache)?;
    let ledger = static_image("ledger", &ledger, LEDGER, NOBODY, cache)?;
    step.done("");
    Ok(vec![operator, ledger])
}

/// The digest of the operator's image, of a program that is built into `target` when it is given, without a look into the cache.
///
/// # Errors
/// If it does not compile.
pub fn operator_digest(target: Option<&Path>, progress: &Progress) -> Result<String> {
    let step = progress.step("build the operator once more");
    let target = target.map(|dir| dir.to_string_lossy().into_owned());
    let more: Vec<&str> = target.iter().flat_map(|dir| ["--target-dir", dir]).collect();
    let operator = executable(&cargo_build(&more, &step)?, "valkey-cluster-operator")?;
    let dir = std::env::temp_dir().join(format!("operator-image-{}", std::process::id()));
    let made = static_image("valkey-cluster-operator", &operator, OPERATOR, NOBODY, &Cache::at(&dir)?);
    fs::remove_dir_all(&dir)?;
    let digest = made?.digest;
    step.done(&digest);
    Ok(digest)
}

fn go_image(program: &GoProgram, name: &str, cache: &Cache, progress: &Progress) -> Result<Archive> {
    let path = golang::build(program, cache, progress)?;
    let short = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    static_image(&short, &path, name, "", cache)
}

/// One static program and nothing else.
fn static_image(program: &str, path: &Path, name: &str, user: &str, cache: &Cache) -> Result<Archive> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let id = key(&[RECIPE.as_bytes(), name.as_bytes(), user.as_bytes(), &content]);
    let mut image = Image {
        names: vec![name.to_owned()],
        entrypoint: vec![format!("/{program}")],
        user: user.to_owned(),
        directory: "/".to_owned(),
        ..Image::default()
    };
    let kind = format!("image-{program}");
    cached(cache, &kind, &id, |dir| {
        image.tree.insert(program.to_owned(), Item::File(without_debug_info(path, dir), 0o755));
        Ok(image)
    })
}

/// A copy of the program in `dir` without what only debuggers need, which is most of it; the program itself where
/// there is no `strip`.
fn without_debug_info(path: &Path, dir: &Path) -> PathBuf {
    let copy = dir.join("stripped");
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(&copy).arg(path);
    if succeeds(&mut strip, SHORT) { copy } else { path.to_owned() }
}

fn valkey(root: &ValkeyRoot, cache: &Cache, progress: &Progress) -> Result<Archive> {
    let id = key(&[RECIPE.as_bytes(), ENTRYPOINT.as_bytes(), root.root.as_os_str().as_encoded_bytes()]);
    cached(cache, &format!("image-valkey-{}", root.line), &id, |_| {
        let step = progress.step(&format!("image of Valkey {}", root.version));
        let image =
            valkey_image(root).with_context(|| format!("cannot make an image of Valkey {}", root.version))?;
        step.done("");
        Ok(image)
    })
}

fn valkey_image(root: &ValkeyRoot) -> Result<Image> {
    let mut tree = BTreeMap::new();
    let busybox = root.program("busybox")?;
    for applet in run(Command::new(&busybox).arg("--list"), SHORT)?.lines() {
        tree.insert(format!("bin/{applet}"), Item::Link("busybox".to_owned()));
    }
    tree.insert("bin/busybox".to_owned(), Item::File(busybox, 0o755));
    for program in ["valkey-server", "valkey-cli", "valkey-benchmark"] {
        tree.insert(format!("usr/local/bin/{program}"), Item::File(root.program(program)?, 0o755));
        for library in libraries(root, program)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tree.insert(format!("usr/lib/{name}"), Item::File(library, 0o755));
        }
    }
    // The dynamic linker's path is written into every program; it looks into /usr/lib by default.
    let linker = fs::canonicalize(root.linker()?)?;
    tree.insert(interpreter()?.to_owned(), Item::File(linker, 0o755));
    let text = |content: &str, mode| Item::Text(content.as_bytes().to_vec(), mode);
    tree.insert("usr/local/bin/docker-entrypoint.sh".to_owned(), text(ENTRYPOINT, 0o755));
    let accounts =
        format!("root:x:0:0:root:/root:/bin/sh\nvalkey:x:{VALKEY_USER}:{VALKEY_USER}::/data:/bin/sh\n");
    tree.insert("etc/passwd".to_owned(), text(&accounts, 0o644));
    tree.insert("etc/group".to_owned(), text(&format!("root:x:0:\nvalkey:x:{VALKEY_USER}:\n"), 0o644));
    tree.insert("data".to_owned(), Item::Directory(0o755, VALKEY_USER));
    tree.insert("root".to_owned(), Item::Directory(0o700, 0));
    tree.insert("run".to_owned(), Item::Directory(0o755, 0));
    tree.insert("tmp".to_owned(), Item::Directory(0o1777, 0));
    let mut names = vec![format!("{VALKEY}:{}", root.version), format!("{VALKEY}:{}", root.series())];
    names.dedup();
    Ok(Image {
        names,
        entrypoint: vec!["docker-entrypoint.sh".to_owned()],
        command: vec!["valkey-server".to_owned()],
        environment: vec![PATH.to_owned(), format!("VALKEY_VERSION={}", root.version)],
        // As the public images: root unless the pod says otherwise.
        user: String::new(),
        directory: "/data".to_owned(),
        tree,
    })
}

/// The libraries that a program of the root needs, by the root's own dynamic linker.
fn libraries(root: &ValkeyRoot, program: &str) -> Result<BTreeSet<PathBuf>> {
    let mut list = Command::new(root.linker()?);
    list.arg("--library-path").arg(std::env::join_paths(root.libraries()?)?);
    list.arg("--list").arg(root.program(program)?);
    let text = run(&mut list, SHORT)?;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let path = rest.split(" (").next().unwrap_or(rest);
        if !Path::new(path).starts_with(&root.root) {
            bail!("{program} needs {name}, which is not among the unpacked packages ({path})");
        }
        // The name by which it is looked for, not the file's own: links are followed when it is read.
        found.insert(Path::new(path).to_owned());
    }
    Ok(found)
}

/// Where the programs of this architecture expect their dynamic linker.
fn interpreter() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("lib64/ld-linux-x86-64.so.2"),
        "aarch64" => Ok("lib/ld-linux-aarch64.so.1"),
        other => bail!("images of Valkey for {other} are not supported: use x86_64 or aarch64"),
    }
}

/// What is kept beside an archive.
#[derive(serde::Serialize, serde::Deserialize)]
struct Facts {
    names: Vec<String>,
    digest: String,
}

/// The archive of an image, written only if the cache does not hold it.
fn cached(
    cache: &Cache,
    kind: &str,
    id: &str,
    image: impl FnOnce(&Path) -> Result<Image>,
) -> Result<Archive> {
    let dir = cache.entry(kind, id, |dir| {
        let archive = image(dir)?.write(dir)?;
        let facts = Facts { names: archive.names, digest: archive.digest };
        // What was made only to go into the archive.
        match fs::remove_file(dir.join("stripped")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(fs::write(dir.join("image.json"), serde_json::to_vec(&facts)?)?)
    })?;
    let facts: Facts = serde_json::from_slice(&fs::read(dir.join("image.json"))?)?;
    Ok(Archive { names: facts.names, path: dir.join("image.tar"), digest: facts.digest })
}

/// Builds both programs and returns what cargo says of it. Both packages are named so that their dependencies have
/// the features that they have for this program, and are not compiled a second time with others.
fn cargo_build(more: &[&str], step: &Step) -> Result<String> {
    let packages = ["build", "--package", "valkey-cluster-operator", "--package", "e2e"];
    let programs = ["--bin", "valkey-cluster-operator", "--bin", "ledger"];
    let mut build = cargo(packages.into_iter().chain(programs));
    build.arg("--message-format=json-render-diagnostics").args(more);
    let result = output(&mut build, CARGO, Some(step))?;
    if !result.status.success() {
        // What a person wants to read is on standard error; standard output is for this program.
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("`{}` failed:\n{}", shown(&build), tail(&said, COMPILER).join("\n"));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Where cargo says that it put a program.
///
/// # Errors
/// If it did not.
pub(crate) fn executable(messages: &str, bin: &str) -> Result<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = messages.filter_map(|message| {
        let named = message.pointer("/target/name").is_some_and(|name| name == bin);
        let path = message.get("executable").and_then(Value::as_str);
        path.filter(|_| named).map(PathBuf::from)
    });
    found.next().with_context(|| format!("cargo built {bin} and did not say where"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_where_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"ledger"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
{"reason":"compiler-artifact","target":{"name":"ledger"},"executable":"/t/ledger"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "ledger").unwrap(), PathBuf::from("/t/ledger"));
        assert!(executable(messages, "operator").is_err());
    }
}
