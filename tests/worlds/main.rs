//! All that is lived through in the simulated world, as one program: that world takes a while to compile.
// The world of a test is a bag of flags and short names, and its one match over all steps is best read as a whole.
#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::many_single_char_names,
    clippy::too_many_lines
)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]
// Both worlds stand on the same bare objects.
#![allow(clippy::duplicate_mod)]

mod lives;
mod mutants;
#[path = "../plan_world/mod.rs"]
mod plan_world;
mod random_lives;
#[path = "../sim/mod.rs"]
mod sim;
mod small_worlds;
mod spec_walk;
#[path = "../text/mod.rs"]
mod text;

/// The number that a variable of the environment holds, if there is one.
fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let parse = |v: String| v.parse().unwrap_or_else(|_| panic!("{name} is a number, not {v:?}"));
    std::env::var(name).ok().map(parse)
}
