//! The effects that answer a death: a replica takes over, a lost owner is given up, its slots begin anew.
//!
//! The checks at the top are pure; what they need is read right before the effect, in short intervals where it may take a
//! moment to show. Only these effects look more than once: a dead primary costs its clients every millisecond.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::guard::{self, Facts};
use super::valkey::{Done, Hitch, PARALLEL, ValkeyExecutor, forget_at, refused, silent, stale};
use crate::model::step::{Promotion, Proof};
use crate::model::{Link, NodeId, Slots, Target};
use crate::parallel;
use crate::valkey::commands::{self, Failover};
use crate::valkey::error::WireError;
use crate::valkey::node::{Access, Limits};
use crate::valkey::parse::{Flag, NodeLine, Replication};

/// Looks at the scene before a failover is given up for this pass.
const LOOKS: u32 = 8;

/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(20);

/// Looks in a row that must agree before a replica takes over without votes on the word of refusals: a node that waits
/// for a silent address shows an open link at some of them, one that is refused never does.
const AGREEING: u32 = 3;

/// For one node to answer, and for one address to refuse, at the first look.
const BRIEF: Duration = Duration::from_millis(300);

/// Looks after which a witness is given no more time than at the one before.
const DOUBLINGS: u32 = 2;

/// What a forced failover claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim<'a> {
    /// The primary.
    pub dead: &'a NodeId,
    /// What the effect rests on.
    pub by: Promotion,
    /// How far the replica had come when it was seen in sync.
    pub offset: u64,
}

/// What answers at the address of the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum There {
    /// Nobody, or nobody in time.
    Nobody,
    /// Another process.
    Another,
    /// The primary itself.
    Itself,
    /// Somebody who does not say who he is.
    Unclear,
}

/// What another node says, with its replication link when it is a replica.
pub type Witness = (Facts, Option<Link>);

/// What was read right before a forced failover.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scene {
    /// What the replica says.
    pub candidate: Facts,
    /// Its replication link.
    pub link: Option<Link>,
    /// How many others were asked.
    pub asked: usize,
    /// What those say that answered, with their replication links where they are replicas.
    pub others: Vec<Witness>,
    /// What answers at the primary's address.
    pub there: There,
}

/// Whether the replica may take its primary's place. `Ok(None)` when it has done so already.
pub fn promote(s: &Scene, claim: Claim<'_>) -> Result<Option<()>, String> {
    let dead = claim.dead;
    match &s.candidate.own.primary {
        None if !s.candidate.own.slots.is_empty() => return Ok(None),
        Some(of) if of == dead => {}
        Some(_) | None => return Err(format!("it does not copy from {dead} any more")),
    }
    match s.there {
        There::Itself => return Err(format!("{dead} answers: it is alive")),
        There::Unclear => return Err(format!("somebody at the address of {dead} does not say who he is")),
        There::Nobody | There::Another => {}
    }
    let Some(link) = s.link else { return Err("it does not say how its replication is".to_owned()) };
    if link.syncing {
        return Err("it is in the middle of a full sync".to_owned());
    }
    if link.offset < claim.offset {
        return Err("its data was replaced since it was seen in sync".to_owned());
    }
    let claimed = line(&s.candidate, dead).map(|n| n.slots.clone()).unwrap_or_default();
    if let Some((owner, _)) = s.others.iter().find(|(f, _)| f.own.slots.overlaps(&claimed)) {
        return Err(format!("{} owns slots that it lists for {dead}", owner.own.id));
    }
    match claim.by {
        Promotion::Suspected => suspected(s, dead),
        Promotion::Refused | Promotion::Takeover(Proof::Refused) | Promotion::Empty(Proof::Refused) => {
            lost_by_all(s, link, dead)
        }
        Promotion::Takeover(Proof::Vouched) | Promotion::Empty(Proof::Vouched) => heard_by_nobody(s, dead),
        Promotion::Takeover(_) | Promotion::Empty(_) => Ok(()),
    }?;
    if matches!(claim.by, Promotion::Empty(_)) && s.candidate.keys > 0 {
        return Err(format!("it holds {} keys by now", s.candidate.keys));
    }
    Ok(Some(()))
}

