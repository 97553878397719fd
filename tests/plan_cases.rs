//! Plan cases as text: a world in a few lines, then the plan that the rules make of it (`tests/plan/*.txt`).
//!
//! `BLESS=1 cargo test --test plan_cases` writes the plans anew: read the difference before it is committed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod plan_world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use valkey_cluster_operator::model::Attempts;
use valkey_cluster_operator::plan::plan;

#[test]
fn every_case_gives_its_plan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", folder.display());
    let bless = std::env::var_os("BLESS").is_some();
    let wrong: Vec<String> = files.iter().flat_map(|file| check(file, bless)).collect();
    assert!(wrong.is_empty(), "{}\nBLESS=1 writes the new plans", wrong.join("\n"));
}

/// The cases of a file that differ.
fn check(file: &Path, bless: bool) -> Vec<String> {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let mut parts = text.split("\ncase ");
    let (head, mut wrong) = (parts.next().unwrap().to_owned(), Vec::new());
    let mut out = head;
    for part in parts {
        let (question, want) = part.split_once("----\n").unwrap_or((part, ""));
        let mut lines = question.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
        let title = lines.next().unwrap_or_default();
        let lines: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
        let snapshot = plan_world::world(&lines).unwrap_or_else(|why| panic!("{name}, {title:?}: {why}"));
        let got = plan(&snapshot, &Attempts::default()).to_string();
        if got.trim_end() != want.trim_end() {
            wrong.push(format!("{name}, case {title}\nis:\n{got}\nwas:\n{want}"));
        }
        write!(out, "\ncase {}\n----\n{got}", question.trim_end()).unwrap();
    }
    if bless {
        std::fs::write(file, out).unwrap();
        wrong.clear();
    }
    wrong
}
