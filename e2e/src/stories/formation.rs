//! Real Valkey processes without Kubernetes, formed by the operator's own observation, rules and effects.
//!
//! The Pods are made up; everything about Valkey is real. What the rules ask of Kubernetes is done to the made-up world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use serde_json::json;
use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::build::config::{PRIMARY_FILE, USERS_FILE};
use valkey_cluster_operator::build::credentials::OPERATOR_USER;
use valkey_cluster_operator::build::{self, Credentials, labels};
use valkey_cluster_operator::execute::lanes;
use valkey_cluster_operator::execute::valkey::{Applied, ValkeyExecutor};
use valkey_cluster_operator::hints::FAST_NODES;
use valkey_cluster_operator::model::settings::{self, NODE_TIMEOUT_MS};
use valkey_cluster_operator::model::{
    Attempts, Desired, Moment, Object, Outcome, Past, Phase, Plan, Pod, PodName, PodUid, Shard, Snapshot,
    Step, View, Worker, WorkerName,
};
use valkey_cluster_operator::observe;
use valkey_cluster_operator::observe::valkey::{Bounds, Probe, observe_ghosts, observe_nodes};
use valkey_cluster_operator::plan::plan;
use valkey_cluster_operator::valkey::{FredConnector, Ports};

use super::Story;
use super::stage::Stage;
use crate::cache::Cache;
use crate::debs::{ValkeyRoot, valkey_roots};
use crate::processes::{Config, PORT, Processes};
use crate::resp::Access;
use crate::truth::{Expected, Truth};

pub(super) const STORY: Story = Story {
    name: "formation",
    about: "real processes of every line of Valkey form at once, without Kubernetes",
    run: |stage| run(stage).boxed_local(),
};

/// From the first command to a formed cluster, on processes that are older than Valkey's own wait after a start.
const FORMED: Duration = Duration::from_secs(1);
/// A new process serves as a primary only 2 s after its start: these are older.
const AGE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_mins(1);
/// Between two passes, as the operator does while a formation is under way.
const PASS: Duration = Duration::from_millis(20);
/// The bus of a server is this much above its client port, as Valkey decides.
const BUS: u16 = 10_000;

async fn run(stage: &Stage) -> Result<()> {
    stage.sandbox("tries Valkey's processes on this machine, without Kubernetes")?;
    let cache = Cache::open()?;
    for root in valkey_roots(&cache, &stage.progress)? {
        let version = root.version.clone();
        let mut times = Vec::new();
        for _ in 0..stage.times(1, 20) {
            times.push(life(stage, &root).await.with_context(|| format!("Valkey {version}"))?);
        }
        times.sort();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        ensure!(median <= stage.bound(FORMED), "Valkey {version}: formed after {median:?}");
    }
    Ok(())
}

/// Formed, then a replica is killed and replaced.
async fn life(stage: &Stage, root: &ValkeyRoot) -> Result<Duration> {
    let mut world = World::new(root)?;
    tokio::time::sleep(AGE).await;
    let began = Instant::now();
    world.until_whole(began).await.context("the formation")?;
    let formed = began.elapsed();
    world.until_quiet(began).await?;
    let quiet = began.elapsed();
    world.lose_a_replica()?;
    let lost = Instant::now();
    world.until_quiet(lost).await.context("a lost replica")?;
    world.until_whole(lost).await.context("a lost replica")?;
    stage.say(format_args!(
        "Valkey {}: six processes formed {:.2} s after the first look, settled after {:.2} s; a lost replica replaced after {:.1} s",
        root.version,
        formed.as_secs_f64(),
        quiet.as_secs_f64(),
        lost.elapsed().as_secs_f64()
    ));
    Ok(formed)
}

/// What the operator would see of Kubernetes, and the processes.
struct World {
    processes: Processes,
    /// Which process is in which Pod.
    numbers: BTreeMap<PodUid, usize>,
    pods: BTreeMap<PodName, Pod>,
    desired: Desired,
    credentials: Credentials,
    ports: Ports,
    formed: bool,
    whole: bool,
    drifted: BTreeSet<Object>,
    applied: Arc<std::sync::Mutex<Applied>>,
    attempts: Attempts,
}

