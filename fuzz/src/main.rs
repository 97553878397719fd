//! One fuzzer for all targets: `FUZZ=<name>` chooses, everything else is libFuzzer's own command line. `cargo ci` runs each for a while;
//! a file that it left behind is tried again with `FUZZ=<name> fuzz <file>`.
//!
//! The modules under test are compiled once more as a part of this program: it alone is instrumented, and no client comes with them.
#![no_main]
#![allow(dead_code, unused_imports, missing_docs, reason = "the targets use a part of these modules")]

extern crate self as valkey_cluster_operator;

#[path = "../../src/api/mod.rs"]
mod api;
#[path = "../../src/build/mod.rs"]
mod build;
#[path = "../../src/model/mod.rs"]
mod model;
mod targets;
mod valkey;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ").unwrap_or_default();
    let known = || TARGETS.map(|target| target.name).join(", ");
    *TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("FUZZ={name:?}: choose one of {}", known()))
});

fuzz_target!(|input: &str| (CHOSEN.run)(input));
