//! The write ledger as a program of its own.

use std::process::ExitCode;

use clap::Parser as _;
use e2e::ledger::cli::Cli;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
