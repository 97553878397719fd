//! The layers of docs/architecture.md, enforced: what decides touches nothing, and files stay small.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Layers that must give the same answer for the same facts, whenever and wherever they are asked.
const PURE: [&str; 4] = ["src/model", "src/plan", "src/build", "src/report"];

/// What a pure layer must not mention, and why.
const FORBIDDEN: [(&str, &str); 22] = [
    ("kube::Client", "a client"),
    ("kube::Api", "a client"),
    ("kube::client", "a client"),
    ("kube::runtime", "a client"),
    ("fred", "a client"),
    ("hyper", "a client"),
    ("crate::valkey", "the wire"),
    ("crate::observe", "effects"),
    ("crate::execute", "effects"),
    ("crate::context", "effects"),
    ("tokio", "a runtime"),
    ("async ", "a runtime"),
    (".await", "a runtime"),
    ("Instant", "a clock"),
    ("SystemTime", "a clock"),
    ("::now()", "a clock"),
    ("rand", "randomness"),
    ("HashMap", "an order that changes from run to run"),
    ("HashSet", "an order that changes from run to run"),
    ("std::fs", "files"),
    ("std::env", "the environment"),
    ("std::net::Tcp", "sockets"),
];

/// The longest a file may be, its tests apart: what one person reads in one sitting.
const LONGEST: usize = 500;

#[test]
fn pure_layers_mention_nothing_that_acts() {
    let mut seen = 0;
    let mut offences = Vec::new();
    for layer in PURE {
        for path in sources(layer) {
            seen += 1;
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in code(&text) {
                let of = FORBIDDEN.iter().filter(|(word, _)| mentions(line, word));
                offences.extend(of.map(|(word, why)| format!("{}:{number}: {word} ({why})", path.display())));
            }
        }
    }
    assert!(seen > PURE.len(), "the layers were found: {seen} files");
    assert!(offences.is_empty(), "pure layers must not mention these:\n{}", offences.join("\n"));
}

#[test]
fn files_are_small_and_say_what_they_decide() {
    let mut offences = Vec::new();
    for folder in ["src", "tests", "e2e/src", "e2e/tests", "fuzz/src"] {
        for path in sources(folder) {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().lines().count();
            if lines > LONGEST {
                offences.push(format!("{} has {lines} lines: split it by concept", path.display()));
            }
            // The tests of a file, moved beside it, are told by its name.
            let tests_of_another = path.to_string_lossy().ends_with("_tests.rs");
            if !text.starts_with("//!") && !tests_of_another {
                offences.push(format!("{} does not open with //! and what it decides", path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn the_check_itself_sees_what_it_should() {
    assert!(mentions("use rand::Rng;", "rand") && mentions("let x = rand();", "rand"));
    assert!(!mentions("operand, random_lives, brand", "rand"), "whole words only");
    assert!(mentions("pub async fn f()", "async ") && mentions("x.await?", ".await"));
    let text = "//! tokio\nlet a = 1; // tokio\n\"//\";\n#[cfg(test)]\nmod tests { tokio }\n";
    let seen: Vec<_> = code(text).map(|(number, _)| number).collect();
    assert_eq!(seen, [2, 3]);
    assert!(code(text).all(|(_, line)| !line.contains("tokio")));
}

/// The lines of code before the tests, with their numbers, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    let bare = lines.map(|(at, line)| (at + 1, line.split("// ").next().unwrap_or_default()));
    bare.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether the word stands there by itself, not as a part of a longer one.
fn mentions(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part_of_word);
        let after = line[at + word.len()..].chars().next().is_some_and(part_of_word);
        let open = |end: Option<char>| end.is_some_and(part_of_word);
        !(before && open(word.chars().next()) || after && open(word.chars().next_back()))
    })
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
