//! Names that cannot be mixed up: one newtype for every kind of identifier. They share their text, since plans of large clusters name
//! the same nodes ten thousand times.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

text_id!(
    /// A Pod's name, `valkey-<cluster>-<shard>-<n>`. It may be used again after the Pod is gone.
    PodName
);
text_id!(
    /// A Pod's UID: never used again, and therefore what every destructive step is bound to.
    PodUid
);
text_id!(
    /// The id that a Valkey node gave itself (40 hexadecimal digits).
    NodeId
);
text_id!(
    /// What tells a certificate, or a CA, from all others: the start of the hash of its bytes.
    Fingerprint
);
text_id!(
    /// A worker (Kubernetes Node) by its name.
    WorkerName
);
text_id!(
    /// A zone: the value of a worker's `topology.kubernetes.io/zone` label.
    Zone
);
text_id!(
    /// Hash of everything in a Pod that cannot be changed live.
    Revision
);

/// One `ValkeyCluster` among all: namespace and name to find it, UID to tell it from a namesake.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ClusterKey {
    /// The namespace it lives in.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; members are selected by it, never by the name.
    pub uid: String,
}

/// A shard by its ordinal (0-based), as on the Pod label `valkey.io/shard-index`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A moment in milliseconds since the Unix epoch: the one clock reading of a pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub i64);

impl Moment {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is the later one (clocks differ).
    pub fn since(self, earlier: Moment) -> i64 {
        self.0.saturating_sub(earlier.0).max(0)
    }

    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Moment {
        Moment(self.0.saturating_add(ms))
    }
}

/// A Valkey version as the server reports it (`INFO server`, `valkey_version`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

impl Version {
    /// A version from its three numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// What all its patch releases have in common: the format of the data.
    pub fn line(self) -> (u16, u16) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Release candidates report `9.0.0-rc1`: what follows the three numbers does not matter here.
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = core.split('.').map(str::parse::<u16>);
        let mut next = || match parts.next() {
            Some(Ok(n)) => Ok(n),
            None | Some(Err(_)) => Err(format!("not a Valkey version: {text:?}")),
        };
        Ok(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let v: Version = "9.0.0-rc1".parse().unwrap();
        assert_eq!(v, Version::new(9, 0, 0));
        assert!("8.1.1".parse::<Version>().unwrap() < v);
        assert!("nine".parse::<Version>().is_err());
        assert!("9.1".parse::<Version>().is_err());
    }

    #[test]
    fn a_clock_that_went_back_is_zero_milliseconds() {
        assert_eq!(Moment(5).since(Moment(9)), 0);
        assert_eq!(Moment(9).since(Moment(5)), 4);
    }
}
