//! Lives a script with real processes: the events of the simulated life, in its order and with its pauses, and the same end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use valkey_cluster_operator::model::{NodeReport, Phase, PodUid, Seen, Version};
use valkey_cluster_operator::mutex::lock;
use valkey_cluster_operator::observe::kube as read;
use valkey_cluster_operator::observe::valkey::{Bounds, Probe, observe_nodes};
use valkey_cluster_operator::valkey::{Access, FredConnector};

use super::clients::Clients;
use super::ending;
use super::machines::Machines;
use super::mischief::Mischief;
use super::operator::{CALM, Log, NOT_DONE, Operator};
use super::person::Person;
use crate::sim::life::{End, live};
use crate::sim::script::{Action, Script, When, Who};
use crate::sim::trace::Trace;
use crate::support::apiserver::ApiServer;

/// Between two looks of this test at its world.
const LOOK: Duration = Duration::from_millis(40);
/// After so long without a new plan of any operator nothing more is expected, also of a machine that is busy with other things: more than a
/// minute of peace, after which a member may move, and the pause of a settled cluster.
const PATIENCE: Duration = Duration::from_secs(150);
/// A life whose plans never come to an end.
const TOO_LONG: Duration = Duration::from_mins(30);
/// Whom an event is about is there within this: a real cluster forms a little sooner or later than a simulated one.
const FOUND: Duration = Duration::from_secs(20);

/// A world of real processes.
pub(crate) struct World {
    pub machines: Machines,
    pub person: Person,
    pub operators: Vec<Operator>,
    pub mischief: Arc<Mutex<Mischief>>,
    clients: Clients,
    pub api: ApiServer,
    brief: bool,
    log: Log,
    asked: Vec<String>,
    began: Instant,
}

/// Lives it; how long it took and which steps were not done, or what went wrong, with what every operator said meanwhile.
pub(crate) async fn live_really(
    script: &Script,
    programs: &BTreeMap<Version, String>,
) -> Result<String, String> {
    let simulated = live(script, Trace::default());
    if let Some(why) = &simulated.failure {
        return Err(format!("in the simulated world already: {why}"));
    }
    let mut world = World::new(script, programs);
    let ended = world.life(script, &simulated).await;
    let took = world.began.elapsed();
    let told = world.told();
    match ended.and(world.keys(&simulated).await) {
        Ok(()) => Ok(format!("{:.1} s{}", took.as_secs_f64(), last_not_done(&told))),
        Err(why) => Err(format!("{why}\n{told}")),
    }
}

/// The kinds of steps that were not done, as the last pass told them.
fn last_not_done(told: &str) -> String {
    let lines = told.lines().filter_map(|line| line.trim().strip_prefix(NOT_DONE));
    let last: BTreeMap<&str, &str> = lines.filter_map(|line| line.rsplit_once(' ')).collect();
    let words: Vec<String> = last.iter().map(|(kind, count)| format!(", {count} {kind}")).collect();
    words.concat()
}

impl World {
    fn new(script: &Script, programs: &BTreeMap<Version, String>) -> Self {
        let api = ApiServer::default();
        api.keep_time();
        let mut this = Self {
            machines: Machines::new(api.second_door(), &script.start, programs),
            person: Person::new(&api.second_door(), &script.start),
            operators: Vec::new(),
            mischief: Arc::default(),
            clients: Clients::start(),
            api,
            brief: script.start.brief,
            log: Arc::default(),
            asked: ending::settings_of(script),
            began: Instant::now(),
        };
        this.operate(1);
        this
    }

    /// So many operators from now on.
    pub(crate) fn operate(&mut self, operators: usize) {
        self.operators.truncate(operators);
        while self.operators.len() < operators {
            self.operators.push(Operator::start(&self.api, &self.mischief, self.brief, &self.log));
        }
    }

    async fn life(&mut self, script: &Script, simulated: &End) -> Result<(), String> {
        let mut before = 0;
        let mut last = Instant::now();
        for ((when, action), tick) in script.events.iter().zip(&simulated.world.happened) {
            let pause = Duration::from_millis(u64::try_from(tick - before).unwrap_or(0) * 100);
            match when {
                When::At(_) => self.pass(last, pause).await,
                When::Quiet => self.quiet(last).await?,
            }
            self.happen(action).await?;
            (before, last) = (*tick, Instant::now());
        }
        self.end(last, &ending::simulated(script, &simulated.world), script).await
    }

    /// One look: what has ended, died or become ready meanwhile.
    async fn tick(&mut self) {
        self.machines.tick().await;
        lock(&self.mischief).hidden = self.machines.hidden();
        for operator in &mut self.operators {
            if operator.is_dead() {
                *operator = Operator::start(&self.api, &self.mischief, self.brief, &self.log);
            }
        }
        if !lock(&self.clients.known).writing {
            let ready = self.pods().iter().filter_map(read::pod).any(|p| p.gate == Some(true));
            lock(&self.clients.known).writing = ready;
        }
        {
            let mut known = lock(&self.clients.known);
            known.tls = self.person.issued.client();
            known.seeds = self.machines.running().into_iter().map(|(_, at)| at).collect();
            known.without_replicas = self.person.replicas == 0;
        }
        tokio::time::sleep(LOOK).await;
    }

