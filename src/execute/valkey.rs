//! The effects on Valkey nodes: identity first, then the guard, then one effect. Never waits for completion.
//!
//! One connection a node serves all steps of a pass; it is bound to one process, so that an address that changes hands
//! in between is never spoken to by mistake.

mod carry;
mod slots;
mod switch;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::guard::{self, Facts};
use super::recovery::Claim;
use crate::build::credentials::{IMPORT_RIGHT, IMPORT_RIGHTS, REPLICATION_USER};
use crate::model::settings::JOBS_SINCE;
pub use crate::model::users::Applied;
use crate::model::{NodeId, Outcome, Slots, Step, Target, step::Removable};
use crate::mutex::lock;
use crate::parallel;
use crate::valkey::commands::{self, Failover};
use crate::valkey::error::WireError;
use crate::valkey::node::{Access, Connector, Limits, Node};
use crate::valkey::{Interrupt, Kept, Ports};

/// Nodes of one step that are read or told at one time.
pub(super) const PARALLEL: usize = 16;

/// What is set on a replica that shall not be elected any more.
const RETIRED: &str = "cluster-replica-no-failover";

/// Carries out the Valkey steps of one pass over one cluster.
pub struct ValkeyExecutor {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) access: Access,
    pub(super) ports: Ports,
    /// The password that nodes log in to their primaries with.
    replication: Option<String>,
    /// Whether something more urgent has happened.
    interrupt: Interrupt,
    applied: Arc<Mutex<Applied>>,
    /// See [`ValkeyExecutor::by`].
    lanes: Kept,
    open: Mutex<BTreeMap<IpAddr, Arc<Slot>>>,
}

/// The connection to one address; the lock makes two lanes share one attempt.
type Slot = tokio::sync::Mutex<Option<Arc<dyn Node>>>;

/// A node that is the one that is meant, with what it says.
pub(super) type Asked = Result<(Arc<dyn Node>, Facts), Hitch>;

/// Why a step was not carried out.
pub(super) enum Hitch {
    Stale(String),
    Failed(String),
}

impl From<Hitch> for Outcome {
    fn from(hitch: Hitch) -> Self {
        match hitch {
            Hitch::Stale(why) => Self::Stale(why),
            Hitch::Failed(why) => Self::Failed(why),
        }
    }
}

pub(super) type Done = Result<(), Hitch>;

impl ValkeyExecutor {
    /// An executor for one pass. What `Configure` reads back is added to `applied`.
    pub fn new(
        connector: Arc<dyn Connector>,
        access: Access,
        ports: Ports,
        applied: Arc<Mutex<Applied>>,
    ) -> Self {
        // A node that has just answered does so again at once, or not at all.
        let limits = Limits { connect: Limits::brief().connect, ..access.limits };
        let access = Access { limits, ..access };
        let (lanes, open) = (Kept::default(), Mutex::default());
        Self {
            connector,
            access,
            ports,
            replication: None,
            interrupt: Arc::new(|| false),
            applied,
            lanes,
            open,
        }
    }

    /// The same with connections that an earlier pass has opened to the ends of slots that are carried; those of this one are added.
    #[must_use]
    pub fn by(self, lanes: Kept) -> Self {
        Self { lanes, ..self }
    }

    /// The same for a cluster whose replicas log in with this password.
    #[must_use]
    pub fn replicating_with(self, password: String) -> Self {
        Self { replication: Some(password), ..self }
    }

    /// The same, where what can be left to the next pass ends early when this says so.
    #[must_use]
    pub fn until(self, interrupt: Interrupt) -> Self {
        Self { interrupt, ..self }
    }

