//! The write ledger: writes to every part of a Valkey cluster, and afterwards says what became of what it was told.
//!
//! It decides nothing about the cluster; it writes counters under keys of its own, reads them back and removes them.
//! *Plain* lanes have their own routing, with short time-outs and no retry hidden in a library, and are what is
//! judged. *Client* lanes go through a client library and show what an application would have seen; only what is lost
//! on them counts.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use e2e::ledger::{Ledger, Options};
//! let handle = Ledger::start(Options::new(vec!["127.0.0.1:7000".into()])).await?;
//! handle.wait_flowing().await?;
//! handle.mark("fail over");
//! // … what the story is about …
//! handle.wait_flowing().await?;
//! let report = handle.stop().await?;
//! assert_eq!(report.lost(), 0, "{}", report.summary());
//! # Ok(()) }
//! ```

mod account;
pub mod cli;
mod client;
mod errors;
mod handle;
mod live;
mod options;
mod plain;
mod pulse;
mod relay;
mod report;
mod router;
mod table;
mod topology;

pub use errors::{ErrorKind, Errors};
pub use handle::{Ledger, LedgerHandle};
pub use live::{Glance, LaneGlance};
pub use options::{LaneKind, Limits, Options, client_lanes};
pub use pulse::{Control, Stall};
pub use report::{GapReport, LaneReport, Latency, LedgerReport, Mark, RegressionReport, Totals, Window};
pub use topology::AddressMap;