/// No replica hears the primary any more, and at least one more node has lost it.
fn lost_by_all(s: &Scene, link: Link, dead: &NodeId) -> Result<(), String> {
    let copies = s.others.iter().filter(|(f, _)| f.own.primary.as_ref() == Some(dead));
    if link.up || copies.clone().any(|(_, link)| link.is_some_and(|l| l.up)) {
        return Err(format!("a replica still hears {dead}"));
    }
    if s.others.iter().any(|(f, _)| line(f, dead).is_none_or(unheard)) {
        return Ok(());
    }
    // In a cluster of one primary and one replica there is no other node than the replica itself.
    if s.asked == 0 && line(&s.candidate, dead).is_none_or(unheard) {
        return Ok(());
    }
    if s.others.is_empty() {
        return Err("no other node answers in time".to_owned());
    }
    Err(format!("no other node has lost {dead}"))
}

/// How long a witness has to answer: on a busy worker each of four round trips takes its time, and a look that nobody answered
/// was for nothing. What is waited for in vain at the first look is waited for longer at the next.
fn patience(look: u32) -> Duration {
    BRIEF * 2_u32.pow(look.min(DOUBLINGS))
}

/// A person's word does not hold against a node that hears it.
fn heard_by_nobody(s: &Scene, dead: &NodeId) -> Result<(), String> {
    let hears = |(f, _): &&Witness| line(f, dead).is_some_and(|n| !unheard(n));
    match s.others.iter().find(hears) {
        Some((f, _)) => Err(format!("{} still hears {dead}", f.own.id)),
        None => Ok(()),
    }
}

fn suspected(s: &Scene, dead: &NodeId) -> Result<(), String> {
    let listed = s.candidate.others.iter().filter(|n| !n.is(Flag::Handshake) && !n.slots.is_empty());
    let quorum = listed.count() / 2 + 1;
    let owners = s.others.iter().filter(|(f, _)| !f.own.slots.is_empty());
    let suspects =
        owners.filter(|(f, _)| line(f, dead).is_some_and(|n| n.is(Flag::Suspected) || n.is(Flag::Failed)));
    let suspects = suspects.count();
    if suspects >= quorum {
        return Ok(());
    }
    Err(format!("{suspects} slot owners suspect {dead}, and {quorum} have to"))
}

fn line<'f>(facts: &'f Facts, id: &NodeId) -> Option<&'f NodeLine> {
    facts.others.iter().find(|n| n.id == *id)
}

fn unheard(n: &NodeLine) -> bool {
    !n.connected || n.is(Flag::Suspected) || n.is(Flag::Failed) || n.is(Flag::NoAddress) || n.ip.is_none()
}

/// An owner whose data is lost may be forgotten by a node that does not hold any of it.
pub fn abandon(facts: &Facts, id: &NodeId) -> Result<Option<()>, String> {
    if facts.own.id == *id {
        return Err("it is that node".to_owned());
    }
    if facts.own.primary.as_ref() == Some(id) {
        return Err("it copies from that node: its data may be a copy".to_owned());
    }
    Ok(facts.others.iter().any(|n| n.id == *id).then_some(()))
}

/// Slots that nobody lists may be given to any primary: what it holds of them is all that is left. Answers which are missing.
pub fn restore(facts: &Facts, slots: &Slots) -> Result<Slots, String> {
    if let Some(primary) = &facts.own.primary {
        return Err(format!("it has become a replica of {primary}"));
    }
    let missing = slots.minus(&facts.own.slots);
    let owner = facts.others.iter().find(|n| !n.is(Flag::Handshake) && !n.slots.and(&missing).is_empty());
    match owner {
        Some(owner) => Err(format!("it lists slots {} for node {}", owner.slots.and(&missing), owner.id)),
        None => Ok(missing),
    }
}

/// What of a server's answer is its link as a replica.
fn link_of(replication: &Replication) -> Option<Link> {
    match replication {
        Replication::Replica { up, syncing, offset, .. } => {
            Some(Link { up: *up, syncing: *syncing, offset: *offset })
        }
        Replication::Primary { .. } => None,
    }
}

impl ValkeyExecutor {
    pub(super) async fn promote(
        &self,
        on: &Target,
        witnesses: &[Target],
        at: Option<IpAddr>,
        claim: Claim<'_>,
    ) -> Done {
        let (kind, needed) = match claim.by {
            Promotion::Refused | Promotion::Suspected => (Failover::Force, 1),
            Promotion::Takeover(Proof::Refused) | Promotion::Empty(Proof::Refused) => {
                (Failover::Takeover, AGREEING)
            }
            Promotion::Takeover(_) | Promotion::Empty(_) => (Failover::Takeover, 1),
        };
        let (mut agreed, mut last) = (0, String::new());
        for look in 0..LOOKS {
            if look > 0 {
                sleep(BETWEEN).await;
            }
            let scene = self.scene(on, witnesses, at, claim.dead, patience(look)).await?;
            match promote(&scene, claim) {
                Ok(None) => return Ok(()),
                Ok(Some(())) => agreed += 1,
                Err(why) => (agreed, last) = (0, why),
            }
            if agreed >= needed {
                let node = self.node(on.ip).await.map_err(|e| refused(on, &e))?;
                return commands::failover(node.as_ref(), kind).await.map_err(|e| refused(on, &e));
            }
        }
        Err(stale(on, &last))
    }

