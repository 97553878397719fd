//! Mutants: the operator without one of its rules, or with one of its guards off. Each has to be noticed: by a plan case that
//! gives another plan, by a scripted life or by a random one that ends badly.
//!
//! `just mutants` (or `LIVES=<n> cargo test --test worlds mutants -- --ignored --nocapture`) prints who notices what,
//! `MUTANT=guard` only of those with that in their names.

use std::fs;
use std::path::Path;

use crate::plan_world;
use crate::sim::life::live_as;
use crate::sim::mutant::{ADMISSIONS, GUARDS, Mutant};
use crate::sim::random::script;
use crate::sim::script::Script;
use crate::sim::trace::Trace;
use valkey_cluster_operator::model::{Attempts, Snapshot};
use valkey_cluster_operator::plan::{plan, rules};

/// Random lives that a mutant has to get through unless `LIVES` says otherwise.
const LIVES: u64 = 300;

/// How the names of mutants begin that nobody here has to notice, and why.
const SURVIVORS: &[(&str, &str)] = &[
    ("admission: the delay after a failure", "it says how soon something is tried again, never what is done"),
    (
        "guard ",
        "it refuses what changes between a look and its effect, which few lives bring about; `src/execute/guard_tests.rs` and \
         `guard_refusals_tests.rs` have each of its sentences, so that one left out fails there",
    ),
];

fn texts(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let files = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path());
    let mut texts: Vec<(String, String)> = files
        .filter(|f| f.extension().is_some_and(|e| e == "txt"))
        .map(|f| (f.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&f).unwrap()))
        .collect();
    texts.sort();
    texts
}

/// The worlds of all plan cases.
fn worlds() -> Vec<Snapshot> {
    let read = |case: &str| {
        let question = case.split_once("----\n").map_or(case, |(question, _)| question);
        let lines = question.lines().skip(1).map(|l| l.split('#').next().unwrap_or_default().trim());
        plan_world::world(&lines.filter(|l| !l.is_empty()).collect::<Vec<_>>()).unwrap()
    };
    let files = texts("plan");
    files.iter().flat_map(|(_, text)| text.split("\ncase ").skip(1).map(read).collect::<Vec<_>>()).collect()
}

fn scripts() -> Vec<(String, Script)> {
    let read = |(name, text): (String, String)| {
        let script = text.split_once("----\n").map_or(text.as_str(), |(script, _)| script);
        (name, script.parse().unwrap())
    };
    texts("lives").into_iter().map(read).collect()
}

/// Plan cases whose plan is another one.
fn cases(mutant: Mutant, worlds: &[Snapshot]) -> usize {
    let attempts = Attempts::default();
    worlds.iter().filter(|world| mutant.plan(world, &attempts) != plan(world, &attempts)).count()
}

/// The first scripted life that ends badly.
fn life(mutant: Mutant, scripts: &[(String, Script)]) -> Option<String> {
    let bad = |(_, script): &&(String, Script)| live_as(script, Trace::default(), mutant).failure.is_some();
    scripts.iter().find(bad).map(|(name, _)| name.clone())
}

/// The first random life that ends badly.
fn seed(mutant: Mutant, lives: u64) -> Option<u64> {
    (0..lives).find(|seed| live_as(&script(*seed), Trace::default(), mutant).failure.is_some())
}

fn mutants() -> impl Iterator<Item = Mutant> {
    let rules = rules().map(Mutant::Rule);
    rules
        .chain(ADMISSIONS.iter().copied().map(Mutant::Admission))
        .chain(GUARDS.iter().copied().map(Mutant::Guard))
}

#[test]
fn a_plan_without_one_of_the_rules_is_another_plan() {
    let worlds = worlds();
    let unnoticed: Vec<&str> = rules().filter(|rule| cases(Mutant::Rule(rule), &worlds) == 0).collect();
    assert!(unnoticed.is_empty(), "no plan case needs these rules: {unnoticed:?}");
}

#[test]
#[ignore = "takes minutes: `just mutants`"]
fn every_mutant_is_noticed() {
    let lives = std::env::var("LIVES").map_or(LIVES, |n| n.parse().unwrap());
    let (worlds, scripts) = (worlds(), scripts());
    println!(
        "| left out | plan cases that differ | scripted life that ends badly | random life that ends badly |\n|---|---|---|---|"
    );
    let mut wrong = Vec::new();
    let only = std::env::var("MUTANT").unwrap_or_default();
    for mutant in mutants().filter(|m| m.to_string().contains(&only)) {
        let (cases, life, seed) = (cases(mutant, &worlds), life(mutant, &scripts), seed(mutant, lives));
        let noticed = cases > 0 || life.is_some() || seed.is_some();
        let none = || format!("none of {lives}");
        println!(
            "| {mutant} | {} | {} | {} |",
            if cases > 0 { cases.to_string() } else { String::new() },
            life.unwrap_or_default(),
            seed.map_or_else(none, |seed| seed.to_string())
        );
        match SURVIVORS.iter().find(|(name, _)| mutant.to_string().starts_with(name)) {
            Some((_, why)) if !noticed => println!("nobody notices: {why}"),
            None if !noticed => wrong.push(mutant.to_string()),
            Some(_) | None => {}
        }
    }
    assert!(wrong.is_empty(), "nobody notices that these are left out: {wrong:?}");
}
