//! What of the wire reads answers, and nothing that speaks.

#[path = "../../src/valkey/error.rs"]
pub mod error;
#[path = "../../src/valkey/parse/mod.rs"]
pub mod parse;
#[path = "../../src/valkey/reply.rs"]
pub mod reply;
