//! Decides how things are waited for: with a bound, and saying for what and why it is not there yet.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::progress::Step;

/// How often a condition is looked at. None of them costs more than a system call or a request to loopback.
const POLL: Duration = Duration::from_millis(50);

/// Waits until `ready` succeeds.
///
/// # Errors
/// After `limit`: the last error of `ready`, under a line that says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, ready: impl FnMut() -> Result<T>) -> Result<T> {
    wait(what, limit, None, ready)
}

/// As [`wait_for`], telling the person why it is not there yet.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_shown<T>(
    what: &str,
    limit: Duration,
    step: &Step,
    ready: impl FnMut() -> Result<T>,
) -> Result<T> {
    wait(what, limit, Some(step), ready)
}

fn wait<T>(
    what: &str,
    limit: Duration,
    step: Option<&Step>,
    mut ready: impl FnMut() -> Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() >= limit => {
                return Err(error)
                    .with_context(|| format!("waited {} s in vain for {what}", limit.as_secs()));
            }
            Err(error) => {
                if let Some(step) = step {
                    step.note(format_args!("waiting for {what}: {error}"));
                }
            }
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_waited_for_and_why_it_did_not_come() {
        let error = wait_for("rain", Duration::ZERO, || -> Result<()> { anyhow::bail!("the sky is blue") });
        assert_eq!(format!("{:#}", error.unwrap_err()), "waited 0 s in vain for rain: the sky is blue");
    }

    #[test]
    fn the_value_is_returned_as_soon_as_it_is_there() {
        let mut left = 3;
        let value = wait_for("countdown", Duration::from_secs(10), || {
            left -= 1;
            if left == 0 { Ok("done") } else { anyhow::bail!("{left} left") }
        });
        assert_eq!(value.unwrap(), "done");
    }
}
