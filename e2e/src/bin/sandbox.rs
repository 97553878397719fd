//! The sandbox's command line: flags, and one call of the library each.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use e2e::cache::Cache;
use e2e::debs;
use e2e::progress::Progress;
use e2e::sandbox::address::Worker;
use e2e::sandbox::{DEFAULT_NAME, Sandbox, UpOptions, images, init, logs, run_relay};
use e2e::stories::{self, Count, Suite, Target};
use e2e::stranger::Options;

/// A real Kubernetes of several workers on this machine, in seconds.
#[derive(Parser)]
#[command(name = "cargo sandbox", version, arg_required_else_help = true)]
struct Arguments {
    /// Which sandbox, if there is more than one.
    #[arg(long, env = "SANDBOX_NAME", default_value = DEFAULT_NAME, global = true)]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring it up, or make the one that is there whole.
    Up {
        /// How many workers (3 at first, then as many as there are).
        #[arg(long)]
        workers: Option<u8>,
        /// Deal the workers to that many zones (0 = none).
        #[arg(long)]
        zones: Option<u8>,
    },
    /// End it without a trace.
    Down,
    /// Show what is up and what is not; fails if anything is not.
    Status,
    /// Run its kubectl.
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Show the log of a component (etcd, kube-apiserver, w1-kubelet, audit, …) or of a pod ([NAMESPACE/]POD).
    Logs {
        /// Go on as it grows.
        #[arg(short, long)]
        follow: bool,
        /// Without it: the names of the components' logs.
        #[arg(value_name = "COMPONENT|POD")]
        what: Option<String>,
    },
    /// Build the operator and the ledger and give the workers the images that they lack.
    Load,
    /// Build every image without touching a sandbox, and say where each is.
    Images {
        /// Ask Debian anew which versions of Valkey there are.
        #[arg(long)]
        refresh: bool,
    },
    /// A 3×1 cluster, a key written and read through another node, and how long each phase took.
    Demo {
        #[command(flatten)]
        cluster: Options,
    },
    /// Run stories under a write load: those named, or all.
    Test {
        /// Names of stories; a wrong one lists them all.
        #[arg(value_name = "STORY")]
        stories: Vec<String>,
        /// How much of everything.
        #[arg(long, value_enum, default_value = "ci")]
        suite: Suite,
        /// Every cluster of every story speaks TLS.
        #[arg(long)]
        tls: bool,
        #[command(flatten)]
        cluster: Options,
    },
    /// Random faults under a write load, again and again: fails when the cluster does not become whole after each round,
    /// or a write is lost that two nodes had.
    Chaos {
        /// Chooses what goes wrong; the same number tells the same story again.
        #[arg(long)]
        seed: Option<u64>,
        /// How long.
        #[arg(long, default_value_t = 5)]
        minutes: u64,
        /// Only this round of it, again and again; the first is 1.
        #[arg(long)]
        round: Option<std::num::NonZeroUsize>,
    },
    /// Formatting, lints, tests and all stories, with one count at the end; takes the sandbox down.
    Ci,
    /// Pull a worker's cable: its pods live on, and nobody hears of them.
    Cut {
        /// w1, w2, …
        worker: Worker,
    },
    /// Plug a worker's cable in again.
    Heal {
        /// w1, w2, …
        worker: Worker,
    },
    /// Cut a worker's power: everything on it is gone.
    Kill {
        /// w1, w2, …
        worker: Worker,
    },
    /// Give a worker its power back and wait until it is Ready.
    Start {
        /// w1, w2, …
        worker: Worker,
    },
    /// Be the first process of a machine.
    #[command(hide = true)]
    Machine { description: PathBuf },
    /// Pass on connections from 127.0.0.1 to the API server.
    #[command(hide = true)]
    Relay,
}