    /// Carries out one step.
    pub async fn run(&self, step: &Step) -> Outcome {
        let done = match step {
            Step::Configure { on, settings, only_empty } => self.configure(on, settings, *only_empty).await,
            Step::Switch { on, to } => self.switch(on, *to).await,
            Step::SetUser { on, user, rules } => self.set_user(on, user, rules).await,
            Step::RemoveUser { on, user } => self.remove_user(on, user).await,
            Step::LogIn { on } => self.log_in(on).await,
            Step::Admit { on } => self.admit(on).await,
            Step::AssignSlots { on, slots } => self.assign(on, slots).await,
            Step::SetEpoch { on, epoch } => self.set_epoch(on, *epoch).await,
            Step::Meet { on, with } => self.meet(on, with).await,
            Step::Replicate { on, primary } => self.replicate(on, primary).await,
            Step::Retire { on } => self.retire(on).await,
            Step::Keep { on } => self.keep(on).await,
            Step::Migrate { on, to, slots } => self.migrate(on, to, slots).await,
            Step::Carry { on, to, slots } => self.carry(on, to, slots).await,
            Step::Close { on, slots } => self.close(on, slots).await,
            Step::Inherit { on, from, at, slots } => self.inherit(on, from, *at, slots).await,
            Step::HandOver { on, from } => self.hand_over(on, from).await,
            Step::Release { on, only_if } => self.release(on, *only_if).await,
            Step::Forget { id, on } => self.forget(id, on).await,
            Step::Promote { on, dead, at, by, offset, witnesses } => {
                self.promote(on, witnesses, *at, Claim { dead, by: *by, offset: *offset }).await
            }
            Step::Abandon { id, at, on } => self.abandon(id, *at, on).await,
            Step::Restore { on, slots } => self.restore(on, slots).await,
            _ => Err(Hitch::Stale("not a step of a Valkey node".to_owned())),
        };
        done.map_or_else(Outcome::from, |()| Outcome::Done)
    }

    /// Whether the Pod at this address may be deleted, as its node says now.
    pub async fn removable(&self, ip: IpAddr, only_if: Removable) -> Result<(), String> {
        let read = async |ip| {
            let node = self.node(ip).await?;
            Facts::read(node.as_ref()).await
        };
        match (only_if, read(ip).await) {
            (Removable::NotRunning | Removable::Unreachable | Removable::Silent, Err(e)) if !is_alive(&e) => {
                Ok(())
            }
            (Removable::NotRunning | Removable::Unreachable | Removable::Silent, _) => {
                Err("its server answers".to_owned())
            }
            (_, Err(e)) => Err(format!("its node cannot be asked: {e}")),
            (Removable::Unused, Ok(facts)) => guard::unused(&facts),
            (Removable::Alone, Ok(facts)) => guard::alone(&facts),
            (Removable::Empty, Ok(facts)) => guard::empty(&facts),
            (Removable::Stranded, Ok(facts)) => guard::stranded(&facts),
            (Removable::Retired { others } | Removable::Replaced { others }, Ok(facts)) => {
                let (primary, at) = if matches!(only_if, Removable::Retired { .. }) {
                    guard::retired(&facts)?
                } else {
                    guard::replica(&facts)?
                };
                let silent = |e: WireError| format!("its primary {primary} cannot be asked: {e}");
                let node = self.node(at).await.map_err(silent)?;
                guard::holds_data(&Facts::read(node.as_ref()).await.map_err(silent)?, &primary)?;
                let info = commands::info(node.as_ref(), &["replication"]).await.map_err(silent)?;
                let online = info.replication().map_err(silent)?.online();
                guard::enough_others(online.into_iter().filter(|r| *r != ip).count(), others)
            }
        }
    }

    async fn configure(&self, on: &Target, settings: &BTreeMap<String, String>, only_empty: bool) -> Done {
        let (node, facts) = self.facts(on).await?;
        guard::configure(&facts, only_empty).map_err(|why| stale(on, &why))?;
        commands::config_set(node.as_ref(), settings).await.map_err(|e| refused(on, &e))?;
        let keys: Vec<&str> = settings.keys().map(String::as_str).collect();
        let shown = commands::config_get(node.as_ref(), &keys).await.map_err(|e| refused(on, &e))?;
        let mut applied = lock(&self.applied);
        for (key, text) in settings {
            if let Some(shown) = shown.get(key) {
                applied.insert((on.node.clone(), key.clone()), (text.clone(), shown.clone()));
            }
        }
        Ok(())
    }

