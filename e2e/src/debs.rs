//! Decides which Valkey versions there are: the ones that Debian's suites offer, one for each line.
//!
//! Packages are resolved by apt with its own directories and unpacked by dpkg-deb beside the host's: the host's
//! package database is never touched. May touch the cache and, if a line is not cached yet, the package mirror
//! that the host's apt is configured with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Cache, key};
use crate::command::{run, run_shown};
use crate::progress::{Progress, Step};

/// A line of Valkey and the suites that carry it: the last one decides, the others are there for dependencies.
struct Line {
    name: &'static str,
    suites: &'static [&'static str],
}

const LINES: [Line; 3] = [
    Line { name: "8.0", suites: &["bookworm", "bookworm-backports"] },
    Line { name: "8.1", suites: &["trixie"] },
    Line { name: "9.x", suites: &["sid"] },
];
/// What an image of Valkey is made of.
const PACKAGES: [&str; 3] = ["valkey-server", "valkey-tools", "busybox-static"];
/// Changed whenever the way to unpack changes, so that what was unpacked before is not taken for current.
const RECIPE: &str = "1";
/// One `apt-get update` and one download of about 60 MB over a slow line.
const DOWNLOAD: Duration = Duration::from_mins(10);
/// Unpacking one package.
const UNPACK: Duration = Duration::from_mins(2);

/// One version of Valkey, unpacked with everything that it needs to run.
#[derive(Debug, Clone)]
pub struct ValkeyRoot {
    /// As `valkey-server --version` reports it, e.g. `9.1.2`.
    pub version: String,
    /// The line that it was taken for: `8.0`, `8.1` or `9.x`.
    pub line: &'static str,
    /// The root of its file tree. Absolute links in it point to the host: go through [`ValkeyRoot::command`].
    pub root: PathBuf,
}

impl ValkeyRoot {
    /// Major and minor version, e.g. `9.1`: the tag under which an image of the newest patch is known.
    pub fn series(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    /// A command that runs one of its programs (`valkey-server`, `valkey-cli`, `valkey-benchmark`) on the host, by
    /// its own dynamic linker and libraries: the host's may be older.
    ///
    /// # Errors
    /// If the tree holds no such program or no dynamic linker.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = self.program(program)?;
        let mut command = Command::new(self.linker()?);
        command.arg("--library-path").arg(std::env::join_paths(self.libraries()?)?).arg(path);
        Ok(command)
    }

