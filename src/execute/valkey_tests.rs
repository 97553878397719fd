//! The steps on real servers: a life from empty processes to a cluster that has lost a node.
//! Ignored unless asked for: `VALKEY_SERVERS=/path/valkey-server[:…] cargo test --lib -- --ignored on_real_servers`.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::*;
use crate::build::Credentials;
use crate::build::credentials::OPERATOR_USER;
use crate::model::{NodeReport, PodName, PodUid, Role, Seen, Shard};
use crate::observe::valkey::{Bounds, Probe, observe_nodes};
use crate::valkey::commands::Failover;
use crate::valkey::testing::{REAL_PORTS, RealServer, real_programs};
use crate::valkey::{Change, FredConnector, LinkSettings, Links};

#[path = "brief_real_tests.rs"]
mod brief;
#[path = "recovery_real_tests.rs"]
mod recovery;

pub(in crate::execute) struct World {
    pub(in crate::execute) servers: Vec<RealServer>,
    program: String,
    group: u8,
    credentials: Credentials,
    pub(in crate::execute) executor: ValkeyExecutor,
    pub(in crate::execute) ids: Vec<NodeId>,
}

impl World {
    pub(in crate::execute) fn new(program: &str, group: u8) -> Self {
        let credentials =
            Credentials::new("operator0123456789", "replication0123456789", "exporter0123456789");
        let access = Access {
            username: Some(OPERATOR_USER.to_owned()),
            password: Some(credentials.operator.clone()),
            ..Access::default()
        };
        let executor = ValkeyExecutor::new(Arc::new(FredConnector), access, REAL_PORTS, Arc::default());
        Self {
            servers: Vec::new(),
            program: program.to_owned(),
            group,
            credentials,
            executor,
            ids: Vec::new(),
        }
    }

    pub(in crate::execute) fn add(&mut self, nodes: u8) {
        for _ in 0..nodes {
            let index = u8::try_from(self.servers.len() + 1).unwrap();
            self.servers.push(RealServer::start(&self.program, self.group, index, &self.credentials));
        }
    }

    async fn see(&self) -> Vec<Seen<NodeReport>> {
        let uid = |i: usize| PodUid::new(i.to_string());
        let probes: Vec<Probe> = self
            .servers
            .iter()
            .enumerate()
            .map(|(i, s)| Probe { uid: uid(i), addr: s.addr(), silent: false })
            .collect();
        let asked = ["cluster-node-timeout".to_owned(), RETIRED.to_owned()];
        let e = &self.executor;
        let seen = observe_nodes(&probes, &asked, &e.access, e.connector.as_ref(), &Bounds::default()).await;
        (0..probes.len()).map(|i| seen[&uid(i)].clone()).collect()
    }