impl World {
    fn new(root: &ValkeyRoot) -> Result<Self> {
        let cr: ValkeyCluster = serde_json::from_value(json!({ "apiVersion": "valkey.io/v1alpha1",
            "kind": "ValkeyCluster", "metadata": { "name": "demo", "namespace": "story", "uid": "1", "generation": 1 },
            "spec": { "shards": 3, "replicas": 1 } }))?;
        let desired = api::desired(&cr).map_err(anyhow::Error::msg)?;
        let credentials =
            Credentials::new("operator0123456789", "replication0123456789", "exporter0123456789");
        let files = credentials.data(true);
        let text = |name: &str| {
            let bytes = files.get(name).with_context(|| format!("the Secret has no {name}"))?;
            Ok::<String, anyhow::Error>(String::from_utf8(bytes.0.clone())?)
        };
        let config = Config { lines: text(PRIMARY_FILE)?, acl: Some(text(USERS_FILE)?), args: Vec::new() };
        let mut this = Self {
            processes: Processes::start_with(root, 0, config)?,
            numbers: BTreeMap::new(),
            pods: BTreeMap::new(),
            desired,
            credentials,
            ports: Ports { client: PORT, bus: PORT + BUS },
            formed: false,
            whole: false,
            drifted: BTreeSet::from([Object::Secret, Object::ConfigMap, Object::Service]),
            applied: Arc::default(),
            attempts: Attempts::default(),
        };
        for shard in this.desired.shards() {
            for index in 0..2 {
                this.create(&labels::pod_name("demo", shard, index), shard, index)?;
            }
        }
        Ok(this)
    }

    /// A Pod with a process that has just started; each pair of copies on two workers.
    fn create(&mut self, name: &PodName, shard: Shard, index: u16) -> Result<()> {
        let number = self.processes.add(1)?;
        let uid = PodUid::new(format!("uid-{number}"));
        let pod = Pod {
            worker: Some(WorkerName::new(format!("w{}", (shard.0 + index) % 3 + 1))),
            ip: Some(self.processes.addr(number).ip()),
            phase: Phase::Running,
            created: now(),
            ..Pod::new(name.clone(), uid.clone(), (shard, index), build::revision(&self.desired))
        };
        self.numbers.insert(uid, number);
        self.pods.insert(name.clone(), pod);
        Ok(())
    }

    /// The process of a replica is killed, and its Pod with it, as when somebody deletes it by force.
    fn lose_a_replica(&mut self) -> Result<()> {
        let lost = self.pods.keys().nth(1).cloned().context("there is no second Pod")?;
        self.delete(&lost)
    }

