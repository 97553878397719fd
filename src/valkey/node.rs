//! One small trait for an open connection to a node, and one for opening it: what the rest of the operator sees of
//! the client library, and what tests put in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;

use super::error::WireError;
use super::reply::Reply;
use super::tls::Tls;
use crate::model::wire::ASIDE_PORT;

/// An open connection to one node. No answer takes longer than its [`Limits`]; dropping it closes the socket.
///
/// It carries administrative commands only; of those with keys only what moves them: the client library gives the connection
/// up when a node answers `CLUSTERDOWN`, and only commands with keys are answered that way.
pub trait Node: Send + Sync {
    /// Sends one command and waits for its answer.
    fn call<'a>(&'a self, argv: &'a [&'a str]) -> BoxFuture<'a, Result<Reply, WireError>>;

    /// Sends commands in one burst; the answers come in the order of the commands, one for each.
    /// When the connection breaks or time runs out, every command has that error.
    fn call_many<'a>(&'a self, commands: &'a [Vec<&'a str>]) -> BoxFuture<'a, Vec<Result<Reply, WireError>>> {
        Box::pin(async move {
            let bytes: Vec<Vec<&[u8]>> =
                commands.iter().map(|argv| argv.iter().map(|w| w.as_bytes()).collect()).collect();
            self.call_many_bytes(&bytes).await
        })
    }

    /// The same for arguments that may be any bytes, such as names of keys.
    fn call_many_bytes<'a>(
        &'a self,
        commands: &'a [Vec<&'a [u8]>],
    ) -> BoxFuture<'a, Vec<Result<Reply, WireError>>>;

    /// Ends when the connection is closed, within milliseconds of the other process's death.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// Opens connections.
pub trait Connector: Send + Sync {
    /// Connects and authenticates. Ends within `access.limits.connect` plus one second.
    fn connect<'a>(
        &'a self,
        addr: SocketAddr,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Box<dyn Node>, WireError>>;
}

/// As whom to connect, and how long to wait.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The ACL user; none is `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// How the connection is encrypted; none is plain text.
    pub tls: Option<Tls>,
    /// Who is spoken to otherwise, while a cluster is on its way to TLS or from it.
    pub ways: Ways,
    /// The password before that one, for servers that do not know the new one yet.
    pub former: Option<String>,
    /// How long to wait.
    pub limits: Limits,
}

/// Addresses that are not spoken to as all others are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ways {
    /// Members that were made without certificates: they can speak nothing but plain text.
    pub bare: BTreeSet<IpAddr>,
    /// Members that may listen for TLS aside: whether they are asked there first.
    pub aside: BTreeMap<IpAddr, bool>,
}

impl Access {
    /// The same towards this one address, and the addresses at which it may listen, in the order in which they are tried.
    pub fn towards(&self, addr: SocketAddr) -> (Self, Vec<SocketAddr>) {
        let aside = SocketAddr::new(addr.ip(), ASIDE_PORT);
        let at = match self.ways.aside.get(&addr.ip()) {
            Some(true) => vec![aside, addr],
            Some(false) => vec![addr, aside],
            None => vec![addr],
        };
        let tls = self.tls.clone().filter(|_| !self.ways.bare.contains(&addr.ip()));
        let at = if tls.is_some() { at } else { vec![addr] };
        (Self { tls, ways: Ways::default(), ..self.clone() }, at)
    }
}

impl fmt::Debug for Access {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("username", &self.username)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How long to wait for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For the connection to be open, and again for it to be authenticated.
    pub connect: Duration,
    /// For an answer.
    pub reply: Duration,
    /// For the answer to a command that may work long before it answers (see [`Limits::of`]).
    pub long_reply: Duration,
}

impl Default for Limits {
    /// A node answers within a millisecond unless something is wrong; two seconds leave room for a busy worker.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            reply: Duration::from_secs(2),
            long_reply: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// For reading many nodes in one pass, where a silent one must not hold up the others.
    pub fn brief() -> Self {
        Self { connect: Duration::from_millis(500), reply: Duration::from_secs(1), ..Self::default() }
    }

    /// The time that this command may take. `CLUSTER RESET` and `CLUSTER REPLICATE` may flush a dataset,
    /// `CLUSTER SETSLOT` waits up to two seconds for replicas, `CONFIG SET maxmemory` may evict.
    pub fn of(&self, argv: &[&str]) -> Duration {
        let word = |i: usize| argv.get(i).copied().unwrap_or_default().to_ascii_uppercase();
        match (word(0).as_str(), word(1).as_str()) {
            ("CLUSTER", "RESET" | "REPLICATE" | "SETSLOT" | "FAILOVER") | ("CONFIG", "SET" | "REWRITE") => {
                self.long_reply
            }
            ("WAIT" | "MIGRATE", _) => self.long_reply,
            _ => self.reply,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_work_long_get_longer() {
        let limits = Limits::default();
        assert_eq!(limits.of(&["cluster", "reset", "hard"]), limits.long_reply);
        assert_eq!(limits.of(&["CLUSTER", "NODES"]), limits.reply);
        assert_eq!(limits.of(&[]), limits.reply);
    }

    #[test]
    fn without_tls_at_hand_there_is_one_way() {
        let addr: SocketAddr = "10.0.0.1:6379".parse().unwrap();
        let ways = Ways { bare: BTreeSet::new(), aside: BTreeMap::from([(addr.ip(), true)]) };
        let access = Access { ways, ..Access::default() };
        assert_eq!(access.towards(addr), (Access::default(), vec![addr]));
    }

    #[test]
    fn a_password_is_never_printed() {
        let access =
            Access { username: Some("u".into()), password: Some("secret".into()), ..Access::default() };
        assert!(!format!("{access:?}").contains("secret"));
    }
}