    /// Reads everything that a forced failover rests on, side by side.
    async fn scene(
        &self,
        on: &Target,
        witnesses: &[Target],
        at: Option<IpAddr>,
        dead: &NodeId,
        patience: Duration,
    ) -> Result<Scene, Hitch> {
        let mut reads: Vec<BoxFuture<'_, Option<Witness>>> = Vec::with_capacity(witnesses.len());
        for target in witnesses {
            reads.push(async { timeout(patience, self.with_link(target)).await.ok()?.ok() }.boxed());
        }
        let (candidate, others, there) =
            tokio::join!(self.with_link(on), parallel::all(reads, PARALLEL), self.there(at, dead));
        let (candidate, link) = candidate?;
        let (asked, others) = (witnesses.len(), others.into_iter().flatten().collect());
        Ok(Scene { candidate, link, asked, others, there })
    }

    async fn with_link(&self, target: &Target) -> Result<Witness, Hitch> {
        let node = self.node(target.ip).await.map_err(|e| silent(target, &e))?;
        // Side by side: a dead primary costs its clients every round trip.
        let (facts, info) =
            tokio::join!(Facts::read(node.as_ref()), commands::info(node.as_ref(), &["replication"]));
        let facts = facts.map_err(|e| silent(target, &e))?;
        guard::identity(&facts, target).map_err(Hitch::Stale)?;
        let replication = info.and_then(|i| i.replication()).map_err(|e| refused(target, &e))?;
        Ok((facts, link_of(&replication)))
    }

    /// Knocks at the address anew: an open connection says nothing about whether one could be opened now.
    async fn there(&self, at: Option<IpAddr>, dead: &NodeId) -> There {
        let Some(ip) = at else { return There::Nobody };
        let limits = Limits { connect: BRIEF, reply: BRIEF, ..self.access.limits };
        let access = Access { limits, ..self.access.clone() };
        let addr = SocketAddr::new(ip, self.ports.client);
        let answer = match self.connector.connect(addr, &access).await {
            Ok(node) => commands::my_id(node.as_ref()).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(id) if id == *dead => There::Itself,
            Ok(_) | Err(WireError::Auth(_)) => There::Another,
            Err(WireError::Refused | WireError::Unreachable | WireError::Timeout) => There::Nobody,
            Err(_) => There::Unclear,
        }
    }

    pub(super) async fn abandon(&self, id: &NodeId, at: Option<IpAddr>, on: &[Target]) -> Done {
        let (mut todo, mut hitches) = (Vec::new(), Vec::new());
        for (target, facts) in self.facts_of(on).await {
            match facts {
                Ok((node, facts)) => {
                    let still = abandon(&facts, id).map_err(|why| stale(target, &why))?;
                    todo.extend(still.map(|()| (target, node)));
                }
                Err(Hitch::Stale(why) | Hitch::Failed(why)) => hitches.push(why),
            }
        }
        if let Some(ip) = at {
            self.is_gone(id, ip).await?;
        }
        let mut told: Vec<BoxFuture<'_, Result<(), String>>> = Vec::with_capacity(todo.len());
        for (target, node) in todo {
            told.push(forget_at(target, node, id).boxed());
        }
        hitches.extend(parallel::all(told, PARALLEL).await.into_iter().filter_map(Result::err));
        if hitches.is_empty() { Ok(()) } else { Err(Hitch::Failed(hitches.join("; "))) }
    }

    /// Slots first, then an epoch above all others: whoever has an older claim loses it.
    pub(super) async fn restore(&self, on: &Target, slots: &Slots) -> Done {
        let (node, facts) = self.facts(on).await?;
        let missing = restore(&facts, slots).map_err(|why| stale(on, &why))?;
        if !missing.is_empty() {
            commands::add_slots(node.as_ref(), &missing).await.map_err(|e| refused(on, &e))?;
        }
        commands::bump_epoch(node.as_ref()).await.map_err(|e| refused(on, &e))
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
