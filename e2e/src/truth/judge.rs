//! Decides from what all nodes answered whether the cluster is whole, and who is where. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::info::Listed;
use super::look::{Facts, Seen};
use super::nodes::ViewLine;
use crate::resp::{Endpoint, SLOTS};

/// What all nodes answered at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// What became of asking each node.
    pub seen: BTreeMap<SocketAddr, Seen>,
}

/// One slot owner and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The shard's id, which survives failovers; the owner's node id if nobody of the shard answers.
    pub id: String,
    /// The owner's node id.
    pub primary: String,
    /// The owner's address, as asked; `None` if it did not answer.
    pub primary_addr: Option<SocketAddr>,
    /// How many slots it owns.
    pub slots: usize,
    /// Every answering node that follows the owner.
    pub replicas: Vec<Replica>,
}

/// A replica of a slot owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its node id.
    pub id: String,
    /// Its address, as asked.
    pub addr: SocketAddr,
    /// Why it is not in sync; `None` if it is.
    pub behind: Option<String>,
}

/// What a whole cluster must have beyond being whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Slot-owning primaries.
    pub shards: Option<usize>,
    /// In-sync replicas of each.
    pub replicas: Option<usize>,
    /// The value of cluster-node-timeout on every node, in milliseconds.
    pub node_timeout_ms: Option<u64>,
}

impl Shard {
    /// Copies of the data that are served or in sync: the primary if it answers, and its in-sync replicas. A shard
    /// whose primary is silent has none: nobody knows what its replicas lack.
    pub fn copies(&self) -> usize {
        if self.primary_addr.is_none() {
            return 0;
        }
        1 + self.replicas.iter().filter(|replica| replica.behind.is_none()).count()
    }
}

impl Truth {
    /// The nodes that answered.
    pub fn answered(&self) -> impl Iterator<Item = (SocketAddr, &Facts, &ViewLine)> {
        self.seen.iter().filter_map(|(addr, seen)| match seen {
            Seen::Answered(facts) => facts.view.myself().map(|me| (*addr, facts.as_ref(), me)),
            Seen::Silent(_) => None,
        })
    }

    /// Slot owners with their replicas, by shard id. An owner that answers speaks for itself; a silent one is taken
    /// from the others' views.
    pub fn shards(&self) -> Vec<Shard> {
        let mut shards: BTreeMap<&str, Shard> = BTreeMap::new();
        for (addr, facts, me) in self.answered().filter(|(_, _, me)| me.primary && !me.slots.is_empty()) {
            shards.insert(&me.id, self.shard(me, facts.shard.clone(), Some(addr)));
        }
        let speaking: BTreeSet<_> = self.answered().map(|(_, _, me)| me.id.as_str()).collect();
        for line in self.answered().flat_map(|(_, facts, _)| &facts.view.lines) {
            if line.primary && !line.slots.is_empty() && !speaking.contains(line.id.as_str()) {
                let follower =
                    self.answered().find(|(_, _, me)| me.replica_of.as_deref() == Some(line.id.as_str()));
                let id = follower.map_or_else(|| line.id.clone(), |(_, facts, _)| facts.shard.clone());
                shards.entry(&line.id).or_insert_with(|| self.shard(line, id, None));
            }
        }
        let mut shards: Vec<_> = shards.into_values().collect();
        shards.sort_by(|a, b| a.id.cmp(&b.id));
        shards
    }