    /// Drops the keys of these primaries; every one of them is identified before the first is told.
    pub async fn drop_keys(&self, on: &[Target]) -> Outcome {
        let asked = parallel::all(on.iter().map(|t| self.facts(t).boxed()).collect(), PARALLEL).await;
        let mut nodes = Vec::with_capacity(on.len());
        for (target, asked) in on.iter().zip(asked) {
            match asked.and_then(|(node, facts)| {
                guard::drop_keys(&facts).map(|()| node).map_err(|why| stale(target, &why))
            }) {
                Ok(node) => nodes.push((target, node)),
                Err(hitch) => return hitch.into(),
            }
        }
        let user = self.access.username.as_deref().unwrap_or("default");
        let flush = |(target, node): (&Target, Arc<dyn Node>)| {
            let target = target.clone();
            async move { commands::flush_all(node.as_ref(), user).await.map_err(|e| refused(&target, &e)) }
                .boxed()
        };
        let done = parallel::all(nodes.into_iter().map(flush).collect(), PARALLEL).await;
        done.into_iter().find_map(Result::err).map_or(Outcome::Done, Outcome::from)
    }

    async fn admit(&self, on: &Target) -> Done {
        let node = self.identified(on).await?;
        let version = commands::info(node.as_ref(), &["server"]).await.and_then(|i| i.version());
        let imports = version.map_err(|e| refused(on, &e))? >= JOBS_SINCE;
        let is_on = async || {
            let user =
                commands::acl_getuser(node.as_ref(), REPLICATION_USER).await.map_err(|e| refused(on, &e))?;
            let missing =
                || format!("{} has no user {REPLICATION_USER}: it runs with another configuration", on.pod);
            let user = user.ok_or_else(|| Hitch::Failed(missing()))?;
            Ok(user.is_on() && (!imports || user.commands.contains(IMPORT_RIGHT)))
        };
        if is_on().await? {
            return Ok(());
        }
        let rules: Vec<&str> = IMPORT_RIGHTS.into_iter().filter(|_| imports).chain(["on"]).collect();
        commands::acl_setuser(node.as_ref(), REPLICATION_USER, &rules).await.map_err(|e| refused(on, &e))?;
        if is_on().await? {
            return Ok(());
        }
        Err(Hitch::Failed(format!("{} says OK, and its user {REPLICATION_USER} is still off", on.pod)))
    }

    async fn assign(&self, on: &Target, slots: &Slots) -> Done {
        let (node, facts) = self.facts(on).await?;
        match guard::assign(&facts, slots).map_err(|why| stale(on, &why))? {
            None => Ok(()),
            Some(missing) => match commands::add_slots(node.as_ref(), &missing).await {
                Err(WireError::Server(text)) if text.contains("already busy") => Err(stale(on, &text)),
                other => other.map_err(|e| refused(on, &e)),
            },
        }
    }

    async fn set_epoch(&self, on: &Target, epoch: u64) -> Done {
        let (node, facts) = self.facts(on).await?;
        match guard::epoch(&facts, epoch).map_err(|why| stale(on, &why))? {
            None => Ok(()),
            Some(epoch) => {
                commands::set_config_epoch(node.as_ref(), epoch).await.map_err(|e| refused(on, &e))
            }
        }
    }

    /// Introduces those that may be; the others get their turn in another pass. Fails only when nobody could be.
    async fn meet(&self, on: &Target, with: &[Target]) -> Done {
        let (node, own) = self.facts(on).await?;
        let read: Vec<(&Target, Result<Facts, Hitch>)> = self
            .facts_of(with)
            .await
            .into_iter()
            .map(|(peer, facts)| (peer, facts.map(|(_, f)| f)))
            .collect();
        // Only addresses whose nodes were identified just now count as ours.
        let known = read.iter().filter(|(_, facts)| facts.is_ok()).map(|(peer, _)| peer.ip);
        let ours: BTreeSet<IpAddr> = known.chain([on.ip]).collect();
        let (mut calls, mut hitch) = (Vec::new(), None);
        let (port, bus) = (self.ports.client.to_string(), self.ports.bus.to_string());
        for (peer, facts) in read {
            match facts.and_then(|f| guard::introduce(&own, &f, &ours).map_err(|why| stale(on, &why))) {
                Ok(Some(())) => calls.push(peer.ip.to_string()),
                Ok(None) => {}
                Err(why) => hitch = hitch.or(Some(why)),
            }
        }
        let burst: Vec<Vec<&str>> = calls.iter().map(|ip| vec!["CLUSTER", "MEET", ip, &port, &bus]).collect();
        for answer in node.call_many(&burst).await {
            answer.and_then(|a| a.ok()).map_err(|e| refused(on, &e))?;
        }
        match hitch {
            Some(why) if burst.is_empty() => Err(why),
            Some(_) | None => Ok(()),
        }
    }

