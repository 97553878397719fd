//! Plain text or TLS: what each Pod can, what its node shows, and what it is to be.
//!
//! A Pod can speak TLS when certificates are mounted, which is decided when it is created. Between a cluster without and one with TLS its
//! nodes are first all Pods that can, in plain text, and then switched live, all in one burst. A node that can and speaks plain text
//! listens for TLS *aside*, at a port of its own: the operator speaks to a Pod that can by nothing but TLS.

use std::fmt;

use super::snapshot::NodeReport;

/// Port for clients, in plain text or by TLS.
pub const CLIENT_PORT: u16 = 6379;
/// Port for TLS of a node whose clients speak plain text.
pub const ASIDE_PORT: u16 = 6380;

const PORT: &str = "port";
const TLS_PORT: &str = "tls-port";
const BUS: &str = "tls-cluster";
const REPLICATION: &str = "tls-replication";
/// Servers before 9.0 go on telling the port of before as their own until one of these changes (measured on 8.0.1 and 8.1.1).
const TOLD_PORT: &str = "cluster-announce-port";
const TOLD_TLS_PORT: &str = "cluster-announce-tls-port";

/// What a node is asked for to know how it speaks.
pub const SETTINGS: [&str; 4] = [PORT, TLS_PORT, BUS, REPLICATION];

/// How clients, replication and bus speak.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// In plain text; TLS aside.
    Plain,
    /// By TLS alone.
    Tls,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain text",
            Self::Tls => "TLS",
        })
    }
}

impl Mode {
    /// The settings of a node that speaks so, in the order in which a server can take them: the port that it gives up before the one
    /// that it takes. In one command: all or none.
    pub fn settings(self) -> [(&'static str, String); 6] {
        let text = |value: &str| value.to_owned();
        let (client, aside, yes, no) =
            (CLIENT_PORT.to_string(), ASIDE_PORT.to_string(), text("yes"), text("no"));
        match self {
            Self::Plain => [
                (BUS, no.clone()),
                (REPLICATION, no),
                (TLS_PORT, aside),
                (PORT, client.clone()),
                (TOLD_PORT, client),
                (TOLD_TLS_PORT, text("0")),
            ],
            Self::Tls => [
                (BUS, yes.clone()),
                (REPLICATION, yes),
                (PORT, text("0")),
                (TLS_PORT, client.clone()),
                (TOLD_PORT, text("0")),
                (TOLD_TLS_PORT, client),
            ],
        }
    }

    /// How this node speaks, when it says so; none in between or of a node that was not asked.
    pub fn of(node: &NodeReport) -> Option<Self> {
        [Self::Plain, Self::Tls].into_iter().find(|mode| {
            let shows = |(key, value): &(&str, String)| node.config.get(*key) == Some(value);
            mode.settings().iter().filter(|(key, _)| SETTINGS.contains(key)).all(shows)
        })
    }
}
