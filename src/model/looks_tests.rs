use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::model::step::Target;
use crate::model::{Brief, Link, OpenSlots, PodName, Role, Slots, Stage, Version};

const SHARDS: u16 = 30;
const COPIES: u16 = 2;
const SAMPLING: Sampling = Sampling { above: 50, owners: 3, others: 1 };

fn uid(n: u16) -> PodUid {
    PodUid::new(format!("u{n:03}"))
}

fn id(n: u16) -> NodeId {
    NodeId::new(format!("n{n:03}"))
}

fn ip(n: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + u32::from(n)))
}

fn all() -> BTreeSet<PodUid> {
    (0..SHARDS * COPIES).map(uid).collect()
}

fn own_slots(n: u16) -> Slots {
    if n.is_multiple_of(COPIES) { Slots::share(n / COPIES, SHARDS) } else { Slots::none() }
}

fn primary(n: u16) -> Option<u16> {
    (!n.is_multiple_of(COPIES)).then(|| n - n % COPIES)
}

const UP: Link = Link { up: true, syncing: false, offset: 9 };

/// Sixty nodes, the first of each two of a shard owns its slots; what is told of some of them can be altered.
struct Cluster {
    looks: Looks,
    lines: BTreeMap<NodeId, Peer>,
    numbers: Numbers,
    silent: BTreeSet<u16>,
    /// These give other numbers.
    late: BTreeMap<u16, Numbers>,
}

impl Cluster {
    fn new() -> Self {
        let line = |n| Peer {
            ip: Some(ip(n)),
            replica_of: primary(n).map(id),
            slots: own_slots(n),
            epoch: 1,
            handshake: false,
            failed: false,
            suspected: false,
            connected: true,
        };
        Self {
            looks: Looks::default(),
            lines: (0..SHARDS * COPIES).map(|n| (id(n), line(n))).collect(),
            numbers: Numbers { known_nodes: 60, size: 30, current_epoch: 1, slots_assigned: 16384 },
            silent: BTreeSet::new(),
            late: BTreeMap::new(),
        }
    }

    fn report(&self, n: u16) -> NodeReport {
        let role = match primary(n) {
            None => Role::Primary { slots: own_slots(n) },
            Some(of) => Role::Replica { of: id(of), link: UP },
        };
        NodeReport {
            id: id(n),
            version: Version::new(9, 1, 2),
            uptime_ms: 0,
            role,
            open_slots: OpenSlots::default(),
            jobs: Vec::new(),
            memory: None,
            state_ok: true,
            epoch: 1,
            peers: Peers::shared(Arc::new(self.lines.clone()), id(n)),
            online_replicas: BTreeSet::new(),
            keys: 0,
            loading: false,
            admitted: true,
            users: Some(BTreeMap::new()),
            primary_password: None,
            config: BTreeMap::new(),
        }
    }

    fn answer(&self, n: u16, whole: bool) -> Answer {
        let numbers = self.late.get(&n).copied().unwrap_or(self.numbers);
        if self.silent.contains(&n) {
            Answer::Silent(Silence::Timeout)
        } else if whole {
            Answer::Whole(Box::new(self.report(n)), numbers)
        } else {
            Answer::Brief(Box::new(Brief {
                id: id(n),
                numbers,
                state_ok: true,
                epoch: 1,
                copies: primary(n).map(|of| (ip(of), UP)),
                slots: own_slots(n),
                online_replicas: BTreeSet::new(),
                keys: 0,
                memory: None,
                primary_password: None,
                config: BTreeMap::new(),
            }))
        }
    }

    fn shards() -> Shards {
        let of = (0..SHARDS * COPIES).map(|n| (uid(n), Shard(n / COPIES))).collect();
        let addresses = (0..SHARDS * COPIES).map(|n| (uid(n), ip(n))).collect();
        Shards { of, addresses, restless: BTreeSet::new() }
    }

    /// One look: who was asked for everything at first, and who after all.
    fn look(&mut self, long: bool) -> (BTreeSet<PodUid>, BTreeSet<PodUid>, Vec<NodeReport>) {
        let first = self.looks.first(&all(), SAMPLING, Moment(0)).unwrap();
        let numbered = |n: u16| (uid(n), self.answer(n, first.whole.contains(&uid(n))));
        let answers = (0..SHARDS * COPIES).map(numbered).collect();
        let shards = Self::shards();
        let second = self.looks.second(&first, &answers, &shards, |_| long);
        let asked = (0..SHARDS * COPIES).filter(|n| second.whole.contains(&uid(*n)));
        let more = asked.map(|n| (uid(n), self.answer(n, true))).collect();
        let after_all = second.whole.clone();
        let seen = self.looks.end(second, answers, more);
        assert_eq!(seen.len(), usize::from(SHARDS * COPIES));
        (first.whole, after_all, seen.into_values().filter_map(|s| s.now().cloned()).collect())
    }
}

