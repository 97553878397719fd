//! The recorded answers of real servers; `testdata/README.md` says how they came about.

/// The three lines of Valkey that the answers were recorded on.
pub(crate) const LINES: [&str; 3] = ["8.0", "8.1", "9.1"];

/// A recorded answer, `testdata/<line>-<what>.txt`.
pub(crate) fn recorded(line: &str, what: &str) -> String {
    let path = format!("{}/src/valkey/testdata/{line}-{what}.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}