    /// The path of one of its programs.
    ///
    /// # Errors
    /// If the tree holds no such program.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = ["usr/bin", "bin"].into_iter().map(|dir| self.root.join(dir).join(name));
        path.into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("there is no program {name} in {}", self.root.display()))
    }

    /// The dynamic linker of its libc.
    ///
    /// # Errors
    /// If there is none.
    pub fn linker(&self) -> Result<PathBuf> {
        for dir in self.libraries()? {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with("ld-linux") && path.is_file() {
                    return Ok(path);
                }
            }
        }
        bail!("there is no dynamic linker in {}", self.root.display())
    }

    /// The directories that hold its libraries.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn libraries(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for parent in ["lib", "usr/lib"] {
            let parent = self.root.join(parent);
            if !parent.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&parent)? {
                let path = entry?.path();
                if path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu") {
                    found.push(path);
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Every line of Valkey, unpacked; from the cache if it is there, which then needs no network.
///
/// # Errors
/// If a line is not cached and cannot be fetched: the error names the line and holds apt's last words.
pub fn valkey_roots(cache: &Cache, progress: &Progress) -> Result<Vec<ValkeyRoot>> {
    std::thread::scope(|scope| {
        let works: Vec<_> =
            LINES.iter().map(|line| scope.spawn(move || valkey_root(line, cache, progress))).collect();
        works
            .into_iter()
            .map(|work| work.join().unwrap_or_else(|_| bail!("a thread that unpacks Valkey died")))
            .collect()
    })
}

/// Forgets what was unpacked, so that the next call fetches what the suites offer then.
///
/// # Errors
/// If the file system refuses.
pub fn refresh(cache: &Cache) -> Result<()> {
    LINES.iter().try_for_each(|line| cache.forget(&kind(line)))
}

fn kind(line: &Line) -> String {
    format!("valkey-{}", line.name)
}

fn valkey_root(line: &Line, cache: &Cache, progress: &Progress) -> Result<ValkeyRoot> {
    let id = key(&[RECIPE.as_bytes(), line.suites.join(",").as_bytes(), PACKAGES.join(",").as_bytes()]);
    let entry = cache
        .entry(&kind(line), &id, |dir| {
            let step =
                progress.step(&format!("Valkey {} from Debian {}", line.name, line.suites.join(" + ")));
            let version = fetch(line, dir, &step)?;
            step.done(version);
            Ok(())
        })
        .with_context(|| format!("cannot get Valkey {}", line.name))?;
    let version = fs::read_to_string(entry.join("version"))?.trim().to_owned();
    Ok(ValkeyRoot { version, line: line.name, root: entry.join("root") })
}

/// Fills `dir` with `root/` and `version`.
fn fetch(line: &Line, dir: &Path, step: &Step) -> Result<String> {
    let apt = dir.join("apt");
    for sub in ["etc/apt/preferences.d", "lists/partial", "cache/archives/partial", "dpkg"] {
        fs::create_dir_all(apt.join(sub))?;
    }
    fs::write(apt.join("dpkg/status"), "")?;
    let site = mirror()?;
    let keyring = keyring()?;
    let source = |suite: &&str| format!("deb [signed-by={}] {site} {suite} main\n", keyring.display());
    fs::write(apt.join("etc/apt/sources.list"), line.suites.iter().map(source).collect::<String>())?;
    step.note("reading the package lists");
    run_shown(apt_get(&apt).args(["update", "-qq"]), DOWNLOAD, step)?;
    let mut install = apt_get(&apt);
    install.args(["install", "-y", "-qq", "--download-only"]).args(PACKAGES);
    if let Some(suite) = line.suites.last() {
        install.args(["-t", suite]);
    }
    run_shown(&mut install, DOWNLOAD, step)?;
    let root = dir.join("root");
    fs::create_dir(&root)?;
    for entry in fs::read_dir(apt.join("cache/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run_shown(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root), UNPACK, step)?;
        }
    }
    fs::remove_dir_all(&apt)?;
    let unpacked = ValkeyRoot { version: String::new(), line: line.name, root };
    let version = reported_version(&unpacked)?;
    fs::write(dir.join("version"), &version)?;
    Ok(version)
}

fn apt_get(apt: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let path = |key: &str, sub: &str| format!("-o{key}={}", apt.join(sub).display());
    command
        .arg(path("Dir::Etc", "etc/apt"))
        .arg(path("Dir::Etc::sourcelist", "etc/apt/sources.list"))
        .arg(path("Dir::Etc::sourceparts", "etc/apt/none"))
        .arg(path("Dir::State", "state"))
        .arg(path("Dir::State::lists", "lists"))
        .arg(path("Dir::State::status", "dpkg/status"))
        .arg(path("Dir::Cache", "cache"))
        .args(["-oAPT::Install-Recommends=0", "-oAcquire::Languages=none", "-oDebug::NoLocking=1"])
        .args(["-oAcquire::Retries=3", "-oAcquire::http::Timeout=30", "-oAPT::Sandbox::User=root"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    command
}

/// The mirror of Debian that the host's apt uses for its own release.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename =
        release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    let mut list = Command::new("apt-get");
    list.args(["indextargets", "--format", "$(SITE) $(RELEASE)"]);
    let targets = run(&mut list, UNPACK).context("apt-get is needed to fetch Valkey: run this on Debian")?;
    targets
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(_, suite)| *suite == codename.trim_matches('"')))
        .map(|(site, _)| site.to_owned())
        .with_context(|| {
            format!("apt has no source for the suite {codename}: add one to /etc/apt/sources.list")
        })
}

fn keyring() -> Result<PathBuf> {
    ["debian-archive-keyring.gpg", "debian-archive-keyring.pgp"]
        .into_iter()
        .map(|name| Path::new("/usr/share/keyrings").join(name))
        .find(|path| path.exists())
        .context("Debian's archive keys are missing: apt-get install debian-archive-keyring")
}

fn reported_version(unpacked: &ValkeyRoot) -> Result<String> {
    let text = run(unpacked.command("valkey-server")?.arg("--version"), UNPACK)?;
    parse_version(&text)
        .with_context(|| format!("valkey-server --version said `{}`, without a version", text.trim()))
}

fn parse_version(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_as_reported() {
        let text =
            "Valkey server v=9.1.2 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=22eb4c9ebc0a1ec9";
        assert_eq!(parse_version(text).as_deref(), Some("9.1.2"));
        assert_eq!(parse_version("no version"), None);
    }

    #[test]
    fn the_series_is_major_and_minor() {
        let root = ValkeyRoot { version: "8.1.1".into(), line: "8.1", root: PathBuf::new() };
        assert_eq!(root.series(), "8.1");
    }
}
