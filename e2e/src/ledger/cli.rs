//! Decides what the `ledger` program does with its arguments: starts, listens for the end, prints, exits.
//! May write a report to a file or to standard output.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::SignedDuration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use super::{LaneKind, Ledger, LedgerHandle, LedgerReport, Limits, Options};
use crate::resp::Credentials;

/// The exit code of a run that broke a limit; 1 is a ledger that could not run.
const LIMIT_BROKEN: u8 = 3;
/// Far enough to mean "until told to stop".
const ENDLESS: Duration = Duration::from_hours(24 * 365);

/// Writes to every part of a Valkey cluster and says what became of it: lost acknowledged writes, the longest gap,
/// errors by kind.
///
/// It increments counters of its own (keys valkey-ledger:…), reads them back at the end and removes them. It ends
/// after --duration, at Ctrl-C or SIGTERM, or with --stdin at a line `stop`. Exit code: 0 within the limits, 3 beyond
/// one, 1 if it could not run.
#[derive(Debug, Parser)]
#[command(name = "ledger", version)]
pub struct Cli {
    /// Nodes to begin with, host:port, separated by commas; names are resolved.
    #[arg(long, required = true, value_delimiter = ',')]
    seeds: Vec<String>,
    /// The ACL user; none means the default user.
    #[arg(long, env = "LEDGER_USER")]
    user: Option<String>,
    /// The password; better given by the environment than on the command line.
    #[arg(long, env = "LEDGER_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// How long to write, e.g. 90s or 10m; until told to stop if not given.
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Writes per second of each lane; 250 tell gaps to 4 ms.
    #[arg(long, default_value_t = 250.0)]
    rate: f64,
    /// Plain lanes, spread evenly over all slots. They are judged.
    #[arg(long, default_value_t = 12)]
    lanes: u16,
    /// Lanes of a client library (redis-rs). They are reported; of their figures only lost writes are judged.
    #[arg(long, default_value_t = 0)]
    client_lanes: u16,
    /// Replicas that must have a write of a plain lane before it counts as acknowledged (WAIT); 0 takes the primary's word.
    #[arg(long, default_value_t = 0)]
    copies: u16,
    /// The time-out of a plain lane's connect and command, in milliseconds.
    #[arg(long, default_value_t = 250)]
    timeout_ms: u64,
    /// Gaps shorter than this, in milliseconds, are not listed.
    #[arg(long, default_value_t = 10)]
    gap_floor_ms: u64,
    /// Fail if a gap is longer, in milliseconds.
    #[arg(long)]
    max_gap_ms: Option<u64>,
    /// Fail if more acknowledged writes are lost.
    #[arg(long, default_value_t = 0)]
    max_lost: u64,
    /// Fail if there are more errors; redirects do not count.
    #[arg(long)]
    max_errors: Option<u64>,
    /// Writes the report as JSON to this file; `-` is standard output, the summary then goes to standard error.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leaves the counters in the cluster.
    #[arg(long)]
    keep_keys: bool,
    /// Takes commands from standard input, one a line: `mark NAME`, `stop`, and `flowing NAME`, which is answered by the
    /// same words once every plain lane has had a write acknowledged again.
    #[arg(long)]
    stdin: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let hint = |_| format!("{text:?} is no duration: write e.g. 90s, 10m or 1h30m");
    let parsed: SignedDuration = text.parse().map_err(hint)?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is a negative duration"))
}

