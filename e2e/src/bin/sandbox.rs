//! The sandbox command line.
fn main() {}
