//! A small RESP2 client of our own, for what judges: the ledger's plain lanes and the truth check.
//!
//! It decides nothing about clusters except what the protocol itself says (key slots, redirects, the slot map). It
//! shares no code with the operator, so that a mistake there cannot hide itself here, and it does nothing on its own:
//! no retry, no reconnect, no redirect.

mod cluster;
mod connection;
mod parser;
mod tls;

pub use cluster::{Endpoint, Redirect, SLOTS, SlotMap, SlotRange, key_slot, tag_for};
pub use connection::{Access, Connection, Connector, Credentials, Fault, Socket, Stream, direct, plain};
pub use parser::{Reply, encode, parse};
pub use tls::{either, encrypted, shown};
