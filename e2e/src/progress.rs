//! Decides how long work is shown to a person: spinners on a terminal, plain dated lines otherwise.
//!
//! May touch standard error only. Everything that takes longer than a second is a [`Step`] of a [`Progress`].

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use valkey_cluster_operator::mutex::lock;

/// A plain line about a step that is still running is printed this often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The spinner's refresh.
const TICK: Duration = Duration::from_millis(120);

/// All the steps of one command, with the time that each took.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    quiet: bool,
    terminal: Option<MultiProgress>,
    done: Mutex<Vec<(String, Duration)>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Spinners if standard error is a terminal, plain lines if not.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self::with(terminal, false)
    }

    /// Shows nothing at all: for tests and for callers that report by themselves.
    pub fn hidden() -> Self {
        Self::with(None, true)
    }

    fn with(terminal: Option<MultiProgress>, quiet: bool) -> Self {
        let inner = Inner { started: Instant::now(), quiet, terminal, done: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Begins a step. It ends by [`Step::done`]; a step that is dropped before is shown as failed.
    pub fn step(&self, name: &str) -> Step {
        let bar = self.inner.terminal.as_ref().map(|all| {
            let bar = all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg:.dim} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        let now = Instant::now();
        Step {
            progress: self.clone(),
            name: name.to_owned(),
            started: now,
            bar,
            said: Mutex::new(Said { at: now, text: String::new() }),
            ended: false,
        }
    }

    /// One line for the person, above whatever is spinning.
    pub fn line(&self, text: impl Display) {
        match &self.inner.terminal {
            _ if self.inner.quiet => {}
            Some(all) => all.suspend(|| eprintln!("{text}")),
            None => eprintln!("[{:6.1}s] {text}", self.inner.started.elapsed().as_secs_f64()),
        }
    }

    /// Time since the command began.
    pub fn elapsed(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// The finished steps in the order in which they ended, with the time each took.
    pub fn finished(&self) -> Vec<(String, Duration)> {
        lock(&self.inner.done).clone()
    }
}

/// One piece of work that a person may have to wait for.
pub struct Step {
    progress: Progress,
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    said: Mutex<Said>,
    ended: bool,
}

struct Said {
    at: Instant,
    text: String,
}

impl Step {
    /// Says what the step is waiting for or doing now. May be called as often as one likes: plain output is
    /// limited to one line in ten seconds.
    pub fn note(&self, text: impl Display) {
        let text = text.to_string();
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            return;
        }
        let mut said = lock(&self.said);
        if said.at.elapsed() >= HEARTBEAT {
            let seconds = self.started.elapsed().as_secs();
            self.progress.line(format_args!("{}: {text} ({seconds} s so far)", self.name));
            said.at = Instant::now();
        }
        said.text = text;
    }

    /// Ends the step well, with an optional detail for the person.
    pub fn done(mut self, detail: impl Display) {
        self.ended = true;
        let took = self.started.elapsed();
        lock(&self.progress.inner.done).push((self.name.clone(), took));
        self.close("✓", &detail.to_string(), took);
    }

    fn close(&self, mark: &str, detail: &str, took: Duration) {
        if let (Some(bar), Some(all)) = (&self.bar, &self.progress.inner.terminal) {
            bar.finish_and_clear();
            all.remove(bar);
        }
        let colon = if detail.is_empty() { "" } else { ": " };
        self.progress.line(format_args!("{mark} {}{colon}{detail}  {:.1} s", self.name, took.as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            let last = lock(&self.said).text.clone();
            self.close("✗", &last, self.started.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_steps_keep_their_order_and_failed_ones_do_not_count() {
        let progress = Progress::hidden();
        let first = progress.step("first");
        let second = progress.step("second");
        second.done("");
        drop(progress.step("broken"));
        first.done("with detail");
        let names: Vec<_> = progress.finished().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["second", "first"]);
    }
}