    async fn replicate(&self, on: &Target, primary: &NodeId) -> Done {
        let (node, facts) = self.facts(on).await?;
        match guard::replicate(&facts, primary).map_err(|why| stale(on, &why))? {
            None => Ok(()),
            Some(()) => commands::replicate(node.as_ref(), primary).await.map_err(|e| refused(on, &e)),
        }
    }

    async fn retire(&self, on: &Target) -> Done {
        let (node, facts) = self.facts(on).await?;
        guard::retire(&facts).map_err(|why| stale(on, &why))?;
        let settings = BTreeMap::from([(RETIRED.to_owned(), "yes".to_owned())]);
        commands::config_set(node.as_ref(), &settings).await.map_err(|e| refused(on, &e))
    }

    /// Asks the replica to take over, when both sides say at this moment that it can.
    async fn hand_over(&self, on: &Target, from: &Target) -> Done {
        let (replica, facts) = self.facts(on).await?;
        let (primary, owner) = self.facts(from).await?;
        guard::hand_over(&facts, &owner).map_err(|why| stale(on, &why))?;
        let read = async |node: &dyn Node, at: &Target| {
            let info = commands::info(node, &["replication"]).await.map_err(|e| silent(at, &e))?;
            info.replication().map_err(|e| silent(at, &e))
        };
        let (sent, got) = (read(primary.as_ref(), from).await?, read(replica.as_ref(), on).await?);
        guard::close_behind(&sent, &got).map_err(|why| stale(on, &why))?;
        commands::failover(replica.as_ref(), Failover::Planned).await.map_err(|e| refused(on, &e))
    }

    /// Writes the mark that the preStop hook waits for.
    async fn release(&self, on: &Target, only_if: Option<Removable>) -> Done {
        let node = self.identified(on).await?;
        if let Some(only_if) = only_if {
            self.removable(on.ip, only_if).await.map_err(|why| stale(on, &why))?;
        }
        commands::config_set(node.as_ref(), &commands::released(&on.uid)).await.map_err(|e| refused(on, &e))
    }

    async fn keep(&self, on: &Target) -> Done {
        let node = self.identified(on).await?;
        let settings = BTreeMap::from([(RETIRED.to_owned(), "no".to_owned())]);
        commands::config_set(node.as_ref(), &settings).await.map_err(|e| refused(on, &e))
    }

    /// Reads all first: what one node knows may forbid it for all.
    async fn forget(&self, id: &NodeId, on: &[Target]) -> Done {
        let read = self.facts_of(on).await;
        let all_empty = read.iter().all(|(_, f)| f.as_ref().is_ok_and(|(_, facts)| facts.keys == 0));
        let (mut todo, mut hitches) = (Vec::new(), Vec::new());
        for (target, facts) in read {
            match facts {
                Ok((node, facts)) => {
                    let still = guard::forget(&facts, id, all_empty).map_err(|why| stale(target, &why))?;
                    let listed = facts.others.into_iter().find(|n| n.id == *id);
                    todo.extend(still.map(|()| (target, node, listed.and_then(|n| n.ip))));
                }
                Err(Hitch::Stale(why) | Hitch::Failed(why)) => hitches.push(why),
            }
        }
        let addresses: BTreeSet<IpAddr> = todo.iter().filter_map(|(_, _, ip)| *ip).collect();
        for ip in addresses {
            self.is_gone(id, ip).await?;
        }
        let mut told: Vec<BoxFuture<'_, Result<(), String>>> = Vec::with_capacity(todo.len());
        for (target, node, _) in todo {
            told.push(forget_at(target, node, id).boxed());
        }
        hitches.extend(parallel::all(told, PARALLEL).await.into_iter().filter_map(Result::err));
        if hitches.is_empty() { Ok(()) } else { Err(Hitch::Failed(hitches.join("; "))) }
    }

