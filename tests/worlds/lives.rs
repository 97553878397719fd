//! Scripted lives: what happens to a cluster as text in `tests/lives/*.txt`, and the log of the life below it.
//!
//! `BLESS=1 cargo test --test worlds every_script` writes the logs anew: a change of behaviour is a difference that a person reads.

use crate::sim::life::live;
use crate::sim::script::Script;
use crate::sim::trace::Trace;
use crate::text;

/// Between the script and its log.
const RULER: &str = "----\n";

#[test]
fn every_script_gives_its_log() {
    text::answered_anew("lives", |_, text| {
        let script = text.split_once(RULER).map_or(text, |(script, _)| script);
        let parsed: Script = script.parse()?;
        let end = live(&parsed, Trace::on());
        match end.failure {
            Some(why) => Err(format!("{why}\n{}", end.world.trace.text)),
            None => Ok(format!("{script}{RULER}{}", end.world.trace.text)),
        }
    });
}
