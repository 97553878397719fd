//! What `up` and `down` promise of the sandbox itself, judged when all stories are told.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::count::Count;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, UpOptions, wait_for};

/// An `up` of what is up already.
const AGAIN: Duration = Duration::from_secs(15);
/// As for all figures on a machine that may be busy.
const BUSY: u32 = 10;
/// The sandbox whose `up` is killed.
const CRASHED: &str = "killed-on-its-way";
/// Its two machines run after that; everything that it is made of is built.
const HALF_WAY: Duration = Duration::from_mins(2);
const MACHINES: usize = 2;
const SHORT: Duration = Duration::from_secs(10);

/// Takes the sandbox of this name down in the end.
pub(super) fn all(name: &str, progress: &Progress) -> Count {
    let mut count = Count::default();
    // In this order: what is up, its end, and the end of one that never was whole.
    let told = [
        ("a second up", again(name, progress)),
        ("down", gone(name, progress)),
        ("down after an up that was killed", killed(progress)),
    ];
    for (what, told) in told {
        match told {
            Ok(()) => count.add(Count::passed()),
            Err(error) => count.add(Count::failed(format!("{what}: {error:#}"))),
        }
    }
    count
}

fn again(name: &str, progress: &Progress) -> Result<()> {
    let began = Instant::now();
    Sandbox::up(name, UpOptions::default(), progress)?;
    let took = began.elapsed();
    progress.line(format_args!("a second up: {:.1} s", took.as_secs_f64()));
    ensure!(took < AGAIN * BUSY, "it took {:.0} s", took.as_secs_f64());
    Ok(())
}

fn gone(name: &str, progress: &Progress) -> Result<()> {
    Sandbox::down(name, progress)?;
    let left = Sandbox::traces(name)?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}

/// `up` is killed while its machines start, and says nothing to anybody.
fn killed(progress: &Progress) -> Result<()> {
    // What a run left behind that was itself killed here.
    Sandbox::down(CRASHED, progress)?;
    let rules = rules();
    let mut up = up()?;
    let half_way = wait_for("an up to be half way", HALF_WAY, || {
        let machines = Sandbox::traces(CRASHED)?.iter().filter(|trace| trace.starts_with("process")).count();
        ensure!(machines >= MACHINES, "{machines} machines run");
        Ok(())
    });
    let whole = up.try_wait()?.is_some();
    up.kill()?;
    up.wait()?;
    let ended = gone(CRASHED, progress);
    half_way?;
    ensure!(!whole, "up had ended before it could be killed");
    ended?;
    ensure!(self::rules() == rules, "rules of the packet filter are left on the host");
    Ok(())
}

/// This program once more.
fn up() -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--name", CRASHED, "up", "--workers", "1"]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// The host's packet filter, without its counters; nothing where it cannot be asked.
fn rules() -> Vec<String> {
    let told = crate::command::run(&mut Command::new("iptables-save"), SHORT).unwrap_or_default();
    let rule = |line: &&str| line.starts_with("-A") || line.starts_with(':');
    let without_counters = |line: &str| line.split(" [").next().unwrap_or(line).to_owned();
    told.lines().filter(rule).map(without_counters).collect()
}
