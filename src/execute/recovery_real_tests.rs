//! From SIGKILL of a primary to its heir, on real servers, through the real look, plan, guard and effect.

use super::*;
use crate::model::{Attempts, ClusterKey, Desired, Moment, Past, Phase, Pod, Revision, Snapshot};
use crate::plan::plan;

/// Shards of the cluster: with three, two are left to vote.
const SHARDS: u16 = 3;

/// Six servers, each of three shards with a replica that has its keys.
async fn six(program: &str, group: usize) -> (World, String) {
    let mut w = World::new(program, u8::try_from(group).unwrap());
    w.add(6);
    let nodes = w.until("six answer", |n| n.len() == 6).await;
    w.ids = nodes.iter().map(|n| n.id.clone()).collect();
    w.until("all are 3 s old", |n| n.iter().all(|n| n.uptime_ms >= 3000)).await;
    form(&w, usize::from(SHARDS)).await;
    w.write(0, 10).await;
    w.until("its replica has the keys", |n| n[3].keys == 10).await;
    (w, nodes[0].version.to_string())
}

/// What the operator's process would know of these servers.
fn snapshot(w: &World, seen: Vec<Seen<NodeReport>>, past: &Past) -> Snapshot {
    let shards = usize::from(SHARDS);
    let pods: Vec<Pod> = (0..w.servers.len())
        .map(|i| Pod {
            ip: Some(w.servers[i].ip),
            phase: Phase::Running,
            gate: Some(true),
            ..Pod::new(
                PodName::new(format!("pod-{i}")),
                PodUid::new(i.to_string()),
                (Shard(u16::try_from(i % shards).unwrap()), u16::try_from(i / shards).unwrap()),
                Revision::new("r"),
            )
        })
        .collect();
    let nodes: BTreeMap<PodUid, Seen<NodeReport>> =
        seen.into_iter().enumerate().map(|(i, s)| (PodUid::new(i.to_string()), s)).collect();
    Snapshot {
        now: Moment(100_000),
        desired: Desired {
            key: ClusterKey { namespace: "n".into(), name: "c".into(), uid: "u".into() },
            shards: SHARDS,
            replicas: 1,
            ..Desired::default()
        },
        revision: Revision::new("r"),
        formed: true,
        whole: true,
        served: (0..SHARDS).map(Shard).collect(),
        shape: None,
        drifted: BTreeSet::new(),
        foreign: None,
        credentials_known: true,
        certificates: None,
        accounts: None,
        passwords: BTreeMap::new(),
        pods: pods.into_iter().map(|p| (p.name.clone(), p)).collect(),
        taken: BTreeSet::new(),
        workers: BTreeMap::new(),
        nodes,
        ghosts: BTreeMap::new(),
        low_timeout_budget: 0,
        applied: BTreeMap::new(),
        request: None,
        vouched: BTreeSet::new(),
        past: past.clone(),
    }
}

fn promotions(s: &Snapshot) -> Vec<Step> {
    let steps = plan(s, &Attempts::default()).steps;
    steps.into_iter().map(|p| p.step).filter(|s| matches!(s, Step::Promote { .. })).collect()
}

