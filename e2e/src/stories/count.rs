//! What passed, what failed and what was left out, as the last lines of a suite say it.

use std::fmt;

/// Lines of one failure that are told again at the end.
const TOLD: usize = 8;

/// What passed and what did not.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Count {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Not run.
    pub skipped: usize,
    /// Why those that are skipped were not run, where it is known.
    pub why: Vec<String>,
    /// What failed, each in a few lines.
    pub failures: Vec<String>,
}

impl Count {
    /// One that passed.
    pub fn passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One that failed, with what is to be told of it.
    pub fn failed(what: String) -> Self {
        Self { failed: 1, failures: vec![what], ..Self::default() }
    }

    /// One that was not run.
    pub(super) fn skipped(why: String) -> Self {
        Self { skipped: 1, why: vec![why], ..Self::default() }
    }

    /// Adds another count.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.why.extend(other.why);
        self.failures.extend(other.failures);
    }

    /// Nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed == 0
    }

    /// The sum of libtest's `test result:` lines, and what each failed test said in the end.
    pub(super) fn of_libtest(text: &str) -> Self {
        let mut sum = Self { failures: panics(text), ..Self::default() };
        for line in text.lines().filter(|line| line.starts_with("test result:")) {
            let number = |what: &str| {
                let part = line.split([';', '.']).find(|part| part.trim_end().ends_with(what));
                part.and_then(|p| p.split_whitespace().next()?.parse().ok()).unwrap_or(0)
            };
            let (passed, failed, skipped) = (number("passed"), number("failed"), number("ignored"));
            sum.add(Self { passed, failed, skipped, ..Self::default() });
        }
        sum
    }
}

/// The names of failed tests with the beginning of their panic.
fn panics(text: &str) -> Vec<String> {
    let mut out: Vec<(String, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            out.push((format!("test {name}"), Vec::new()));
            inside = true;
        } else if line == "failures:" {
            inside = false;
        } else if let Some((_, lines)) = out.last_mut().filter(|_| inside) {
            // Tables and logs come before the panic.
            if line.contains(" panicked at ") || !lines.is_empty() {
                lines.push(line);
            }
        }
    }
    let shown = |lines: Vec<&str>| lines.into_iter().take(TOLD).collect::<Vec<_>>().join("\n  ");
    out.into_iter().map(|(name, lines)| format!("{name}: {}", shown(lines).trim_end())).collect()
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        if !self.why.is_empty() {
            write!(f, " ({})", self.why.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_many_test_programs_add_up() {
        let text = "running 2 tests\n\
                    test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
                    test result: FAILED. 40 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s\n";
        let count = Count::of_libtest(text);
        assert_eq!((count.passed, count.failed, count.skipped), (42, 3, 1));
        assert_eq!(count.to_string(), "42 passed, 3 failed, 1 skipped");
        let skipped = Count::skipped("heal: needs the sandbox".to_owned());
        assert_eq!(skipped.to_string(), "0 passed, 0 failed, 1 skipped (heal: needs the sandbox)");
    }

    #[test]
    fn what_failed_is_told_in_the_end() {
        let text = "failures:\n\n\
                    ---- a::b stdout ----\n\
                    | a table |\n\
                    thread 'a::b' panicked at src/a.rs:1:\n\
                    it is 2\n\n\n\
                    failures:\n    a::b\n\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let told = "FAILED test a::b: thread 'a::b' panicked at src/a.rs:1:\n  it is 2\n0 passed, 1 failed, 0 skipped";
        assert_eq!(Count::of_libtest(text).to_string(), told);
    }
}
