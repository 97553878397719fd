//! On what grounds a role is taken from a node, and a Pod away: the guards read them again.

/// What a forced failover rests on; the guard reads it again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promotion {
    /// Its address refuses, all its replicas have lost it and so has at least one more node; the others vote.
    Refused,
    /// It is silent, and the majority of the slot owners suspects it; they vote.
    Suspected,
    /// It is proven dead, and too few slot owners are left to vote, or they refuse to.
    Takeover(Proof),
    /// The same, and no copy of its data is left: the replica has never held it.
    Empty(Proof),
}

/// What proves that a process is dead. Silence, a worker that is not Ready and a Pod object that is gone prove nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proof {
    /// The kubelet says that its container has ended.
    Ended,
    /// Its worker was removed from the cluster.
    NoWorker,
    /// Its worker is tainted as out of service.
    OutOfService,
    /// Its address refuses the operator, and another node has lost it as well.
    Refused,
    /// A person vouches for it by its id, and nobody hears it.
    Vouched,
}

/// What makes a Pod safe to delete; the guard reads it again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Removable {
    /// Its server never started or has ended.
    NotRunning,
    /// Its node knows nobody, owns nothing and holds nothing.
    Unused,
    /// Its node owns no slots and holds no key, whomever it knows.
    Empty,
    /// Its node knows nobody and holds no key: slots that it claims are led by another.
    Alone,
    /// Its node owns no slots and copies nobody who owns any: the keys that it holds are others'.
    Stranded,
    /// Its worker has not been heard for long, or somebody vouches that it is off; its node does not answer, and owns no slots in any other's view.
    Unreachable,
    /// Its node does not answer: its shard is whole without it, and the Pod is given some seconds to end in order.
    Silent,
    /// Its node is a retired replica, and its primary still sends every write to that many others.
    Retired {
        /// Replicas that must be online elsewhere.
        others: u16,
    },
    /// Its node is a replica, and its primary still sends every write to that many others.
    Replaced {
        /// Replicas that must be online elsewhere.
        others: u16,
    },
}
