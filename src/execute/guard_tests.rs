//! What the guard lets pass and what it stops, on recorded views and on views written out.

use super::testing::{facts, id, ip, of_recorded, slots};
use super::*;
use crate::model::{PodName, PodUid, Shard};
use crate::valkey::parse::testdata::LINES;

#[path = "guard_refusals_tests.rs"]
mod refusals;

fn nobody() -> BTreeSet<IpAddr> {
    BTreeSet::new()
}

#[test]
fn another_process_at_the_address_is_not_spoken_to() {
    let on =
        Target { pod: PodName::new("p"), uid: PodUid::new("u"), shard: Shard(0), node: id('a'), ip: ip(1) };
    assert_eq!(identity(&facts(0, &["a1 master"]), &on), Ok(()));
    let error = identity(&facts(0, &["b1 master"]), &on).unwrap_err();
    assert!(error.starts_with("another node answers at the address of p: bbbb"), "{error}");
}

#[test]
fn slots_go_to_empty_primaries_and_to_one_owner() {
    let fresh = facts(0, &["a1 master"]);
    assert_eq!(assign(&fresh, &slots("0-9")), Ok(Some(slots("0-9"))));
    // Half done by an earlier pass, and wholly done.
    assert_eq!(assign(&facts(0, &["a1 master 0-4"]), &slots("0-9")), Ok(Some(slots("5-9"))));
    assert_eq!(assign(&facts(7, &["a1 master 0-9"]), &slots("0-9")), Ok(None));
    let stopped = |f: Facts| assign(&f, &slots("0-9")).unwrap_err();
    assert_eq!(stopped(facts(1, &["a1 master"])), "it holds 1 keys, so it is not new");
    assert!(stopped(facts(0, &["a1 slave:b", "b2 master"])).starts_with("it has become a replica"));
    assert!(
        stopped(facts(0, &["a1 master", "b2 master 9-20"])).starts_with("it lists slots 9 for node bbbb")
    );
}

#[test]
fn a_first_epoch_needs_a_node_that_knows_nobody() {
    for line in LINES {
        assert_eq!(epoch(&of_recorded(line, "nodes-alone", 0), 4), Ok(Some(4)));
        // Node 1 was given epoch 1.
        assert_eq!(epoch(&of_recorded(line, "nodes-formed", 0), 1), Ok(None));
        assert_eq!(epoch(&of_recorded(line, "nodes-formed", 0), 4), Err("it has epoch 1 already".to_owned()));
    }
    assert_eq!(
        epoch(&facts(0, &["a1 master", "b2 handshake"]), 4),
        Err("it knows 1 other nodes already".to_owned())
    );
}

#[test]
fn strangers_are_never_introduced_to_each_other() {
    let x = facts(5, &["a1 master 0-9", "b2 master 10-19"]);
    let y = facts(5, &["c3 master 0-9", "d4 master 10-19"]);
    let error = introduce(&x, &y, &nobody()).unwrap_err();
    assert!(error.contains("could merge two clusters"), "{error}");
    // Also when one of them has the same address in its list as the other: addresses are used again.
    let y = facts(5, &["c3 master 0-9", "d2 master 10-19"]);
    assert!(introduce(&x, &y, &BTreeSet::from([ip(1), ip(3)])).is_err());
}

#[test]
fn newcomers_and_acquaintances_are_introduced() {
    let grown = facts(5, &["a1 master 0-9", "b2 master 10-19"]);
    let fresh = facts(0, &["c3 master"]);
    assert_eq!(introduce(&grown, &fresh, &nobody()), Ok(Some(())));
    assert_eq!(introduce(&fresh, &grown, &nobody()), Ok(Some(())));
    // A newcomer that holds something is none, and neither is one that claims what others own.
    assert!(introduce(&grown, &facts(1, &["c3 master"]), &nobody()).is_err());
    let claims = introduce(&grown, &facts(0, &["c3 master 5-12"]), &nobody()).unwrap_err();
    assert_eq!(claims, "slots 5-12 would have two owners");
    assert_eq!(
        introduce(&facts(0, &["a1 master 0-9"]), &facts(0, &["c3 master 10-19"]), &nobody()),
        Ok(Some(()))
    );
    // Newcomers that have met nobody but each other: both are in the step, and neither owns anything.
    let (one, pair) = (facts(5, &["a1 master 0-9"]), facts(0, &["c3 master", "d4 master"]));
    assert!(introduce(&one, &pair, &BTreeSet::from([ip(1), ip(3)])).is_err());
    assert_eq!(introduce(&one, &pair, &BTreeSet::from([ip(1), ip(3), ip(4)])), Ok(Some(())));
    let owner = facts(0, &["c3 master", "d4 master 10-19"]);
    assert!(introduce(&one, &owner, &BTreeSet::from([ip(1), ip(3), ip(4)])).is_err());
    // Both know b.
    let other = facts(5, &["c3 slave:b", "b2 master 10-19"]);
    assert_eq!(introduce(&grown, &other, &nobody()), Ok(Some(())));
    // One side knows the other already; then both do.
    let half = facts(5, &["c3 master", "a1 master 0-9"]);
    assert_eq!(introduce(&grown, &half, &nobody()), Ok(Some(())));
    let both = facts(5, &["a1 master 0-9", "c3 master"]);
    assert_eq!(introduce(&both, &half, &nobody()), Ok(None));
}

