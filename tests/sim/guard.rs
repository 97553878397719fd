//! The executor's own guards, fed with what the simulated nodes say at the moment of the effect.

use std::collections::BTreeSet;
use std::net::IpAddr;

use valkey_cluster_operator::execute::guard::{self, Facts};
use valkey_cluster_operator::execute::recovery::{Scene, There};
use valkey_cluster_operator::model::step::Removable;
use valkey_cluster_operator::model::{NodeId, Phase, PodName, PodUid, Shard, Target};
use valkey_cluster_operator::valkey::parse::{Direction, Flag, NodeLine, OpenSlot};

use super::valkey::{Entry, Node};
use super::world::World;

/// Nothing was done, because this is not true any more.
pub(crate) type Stale = String;

impl World {
    /// The process behind a target answers, with the id that was recorded.
    pub(crate) fn identity(&self, on: &Target) -> Result<Facts, Stale> {
        let node = self.heard(on.ip).filter(|n| n.cluster == 0);
        let facts = read(node.ok_or_else(|| format!("{} does not answer", on.pod))?);
        self.mutant.guarded("identity", guard::identity(&facts, on), || ())?;
        Ok(facts)
    }

    /// Whom a node may be introduced to; the first refusal, too.
    pub(crate) fn may_meet(
        &self,
        on: &Target,
        with: &[Target],
    ) -> Result<(Vec<IpAddr>, Option<Stale>), Stale> {
        let own = self.identity(on)?;
        let read: Vec<(&Target, Result<Facts, Stale>)> = with.iter().map(|t| (t, self.identity(t))).collect();
        let ours: BTreeSet<IpAddr> =
            read.iter().filter(|(_, f)| f.is_ok()).map(|(t, _)| t.ip).chain([on.ip]).collect();
        let (mut calls, mut refused) = (Vec::new(), None);
        for (peer, facts) in read {
            let said = facts.and_then(|f| {
                self.mutant.guarded("introduce", guard::introduce(&own, &f, &ours), || Some(()))
            });
            match said {
                Ok(Some(())) => calls.push(peer.ip),
                Ok(None) => {}
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        Ok((calls, refused))
    }

    /// What is read right before a forced failover.
    pub(crate) fn scene(
        &self,
        on: &Target,
        witnesses: &[Target],
        at: Option<IpAddr>,
        dead: &NodeId,
    ) -> Result<Scene, Stale> {
        let candidate = self.identity(on)?;
        let link =
            |id: &NodeId| self.valkey.nodes.get(id).filter(|n| n.of.is_some()).map(super::observe::link);
        let others = witnesses.iter().filter_map(|t| self.identity(t).ok());
        let there = match at.and_then(|ip| self.heard(ip)) {
            None => There::Nobody,
            Some(n) if n.id == *dead => There::Itself,
            Some(_) => There::Another,
        };
        let link_of_it = link(&candidate.own.id);
        let others = others.map(|f| (link(&f.own.id), f)).map(|(l, f)| (f, l)).collect();
        Ok(Scene { candidate, link: link_of_it, asked: witnesses.len(), others, there })
    }

    /// Where an id may be forgotten; what one node knows may forbid it for all.
    pub(crate) fn may_forget(&self, id: &NodeId, on: &[Target]) -> Result<Vec<NodeId>, Stale> {
        let read: Vec<Result<Facts, Stale>> = on.iter().map(|t| self.identity(t)).collect();
        let all_empty = read.iter().all(|f| f.as_ref().is_ok_and(|f| f.keys == 0));
        let mut todo = Vec::new();
        for facts in read.into_iter().flatten() {
            let said = guard::forget(&facts, id, all_empty);
            if self.mutant.guarded("forget", said, || Some(()))?.is_some() {
                let listed = facts.others.iter().find(|n| n.id == *id).and_then(|n| n.ip);
                let alive = listed.and_then(|ip| self.heard(ip)).is_some_and(|n| n.id == *id);
                let said = if alive { Err(format!("node {id} is alive")) } else { Ok(()) };
                self.mutant.guarded("forget: it answers", said, || ())?;
                todo.push(facts.own.id);
            }
        }
        Ok(todo)
    }

    pub(crate) fn may_delete(&self, name: &PodName, uid: &PodUid, only_if: Removable) -> Result<(), Stale> {
        let again = only_if == Removable::Unreachable;
        let object = self.kube.pods.get(name).filter(|o| o.pod.uid == *uid && (again || !o.pod.terminating));
        let object = object.ok_or_else(|| format!("{name} is gone, or another Pod has the name"))?;
        let node = object.pod.ip.and_then(|ip| self.heard(ip)).filter(|n| n.cluster == 0);
        match (only_if, node.map(read)) {
            (Removable::Unreachable, _) => {
                let lost = object.pod.worker.as_ref().and_then(|w| self.kube.workers.get(w));
                let heard = lost.is_none_or(|w| !w.worker.is_given_up());
                let said = if heard { Err("its worker is heard again".to_owned()) } else { Ok(()) };
                self.mutant.guarded("delete: its worker is heard", said, || ())?;
                let said = if node.is_some() { Err("its server answers".to_owned()) } else { Ok(()) };
                self.mutant.guarded("delete: its server answers", said, || ())
            }
            (Removable::Silent, None) => Ok(()),
            (Removable::Silent, Some(_)) => {
                let said = Err("its server answers".to_owned());
                self.mutant.guarded("delete: its server answers", said, || ())
            }
            (Removable::NotRunning, _) if object.pod.phase != Phase::Running => Ok(()),
            (Removable::NotRunning, _) => {
                let said = Err("its server has started".to_owned());
                self.mutant.guarded("delete: its server has started", said, || ())
            }
            (only_if, facts) => {
                let facts = facts.ok_or("its node cannot be asked")?;
                self.may_go(only_if, &facts)
            }
        }
    }

    /// What a node says of itself, and its primary of it, before its Pod is deleted or released.
    pub(crate) fn may_go(&self, only_if: Removable, facts: &Facts) -> Result<(), Stale> {
        match only_if {
            Removable::NotRunning | Removable::Unreachable | Removable::Silent => {
                Err("its server has started".to_owned())
            }
            Removable::Unused => self.mutant.guarded("unused", guard::unused(facts), || ()),
            Removable::Alone => self.mutant.guarded("alone", guard::alone(facts), || ()),
            Removable::Empty => self.mutant.guarded("empty", guard::empty(facts), || ()),
            Removable::Stranded => self.mutant.guarded("stranded", guard::stranded(facts), || ()),
            Removable::Retired { others } | Removable::Replaced { others } => {
                let retired = matches!(only_if, Removable::Retired { .. });
                let anyhow = guard::replica(facts);
                let said = if retired { guard::retired(facts) } else { anyhow.clone() };
                // A member that copies nobody has no primary to be asked.
                let said = if anyhow.is_ok() {
                    self.mutant.guarded("retired", said, || anyhow.unwrap())
                } else {
                    said
                };
                let (primary, ip) = said?;
                let source = self.heard(ip).filter(|n| n.cluster == 0);
                let source = source.ok_or_else(|| format!("its primary {primary} cannot be asked"))?;
                let said = guard::holds_data(&read(source), &primary);
                self.mutant.guarded("holds_data", said, || ())?;
                // As the primary itself counts them, whatever shard they are labelled with.
                let rest = self.valkey.nodes.values().filter(|n| n.id != facts.own.id);
                let linked = rest.filter(|n| n.repl.up && n.repl.partner.as_ref() == Some(&primary));
                let online = linked.count();
                self.mutant.guarded("enough_others", guard::enough_others(online, others), || ())
            }
        }
    }

    /// The processes that hold all data of the shard's owner, its owner apart: the truth, not what is seen.
    pub(crate) fn in_sync(&self, shard: Shard, except: Option<&PodName>) -> Vec<NodeId> {
        let members = self.kube.pods.iter().filter(|(n, o)| o.pod.shard == shard && Some(*n) != except);
        let members: Vec<&Node> = members
            .filter(|(_, o)| !o.told_to_go())
            .filter_map(|(_, o)| self.valkey.nodes.get(o.process.as_ref()?))
            .collect();
        let owner = self.kube.pods.values().filter(|o| o.pod.shard == shard);
        let owners = owner.filter_map(|o| self.valkey.nodes.get(o.process.as_ref()?)).filter(|n| n.leads());
        // One behind a cut, whose heir was elected, claims the slots still: the newest claim is the one that counts.
        let Some(owner) = owners.max_by_key(|n| n.epoch) else { return Vec::new() };
        let copies = members.iter().filter(|n| n.repl.up && n.repl.partner.as_ref() == Some(&owner.id));
        copies.map(|n| n.id.clone()).collect()
    }
}

/// What the node's `CLUSTER NODES` and its key count say.
pub(crate) fn read(node: &Node) -> Facts {
    let entry = Entry {
        replica_of: node.of.clone(),
        slots: node.slots.clone(),
        epoch: node.epoch,
        ..Entry::new(node.ip, 0)
    };
    let mut own = line(&node.id, &entry);
    own.open = node
        .open
        .iter()
        .map(|(slot, (outgoing, other))| OpenSlot {
            slot: *slot,
            direction: if *outgoing { Direction::Migrating } else { Direction::Importing },
            other: other.clone(),
        })
        .collect();
    own.flags.insert(Flag::Myself);
    if node.retiring() {
        own.flags.insert(Flag::NoFailover);
    }
    let view = [own].into_iter().chain(node.view.iter().map(|(id, e)| line(id, e))).collect();
    Facts::new(view, u64::try_from(node.data.len()).unwrap_or(u64::MAX)).expect("it has a line of its own")
}

fn line(id: &NodeId, e: &Entry) -> NodeLine {
    let mut flags = BTreeSet::from([if e.replica_of.is_some() { Flag::Replica } else { Flag::Primary }]);
    for (flag, set) in [
        (Flag::Handshake, e.handshake),
        (Flag::Failed, e.failed),
        (Flag::Suspected, e.suspected && !e.failed),
    ] {
        if set {
            flags.insert(flag);
        }
    }
    NodeLine {
        id: id.clone(),
        ip: e.ip,
        port: 6379,
        bus_port: 16379,
        hostname: None,
        flags,
        primary: e.replica_of.clone(),
        epoch: e.epoch,
        connected: e.connected,
        slots: e.slots.clone(),
        open: Vec::new(),
    }
}