    /// Lets this time pass. Where nothing is wrong and nothing is left to do it may be cut short: nothing would happen.
    async fn pass(&mut self, since: Instant, pause: Duration) {
        while since.elapsed() < pause
            && !(self.machines.at_peace() && !self.person.paused && self.calm(since))
        {
            self.tick().await;
        }
    }

    /// No operator has had anything to do for a while.
    fn calm(&self, since: Instant) -> bool {
        let calm = |o: &Operator| o.calm_since(since).is_some_and(|at| at.max(since).elapsed() >= CALM);
        !self.operators.is_empty() && self.operators.iter().all(calm)
    }

    async fn quiet(&mut self, since: Instant) -> Result<(), String> {
        let began = Instant::now();
        while !self.calm(since) {
            self.has_patience(began).map_err(|why| format!("not quiet: {why}"))?;
            self.tick().await;
        }
        Ok(())
    }

    /// Something is still going on.
    fn has_patience(&self, began: Instant) -> Result<(), String> {
        let news = lock(&self.log).last().map_or(began, |(at, _)| (*at).max(began));
        if news.elapsed() > PATIENCE {
            return Err(format!("nothing new for {PATIENCE:?}"));
        }
        if self.began.elapsed() > TOO_LONG {
            return Err(format!("it takes more than {TOO_LONG:?}"));
        }
        Ok(())
    }

    /// Until the world is what the simulated one has become, and nothing is left to do.
    async fn end(&mut self, since: Instant, wanted: &str, script: &Script) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let is = ending::real(script, &self.pods(), &self.nodes().await);
            if is == wanted && (self.person.paused || self.calm(since)) {
                return Ok(());
            }
            let differs = |why| format!("it ends ({why}) as\n{is}and in the simulated world as\n{wanted}");
            self.has_patience(began).map_err(differs)?;
            for _ in 0..8 {
                self.tick().await;
            }
        }
    }

    /// No write is lost that the simulated life did not lose, and all keys are dropped where they are there.
    async fn keys(self, simulated: &End) -> Result<(), String> {
        let clients = &simulated.world.clients;
        let writes = lock(&self.clients.known).writes;
        let set_back = self.clients.end().await?;
        let may: BTreeSet<u16> = clients.taken.union(&clients.dropped).copied().collect();
        if !set_back.is_subset(&may) {
            return Err(format!("writes were lost in slots {set_back:?}, and may be in {may:?}"));
        }
        if !clients.dropped.is_subset(&set_back) {
            return Err(format!("keys were dropped in slots {set_back:?} instead of {:?}", clients.dropped));
        }
        if writes == 0 && simulated.world.clients.acknowledged_writes > 0 {
            return Err("nobody could write".to_owned());
        }
        Ok(())
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.api.all()
    }

    /// What every node that can be reached says of itself, by the operator's own way of asking: in plain text, or else by TLS.
    pub(crate) async fn nodes(&self) -> BTreeMap<String, NodeReport> {
        let mut all = BTreeMap::new();
        let tls = self.person.issued.client();
        for tls in [None].into_iter().chain(tls.map(Some)) {
            let running = self.machines.running().into_iter().filter(|(uid, _)| !all.contains_key(uid));
            let probes: Vec<Probe> =
                running.map(|(uid, addr)| Probe { uid: PodUid::new(uid), addr, silent: false }).collect();
            let access = Access { tls, ..Access::default() };
            let seen = observe_nodes(&probes, &self.asked, &access, &FredConnector, &Bounds::default()).await;
            all.extend(seen.into_iter().filter_map(|(uid, seen)| match seen {
                Seen::Now(report) => Some((uid.to_string(), report)),
                _ => None,
            }));
        }
        all
    }

    /// The Pods that an event is about.
    pub(crate) async fn find(&mut self, who: &Who) -> Result<Pod, String> {
        let began = Instant::now();
        loop {
            let nodes = self.nodes().await;
            let leads = |p: &Pod| p.uid().and_then(|uid| nodes.get(&uid)).map(|n| !n.slots().is_empty());
            let is = |p: &&Pod| {
                let Some(pod) = read::pod(p) else { return false };
                match who {
                    Who::Primary(s) => pod.shard.0 == *s && leads(p) == Some(true),
                    // It may have been elected a moment sooner than in the simulated world: then it is the one that led before.
                    Who::Replica(s) => {
                        let silent = pod.phase == Phase::Running && began.elapsed() > FOUND / 4;
                        pod.shard.0 == *s && leads(p).map_or(silent, |leads| !leads)
                    }
                    Who::Pod(s, i) => pod.shard.0 == *s && pod.index == *i,
                }
            };
            if let Some(pod) = self.pods().iter().find(is) {
                return Ok(pod.clone());
            }
            if began.elapsed() > FOUND {
                return Err(format!("there is no {who}"));
            }
            self.tick().await;
        }
    }

    /// What every operator has said, and when.
    fn told(&self) -> String {
        let line = |(at, plan): &(Instant, String)| {
            let indented: Vec<String> = plan.lines().map(|l| format!("          {l}\n")).collect();
            format!("{:>6.1} s\n{}", (*at - self.began).as_secs_f64(), indented.concat())
        };
        lock(&self.log).iter().map(line).collect()
    }

    /// A line between the plans.
    pub(crate) fn note(&self, action: &Action) {
        lock(&self.log).push((Instant::now(), format!("** {action}\n")));
    }
}
