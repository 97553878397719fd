//! What a process remembers of earlier looks at a cluster: hints that may be lost at any moment.
//!
//! Nothing is decided by what is missing here but to wait: a replica that is not known to have been in sync is left to
//! Valkey's own election, and a member whose silence has only just begun is given more time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ids::{Moment, NodeId, PodUid, Shard, Version, WorkerName};
use super::peers::distinct;
use super::plan::Outcome;
use super::snapshot::{NodeReport, Pod, Role, Seen, Snapshot};
use super::step::Step;
use super::view::View;

/// How long a forced failover may be under way without a sign of it, in milliseconds: the `cluster-manual-failover-timeout`
/// that every node from 8.1 on runs with. On 8.0 it is 5 s, and a second attempt meanwhile does no harm: the replica
/// answers OK and goes on.
pub const FLIGHT_MS: i64 = 1000;

/// How long a hand-over may stay invisible, in milliseconds.
const HAND_OVER_MS: i64 = 5_000;

/// How long a shard of nodes before 8.1 rests after a change of roles, in milliseconds.
fn rest_ms(s: &Snapshot) -> i64 {
    2 * i64::from(s.desired.node_timeout_ms())
}

/// How long a worker that had no room for a member is not tried again, in milliseconds.
const REFUSED_MS: i64 = 600_000;

/// The hints of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Past {
    /// Replica → with whom it was last seen in sync, while it still follows that one.
    pub synced: BTreeMap<NodeId, Synced>,
    /// Changes of roles that were asked for a short time ago: one that is on its way cannot be seen.
    pub changes: Vec<Change>,
    /// Node → the worker that its process is on, while somebody lists it: the Pod goes with a worker that is removed or tainted, and
    /// with it the only word of where the process was.
    pub homes: BTreeMap<NodeId, WorkerName>,
    /// Replica of an older line than its primary → since when the two are not in sync.
    pub older: BTreeMap<NodeId, Moment>,
    /// Pod → since when its node has not answered.
    pub silent: BTreeMap<PodUid, Moment>,
    /// Pod → since when its node, which knows others, has called the cluster down.
    pub down: BTreeMap<PodUid, Moment>,
    /// Pods whose nodes take long to answer, while most do not.
    pub slow: BTreeSet<PodUid>,
    /// Since when somebody lists slots under an id that does not answer.
    pub headless: Option<Moment>,
    /// Worker → when the scheduler last refused to move a member there.
    pub refused: BTreeMap<WorkerName, Moment>,
}

/// A change of roles that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When; the last time, if it was asked for again.
    pub at: Moment,
    /// When it was asked for first.
    pub since: Moment,
    /// Of this shard.
    pub shard: Shard,
    /// Who is to lead it.
    pub heir: NodeId,
    /// The dead primary that it was forced for; none was planned.
    pub dead: Option<NodeId>,
}

/// A replica was seen in sync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synced {
    /// With this primary.
    pub primary: NodeId,
    /// Bytes of the replication stream that it had then.
    pub offset: u64,
}

impl Past {
    /// Adds what this look shows.
    pub fn see(&mut self, s: &Snapshot) {
        let reports: Vec<&NodeReport> =
            s.nodes.values().chain(s.ghosts.values()).filter_map(Seen::now).collect();
        // A look that shows nobody says nothing about anybody.
        if !reports.is_empty() {
            let there: BTreeSet<&NodeId> = reports.iter().map(|n| &n.id).collect();
            let lists: Vec<_> = distinct(reports.iter().copied()).collect();
            let listed = |id: &NodeId| lists.iter().any(|n| n.peers.contains_key(id));
            self.synced.retain(|id, _| there.contains(id) || listed(id));
            self.homes.retain(|id, _| there.contains(id) || listed(id));
        }
        let home = |p: &Pod| Some((s.nodes.get(&p.uid)?.now()?.id.clone(), p.worker.clone()?));
        self.homes.extend(s.pods.values().filter_map(home));
        let addresses: BTreeMap<&NodeId, IpAddr> =
            s.pods.values().filter_map(|p| Some((&s.nodes.get(&p.uid)?.now()?.id, p.ip?))).collect();
        let by_id: BTreeMap<&NodeId, &NodeReport> = reports.iter().map(|n| (&n.id, *n)).collect();
        let mut older = BTreeMap::new();
        for node in &reports {
            let Role::Replica { of, link } = &node.role else {
                self.synced.remove(&node.id);
                continue;
            };
            let ip = addresses.get(&node.id);
            let online = by_id.get(of).zip(ip).is_some_and(|(p, ip)| p.online_replicas.contains(ip));
            if link.in_sync() && !node.loading && online {
                let now = Synced { primary: of.clone(), offset: link.offset };
                self.synced.insert(node.id.clone(), now);
            } else {
                if self.synced.get(&node.id).is_some_and(|last| last.primary != *of) {
                    self.synced.remove(&node.id);
                }
                if by_id.get(of).is_some_and(|primary| node.version.line() < primary.version.line()) {
                    older.insert(node.id.clone(), self.older.get(&node.id).copied().unwrap_or(s.now));
                }
            }
        }
        self.older = older;
        self.silent.retain(|uid, _| matches!(s.nodes.get(uid), Some(Seen::Silent(_))));
        for (uid, seen) in &s.nodes {
            if matches!(seen, Seen::Silent(_)) {
                self.silent.entry(uid.clone()).or_insert(s.now);
            }
        }
        let calls_down =
            |seen: &Seen<NodeReport>| seen.now().is_some_and(|n| !n.state_ok && !n.is_isolated());
        let down = s.nodes.iter().filter(|(_, seen)| calls_down(seen)).map(|(uid, _)| uid);
        self.down = down.map(|uid| (uid.clone(), self.down.get(uid).copied().unwrap_or(s.now))).collect();
        let there: BTreeSet<&NodeId> = s.nodes.values().filter_map(Seen::now).map(|n| &n.id).collect();
        let missing =
            |n: &&NodeReport| n.peers.iter().any(|(id, p)| !p.slots.is_empty() && !there.contains(id));
        self.headless =
            distinct(reports.iter().copied()).any(|n| missing(&n)).then(|| self.headless.unwrap_or(s.now));
        for pod in s.pods.values().filter(|p| p.place.instead_of.is_some() && p.is_unschedulable()) {
            self.refused.extend(pod.place.asked.clone().map(|w| (w, s.now)));
        }
        self.refused.retain(|_, at| s.now < at.plus_ms(REFUSED_MS));
        let longest = HAND_OVER_MS.max(rest_ms(s));
        self.changes.retain(|c| s.now < c.at.plus_ms(longest));
    }

