//! Slots on real servers: moved as a whole where jobs are known, else key by key; every key arrives, whatever its name is.
//! Ignored unless asked for: `VALKEY_SERVERS=/path/valkey-server[:…] cargo test --lib -- --ignored on_real_servers`.

use std::time::{Duration, Instant};

use crate::execute::valkey::tests::{World, form};
use crate::model::{JobState, NodeReport, Outcome, Slots, Step, settings::JOBS_SINCE};
use crate::valkey::testing::real_programs;
use crate::valkey::{Access, Connector, FredConnector, Limits, Node};

/// Keys that are written before anything moves, most of them into one slot.
const KEYS: usize = 3000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs VALKEY_SERVERS: a colon-separated list of valkey-server programs"]
async fn slots_move_on_real_servers() {
    for (group, program) in real_programs().into_iter().enumerate() {
        let mut w = World::new(&program, u8::try_from(group + 20).unwrap());
        w.add(4);
        let nodes = w.until("four answer", |n| n.len() == 4).await;
        w.ids = nodes.iter().map(|n| n.id.clone()).collect();
        w.until("all are 3 s old", |n| n.iter().all(|n| n.uptime_ms >= 3000)).await;
        form(&w, 2).await;
        write(&w).await;
        let slots: Slots = "0-99 3290-3310 5000".parse().unwrap();
        let jobs = nodes[0].version >= JOBS_SINCE;
        let begun = Instant::now();
        move_all(&w, &slots, jobs).await;
        eprintln!("{}: {} slots moved in {:?}", nodes[0].version, slots.len(), begun.elapsed());
        let nodes = w
            .until("the slots have moved", |n| {
                slots.is_subset(n[1].slots())
                    && n[0].slots().and(&slots).is_empty()
                    && n[0].keys + n[1].keys == total()
            })
            .await;
        assert!(nodes.iter().all(|n| n.open_slots.is_empty()), "{nodes:#?}");
        assert!(nodes[1].keys >= KEYS as u64, "{} keys arrived", nodes[1].keys);
        w.until("its replica has them", |n| n[3].keys == n[1].keys && n[2].keys == n[0].keys).await;
        // Done already: nothing is done twice.
        w.done(step(&w, &slots, jobs)).await;
        refusals(&w, jobs).await;
        left_over(&w).await;
        inherited(&mut w).await;
    }
}

/// A slot comes key by key, and both that had it are killed: what has come is there afterwards, and on the replica, too.
async fn inherited(w: &mut World) {
    let access = Access { username: None, password: None, ..Access::default() };
    let there = FredConnector.connect(w.servers[1].addr(), &access).await.unwrap();
    let owned = w.until("all answer", |n| n.len() == 4).await[0].slots().clone();
    let (slot, key) = key_in(there.as_ref(), &owned).await;
    let open = ["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", w.ids[0].as_str()];
    there.call(&open).await.unwrap().ok().unwrap();
    let came = there.call_many(&[vec!["ASKING"], vec!["SET", &key, "came"]]).await;
    assert!(came.iter().all(Result::is_ok), "{came:?}");
    let keys = w.until("the replica has it", |n| n[1].keys == n[3].keys).await[1].keys;
    let slots: Slots = slot.to_string().parse().unwrap();
    let (from, at) = (w.ids[0].clone(), Some(w.servers[0].ip));
    let step = Step::Inherit { on: w.on(1), from, at, slots: slots.clone() };
    match w.executor.run(&step).await {
        Outcome::Failed(why) | Outcome::Stale(why) => assert!(why.contains("answers"), "{why}"),
        Outcome::Done => panic!("the source is alive"),
    }
    w.servers[0].kill().await;
    w.servers[2].kill().await;
    w.done(step).await;
    let nodes = w
        .until("it has the slot", |n| n.len() == 2 && slots.is_subset(n[0].slots()) && n[0].keys == n[1].keys)
        .await;
    assert!(nodes.iter().all(|n| n.open_slots.is_empty() && n.keys == keys), "{nodes:#?}");
}

/// A slot of these, and a key in it.
async fn key_in(node: &dyn Node, slots: &Slots) -> (u16, String) {
    for key in (0..1000).map(|n| format!("k{n}")) {
        let slot = node.call(&["CLUSTER", "KEYSLOT", &key]).await.unwrap().int().unwrap();
        let slot = u16::try_from(slot).unwrap();
        if slots.contains(slot) {
            return (slot, key);
        }
    }
    panic!("no key of a thousand is in {slots}");
}

