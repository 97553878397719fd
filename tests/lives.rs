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
mod text;

use sim::life::live;
use sim::script::Script;
use sim::trace::Trace;

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
