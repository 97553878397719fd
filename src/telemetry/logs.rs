//! Decides how log lines look and which are written. Touches standard error and the process-wide subscriber.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line, for log collectors.
    Json,
    /// Plain lines, for people.
    Text,
}

/// Which lines are written: a level (`info`), or levels by target (`info,kube=debug`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level(String);

impl Level {
    /// Checks the text where a person still sees the answer.
    ///
    /// # Errors
    /// A sentence for people, when the text is not a list of levels.
    pub fn parse(text: &str) -> Result<Self, String> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(e) => Err(format!(
                "{e}; write error, warn, info, debug or trace, or levels by target as in info,kube=debug"
            )),
        }
    }
}

/// Starts logging on standard error.
///
/// # Errors
/// When a subscriber was installed before.
pub fn start(format: Format, level: &Level) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&level.0)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        Format::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
        Format::Text => builder.try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging could not be started: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_checked_when_it_is_given() {
        assert!(Level::parse("info").is_ok());
        assert!(Level::parse("info,kube=debug").is_ok());
        let refusal = Level::parse("info,kube=loud").unwrap_err();
        assert!(refusal.contains("write error, warn, info"), "{refusal}");
    }
}
