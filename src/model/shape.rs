//! What the data of a cluster was spread for: so many shards, in Pods of one revision.

use std::fmt;
use std::str::FromStr;

use super::ids::Revision;

/// What a change of the spec has to differ in for the data to be spread anew.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shape {
    /// Number of shards.
    pub shards: u16,
    /// Revision of the Pods.
    pub revision: Revision,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shards, self.revision)
    }
}

impl FromStr for Shape {
    type Err = String;

    /// Reads `<shards>/<revision>`.
    ///
    /// # Errors
    /// When it is nothing of the kind.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(n, revision)| Some((n.parse().ok()?, revision)));
        let (shards, revision) = parts
            .filter(|(_, r)| !r.is_empty())
            .ok_or_else(|| format!("<shards>/<revision>, not {text:?}"))?;
        Ok(Self { shards, revision: Revision::new(revision) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let shape = Shape { shards: 4, revision: Revision::new("0f3a") };
        assert_eq!(shape.to_string(), "4/0f3a");
        assert_eq!(shape.to_string().parse(), Ok(shape));
        assert!(["", "4", "4/", "x/0f3a"].iter().all(|t| t.parse::<Shape>().is_err()));
    }
}
