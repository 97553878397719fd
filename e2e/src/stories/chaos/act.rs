//! Does what the schedule says, as far as the cluster can survive it, and mends everything at the end of a round.
//!
//! May do to the sandbox what its powers allow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};

use super::schedule::{Fault, Round, Who};
use super::spec;
use super::survive::{near_side_decides, survives};
use crate::sandbox::Sandbox;
use crate::stories::cluster::Cluster;
use crate::stories::mend::{self, Mend};
use crate::stories::operator;
use crate::stories::stage::{Stage, eventually};

/// Workers are Ready, and the API server answers, within this after they were mended.
const MENDED: Duration = Duration::from_mins(2);

/// Acts on one cluster.
pub(super) struct Actor<'a> {
    stage: &'a Stage,
    sandbox: &'a Sandbox,
    cluster: &'a Cluster,
    workers: Vec<String>,
    restarts: u64,
}

/// What is broken, and until when.
struct Broken {
    until: Instant,
    mend: Mending,
}

enum Mending {
    Machine(Mend),
    /// The API server: until it answers nothing else can be mended.
    Api(Mend),
    Cordon(String),
}

/// What a round has done so far.
#[derive(Default)]
struct Scene {
    broken: Vec<Broken>,
    /// Deleted by force: they may end at any moment.
    doomed: BTreeSet<SocketAddr>,
}

