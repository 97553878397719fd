//! What several tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

pub mod apiserver;
mod objects;
mod patch;
pub mod rig;
mod select;