fn main() -> ExitCode {
    match act(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> Result<ExitCode> {
    let progress = Progress::new();
    let open = || Sandbox::open(&arguments.name);
    match arguments.action {
        Action::Up { workers, zones } => {
            let sandbox = Sandbox::up(&arguments.name, UpOptions { workers, zones }, &progress)?;
            println!("{}", sandbox.status());
            println!(
                "up in {:.1} s; the longest steps: {}",
                progress.elapsed().as_secs_f64(),
                longest(&progress)
            );
        }
        Action::Down => {
            let ended = Sandbox::down(&arguments.name, &progress)?;
            say(if ended { "the sandbox is gone" } else { "there is no such sandbox" })?;
        }
        Action::Status => {
            let status = open()?.status();
            say(&status)?;
            return Ok(if status.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Action::Kubectl { arguments } => replace(open()?.kubectl_command().args(arguments))?,
        Action::Logs { follow, what } => show_logs(&open()?, follow, what.as_deref())?,
        Action::Load => {
            open()?.load_images(&progress)?;
        }
        Action::Images { refresh } => show_images(refresh, &progress)?,
        Action::Demo { cluster } => {
            let target = target(&arguments.name, cluster)?;
            runtime()?.block_on(stories::demo(&target, &progress))?;
        }
        Action::Test { stories, suite, tls, cluster } => {
            return judge(runtime()?.block_on(stories::ci::stories(
                &target(&arguments.name, cluster)?,
                &stories,
                (suite, tls),
                &progress,
            )));
        }
        Action::Chaos { seed, minutes, round } => {
            let play = stories::Play { seed: seed.unwrap_or_else(rand::random), minutes, round };
            let told = stories::chaos(&arguments.name, play, &progress);
            return judge(runtime()?.block_on(told));
        }
        Action::Ci => return judge(runtime()?.block_on(stories::ci::ci(&arguments.name, &progress))),
        Action::Cut { worker } => open()?.cut(worker)?,
        Action::Heal { worker } => open()?.heal(worker)?,
        Action::Kill { worker } => open()?.kill(worker)?,
        Action::Start { worker } => open()?.start(worker, &progress)?,
        Action::Machine { description } => init::run(&description)?,
        Action::Relay => run_relay(&arguments.name)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The sandbox, unless a cluster is named.
fn target(name: &str, cluster: Options) -> Result<Target> {
    Ok(if cluster.names_a_cluster()? { Target::Stranger(cluster) } else { Target::Sandbox(name.to_owned()) })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")
}

/// The count is the last line, also when something did not even begin.
fn judge(told: Result<Count>) -> Result<ExitCode> {
    let count = told.unwrap_or_else(|error| Count::failed(format!("{error:#}")));
    say(&count)?;
    Ok(if count.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a result. A reader who has seen enough (`| head`) is no error.
fn say(text: impl Display) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What took the time, for the person to see.
fn longest(progress: &Progress) -> String {
    let mut steps = progress.finished();
    steps.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let shown = steps.iter().take(4).map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()));
    shown.collect::<Vec<_>>().join(", ")
}

/// Becomes another program: its exit status and its terminal are ours.
fn replace(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot run {}", e2e::command::shown(command)))
}

fn show_images(refresh: bool, progress: &Progress) -> Result<()> {
    let cache = Cache::open()?;
    if refresh {
        debs::refresh(&cache)?;
    }
    let mut archives = images::fixed(&cache, progress)?;
    archives.extend(images::own(&cache, progress)?);
    for archive in archives {
        let names = archive.names.join(" ");
        say(format_args!("{names}  sha256:{}  {}", archive.digest, archive.path.display()))?;
    }
    Ok(())
}

fn show_logs(sandbox: &Sandbox, follow: bool, what: Option<&str>) -> Result<()> {
    let Some(name) = what else {
        return say(logs::names(sandbox.instance())?.join("\n"));
    };
    if let Some(path) = sandbox.log(name) {
        return show_file(&path, follow);
    }
    let (namespace, pod) = match name.split_once('/') {
        Some((namespace, pod)) => (namespace.to_owned(), pod),
        None => (namespace_of(sandbox, name)?, name),
    };
    let mut command = sandbox.kubectl_command();
    command.args(["logs", "--all-containers", "--namespace", &namespace, pod]);
    if follow {
        command.arg("--follow");
    }
    replace(&mut command)
}

fn namespace_of(sandbox: &Sandbox, pod: &str) -> Result<String> {
    let selector = format!("--field-selector=metadata.name={pod}");
    let format = "-ojsonpath={.items[*].metadata.namespace}";
    let found = sandbox.kubectl(["get", "pods", "--all-namespaces", &selector, format])?;
    match found.split_whitespace().collect::<Vec<_>>().as_slice() {
        [namespace] => Ok((*namespace).to_owned()),
        [] => {
            bail!("neither a component nor a pod is called {pod}: `cargo sandbox logs` lists the components")
        }
        several => bail!("pods called {pod} are in {}: write NAMESPACE/{pod}", several.join(", ")),
    }
}

fn show_file(path: &Path, follow: bool) -> Result<()> {
    let mut reader = BufReader::new(std::fs::File::open(path)?);
    let mut out = std::io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? > 0 {
            match out.write_all(&line) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                other => other?,
            }
        } else if follow {
            out.flush()?;
            std::thread::sleep(Duration::from_millis(200));
        } else {
            return Ok(());
        }
    }
}