    fn shard(&self, owner: &ViewLine, id: String, primary_addr: Option<SocketAddr>) -> Shard {
        let listed = primary_addr.and_then(|addr| match self.seen.get(&addr) {
            Some(Seen::Answered(facts)) => Some(&facts.replication),
            Some(Seen::Silent(_)) | None => None,
        });
        let followers =
            self.answered().filter(|(_, _, me)| me.replica_of.as_deref() == Some(owner.id.as_str()));
        let replicas = followers.map(|(addr, facts, me)| {
            let online = listed.is_some_and(|primary| is_online(me.place.as_ref(), &primary.replicas));
            let own = facts.replication.behind();
            let behind = own.or((!online).then_some("is not listed online by its primary"));
            Replica { id: me.id.clone(), addr, behind: behind.map(str::to_owned) }
        });
        let replicas = replicas.collect();
        Shard { id, primary: owner.id.clone(), primary_addr, slots: owner.slot_count(), replicas }
    }

    /// How many slots have exactly one owner, by the owners' own words.
    pub fn covered(&self) -> usize {
        self.owners().values().filter(|owners| owners.len() == 1).count()
    }

    fn owners(&self) -> BTreeMap<u16, Vec<SocketAddr>> {
        let mut owners: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
        for (addr, _, me) in self.answered().filter(|(_, _, me)| me.primary) {
            for slot in me.slots.iter().flat_map(|(first, last)| *first..=*last) {
                owners.entry(slot).or_default().push(addr);
            }
        }
        owners
    }

    /// Every node knows every other without doubts, and all agree on who is what.
    pub fn formed(&self) -> bool {
        !self.seen.is_empty() && self.silence().is_empty() && self.disagreements().is_empty()
    }

    /// What is wrong, in sentences; empty means a whole cluster.
    pub fn problems(&self) -> Vec<String> {
        let parts =
            [self.silence(), self.disagreements(), self.coverage(), self.lag(), self.epochs(), self.states()];
        parts.concat()
    }

    /// [`Truth::problems`], and what is not as expected.
    pub fn problems_against(&self, expected: &Expected) -> Vec<String> {
        let mut problems = self.problems();
        let shards = self.shards();
        if let Some(wanted) = expected.shards.filter(|wanted| *wanted != shards.len()) {
            problems.push(format!("{} shards own slots, expected are {wanted}", shards.len()));
        }
        if let Some(wanted) = expected.replicas {
            for shard in shards.iter().filter(|shard| shard.copies() != wanted + 1) {
                let (id, copies) = (short(&shard.id), shard.copies());
                problems.push(format!("shard {id} has {copies} copies in sync, expected are {}", wanted + 1));
            }
        }
        if let Some(wanted) = expected.node_timeout_ms {
            for (addr, facts, _) in
                self.answered().filter(|(_, facts, _)| facts.node_timeout_ms != Some(wanted))
            {
                let value =
                    facts.node_timeout_ms.map_or_else(|| "unreadable".to_owned(), |ms| ms.to_string());
                problems.push(format!("cluster-node-timeout on {addr} is {value}, expected is {wanted}"));
            }
        }
        problems
    }

    fn silence(&self) -> Vec<String> {
        let silent = self.seen.iter().filter_map(|(addr, seen)| match seen {
            Seen::Silent(why) => Some(format!("{addr} does not answer: {why}")),
            Seen::Answered(_) => None,
        });
        silent.collect()
    }

    fn disagreements(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let all: BTreeMap<&str, (SocketAddr, &ViewLine)> =
            self.answered().map(|(addr, _, me)| (me.id.as_str(), (addr, me))).collect();
        for (viewer, facts, _) in self.answered() {
            for (id, (addr, me)) in &all {
                match facts.view.of(id) {
                    None => problems.push(format!("{viewer} does not know {addr}")),
                    Some(line) => problems.extend(doubts(viewer, *addr, line, me)),
                }
            }
            for stranger in facts.view.lines.iter().filter(|line| !all.contains_key(line.id.as_str())) {
                let place =
                    stranger.place.as_ref().map_or_else(|| "no address".to_owned(), Endpoint::to_string);
                let (id, flags) = (short(&stranger.id), stranger.trouble.join(","));
                problems.push(format!(
                    "{viewer} knows {id} at {place}, which did not answer under that id ({flags})"
                ));
            }
        }
        problems
    }