impl<'a> Actor<'a> {
    /// # Errors
    /// If the workers cannot be listed.
    pub(super) async fn new(stage: &'a Stage, sandbox: &'a Sandbox, cluster: &'a Cluster) -> Result<Self> {
        let mut workers = stage.workers().await?;
        workers.sort();
        Ok(Self { stage, sandbox, cluster, workers, restarts: 0 })
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// One round: its faults, then everything is mended.
    ///
    /// # Errors
    /// If a fault cannot be made or mended.
    pub(super) async fn act(&mut self, round: &Round) -> Result<()> {
        let mut scene = Scene::default();
        for (after, fault) in &round.faults {
            self.pass(*after, &mut scene).await?;
            match self.one(*fault, &mut scene).await {
                Ok(None) => {}
                Ok(Some(why)) => self.stage.say(format_args!("left out: {fault}: {why}")),
                // It went between the look and the blow.
                Err(why) if fault.is_about_a_member() => {
                    self.stage.say(format_args!("left out: {fault}: {why:#}"));
                }
                Err(why) => return Err(why.context(fault.to_string())),
            }
        }
        while let Some(until) = scene.broken.iter().map(|b| b.until).max() {
            self.pass(until.saturating_duration_since(Instant::now()), &mut scene).await?;
        }
        self.stands().await
    }

    /// Lets time pass; what has lasted long enough is mended.
    async fn pass(&self, time: Duration, scene: &mut Scene) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            while let Some(at) = scene.due() {
                match scene.broken.remove(at).mend {
                    Mending::Machine(mend) | Mending::Api(mend) => mend.now()?,
                    Mending::Cordon(worker) => drop(self.stage.kubectl(&["uncordon", &worker]).await?),
                }
            }
            if Instant::now() >= end {
                return Ok(());
            }
            let next = scene.mendable().map(|b| b.until).min().unwrap_or(end).min(end);
            tokio::time::sleep(next.saturating_duration_since(Instant::now())).await;
        }
    }

    /// One fault, or why it is left out.
    async fn one(&mut self, fault: Fault, scene: &mut Scene) -> Result<Option<String>> {
        if scene.is_blind() {
            return Ok(Some("the API server hangs".to_owned()));
        }
        match fault {
            Fault::Delete(who) | Fault::ForceDelete(who) | Fault::Kill(who) => {
                return self.member(fault, who, scene).await;
            }
            Fault::Pause(who, time) | Fault::Isolate(who, time) => {
                let Some((name, pod)) = self.find(who).await? else { return Ok(Some(nobody(who))) };
                let mend = if matches!(fault, Fault::Pause(..)) {
                    mend::pause(self.sandbox, mend::server(self.stage, self.cluster, &name).await?)?
                } else {
                    let worker = pod.worker.as_deref().context("it is on no worker")?;
                    mend::isolate(self.sandbox, worker, pod.addr.ip())?
                };
                scene.break_for(time, Mending::Machine(mend));
            }
            Fault::PowerOff(at, time) | Fault::Cut(at, time) => {
                let worker = self.worker(at)?;
                let here = self.pods().await?.into_values().filter(|p| p.worker.as_ref() == Some(&worker));
                let gone: BTreeSet<SocketAddr> = here.map(|p| p.addr).collect();
                let power = matches!(fault, Fault::PowerOff(..));
                let truth = self.cluster.truth().await?;
                if power && !survives(&truth, &gone, &scene.doomed) {
                    return Ok(Some("a shard would lose its last copy".to_owned()));
                }
                if !power && !near_side_decides(&truth, &gone) {
                    return Ok(Some("the majority of the slot owners would be behind it".to_owned()));
                }
                let mend = if power {
                    mend::power_off(self.sandbox, &worker)?
                } else {
                    mend::cut(self.sandbox, &worker)?
                };
                scene.break_for(time, Mending::Machine(mend));
            }
            Fault::Cordon(at, time) => {
                let worker = self.worker(at)?;
                self.stage.kubectl(&["cordon", &worker]).await?;
                scene.break_for(time, Mending::Cordon(worker));
            }
            Fault::KillOperator { both } => self.kill_operators(both).await?,
            Fault::HangApi(time) => {
                scene.break_for(time, Mending::Api(mend::hang(self.sandbox, "kube-apiserver")?));
            }
            Fault::Resize(_) | Fault::Restart => self.change(fault).await?,
        }
        Ok(None)
    }

    async fn member(&self, fault: Fault, who: Who, scene: &mut Scene) -> Result<Option<String>> {
        let Some((name, pod)) = self.find(who).await? else { return Ok(Some(nobody(who))) };
        if matches!(fault, Fault::Delete(_)) {
            self.cluster.delete_pod(&name).await?;
            return Ok(None);
        }
        let truth = self.cluster.truth().await?;
        if !survives(&truth, &BTreeSet::from([pod.addr]), &scene.doomed) {
            return Ok(Some("its shard would lose its last copy".to_owned()));
        }
        scene.doomed.insert(pod.addr);
        if matches!(fault, Fault::ForceDelete(_)) {
            self.cluster.pod_api().delete(&name, &DeleteParams::default().grace_period(0)).await?;
        } else {
            mend::kill(self.stage, self.cluster, &name).await?;
        }
        Ok(None)
    }

    async fn change(&mut self, fault: Fault) -> Result<()> {
        let live = self.cluster.get().await?.spec;
        let size = match fault {
            Fault::Resize(size) => size,
            _ => super::Size { shards: u16::try_from(live.shards)?, replicas: u16::try_from(live.replicas)? },
        };
        if fault == Fault::Restart {
            self.restarts += 1;
        }
        self.cluster.change(spec(size, self.restarts)).await
    }

    async fn kill_operators(&self, both: bool) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.stage.client.clone(), operator::NAMESPACE);
        let leader = operator::leader(&self.stage.client).await.unwrap_or_default();
        let now = DeleteParams::default().grace_period(0);
        for pod in pods.list_metadata(&ListParams::default().labels(operator::SELECTOR)).await? {
            if both || pod.name_any() == leader {
                pods.delete(&pod.name_any(), &now).await?;
            }
        }
        Ok(())
    }

    fn worker(&self, at: usize) -> Result<String> {
        self.workers.get(at).cloned().context("there is no such worker")
    }

    /// A running member that is this now.
    async fn find(&self, who: Who) -> Result<Option<(String, Member)>> {
        let truth = self.cluster.truth().await?;
        let leads: Vec<SocketAddr> = truth.shards().iter().filter_map(|s| s.primary_addr).collect();
        let (shard, primary) = match who {
            Who::Primary(shard) => (shard, true),
            Who::Replica(shard) => (shard, false),
        };
        let answers: BTreeSet<SocketAddr> = truth.answered().map(|(addr, ..)| addr).collect();
        let found = self.pods().await?.into_iter().find(|(_, p)| {
            p.shard == Some(shard) && leads.contains(&p.addr) == primary && answers.contains(&p.addr)
        });
        Ok(found)
    }

    /// The members that are meant to stay, with their addresses.
    async fn pods(&self) -> Result<BTreeMap<String, Member>> {
        let addresses = self.cluster.addresses().await?;
        let pods = self.cluster.pods().await?.into_iter();
        let member = |(name, pod): (String, Pod)| {
            let shard = pod.labels().get(valkey_cluster_operator::build::labels::SHARD_INDEX);
            let addr = *addresses.get(&name)?;
            let shard = shard.and_then(|s| s.parse().ok());
            Some((name, Member { addr, shard, worker: pod.spec.and_then(|s| s.node_name) }))
        };
        Ok(pods.filter_map(member).collect())
    }

    /// The ground is as it was: the API server answers, and every worker is Ready.
    async fn stands(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.stage.client.clone());
        eventually("every worker to be Ready", MENDED, async || {
            for node in nodes.list(&ListParams::default()).await? {
                let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
                let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
                ensure!(ready, "{} is not Ready", node.name_any());
            }
            Ok(())
        })
        .await
    }
}

/// A Pod of the cluster.
struct Member {
    addr: SocketAddr,
    shard: Option<u16>,
    worker: Option<String>,
}

impl Scene {
    /// The API server hangs: nothing can be looked up.
    fn is_blind(&self) -> bool {
        self.broken.iter().any(|b| matches!(b.mend, Mending::Api(_)))
    }

    /// What can be mended as things are.
    fn mendable(&self) -> impl Iterator<Item = &Broken> {
        let blind = self.is_blind();
        self.broken.iter().filter(move |b| !blind || matches!(b.mend, Mending::Api(_)))
    }

    /// The place of something that is to be mended now.
    fn due(&self) -> Option<usize> {
        let (blind, now) = (self.is_blind(), Instant::now());
        self.broken.iter().position(|b| b.until <= now && (!blind || matches!(b.mend, Mending::Api(_))))
    }

    fn break_for(&mut self, time: Duration, mend: Mending) {
        self.broken.push(Broken { until: Instant::now() + time, mend });
    }
}

fn nobody(who: Who) -> String {
    format!("{who} cannot be found now")
}
