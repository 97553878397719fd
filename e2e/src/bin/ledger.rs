//! The write ledger command line.
fn main() {}
