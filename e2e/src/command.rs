//! Decides how other programs are run: always with a bound, and with their last words in the error.
//!
//! May start processes. A program that outlives its bound is killed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::progress::Step;

/// How many of the last lines of a program's output an error shows.
const TAIL: usize = 15;

/// The cargo that runs this program, at the root of the repository, as a person would start it there: without what `cargo run`
/// tells its child of the package, since build scripts look at that, and whatever rests on them would be compiled anew.
pub fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// # Errors
/// If the program cannot be started, is not over within `limit` (it is killed then), or fails: the error holds
/// the command line and the last lines of its output.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let output = output(command, limit, None)?;
    checked(command, &output)
}

/// As [`run`], saying on `step` every second how long it has been going on.
///
/// # Errors
/// As [`run`].
pub fn run_shown(command: &mut Command, limit: Duration, step: &Step) -> Result<String> {
    let output = output(command, limit, Some(step))?;
    checked(command, &output)
}

/// Whether a program ran and ended with success within `limit`. Its output is thrown away.
pub fn succeeds(command: &mut Command, limit: Duration) -> bool {
    output(command, limit, None).is_ok_and(|output| output.status.success())
}

/// Runs a program and returns its output whatever its exit status.
///
/// # Errors
/// If it cannot be started or is not over within `limit`.
pub fn output(command: &mut Command, limit: Duration, step: Option<&Step>) -> Result<Output> {
    let line = shown(command);
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // The receiver is gone only if the bound has passed: nobody wants the result then.
        let _ = sender.send(child.wait_with_output());
    });
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        match receiver.recv_timeout(left.min(Duration::from_secs(1))) {
            Ok(output) => return output.with_context(|| format!("cannot wait for `{line}`")),
            Err(RecvTimeoutError::Disconnected) => bail!("lost the process of `{line}`"),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() >= limit => {
                // It may have ended this very moment: then there is nothing to kill.
                let _ = kill(pid, Signal::SIGKILL);
                bail!("`{line}` was not over after {} s and was killed", limit.as_secs());
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(step) = step {
                    step.note(format_args!("running {}", program(command)));
                }
            }
        }
    }
}

/// The error of a program that ended without success, its standard output otherwise.
///
/// # Errors
/// If the exit status is not success.
pub fn checked(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = format!("`{}` failed ({})", shown(command), output.status);
    for stream in [&output.stdout, &output.stderr] {
        for line in tail(&String::from_utf8_lossy(stream), TAIL) {
            let _ = write!(message, "\n  | {line}");
        }
    }
    bail!(message)
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines.into_iter().rev().take(count).rev().collect()
}

/// A command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for word in command.get_args() {
        let word = word.to_string_lossy();
        let plain =
            !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "'\"$*(){};&|<>".contains(c));
        let quoted = format!("'{}'", word.replace('\'', r"'\''"));
        line.push(' ');
        line.push_str(if plain { &word } else { &quoted });
    }
    line
}

fn program(command: &Command) -> String {
    let path = std::path::Path::new(command.get_program());
    path.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_named() {
        let begun = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(error.to_string().starts_with("`sleep 60` was not over"), "{error}");
    }

    #[test]
    fn a_failure_shows_the_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), Duration::from_secs(10));
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "`sh -c 'echo why >&2; exit 3'` failed (exit status: 3)\n  | why");
    }

    #[test]
    fn tail_keeps_the_order() {
        assert_eq!(tail("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(tail("", 2), Vec::<&str>::new());
    }
}