    /// Looks until every server that runs answers and it is so; answers what was seen then. One that is late is no longer
    /// in its place in the list otherwise.
    pub(in crate::execute) async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&[NodeReport]) -> bool,
    ) -> Vec<NodeReport> {
        let begun = Instant::now();
        loop {
            let seen = self.see().await;
            let now: Vec<NodeReport> = seen.iter().filter_map(Seen::now).cloned().collect();
            if now.len() == self.servers.iter().filter(|s| s.runs()).count() && is_so(&now) {
                return now;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} is not so after 20 s: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(in crate::execute) fn on(&self, i: usize) -> Target {
        Target {
            pod: PodName::new(format!("pod-{i}")),
            uid: PodUid::new(i.to_string()),
            shard: Shard(0),
            node: self.ids[i].clone(),
            ip: self.servers[i].ip,
        }
    }

    pub(in crate::execute) async fn done(&self, step: Step) {
        let outcome = self.executor.run(&step).await;
        assert_eq!(outcome, Outcome::Done, "{step}");
    }

    async fn stale(&self, step: Step, because: &str) {
        match self.executor.run(&step).await {
            Outcome::Stale(why) if why.contains(because) => {}
            other => panic!("{step}: {other:?} and not stale because {because:?}"),
        }
    }

    fn timeout(&self, i: usize, ms: &str) -> Step {
        let settings = BTreeMap::from([("cluster-node-timeout".to_owned(), ms.to_owned())]);
        Step::Configure { on: self.on(i), settings, only_empty: true }
    }

    async fn write(&self, i: usize, keys: usize) {
        let access = Access { username: None, password: None, ..self.executor.access.clone() };
        let node = FredConnector.connect(self.servers[i].addr(), &access).await.unwrap();
        for n in 0..keys {
            // Keys with this tag are in slot 3300 (CRC16 of "a" is 15495, of "b" 3300).
            node.call(&["SET", &format!("{{b}}{n}"), "x"]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
async fn a_life_on_real_servers() {
    for (group, program) in real_programs().into_iter().enumerate() {
        let mut w = World::new(&program, u8::try_from(group).unwrap());
        w.add(4);
        let nodes = w.until("four answer", |n| n.len() == 4).await;
        w.ids = nodes.iter().map(|n| n.id.clone()).collect();
        assert!(nodes.iter().all(|n| !n.admitted && n.is_isolated() && n.keys == 0));
        // A primary that is younger than 2 s does not call the cluster ok, whatever is done (Valkey's own floor).
        w.until("all are 3 s old", |n| n.iter().all(|n| n.uptime_ms >= 3000)).await;
        let begun = Instant::now();
        form(&w, 2).await;
        let (took, looked) = (begun.elapsed(), Instant::now());
        w.see().await;
        eprintln!("{}: formed in {took:?}, a look at 4 nodes {:?}", nodes[0].version, looked.elapsed());
        assert!(took < Duration::from_secs(6), "ten times what it takes on an idle machine: {took:?}");
        brief::shows_what_a_whole_one_does(&w).await;
        stops_what_is_wrong(&mut w).await;
        loses_a_replica(&mut w).await;
    }
}

/// Primaries with a replica each, as the rules would propose it, every step twice.
pub(in crate::execute) async fn form(w: &World, primaries: usize) {
    let (all, of) = (2 * primaries, u16::try_from(primaries).unwrap());
    let shares: Vec<Slots> = (0..of).map(|i| Slots::share(i, of)).collect();
    for _ in 0..2 {
        join_all((0..all).map(|i| w.done(w.timeout(i, "500")))).await;
        join_all((0..all).map(|i| w.done(Step::Admit { on: w.on(i) }))).await;
        join_all((0..primaries).map(|i| w.done(Step::AssignSlots { on: w.on(i), slots: shares[i].clone() })))
            .await;
        join_all((0..all).map(|i| w.done(Step::SetEpoch { on: w.on(i), epoch: i as u64 + 1 }))).await;
    }
    for _ in 0..2 {
        let meet = |i: usize| Step::Meet { on: w.on(i), with: (i + 1..all).map(|j| w.on(j)).collect() };
        join_all((0..all - 1).map(|i| w.done(meet(i)))).await;
    }
    w.until("all know all", |n| {
        n.iter().all(|n| n.peers.len() == all - 1 && n.peers.values().all(|p| !p.handshake))
    })
    .await;
    for _ in 0..2 {
        join_all(
            (primaries..all)
                .map(|i| w.done(Step::Replicate { on: w.on(i), primary: w.ids[i - primaries].clone() })),
        )
        .await;
    }
    let in_sync = |n: &NodeReport| matches!(n.role, Role::Replica { link, .. } if link.in_sync());
    let nodes = w
        .until("formed", |n| {
            n.iter().all(|n| n.state_ok)
                && n.iter().filter(|n| in_sync(n)).count() == primaries
                && n.iter().filter(|n| n.online_replicas.len() == 1).count() == primaries
        })
        .await;
    assert_eq!(nodes.iter().fold(Slots::none(), |all, n| all.or(n.slots())), Slots::all());
    join_all((0..all).map(|i| w.done(w.timeout(i, "2000")))).await;
    let nodes = w
        .until("the real time-out is back", |n| n.iter().all(|n| n.config["cluster-node-timeout"] == "2000"))
        .await;
    assert!(nodes.iter().all(|n| n.admitted));
    let shown =
        w.executor.applied.lock().unwrap()[&(w.ids[0].clone(), "cluster-node-timeout".to_owned())].clone();
    assert_eq!(shown, ("2000".to_owned(), "2000".to_owned()));
}

async fn stops_what_is_wrong(w: &mut World) {
    w.write(0, 10).await;
    w.until("the replica has the keys", |n| n[2].keys == 10).await;
    let mut stranger = w.on(0);
    stranger.node = w.ids[1].clone();
    w.stale(Step::Admit { on: stranger.clone() }, "another node answers").await;
    w.stale(Step::Replicate { on: stranger, primary: w.ids[1].clone() }, "another node answers").await;
    w.stale(Step::Replicate { on: w.on(0), primary: w.ids[1].clone() }, "owns slots").await;
    w.stale(Step::Replicate { on: w.on(2), primary: w.ids[1].clone() }, "still owns slots").await;
    w.stale(Step::AssignSlots { on: w.on(0), slots: Slots::all() }, "holds 10 keys").await;
    w.stale(Step::AssignSlots { on: w.on(1), slots: Slots::all() }, "lists slots").await;
    w.stale(Step::Retire { on: w.on(0) }, "has become a primary").await;
    w.stale(Step::Forget { id: w.ids[2].clone(), on: [w.on(0), w.on(1), w.on(3)].into() }, "it is alive")
        .await;
    let bad = BTreeMap::from([("maxmemory".to_owned(), "plenty".to_owned())]);
    let outcome = w.executor.run(&Step::Configure { on: w.on(0), settings: bad, only_empty: false }).await;
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("must be a memory value")),
        "{outcome:?}"
    );
    assert!(w.executor.removable(w.servers[0].ip, Removable::Unused).await.is_err());
    assert!(w.executor.removable(w.servers[0].ip, Removable::Retired { others: 0 }).await.is_err());
    assert!(w.executor.removable(w.servers[0].ip, Removable::NotRunning).await.is_err());

    // A node that was somewhere else before: it owns slots and holds a key.
    w.add(1);
    let nodes = w.until("five answer", |n| n.len() == 5).await;
    w.ids.push(nodes[4].id.clone());
    assert_eq!(w.executor.removable(w.servers[4].ip, Removable::Unused).await, Ok(()));
    w.done(Step::AssignSlots { on: w.on(4), slots: Slots::all() }).await;
    w.stale(Step::Meet { on: w.on(4), with: vec![w.on(0)] }, "would have two owners").await;
    w.stale(Step::Meet { on: w.on(0), with: vec![w.on(4)] }, "would have two owners").await;
    w.until("it serves alone", |n| n[4].state_ok).await;
    w.write(4, 1).await;
    w.stale(Step::Meet { on: w.on(4), with: vec![w.on(0)] }, "could merge two clusters").await;
    let nodes = w.until("five answer", |n| n.len() == 5).await;
    assert!(nodes[4].is_isolated() && nodes.iter().take(4).all(|n| n.peers.len() == 3));
    assert!(w.executor.removable(w.servers[4].ip, Removable::Unused).await.is_err());
    w.servers.pop();
    w.ids.pop();
}

async fn loses_a_replica(w: &mut World) {
    let retired =
        async |w: &World| w.executor.removable(w.servers[2].ip, Removable::Retired { others: 0 }).await;
    assert!(retired(w).await.unwrap_err().contains("not asked to leave"));
    w.done(Step::Retire { on: w.on(2) }).await;
    w.until("the retirement shows", |n| n[2].is_retiring()).await;
    assert_eq!(retired(w).await, Ok(()));
    let others = w.executor.removable(w.servers[2].ip, Removable::Retired { others: 1 }).await;
    assert!(others.unwrap_err().contains("1 have to stay"));
    w.done(Step::Keep { on: w.on(2) }).await;
    w.until("it is taken back", |n| !n[2].is_retiring()).await;

    // A planned hand-over, after which the former primary is the one that dies.
    let node = w.executor.node(w.servers[2].ip).await.unwrap();
    commands::failover(node.as_ref(), Failover::Planned).await.unwrap();
    w.until("handed over", |n| !n[2].slots().is_empty() && matches!(n[0].role, Role::Replica { .. })).await;
    let (events, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let links = Links::new(Arc::clone(&w.executor.connector), LinkSettings::default(), events);
    links.keep(&(), &[(0, w.servers[0].addr())], &w.executor.access);
    assert_eq!(changes.recv().await.unwrap().change, Change::Up);
    let killed = tokio::time::Instant::now();
    w.servers[0].kill().await;
    let lost = changes.recv().await.unwrap();
    assert_eq!(lost.change, Change::Lost(WireError::Reset));
    eprintln!("the link knows the crash after {:?}", lost.at - killed);
    assert!(lost.at - killed < Duration::from_millis(100));
    assert_eq!(w.executor.removable(w.servers[0].ip, Removable::NotRunning).await, Ok(()));
    let gone = w.ids[0].clone();
    let others = || [w.on(1), w.on(2), w.on(3)].into();
    w.done(Step::Forget { id: gone.clone(), on: others() }).await;
    w.until("nobody lists it", |n| n.iter().all(|n| !n.peers.contains_key(&gone))).await;
    w.done(Step::Forget { id: gone.clone(), on: others() }).await;
    w.stale(Step::Admit { on: w.on(0) }, "cannot now").await;
    let outcome = w.executor.run(&Step::Forget { id: gone, on: [w.on(0), w.on(1)].into() }).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("pod-0")), "{outcome:?}");
    let nodes = w.until("three answer", |n| n.len() == 3).await;
    assert_eq!(nodes.iter().map(|n| n.keys).max(), Some(10));
}
