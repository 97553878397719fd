//! The wire: everything that knows how a Valkey node is talked to, and nothing that decides.
//!
//! [`Node`] is one open connection, [`Connector`] opens it; [`fred`] implements both over TCP. [`commands`] has one
//! typed helper a command, [`parse`] turns answers into values, [`Links`] keep an open connection to every node
//! so that the end of a process is known within milliseconds.

pub mod commands;
mod error;
pub mod fred;
mod link;
mod links;
mod node;
pub mod parse;
mod reply;

pub use self::fred::FredConnector;
pub use error::WireError;
pub use link::{Change, Event, LinkSettings};
pub use links::{LinkCounts, Links};
pub use node::{Access, Connector, Limits, Node};
pub use reply::Reply;

#[cfg(test)]
pub(crate) mod testing;
