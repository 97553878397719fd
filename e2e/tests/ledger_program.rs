//! The ledger as a program: its exit codes, its JSON, its ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::process::{Output, Stdio};
use std::time::Duration;

use common::{THREE, alone, cluster};
use e2e::ledger::LedgerReport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(child: Child) -> Output {
    timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .expect("the ledger ends within 30 s")
        .unwrap()
}

fn report(output: &Output) -> LedgerReport {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {errors}"))
}

/// Reads standard error until a line begins with this.
async fn says(child: &mut Child, what: &'static str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(what) {
                return;
            }
        }
        panic!("the ledger ended before it said {what:?}");
    };
    timeout(Duration::from_secs(30), said).await.expect("the ledger says it within 30 s");
    // What it says later is of no interest, but it must be able to say it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_by_time_by_signal_and_by_command_and_exits_by_its_limits() {
    let _alone = alone().await;
    let processes = cluster(THREE).await;
    let seeds = format!("127.0.0.1:1,{}", processes.addr(3));
    let base = ["--seeds", &seeds, "--json", "-", "--lanes", "6"];

    let timed = program(&[&base[..], &["--duration", "1s", "--client-lanes", "1"]].concat()).spawn().unwrap();
    let timed = output(timed).await;
    assert_eq!(timed.status.code(), Some(0), "{}", String::from_utf8_lossy(&timed.stderr));
    let found = report(&timed);
    assert_eq!((found.lanes.len(), found.lost()), (7, 0));
    assert!(found.judged.acked > 0 && (1000.0..3000.0).contains(&found.duration_ms), "{}", found.summary());

    let mut by_signal = program(&base).spawn().unwrap();
    says(&mut by_signal, "flowing: ").await;
    let pid = Pid::from_raw(i32::try_from(by_signal.id().unwrap()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(output(by_signal).await.status.code(), Some(0));

    let strict = [&base[..], &["--stdin", "--max-gap-ms", "0", "--gap-floor-ms", "0"]].concat();
    let mut by_command = program(&strict).spawn().unwrap();
    by_command.stdin.as_mut().unwrap().write_all(b"flowing at last\n").await.unwrap();
    says(&mut by_command, "flowing at last").await;
    by_command.stdin.as_mut().unwrap().write_all(b"mark here\nstop\n").await.unwrap();
    let by_command = output(by_command).await;
    assert_eq!(by_command.status.code(), Some(3), "a limit of no gap at all is broken by any");
    assert!(report(&by_command).mark_ms("here").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_says_why_and_exits_with_1() {
    let _alone = alone().await;
    let output = output(program(&["--seeds", "127.0.0.1:1"]).spawn().unwrap()).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no seed gave a slot map") && said.contains("connection refused"), "{said}");
}
