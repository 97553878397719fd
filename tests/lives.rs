//! Scripted lives: what happens to a cluster as text in `tests/lives/*.txt`, and the log of the life below it.
//!
//! `BLESS=1 cargo test --test lives` writes the logs anew: a change of behaviour is a difference that a person reads.
// The world of a test is a bag of flags and short names, and its one match over all steps is best read as a whole.
#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::many_single_char_names,
    clippy::too_many_lines
)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod sim;

use std::path::{Path, PathBuf};

use sim::life::live;
use sim::script::Script;
use sim::trace::Trace;

/// Between the script and its log.
const RULER: &str = "----\n";

#[test]
fn every_script_gives_its_log() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lives");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no lives in {}", folder.display());
    let bless = std::env::var_os("BLESS").is_some();
    let wrong: Vec<String> = files.iter().filter_map(|file| differs(file, bless)).collect();
    assert!(wrong.is_empty(), "{}\nBLESS=1 writes the new logs", wrong.join("\n"));
}

fn differs(file: &Path, bless: bool) -> Option<String> {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let (script, want) = text.split_once(RULER).unwrap_or((&text, ""));
    let parsed: Script = script.parse().unwrap_or_else(|why| panic!("{name}: {why}"));
    let end = live(&parsed, Trace::on());
    if let Some(why) = end.failure {
        return Some(format!("{name}: {why}\n{}", end.world.trace.text));
    }
    let got = end.world.trace.text;
    if bless {
        std::fs::write(file, format!("{script}{RULER}{got}")).unwrap();
        return None;
    }
    let first = got.lines().zip(want.lines()).find(|(a, b)| a != b);
    let shown = first.map_or_else(|| "the lengths differ".to_owned(), |(a, b)| format!("is  {a}\nwas {b}"));
    (got != want).then(|| format!("{name}:\n{shown}"))
}