impl Cli {
    /// Runs the program to its end.
    ///
    /// # Errors
    /// If the ledger could not run or its report could not be written.
    pub async fn run(self) -> Result<ExitCode> {
        let handle = Ledger::start(self.options()).await?;
        self.wait_for_end(&handle).await?;
        let report = handle.stop().await?;
        self.print(&report)?;
        let broken = report.verdict(&self.limits());
        for sentence in &broken {
            eprintln!("beyond the limits: {sentence}");
        }
        Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LIMIT_BROKEN) })
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.seeds.clone());
        options.access.credentials = Credentials { user: self.user.clone(), password: self.password.clone() };
        options.lanes = self.lanes;
        options.client_lanes = self.client_lanes;
        options.copies = self.copies;
        options.rate = self.rate;
        options.timeout = Duration::from_millis(self.timeout_ms);
        options.floor = Duration::from_millis(self.gap_floor_ms);
        options.keep_keys = self.keep_keys;
        options
    }

    fn limits(&self) -> Limits {
        Limits {
            max_gap: self.max_gap_ms.map(Duration::from_millis),
            max_lost: Some(self.max_lost),
            max_errors: self.max_errors,
        }
    }

    async fn wait_for_end(&self, handle: &LedgerHandle) -> Result<()> {
        let end = Instant::now() + self.duration.unwrap_or(ENDLESS);
        let mut ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let mut commands = self.stdin.then(|| BufReader::new(tokio::io::stdin()).lines());
        let mut second = interval(Duration::from_secs(1));
        let mut flowed = false;
        let mut asked: FuturesUnordered<BoxFuture<'_, (String, Result<()>)>> = FuturesUnordered::new();
        eprintln!("writing on {} plain and {} client lanes", self.lanes, self.client_lanes);
        loop {
            tokio::select! {
                () = sleep_until(end) => break,
                () = any(&mut ends) => break,
                _ = second.tick() => show(handle),
                flowing = handle.wait_flowing_within(ENDLESS), if !flowed => {
                    flowing?;
                    flowed = true;
                    eprintln!("flowing: every plain lane has writes acknowledged");
                }
                Some((name, told)) = asked.next() => answer(&name, told),
                line = next(&mut commands) => match line.as_deref().map(str::trim) {
                    None => commands = None,
                    Some("stop") => break,
                    Some(line) => match line.split_once(' ') {
                        Some(("flowing", name)) => {
                            let name = name.trim().to_owned();
                            asked.push(Box::pin(async move { (name, handle.wait_flowing().await) }));
                        }
                        _ => obey(handle, line),
                    },
                }
            }
        }
        Ok(())
    }

    fn print(&self, report: &LedgerReport) -> Result<()> {
        let summary = report.summary();
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                eprint!("{summary}");
                println!("{}", serde_json::to_string(report)?);
            }
            Some(path) => {
                print!("{summary}");
                let text = serde_json::to_string_pretty(report)?;
                std::fs::write(path, text)
                    .with_context(|| format!("cannot write the report to {}", path.display()))?;
            }
            None => print!("{summary}"),
        }
        Ok(())
    }
}

async fn any(signals: &mut [Signal; 2]) {
    let [interrupt, terminate] = signals;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The next line; never if there is nothing to read from.
async fn next(commands: &mut Option<Lines<BufReader<Stdin>>>) -> Option<String> {
    match commands {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

fn obey(handle: &LedgerHandle, line: &str) {
    match line.split_once(' ') {
        Some(("mark", name)) if !name.trim().is_empty() => {
            handle.mark(name.trim());
            eprintln!("marked {}", name.trim());
        }
        _ if line.is_empty() => {}
        _ => eprintln!("unknown command {line:?}: write `mark NAME`, `flowing NAME` or `stop`"),
    }
}

/// One line, whatever the error says.
fn answer(name: &str, told: Result<()>) {
    match told {
        Ok(()) => eprintln!("flowing {name}"),
        Err(error) => eprintln!("not flowing {name}: {}", format!("{error:#}").replace('\n', " ")),
    }
}

/// One line that is written over every second, on a terminal only.
fn show(handle: &LedgerHandle) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let (plain, seconds) = (handle.glance(LaneKind::Plain), handle.elapsed().as_secs());
    let gap = plain.longest_gap.as_millis();
    let mut line =
        format!("{seconds} s: {} acknowledged, longest gap {gap} ms, {} errors", plain.acked, plain.failures);
    if plain.regressed > 0 {
        // Writing to a string cannot fail.
        let _ = write!(line, ", {} lanes have lost writes", plain.regressed);
    }
    eprint!("\r\x1b[K{line}");
    // A status line that does not appear does no harm.
    let _ = std::io::stderr().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert!(duration("90").unwrap_err().contains("90s"));
        assert!(duration("-1s").unwrap_err().contains("negative"));
    }

    #[test]
    fn the_command_line_is_what_the_help_says() {
        let cli = Cli::try_parse_from(["ledger", "--seeds", "a:1,b:2", "--max-gap-ms", "500"]).unwrap();
        assert_eq!(cli.options().seeds, ["a:1", "b:2"]);
        let limits = cli.limits();
        assert_eq!((limits.max_lost, limits.max_gap), (Some(0), Some(Duration::from_millis(500))));
        assert!(Cli::try_parse_from(["ledger"]).is_err());
    }
}