#[test]
fn the_pieces_of_a_formation_are_introduced_while_they_hold_nothing() {
    let here = facts(0, &["a1 master 0-9", "b2 master"]);
    let there = facts(0, &["c3 master 10-19", "d4 slave:c"]);
    assert_eq!(introduce(&here, &there, &nobody()), Ok(Some(())));
    for other in [facts(1, &["c3 master 10-19", "d4 master"]), facts(0, &["c3 master", "d4 master 5-19"])] {
        let error = introduce(&here, &other, &nobody()).unwrap_err();
        assert!(error.contains("could merge two clusters"), "{error}");
    }
}

#[test]
fn a_handshake_with_one_of_ours_does_not_make_a_stranger() {
    let grown = facts(5, &["a1 master 0-9", "b2 master 10-19"]);
    // c has just been told to meet b, whose address a lists.
    assert_eq!(introduce(&grown, &facts(0, &["c3 master", "e2 handshake"]), &nobody()), Ok(Some(())));
    // c shakes hands with an address that a does not list: fine only when that address is ours.
    let met = facts(0, &["c3 master", "e9 handshake"]);
    assert!(introduce(&grown, &met, &nobody()).is_err());
    assert_eq!(introduce(&grown, &met, &BTreeSet::from([ip(9)])), Ok(Some(())));
    // A placeholder is not an acquaintance.
    let x = facts(5, &["a1 master 0-9", "e9 handshake"]);
    let y = facts(5, &["c3 master", "d4 master", "e9 handshake"]);
    assert!(introduce(&x, &y, &nobody()).is_err());
}

#[test]
fn only_a_node_that_owns_nothing_follows_and_never_away_from_an_owner() {
    let go = |f: &Facts| replicate(f, &id('b'));
    assert_eq!(go(&facts(0, &["a1 master", "b2 master 0-9"])), Ok(Some(())));
    assert_eq!(go(&facts(9, &["a1 slave:b", "b2 master 0-9"])), Ok(None));
    assert_eq!(go(&facts(9, &["a1 slave:c", "b2 master 0-9", "c3 master"])), Ok(Some(())));
    let stopped = |f: Facts| go(&f).unwrap_err();
    assert_eq!(stopped(facts(0, &["a1 master 5", "b2 master 0-4"])), "it owns slots 5");
    assert_eq!(stopped(facts(3, &["a1 master", "b2 master 0-9"])), "it is a primary and holds 3 keys");
    assert!(stopped(facts(0, &["a1 master", "b2 handshake"])).starts_with("it does not know bbbb"));
    assert!(stopped(facts(0, &["a1 master", "b2 slave:c", "c3 master"])).starts_with("it lists bbbb"));
    let away = stopped(facts(9, &["a1 slave:c", "b2 master 0-4", "c3 master,fail 5-9"]));
    assert!(away.ends_with("still owns slots"), "{away}");
}

#[test]
fn a_listed_slot_owner_is_forgotten_only_when_nobody_holds_a_key() {
    let lost = facts(5, &["a1 master 0-4", "b2 master,fail 5-9"]);
    assert_eq!(forget(&lost, &id('b'), false), Err("it lists that node with slots 5-9".to_owned()));
    assert_eq!(forget(&lost, &id('b'), true), Ok(Some(())));
    assert_eq!(forget(&lost, &id('c'), false), Ok(None));
    assert_eq!(forget(&facts(5, &["a1 master", "b2 master,fail"]), &id('b'), false), Ok(Some(())));
    let follower = facts(5, &["a1 slave:b", "b2 master,fail"]);
    assert_eq!(forget(&follower, &id('b'), true), Err("it still copies from that node".to_owned()));
    assert!(forget(&follower, &id('a'), true).is_err());
    for line in LINES {
        let view = of_recorded(line, "nodes-failed-replica", 5);
        let dead = view.others.iter().find(|n| n.is(Flag::Failed)).unwrap().id.clone();
        assert_eq!(forget(&view, &dead, false), Ok(Some(())));
    }
}

#[test]
fn removable_means_that_the_data_is_elsewhere() {
    for line in LINES {
        assert_eq!(unused(&of_recorded(line, "nodes-alone", 0)), Ok(()));
        assert!(unused(&of_recorded(line, "nodes-alone", 1)).is_err());
        let error = unused(&of_recorded(line, "nodes-formed", 32)).unwrap_err();
        assert_eq!(error, "its node is in use: it knows 5 other nodes, owns 5461 slots and holds 32 keys");
    }
    let leaving = facts(5, &["a1 slave,nofailover:b", "b2 master 0-9"]);
    assert_eq!(retired(&leaving), Ok((id('b'), ip(2))));
    assert!(retired(&facts(5, &["a1 slave:b", "b2 master 0-9"])).is_err());
    assert!(retired(&facts(5, &["a1 master,nofailover 0-9", "b2 slave:a"])).is_err());
    assert!(retire(&facts(5, &["a1 master"])).is_err() && retire(&leaving).is_ok());
    assert_eq!(holds_data(&facts(5, &["b2 master 0-9"]), &id('b')), Ok(()));
    assert!(holds_data(&facts(5, &["b2 master"]), &id('b')).is_err());
    assert!(holds_data(&facts(5, &["c2 master 0-9"]), &id('b')).is_err());
}