#[test]
fn a_small_cluster_is_asked_for_everything() {
    let few = (0..50).map(uid).collect();
    assert_eq!(Looks::default().first(&few, SAMPLING, Moment(0)), None);
}

#[test]
fn who_was_never_seen_whole_is_and_then_a_few_by_turns() {
    let mut c = Cluster::new();
    let (first, more, _) = c.look(false);
    assert_eq!((first, more.len()), (all(), 0));
    let mut whole = BTreeSet::new();
    for _ in 0..60 {
        let (first, more, seen) = c.look(false);
        assert!(first.len() <= 4 && more.is_empty(), "{first:?} {more:?}");
        assert!(seen.iter().all(|n| n.peers.len() == 59), "every list is whole");
        assert_eq!(seen.iter().filter(|n| n.peers.is_inferred()).count(), 60 - first.len());
        whole.extend(first);
    }
    assert_eq!(whole, all(), "everybody gets his turn");
}

#[test]
fn the_whole_shard_of_a_silent_member_is_asked() {
    let mut c = Cluster::new();
    c.look(false);
    c.silent.insert(21);
    let (_, more, seen) = c.look(false);
    assert_eq!(more, BTreeSet::from([uid(20)]));
    assert!(seen.iter().any(|n| n.id == id(20) && !n.peers.is_inferred()));
}

#[test]
fn other_numbers_ask_for_everything_but_those_given_a_moment_ago() {
    let mut c = Cluster::new();
    c.look(false);
    let before = c.numbers;
    c.look(false);
    // Somebody was forgotten by all but three, of whom one gives numbers that nobody ever gave.
    c.lines.remove(&id(59));
    c.numbers.known_nodes = 59;
    c.late = BTreeMap::from([(30, before), (34, before), (38, Numbers { size: 3, ..before })]);
    c.silent.insert(59);
    let (first, more, seen) = c.look(false);
    assert!(!first.contains(&uid(30)) && !first.contains(&uid(38)), "{first:?}");
    assert_eq!(more, BTreeSet::from([uid(38), uid(39), uid(58)]));
    let late = seen.iter().find(|n| n.id == id(30)).unwrap();
    assert!(late.peers.is_inferred() && !late.peers.contains_key(&id(59)), "only what is still said");
}

#[test]
fn a_death_is_proven_by_a_majority_of_its_own_words() {
    let mut c = Cluster::new();
    c.look(false);
    c.silent.insert(40);
    c.lines.get_mut(&id(40)).unwrap().suspected = true;
    let (_, _, seen) = c.look(false);
    let own = seen.iter().filter(|n| !n.slots().is_empty() && !n.peers.is_inferred());
    assert!(own.count() > 15, "more than half of thirty");
    let hearsay = seen.iter().filter(|n| n.peers.is_inferred());
    assert!(hearsay.into_iter().all(|n| n.peers.get(&id(40)).is_some_and(|p| !p.suspected)));
    // A replica that is suspected is a matter of patience.
    let mut c = Cluster::new();
    c.look(false);
    c.silent.insert(41);
    c.lines.get_mut(&id(41)).unwrap().failed = true;
    assert_eq!(c.look(false).1.len(), 1);
    assert!(c.look(true).1.len() > 13);
}

#[test]
fn what_was_changed_and_what_is_waited_for_is_asked_for_everything() {
    let mut c = Cluster::new();
    c.look(false);
    let on = |n: u16| Target {
        pod: PodName::new("p"),
        uid: uid(n),
        shard: Shard(n / COPIES),
        node: id(n),
        ip: ip(n),
    };
    let steps = [
        Step::Retire { on: on(11) },
        Step::Migrate { on: on(20), to: on(30), slots: Slots::all() },
        Step::Configure { on: on(50), settings: BTreeMap::new(), only_empty: false },
    ];
    let waiting = [Waiting { shard: Some(Shard(0)), stage: Stage::Syncing, message: String::new() }];
    c.looks.owe(steps.iter(), &waiting, &Cluster::shards());
    let (first, ..) = c.look(false);
    let owed: BTreeSet<PodUid> = [0, 1, 10, 11, 20, 21, 30, 31].into_iter().map(uid).collect();
    assert!(first.is_superset(&owed) && first.len() <= owed.len() + 4, "{first:?}");
    assert!(c.look(false).0.len() <= 4, "once");
}

#[test]
fn shards_with_more_or_fewer_members_than_wanted_are_restless() {
    let mut shards = Cluster::shards();
    shards.restless.insert(Shard(5));
    let mut c = Cluster::new();
    c.look(false);
    let first = c.looks.first(&all(), SAMPLING, Moment(0)).unwrap();
    let answers: BTreeMap<PodUid, Answer> =
        (0..SHARDS * COPIES).map(|n| (uid(n), c.answer(n, first.whole.contains(&uid(n))))).collect();
    let second = c.looks.second(&first, &answers, &shards, |_| false);
    assert_eq!(second.whole, BTreeSet::from([uid(10), uid(11)]));
}