    /// The facts of many nodes, read side by side.
    pub(super) async fn facts_of<'t>(&self, targets: &'t [Target]) -> Vec<(&'t Target, Asked)> {
        let mut reads: Vec<BoxFuture<'_, Asked>> = Vec::with_capacity(targets.len());
        for target in targets {
            reads.push(self.facts(target).boxed());
        }
        targets.iter().zip(parallel::all(reads, PARALLEL).await).collect()
    }

    /// A node that lives is never forgotten: 8.1 and newer meet it again every few seconds.
    pub(super) async fn is_gone(&self, id: &NodeId, ip: IpAddr) -> Done {
        let answer = match self.node(ip).await {
            Ok(node) => commands::my_id(node.as_ref()).await,
            Err(e) => Err(e),
        };
        match answer {
            Ok(other) if other != *id => Ok(()),
            Ok(_) => Err(Hitch::Stale(format!("node {id} answers at {ip}: it is alive"))),
            Err(WireError::Loading | WireError::Busy) => {
                Err(Hitch::Stale(format!("a server at {ip} is loading or busy and may be node {id}")))
            }
            // Somebody with other passwords is not one of ours.
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn facts(&self, on: &Target) -> Asked {
        let node = self.node(on.ip).await.map_err(|e| silent(on, &e))?;
        let facts = Facts::read(node.as_ref()).await.map_err(|e| silent(on, &e))?;
        guard::identity(&facts, on).map_err(Hitch::Stale)?;
        Ok((node, facts))
    }

    async fn identified(&self, on: &Target) -> Result<Arc<dyn Node>, Hitch> {
        let node = self.node(on.ip).await.map_err(|e| silent(on, &e))?;
        let id = commands::my_id(node.as_ref()).await.map_err(|e| silent(on, &e))?;
        is_itself(on, &id).map(|()| node)
    }

    /// The connection of this pass to an address, opened when it is first needed or when it has broken.
    pub(super) async fn node(&self, ip: IpAddr) -> Result<Arc<dyn Node>, WireError> {
        let slot = {
            let mut open = lock(&self.open);
            Arc::clone(open.entry(ip).or_default())
        };
        let mut held = slot.lock().await;
        if let Some(node) = held.as_ref().filter(|n| n.closed().now_or_never().is_none()) {
            return Ok(Arc::clone(node));
        }
        let addr = SocketAddr::new(ip, self.ports.client);
        let node: Arc<dyn Node> = Arc::from(self.connector.connect(addr, &self.access).await?);
        *held = Some(Arc::clone(&node));
        Ok(node)
    }
}

/// Whatever the error, somebody is there.
fn is_alive(e: &WireError) -> bool {
    !matches!(e, WireError::Refused | WireError::Unreachable | WireError::Timeout | WireError::Reset)
}

/// Whoever says that this is his id is the one that is meant.
fn is_itself(on: &Target, id: &NodeId) -> Done {
    if *id == on.node {
        return Ok(());
    }
    Err(Hitch::Stale(format!("another node answers at the address of {}: {id}, not {}", on.pod, on.node)))
}

pub(super) fn stale(on: &Target, why: &str) -> Hitch {
    Hitch::Stale(format!("{}: {why}", on.pod))
}

pub(super) fn silent(on: &Target, e: &WireError) -> Hitch {
    Hitch::Stale(format!("{} could be asked a moment ago and cannot now: {e}", on.pod))
}

pub(super) fn refused(on: &Target, e: &WireError) -> Hitch {
    Hitch::Failed(format!("{}: {e}", on.pod))
}

/// An id that is unknown there is forgotten there.
pub(super) async fn forget_at(target: &Target, node: Arc<dyn Node>, id: &NodeId) -> Result<(), String> {
    match commands::forget(node.as_ref(), id).await {
        Err(e) if e.is_unknown_node() => Ok(()),
        other => other.map_err(|e| format!("{}: {e}", target.pod)),
    }
}

#[cfg(test)]
#[path = "valkey_tests.rs"]
pub(in crate::execute) mod tests;