    fn delete(&mut self, name: &PodName) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("there is no Pod {name}"))?;
        let number = self.numbers.remove(&pod.uid).context("a Pod without a process")?;
        self.processes.kill(number)
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        self.numbers.values().map(|number| self.processes.addr(*number)).collect()
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let access = observe::access(&self.credentials, None);
        let address = |number: &usize| self.processes.addr(*number);
        let probes: Vec<Probe> = self
            .numbers
            .iter()
            .map(|(uid, n)| Probe { uid: uid.clone(), addr: address(n), silent: false })
            .collect();
        let asked = settings::asked(&self.desired, self.pods.values());
        let nodes = observe_nodes(&probes, &asked, &access, &FredConnector, &Bounds::default()).await;
        let applied = self.applied.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
        let mut snapshot = Snapshot {
            now: now(),
            desired: self.desired.clone(),
            revision: build::revision(&self.desired),
            formed: self.formed,
            whole: self.whole,
            served: self.desired.shards().filter(|_| self.whole).collect(),
            shape: None,
            drifted: self.drifted.clone(),
            foreign: None,
            credentials_known: true,
            certificates: None,
            accounts: None,
            passwords: BTreeMap::new(),
            pods: self.pods.clone(),
            taken: BTreeSet::new(),
            workers: (1..=3).map(worker).collect(),
            nodes,
            ghosts: BTreeMap::new(),
            low_timeout_budget: if self.whole { 0 } else { FAST_NODES },
            applied,
            request: None,
            vouched: BTreeSet::new(),
            past: Past::default(),
        };
        let view = View::new(&snapshot);
        let mut ghosts = BTreeMap::new();
        for id in view.unaccounted() {
            let ip = view.lists().address(id);
            ghosts.extend(ip.map(|ip| ((*id).clone(), SocketAddr::new(ip, PORT))));
        }
        snapshot.ghosts = observe_ghosts(&ghosts, &access, &FredConnector, &Bounds::default()).await;
        Ok(snapshot)
    }

    /// One pass of the operator.
    async fn pass(&mut self) -> Result<Plan> {
        let snapshot = self.snapshot().await?;
        let plan = plan(&snapshot, &self.attempts);
        let executor = ValkeyExecutor::new(
            Arc::new(FredConnector),
            observe::access(&self.credentials, None),
            self.ports,
            Arc::clone(&self.applied),
        );
        let executor = &executor;
        let done = lanes::run(&plan.steps, |step| async move {
            if step.is_of_kubernetes() { Outcome::Done } else { executor.run(step).await }
        })
        .await;
        for d in &done {
            let step = &d.proposal.step;
            match &d.outcome {
                Outcome::Done => {
                    self.attempts.done(step);
                    self.kubernetes(step)?;
                }
                Outcome::Stale(_) => {}
                Outcome::Failed(error) => self.attempts.failed(step, snapshot.now, error),
            }
        }
        let report = valkey_cluster_operator::report::report(&snapshot, &plan, &done, None);
        self.whole |= !report.status.topology.is_empty();
        Ok(plan)
    }

    /// What Kubernetes would do with a step.
    fn kubernetes(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Latch => self.formed = true,
            Step::Apply(object) => drop(self.drifted.remove(object)),
            Step::CreatePod { name, shard, index, .. } => self.create(name, *shard, *index)?,
            Step::DeletePod { name, .. } => self.delete(name)?,
            Step::SetGate { name, ready, .. } => {
                self.pods.entry(name.clone()).and_modify(|pod| pod.gate = Some(*ready));
            }
            Step::SetRole { name, leads, .. } => {
                self.pods.entry(name.clone()).and_modify(|pod| pod.leads = *leads);
            }
            Step::Note { name, key, before, .. } => {
                self.pods.entry(name.clone()).and_modify(|pod| match before {
                    Some(value) => drop(pod.before.insert(key.clone(), value.clone())),
                    None => drop(pod.before.remove(key)),
                });
            }
            _ => {}
        }
        Ok(())
    }

    async fn until_quiet(&mut self, began: Instant) -> Result<()> {
        loop {
            let plan = self.pass().await?;
            if plan.quiet() {
                ensure!(plan.blocked.is_empty(), "blocked: {plan}");
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                bail!("after {} s the plan is still: {plan}", LIMIT.as_secs());
            }
            tokio::time::sleep(PASS).await;
        }
    }

    /// Passes until the nodes themselves say that they are one cluster, with the real node-timeout.
    async fn until_whole(&mut self, began: Instant) -> Result<()> {
        let login = crate::resp::Credentials {
            user: Some(OPERATOR_USER.to_owned()),
            password: Some(self.credentials.operator.clone()),
        };
        let access = Access::default().with_login(login);
        let expected = Expected {
            shards: Some(3),
            replicas: Some(1),
            node_timeout_ms: Some(u64::from(NODE_TIMEOUT_MS)),
        };
        loop {
            let plan = self.pass().await?;
            let problems = Truth::look(&access, &self.addrs()).await.problems_against(&expected);
            if problems.is_empty() {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                bail!("after {} s: {}; the plan: {plan}", LIMIT.as_secs(), problems.join("; "));
            }
            tokio::time::sleep(PASS).await;
        }
    }
}

fn worker(number: u16) -> (WorkerName, Worker) {
    let name = WorkerName::new(format!("w{number}"));
    (
        name.clone(),
        Worker {
            hostname: name.to_string(),
            name,
            zone: None,
            open: true,
            leaving: false,
            lost_since: None,
            out_of_service: false,
            shunned: false,
            room: None,
        },
    )
}

fn now() -> Moment {
    Moment(k8s_openapi::jiff::Timestamp::now().as_millisecond())
}