    /// Notes what became of a step. A hand-over that failed may be under way all the same, when only its answer was lost: one of another
    /// shard beside it would deny both their votes.
    pub fn tried(&mut self, step: &Step, outcome: &Outcome, now: Moment) {
        let begun = match outcome {
            Outcome::Done => true,
            Outcome::Failed(_) => matches!(step, Step::HandOver { .. }),
            Outcome::Stale(_) => false,
        };
        if begun {
            self.done(step, now);
        }
    }

    /// Notes an effect whose success shows only later.
    pub fn done(&mut self, step: &Step, now: Moment) {
        let (on, dead) = match step {
            Step::Promote { on, dead, .. } => (on, Some(dead.clone())),
            Step::HandOver { on, .. } => (on, None),
            _ => return,
        };
        let since = dead.as_ref().and_then(|id| self.forced_since(id)).unwrap_or(now);
        self.changes.retain(|c| c.shard != on.shard || c.dead.is_some() != dead.is_some());
        self.changes.push(Change { at: now, since, shard: on.shard, heir: on.node.clone(), dead });
    }

    /// A failover was forced a moment ago, and nobody can see yet how it ended.
    pub fn forced(&self, now: Moment) -> bool {
        self.changes.iter().any(|c| c.dead.is_some() && now < c.at.plus_ms(FLIGHT_MS))
    }

    /// When a failover was last forced for this dead primary.
    pub fn forced_for(&self, dead: &NodeId) -> Option<Moment> {
        self.change_for(dead).map(|c| c.at)
    }

    /// Since when one is forced for this dead primary, again and again.
    pub fn forced_since(&self, dead: &NodeId) -> Option<Moment> {
        self.change_for(dead).map(|c| c.since)
    }

    fn change_for(&self, dead: &NodeId) -> Option<&Change> {
        self.changes.iter().find(|c| c.dead.as_ref() == Some(dead))
    }

    /// Hand-overs that may still be on their way: what the nodes show lags behind, and a second one in the same election would
    /// deny both their votes.
    pub fn handing_over(&self, now: Moment) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |c| c.dead.is_none() && now < c.at.plus_ms(HAND_OVER_MS))
    }

    /// Shards that handed over so short a time ago that nodes before 8.1 give no vote for another (twice the node-timeout).
    pub fn resting(&self, v: &View<'_>) -> BTreeSet<Shard> {
        let old = v.answering().any(|(_, n)| n.version < Version::new(8, 1, 0));
        let recent = self.changes.iter().filter(|c| old && c.dead.is_none());
        recent.filter(|c| v.s.now < c.at.plus_ms(rest_ms(v.s))).map(|c| c.shard).collect()
    }

    /// The replica completed a full sync of this very primary: how far it had come when that was last seen.
    pub fn synced_with(&self, replica: &NodeId, primary: &NodeId) -> Option<u64> {
        self.synced.get(replica).filter(|s| s.primary == *primary).map(|s| s.offset)
    }

    /// Milliseconds for which the node of this Pod has not answered.
    pub fn silent_for(&self, uid: &PodUid, now: Moment) -> i64 {
        self.silent.get(uid).map_or(0, |since| now.since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PodName, Target};

    #[test]
    fn a_hand_over_whose_answer_was_lost_may_be_under_way() {
        let target = |n: &str| Target {
            pod: PodName::new(n),
            uid: PodUid::new(n),
            shard: Shard(1),
            node: NodeId::new(n),
            ip: IpAddr::from([10, 0, 0, 1]),
        };
        let step = Step::HandOver { on: target("a"), from: target("b") };
        let after = |outcome: Outcome| {
            let mut past = Past::default();
            past.tried(&step, &outcome, Moment(0));
            past.handing_over(Moment(100)).count()
        };
        assert_eq!(after(Outcome::Done), 1);
        assert_eq!(after(Outcome::Failed("no answer in time".to_owned())), 1);
        assert_eq!(after(Outcome::Stale("it does not lead any more".to_owned())), 0);
    }
}