/// A replica has a slot half way, and its primary does not: it was to wait for the replica, and its client went meanwhile.
async fn left_over(w: &World) {
    let brief = Duration::from_millis(300);
    let limits = Limits { reply: brief, long_reply: brief, ..Limits::default() };
    let access = Access { limits, ..w.executor.access.clone() };
    w.servers[3].signal("STOP");
    let there = FredConnector.connect(w.servers[1].addr(), &access).await.unwrap();
    let open = ["CLUSTER", "SETSLOT", "200", "IMPORTING", w.ids[0].as_str()];
    assert!(there.call(&open).await.is_err(), "it did not wait for its replica");
    drop(there);
    w.servers[3].signal("CONT");
    let seen = w.until("the replica says so", |n| n.len() == 4 && !n[3].open_slots.is_empty()).await;
    assert!(seen[1].open_slots.is_empty(), "{seen:#?}");
    let slots: Slots = "200".parse().unwrap();
    match w.executor.run(&Step::Close { on: w.on(3), slots: slots.clone() }).await {
        Outcome::Stale(why) if why.contains("become a replica") => {}
        other => panic!("{other:?}"),
    }
    w.done(Step::Close { on: w.on(1), slots }).await;
    w.until("it says so no more", |n| n.len() == 4 && n[3].open_slots.is_empty()).await;
}

fn total() -> u64 {
    KEYS as u64 + 2
}

fn step(w: &World, slots: &Slots, jobs: bool) -> Step {
    let (on, to, slots) = (w.on(0), w.on(1), slots.clone());
    if jobs { Step::Migrate { on, to, slots } } else { Step::Carry { on, to, slots } }
}

/// Many keys in slot 3300 (the tag `{b}`), one whose name is no text, and one that fills a batch alone.
async fn write(w: &World) {
    let access = Access { username: None, password: None, ..Access::default() };
    let node = FredConnector.connect(w.servers[0].addr(), &access).await.unwrap();
    let names: Vec<String> = (0..KEYS).map(|n| format!("{{b}}{n}")).collect();
    let burst: Vec<Vec<&str>> = names.iter().map(|n| vec!["SET", n, "x"]).collect();
    assert!(node.call_many(&burst).await.iter().all(Result::is_ok));
    let large = vec![b'y'; 4 << 20];
    let odd: Vec<Vec<&[u8]>> =
        vec![vec![b"SET", b"{b}\xff\x00\xfe", b"z"], vec![b"SET", b"{b}large", &large]];
    let answers = node.call_many_bytes(&odd).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    w.until("the replica has them", |n| n[2].keys == total()).await;
}

async fn move_all(w: &World, slots: &Slots, jobs: bool) {
    if jobs {
        // The second is begun before the first has ended: the server does one after the other.
        let (first, second) = (
            Slots::from_ranges(slots.ranges()[..1].iter().copied()),
            Slots::from_ranges(slots.ranges()[1..].iter().copied()),
        );
        for part in [&first, &second] {
            w.done(step(w, part, true)).await;
        }
        let ended =
            |n: &[NodeReport]| n[0].jobs.len() == 2 && n[0].jobs.iter().all(|j| j.state != JobState::Running);
        let nodes = w.until("both jobs have ended", ended).await;
        let told: Vec<_> = nodes[0].jobs.iter().map(|j| (&j.slots, j.state)).collect();
        assert_eq!(told, [(&second, JobState::Done), (&first, JobState::Done)], "{:?}", nodes[0].jobs);
        return;
    }
    // Half way, as after a crash of the operator: known to one end alone, then to both.
    let there = FredConnector.connect(w.servers[1].addr(), &w.executor.access).await.unwrap();
    let open = ["CLUSTER", "SETSLOT", "3300", "IMPORTING", w.ids[0].as_str()];
    there.call(&open).await.unwrap().ok().unwrap();
    let seen = w.until("the target says so", |n| !n[1].open_slots.is_empty()).await;
    assert_eq!(seen[1].open_slots.incoming[&w.ids[0]].to_string(), "3300");
    for _ in 0..100 {
        w.done(step(w, slots, false)).await;
        if w.until("both answer", |n| n.len() == 4).await[0].slots().and(slots).is_empty() {
            return;
        }
    }
    panic!("the slots have not moved after 100 stretches of work");
}

async fn refusals(w: &World, jobs: bool) {
    for (on, to, slots, because) in
        [(w.on(1), w.on(2), "0-9", "become a replica"), (w.on(3), w.on(0), "0-9", "become a replica")]
    {
        let slots: Slots = slots.parse().unwrap();
        let text = format!("{slots} of {} to {}", on.pod, to.pod);
        let step = if jobs { Step::Migrate { on, to, slots } } else { Step::Carry { on, to, slots } };
        match w.executor.run(&step).await {
            Outcome::Stale(why) if why.contains(because) => {}
            other => panic!("{text}: {other:?} and not stale because {because:?}"),
        }
    }
}
