//! What can go wrong on the wire, in categories that stay the same whatever library is underneath.

use crate::model::Silence;

/// Why a command has no answer, or a negative one.
///
/// After `Timeout` and `Reset` the command may have been carried out: the connection is given up and the node's
/// state read again, the command is never repeated blindly.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens at the address: the process is not there.
    #[error("nobody listens at the address (connection refused)")]
    Refused,
    /// There is no way to the address, as when its worker is gone.
    #[error("the address cannot be reached")]
    Unreachable,
    /// The connection was closed by the other side.
    #[error("the connection was closed")]
    Reset,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// `WRONGPASS` or `NOAUTH`: the user or its password is not accepted.
    #[error("the credentials are not accepted: {}", words(.0))]
    Auth(String),
    /// `NOPERM`: the user may not do this.
    #[error("the user may not do this: {}", words(.0))]
    Denied(String),
    /// `LOADING`: a dataset is being loaded.
    #[error("the server is loading its dataset")]
    Loading,
    /// `BUSY`: a script or function holds the server.
    #[error("the server is busy with a script")]
    Busy,
    /// Any other refusal, in the server's words.
    #[error("the server refuses: {}", words(.0))]
    Server(String),
    /// The answer is not what the command is documented to answer.
    #[error("the answer is not understood: {}", words(.0))]
    Protocol(String),
}

/// How much of what a server says is shown: logs, events and conditions must not grow with what a node makes up.
const SHOWN: usize = 300;

/// The beginning of a server's words, as one line.
fn words(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl WireError {
    /// A short name for metrics and conditions: a closed set.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused => "Refused",
            Self::Unreachable => "Unreachable",
            Self::Reset => "Reset",
            Self::Timeout => "Timeout",
            Self::Auth(_) => "Auth",
            Self::Denied(_) => "Denied",
            Self::Loading => "Loading",
            Self::Busy => "Busy",
            Self::Server(_) => "Server",
            Self::Protocol(_) => "Protocol",
        }
    }

    /// Reads an error answer of the server by its first word.
    pub fn from_answer(text: &str) -> Self {
        match text.split_whitespace().next().unwrap_or_default() {
            "NOAUTH" | "WRONGPASS" => Self::Auth(text.to_owned()),
            "NOPERM" => Self::Denied(text.to_owned()),
            "LOADING" => Self::Loading,
            "BUSY" => Self::Busy,
            _ => Self::Server(text.to_owned()),
        }
    }

    /// The node does not know the id it was asked about (`CLUSTER REPLICATE`, `CLUSTER FORGET`).
    pub fn is_unknown_node(&self) -> bool {
        matches!(self, Self::Server(text) if text.contains("Unknown node"))
    }

    /// The server is older than the command or setting.
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Server(text) if text.contains("unknown subcommand") || text.contains("unknown command"))
    }

    /// The connection is of no use any more; a new one may be.
    pub fn is_connection(&self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable | Self::Reset | Self::Timeout | Self::Auth(_))
    }

    /// The kind of silence that a node with this error is in.
    pub fn silence(&self) -> Silence {
        match self {
            Self::Refused => Silence::Refused,
            Self::Unreachable | Self::Timeout => Silence::Timeout,
            Self::Reset => Silence::Reset,
            Self::Auth(_) | Self::Denied(_) => Silence::Auth,
            Self::Loading | Self::Busy => Silence::Busy,
            Self::Server(_) | Self::Protocol(_) => Silence::Garbled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as 8.0.1, 8.1.1 and 9.1.2 send them.
    #[test]
    fn answers_fall_into_their_categories() {
        let cases = [
            ("NOAUTH Authentication required.", "Auth"),
            ("WRONGPASS invalid username-password pair or user is disabled.", "Auth"),
            ("NOPERM User op has no permissions to run the 'config|get' command", "Denied"),
            ("LOADING Valkey is loading the dataset in memory", "Loading"),
            (
                "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                "Busy",
            ),
            ("ERR Slot 5 is already busy", "Server"),
            ("", "Server"),
        ];
        for (text, code) in cases {
            assert_eq!(WireError::from_answer(text).code(), code, "{text}");
        }
        let long = WireError::from_answer(&format!("ERR one\r\ntwo{}", "!".repeat(100_000))).to_string();
        assert!(long.starts_with("the server refuses: ERR one  two!") && long.len() < 2 * SHOWN, "{long}");
        let unknown = WireError::from_answer("ERR Unknown node 0000000000000000000000000000000000000000");
        assert!(unknown.is_unknown_node() && !unknown.is_unknown_command() && !unknown.is_connection());
        assert!(
            WireError::from_answer("ERR unknown subcommand 'MIGRATESLOTS'. Try CLUSTER HELP.")
                .is_unknown_command()
        );
    }
}