/// Looks, plans and acts as a pass does, until the node with this number owns slots.
async fn recover(w: &World, past: &Past, heir: usize) -> usize {
    let begun = Instant::now();
    let mut tried = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let seen = w.see().await;
        if seen[heir].now().is_some_and(|n| !n.slots().is_empty()) {
            return tried;
        }
        if tried == 0 {
            for step in promotions(&snapshot(w, seen, past)) {
                let outcome = w.executor.run(&step).await;
                eprintln!("  {step}: {outcome:?}");
                tried += usize::from(outcome == Outcome::Done);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("node {heir} has not taken over within 5 s");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
async fn a_killed_primary_has_its_heir_at_once_on_real_servers() {
    for (group, program) in real_programs().into_iter().enumerate() {
        let (mut w, version) = six(&program, group + 100).await;
        let mut past = Past::default();
        let calm = snapshot(&w, w.see().await, &past);
        past.see(&calm);
        assert!(promotions(&calm).is_empty(), "nobody is dead");
        // Whoever claims that a living primary is dead is stopped by the guard.
        let witnesses = vec![w.on(1), w.on(2)];
        let by = crate::model::step::Promotion::Refused;
        let lie = Step::Promote {
            on: w.on(3),
            dead: w.ids[0].clone(),
            at: Some(w.servers[0].ip),
            by,
            offset: 0,
            witnesses,
        };
        w.stale(lie, "it is alive").await;

        let (events, mut changes) = tokio::sync::mpsc::unbounded_channel();
        let links = Links::new(Arc::clone(&w.executor.connector), LinkSettings::default(), events);
        links.keep(&(), &[(0, w.servers[0].addr())], &w.executor.access);
        assert_eq!(changes.recv().await.unwrap().change, Change::Up);
        let killed = Instant::now();
        w.servers[0].kill().await;
        assert!(matches!(changes.recv().await.unwrap().change, Change::Lost(_)));
        let woken = killed.elapsed();
        let forced = recover(&w, &past, 3).await;
        let took = killed.elapsed();
        eprintln!("{version}: woken after {woken:?}, promoted after {took:?}");
        assert_eq!(forced, 1, "one failover was forced, and Valkey's own election was not needed");
        assert!(took < Duration::from_secs(2), "ten times what a busy machine needs: {took:?}");
        let nodes = w.until("five answer", |n| n.len() == 5).await;
        assert_eq!(nodes[2].keys, 10, "what the replica had is there");

        // Now two of three owners are left; when one more dies nobody can elect, and proof is needed.
        let seen = w.see().await;
        let mut past = Past::default();
        past.see(&snapshot(&w, seen, &past));
        links.keep(&(), &[(1, w.servers[1].addr())], &w.executor.access);
        assert_eq!(changes.recv().await.unwrap().change, Change::Up);
        let killed = Instant::now();
        w.servers[1].kill().await;
        w.servers[2].kill().await;
        assert!(matches!(changes.recv().await.unwrap().change, Change::Lost(_)));
        recover(&w, &past, 4).await;
        recover(&w, &past, 5).await;
        eprintln!("  a majority: both took over within {:?}", killed.elapsed());
    }
}

/// What a node answers to this command.
async fn answer(w: &World, i: usize, argv: &[&str]) -> String {
    let node = FredConnector.connect(w.servers[i].addr(), &w.executor.access).await.unwrap();
    node.call(argv).await.unwrap().text().unwrap().to_owned()
}

/// The columns of this node in the list of another: the fifth is when it was pinged without an answer yet, the seventh its epoch.
async fn column(w: &World, of: usize, on: usize, column: usize) -> String {
    let list = answer(w, on, &["CLUSTER", "NODES"]).await;
    let line = list.lines().find(|line| line.starts_with(w.ids[of].as_str())).unwrap();
    line.split(' ').nth(column).unwrap().to_owned()
}

async fn until_so(what: &str, is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} is not so after 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A replica that has not heard of its dead primary's last configuration epoch: the others refuse it their votes (on 8.0.1 for as long as
/// one waits; from 8.1 on a new epoch is told to everybody at once, so that the replica finds it as it wakes).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
async fn a_replica_that_gets_no_votes_takes_over_on_real_servers() {
    for (group, program) in real_programs().into_iter().enumerate() {
        let (mut w, version) = six(&program, group + 110).await;
        // Nobody suspects the replica while it stands still.
        for i in 0..6 {
            answer(&w, i, &["CONFIG", "SET", "cluster-node-timeout", "10000"]).await;
        }
        let mut past = Past::default();
        let calm = snapshot(&w, w.see().await, &past);
        past.see(&calm);
        w.servers[3].signal("STOP");
        // A node that owes an answer is told nothing more.
        until_so("it was pinged", async || column(&w, 3, 0, 4).await != "0").await;
        answer(&w, 0, &["CLUSTER", "BUMPEPOCH"]).await;
        let epoch = column(&w, 0, 0, 6).await;
        for voter in [1, 2] {
            until_so("the voters know the epoch", async || column(&w, 0, voter, 6).await == epoch).await;
        }
        w.servers[0].kill().await;
        w.servers[3].signal("CONT");

        let (begun, mut asked) = (Instant::now(), Vec::new());
        loop {
            let seen = w.see().await;
            if seen[3].now().is_some_and(|n| !n.slots().is_empty()) {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "it has not taken over within 30 s: {asked:?}"
            );
            let ms = i64::try_from(begun.elapsed().as_millis()).unwrap();
            let mut now = Snapshot { now: calm.now.plus_ms(ms), ..snapshot(&w, seen, &past) };
            past.see(&now);
            now.past = past.clone();
            for step in promotions(&now) {
                let outcome = w.executor.run(&step).await;
                past.tried(&step, &outcome, now.now);
                asked.extend((outcome == Outcome::Done).then(|| step.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("{version}: after {:?}: {asked:?}", begun.elapsed());
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].contains("Takeover(Refused)"), version.starts_with("8.0"), "{asked:?}");
    }
}
