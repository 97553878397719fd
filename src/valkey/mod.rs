//! The wire: everything that knows how a Valkey node is talked to, and nothing that decides.
//!
//! [`Node`] is one open connection, [`Connector`] opens it; [`fred`] implements both over TCP. [`commands`] has one
//! typed helper a command, [`parse`] turns answers into values, [`Links`] keep an open connection to every node
//! so that the end of a process is known within milliseconds.

pub mod commands;
pub mod error;
pub mod fred;
pub mod kept;
pub mod link;
pub mod links;
pub mod node;
pub mod parse;
pub mod reply;
pub mod tls;

pub use self::fred::FredConnector;
pub use error::WireError;
pub use kept::Kept;
pub use link::{Change, Event, LinkSettings};
pub use links::{Interrupt, LinkCounts, Links};
pub use node::{Access, Connector, Limits, Node, Ways};
pub use reply::Reply;
pub use tls::Tls;

/// The stack of a thread that reads answers, in bytes. The client library reads lists within lists by recursion: each takes about 3 KB
/// (measured with fred 10.1 and `opt-level = 1`; 20,000 fit into 64 MiB, 25,000 do not), so that the usual 2 MiB would end the process
/// at some 700, which an answer of 3 KB can hold. This is enough for 100,000. Only what is used of it takes memory.
pub const STACK: usize = 512 << 20;

/// The ports that nodes listen on; one process an address, so that they are the same for all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For the cluster bus.
    pub bus: u16,
}

impl Default for Ports {
    /// Those of the Pods: Valkey's own default, and 10000 more for the bus.
    fn default() -> Self {
        Self { client: 6379, bus: 16379 }
    }
}

#[cfg(test)]
pub(crate) mod testing;
