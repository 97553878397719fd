use std::net::Ipv4Addr;

use super::*;
use crate::model::{OpenSlots, Version};

fn ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
}

fn id(n: u8) -> NodeId {
    NodeId::new(format!("n{n}"))
}

fn line(n: u8, slots: &str, of: Option<u8>) -> (NodeId, Peer) {
    let line = Peer {
        ip: Some(ip(n)),
        replica_of: of.map(id),
        slots: slots.parse().unwrap(),
        epoch: 7,
        handshake: false,
        failed: false,
        suspected: false,
        connected: true,
    };
    (id(n), line)
}

/// 1 owns slots and 2 copies it, 3 owns the others.
fn lines() -> BTreeMap<NodeId, Peer> {
    BTreeMap::from([line(1, "0-99", None), line(2, "", Some(1)), line(3, "100-16383", None)])
}

const UP: Link = Link { up: true, syncing: false, offset: 50 };

fn last(n: u8) -> NodeReport {
    NodeReport {
        id: id(n),
        version: Version::new(9, 1, 2),
        uptime_ms: 1000,
        role: Role::Primary { slots: Slots::none() },
        open_slots: OpenSlots::default(),
        jobs: Vec::new(),
        memory: None,
        state_ok: true,
        epoch: 7,
        peers: Peers::default(),
        online_replicas: BTreeSet::new(),
        keys: 0,
        loading: false,
        admitted: true,
        users: Some(BTreeMap::new()),
        primary_password: None,
        config: BTreeMap::new(),
    }
}

fn brief(n: u8, slots: &str, copies: Option<u8>) -> Brief {
    Brief {
        id: id(n),
        numbers: Numbers { known_nodes: 3, size: 2, current_epoch: 7, slots_assigned: 16384 },
        state_ok: true,
        epoch: 7,
        copies: copies.map(|of| (ip(of), UP)),
        slots: slots.parse().unwrap(),
        online_replicas: BTreeSet::from([ip(2)]),
        keys: 12,
        memory: None,
        primary_password: None,
        config: BTreeMap::new(),
    }
}

#[test]
fn the_own_state_is_the_nodes_own_and_the_list_is_that_of_others() {
    let lines = Arc::new(lines());
    let owner = brief(1, "0-99", None).report(&last(1), 500, &lines).unwrap();
    assert_eq!((owner.slots().to_string().as_str(), owner.keys, owner.uptime_ms), ("0-99", 12, 1500));
    assert!(owner.peers.is_inferred() && owner.peers.len() == 2 && !owner.peers.contains_key(&id(1)));
    let replica = brief(2, "", Some(1)).report(&last(2), 0, &lines).unwrap();
    assert_eq!(replica.role, Role::Replica { of: id(1), link: UP });
}

#[test]
fn who_contradicts_what_others_say_of_him_is_no_case_for_a_brief_look() {
    let lines = Arc::new(lines());
    let odd = |brief: Brief| brief.report(&last(u8::from(brief.copies.is_some()) + 1), 0, &lines).is_none();
    assert!(!odd(brief(1, "0-99", None)) && !odd(brief(2, "", Some(1))));
    assert!(odd(brief(1, "0-98", None)), "other slots");
    assert!(odd(brief(1, "", None)), "no slots any more");
    assert!(odd(brief(2, "", Some(3))), "another primary");
    assert!(odd(Brief { copies: None, ..brief(2, "", None) }), "another role");
    assert!(odd(Brief { epoch: 8, ..brief(1, "0-99", None) }), "another epoch");
    assert!(odd(Brief { state_ok: false, ..brief(1, "0-99", None) }), "the cluster is down for it");
    assert!(odd(Brief { copies: Some((ip(1), Link { up: false, ..UP })), ..brief(2, "", None) }), "its link");
    assert!(odd(Brief { id: id(3), ..brief(1, "100-16383", None) }), "another process");
    let stranger = Brief { id: id(9), ..brief(1, "0-99", None) };
    assert!(stranger.report(&last(9), 0, &lines).is_none(), "nobody lists it");
    let moving = NodeReport {
        open_slots: OpenSlots { outgoing: BTreeMap::from([(id(3), Slots::all())]), ..OpenSlots::default() },
        ..last(1)
    };
    assert!(brief(1, "0-99", None).report(&moving, 0, &lines).is_none(), "slots were half way");
}

#[test]
fn what_is_said_differently_is_left_open() {
    let a = Arc::new(lines());
    assert!(Arc::ptr_eq(&agreed(&a, &Arc::new(lines())), &a), "equal lists stay shared");
    let other = [line(1, "0-49", None), line(2, "", Some(3)), line(4, "", None)];
    let both = agreed(&a, &Arc::new(BTreeMap::from(other)));
    assert_eq!(both.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!((both[&id(1)].slots.to_string().as_str(), &both[&id(2)].replica_of), ("0-49", &None));
}

#[test]
fn nobody_is_suspected_by_hearsay() {
    let clean = Arc::new(lines());
    assert!(Arc::ptr_eq(&without_suspicion(&clean), &clean));
    let mut lines = lines();
    for peer in lines.values_mut() {
        (peer.suspected, peer.failed, peer.connected) = (true, true, false);
    }
    assert_eq!(without_suspicion(&Arc::new(lines)), clean);
}
