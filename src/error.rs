//! Decides how a failed pass is named. Touches nothing.

use std::error::Error as StdError;

/// Why a pass over one object failed. The pass is tried again, later each time; nothing of it is remembered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("Kubernetes: {0}")]
    Kube(#[source] Box<kube::Error>),
    /// A Valkey node refused, or could not be reached.
    #[error("Valkey: {0}")]
    Valkey(#[source] Box<dyn StdError + Send + Sync>),
    /// The object lacks something that the API server always sets.
    #[error("the object has no {0}: was it read from the API server?")]
    Incomplete(&'static str),
    /// This process may not act now: its lease is not valid.
    #[error("the lease is not valid now: nothing is changed until it is")]
    NotLeading,
    /// A bug: the code that looked after this object panicked. Other objects are not affected.
    #[error("a bug in the operator: {0}")]
    Panicked(String),
    /// Anything else, with its own sentence.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl Error {
    /// A failure of the conversation with a Valkey node.
    pub fn valkey(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Valkey(error.into())
    }

    /// The metric label: one of a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kube(error) => kube_reason(error),
            Self::Valkey(_) => "valkey",
            Self::Incomplete(_) => "incomplete_object",
            Self::NotLeading => "not_leading",
            Self::Panicked(_) => "panic",
            Self::Other(_) => "other",
        }
    }
}

fn kube_reason(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => "api_unauthorized",
            403 => "api_forbidden",
            404 => "api_not_found",
            409 => "api_conflict",
            422 => "api_invalid",
            429 => "api_throttled",
            500.. => "api_server",
            _ => "api_other",
        },
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
            "api_unreachable"
        }
        _ => "api_client",
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn reasons_are_labels() {
        let api = |code| Error::from(kube::Error::Api(Box::new(Status::failure("no", "No").with_code(code))));
        assert_eq!(api(409).reason(), "api_conflict");
        assert_eq!(api(503).reason(), "api_server");
        assert_eq!(api(418).reason(), "api_other");
        assert_eq!(Error::from(kube::Error::Service("connect".into())).reason(), "api_unreachable");
        assert_eq!(Error::valkey("closed").reason(), "valkey");
        assert_eq!(Error::from(anyhow::anyhow!("x").context("y")).to_string(), "y: x");
    }
}
