//! Turns answers into values. Pure; never panics; what is unknown is passed over, what is malformed is an error,
//! because a line that is left out could be taken for a node that does not exist.

mod cluster_info;
mod info;
mod jobs;
mod nodes;
mod slot_stats;
mod users;

pub use cluster_info::ClusterInfo;
pub use info::{Info, ReplicaLine, Replication};
pub use jobs::jobs;
pub use nodes::{Direction, Flag, NodeLine, OpenSlot, cluster_nodes};
pub use slot_stats::slots_of_stats;
pub use users::{AclUser, shown};

#[cfg(test)]
pub(crate) mod testdata;