    fn coverage(&self) -> Vec<String> {
        let owners = self.owners();
        let mut problems = Vec::new();
        if owners.len() < usize::from(SLOTS) {
            problems.push(format!("{} slots have no owner that answers", usize::from(SLOTS) - owners.len()));
        }
        if let Some((slot, twice)) = owners.iter().find(|(_, owners)| owners.len() > 1) {
            let count = owners.values().filter(|owners| owners.len() > 1).count();
            problems.push(format!("{count} slots have several owners, e.g. {slot}: {twice:?}"));
        }
        for (addr, _, me) in self.answered().filter(|(_, _, me)| !me.open.is_empty()) {
            problems.push(format!("{addr} has slots on their way: {}", me.open.join(" ")));
        }
        problems
    }

    fn lag(&self) -> Vec<String> {
        let shards = self.shards();
        let mut problems = Vec::new();
        for shard in &shards {
            for Replica { addr, behind, .. } in &shard.replicas {
                problems.extend(behind.iter().map(|why| format!("replica {addr} {why}")));
            }
        }
        let owners: BTreeSet<_> = shards.iter().map(|shard| shard.primary.as_str()).collect();
        for (addr, _, me) in self.answered() {
            if let Some(primary) = me.replica_of.as_deref().filter(|primary| !owners.contains(primary)) {
                problems.push(format!("replica {addr} follows {}, which owns no slots", short(primary)));
            }
        }
        problems
    }

    fn epochs(&self) -> Vec<String> {
        let mut by_epoch: BTreeMap<u64, Vec<SocketAddr>> = BTreeMap::new();
        for (addr, _, me) in self.answered().filter(|(_, _, me)| me.primary && !me.slots.is_empty()) {
            by_epoch.entry(me.epoch).or_default().push(addr);
        }
        let shared = by_epoch.into_iter().filter(|(_, addrs)| addrs.len() > 1);
        shared
            .map(|(epoch, addrs)| format!("config epoch {epoch} is shared by the primaries {addrs:?}"))
            .collect()
    }

    fn states(&self) -> Vec<String> {
        let bad = self.answered().filter(|(_, facts, _)| !facts.state_ok);
        bad.map(|(addr, _, _)| format!("{addr} says that the cluster state is not ok")).collect()
    }
}

/// What `viewer` has to say about the node at `addr` that differs from what the node says itself.
fn doubts(viewer: SocketAddr, addr: SocketAddr, line: &ViewLine, me: &ViewLine) -> Vec<String> {
    let mut doubts = Vec::new();
    if !line.trouble.is_empty() {
        doubts.push(format!("{viewer} sees {addr} as {}", line.trouble.join(",")));
    }
    if !line.myself && !line.linked {
        doubts.push(format!("{viewer} has no bus link to {addr}"));
    }
    if line.primary != me.primary || line.replica_of != me.replica_of {
        doubts.push(format!("{viewer} and {addr} disagree on the role or primary of {addr}"));
    }
    if line.slots != me.slots {
        doubts.push(format!(
            "{viewer} sees {} slots at {addr}, it owns {}",
            line.slot_count(),
            me.slot_count()
        ));
    }
    if line.primary && line.epoch != me.epoch {
        doubts.push(format!("{viewer} sees config epoch {} at {addr}, it has {}", line.epoch, me.epoch));
    }
    doubts
}

/// Its primary lists it as online. The port tells nodes of one host apart, and nothing where there is one: the port that a node names
/// depends on how it is asked while it goes to TLS.
fn is_online(place: Option<&Endpoint>, listed: &[Listed]) -> bool {
    let Some(place) = place else { return false };
    let here: Vec<_> = listed.iter().filter(|l| l.ip == place.host).collect();
    here.iter().any(|l| l.state == "online" && (here.len() == 1 || l.port == place.port))
}

/// The first eight digits of an id: enough for people.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
