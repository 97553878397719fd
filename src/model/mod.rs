//! The pure vocabulary: what is wanted, what was seen, and what may be done about the difference.

pub mod brief;
pub mod certificates;
pub mod demands;
pub mod desired;
mod grounds;
pub mod ids;
pub mod lists;
pub mod looks;
pub mod moves;
pub mod past;
pub mod peers;
pub mod plan;
pub mod settings;
pub mod shape;
pub mod slots;
pub mod snapshot;
pub mod step;
pub mod traffic;
pub mod users;
pub mod view;
pub mod wire;
mod words;

pub use brief::{Answer, Brief, Numbers};
pub use certificates::{Certificates, Given, Trust};
pub use demands::Demands;
pub use desired::{ClientAuth, Desired, Exporter, Metadata, Scheduling, Spread, SpreadMode, Template, Tls};
pub use ids::{
    ClusterKey, Fingerprint, Moment, NodeId, PodName, PodUid, Revision, Shard, Version, WorkerName, Zone,
};
pub use lists::{List, Lists};
pub use looks::{Looks, Sampling, Shards};
pub use moves::{Job, JobState, Memory, OpenSlots};
pub use past::{Past, Synced};
pub use peers::Peers;
pub use plan::{Attempts, Blocked, Code, Done, Outcome, Plan, Proposal, Stage, Waiting, Why};
pub use shape::Shape;
pub use slots::{SLOTS, SlotRange, Slots};
pub use snapshot::{
    Link, NodeReport, Peer, Phase, Place, Pod, Request, Role, Seen, Silence, Snapshot, Trouble, Worker,
};
pub use step::{Lane, Object, Step, Target};
pub use traffic::{Moved, Traffic};
pub use view::{Member, View};
pub use wire::Mode;
