//! Each refusal of the guard by its sentence: whoever takes one out of the code, or makes it say yes, is noticed here.

use std::fmt::Debug;

use super::super::testing::{facts, id, ip, slots};
use super::super::*;
use crate::model::{Revision, Shard};

#[track_caller]
fn no<T: Debug>(outcome: Result<T, String>, because: &str) {
    let why = outcome.expect_err(because);
    assert!(why.contains(because), "{why:?} and not {because:?}");
}

fn source() -> Facts {
    facts(5, &["a1 master 0-9", "b2 master 10-19"])
}

fn target() -> Facts {
    facts(5, &["b2 master 10-19", "a1 master 0-9"])
}

#[test]
fn slots_move_between_primaries_that_know_each_other() {
    let some = slots("0-4");
    let go = |a: &Facts, b: &Facts| move_slots(a, b, &some);
    assert_eq!(go(&source(), &target()), Ok(Some(some.clone())));
    assert_eq!(go(&source(), &facts(5, &["b2 master 0-2", "a1 master 3-9"])), Ok(Some(slots("3-4"))));
    assert_eq!(go(&source(), &facts(5, &["b2 master 0-4", "a1 master 5-9"])), Ok(None));
    no(go(&facts(5, &["a1 slave:b", "b2 master 0-9"]), &target()), "it has become a replica");
    no(go(&source(), &facts(5, &["b2 slave:a", "a1 master 0-9"])), "its target has become a replica");
    no(move_slots(&source(), &target(), &slots("8-9 20")), "it does not own slots 20 any more");
    for seen in ["b2 slave:a", "b2 master,fail"] {
        no(go(&facts(5, &["a1 master 0-9", seen]), &target()), "does not see its target as a primary");
    }
    no(go(&facts(5, &["a1 master 0-9"]), &target()), "do not know each other");
    no(go(&source(), &facts(5, &["b2 master 10-19"])), "do not know each other");
    no(go(&source(), &facts(5, &["b2 master 10-19", "a1 handshake"])), "do not know each other");
}

#[test]
fn who_has_nothing_to_lose_follows_whomever_it_is_told() {
    let go = |f: &Facts| replicate(f, &id('b'));
    assert_eq!(go(&facts(0, &["a1 slave:c", "b2 master 0-4", "c3 master 5-9"])), Ok(Some(())));
    assert_eq!(
        go(&facts(9, &["a1 slave:c", "b2 master 0-9"])),
        Ok(Some(())),
        "nobody knows its primary any more"
    );
    no(go(&facts(9, &["a1 slave:c", "b2 master 0-4", "c3 master 5-9"])), "still owns slots");
}

#[test]
fn a_newcomer_shakes_hands_with_addresses_that_are_known() {
    let grown = facts(5, &["a1 master 0-9", "b2 master 10-19", "d4 master 20-29"]);
    let nobody = BTreeSet::new();
    assert_eq!(introduce(&grown, &facts(0, &["c3 master", "e2 handshake"]), &nobody), Ok(Some(())));
    let mut nowhere = facts(0, &["c3 master", "e2 handshake"]);
    nowhere.others[0].ip = None;
    no(introduce(&grown, &nowhere, &nobody), "could merge two clusters");
}

#[test]
fn a_job_begins_while_no_slot_is_half_way() {
    let some = slots("0-4");
    assert_eq!(migrate(&source(), &target(), &some), Ok(Some(some.clone())));
    no(migrate(&facts(5, &["a1 master 0-9 [5->-b]", "b2 master"]), &target(), &some), "half way");
    no(migrate(&source(), &facts(5, &["b2 master [5-<-a]", "a1 master 0-9"]), &some), "half way");
    no(migrate(&facts(5, &["a1 slave:b", "b2 master 0-9"]), &target(), &some), "has become a replica");
}

#[test]
fn what_its_primary_has_half_way_is_not_closed_on_a_copy() {
    assert_eq!(close(&facts(5, &["a1 master 0-9 [5->-b]", "b2 master"]), &slots("6-7")), Ok(()));
    no(
        close(&facts(5, &["a1 master 0-9 [5->-b]", "b2 master"]), &slots("5-7")),
        "it has slot 5 half way itself",
    );
    no(close(&facts(5, &["a1 slave:b", "b2 master 0-9"]), &slots("5")), "it has become a replica");
}

#[test]
fn what_comes_from_a_dead_source_stays_with_the_one_that_it_comes_to() {
    let go = |f: &Facts| inherit(f, &NodeId::new("a"), &slots("5-6"));
    let comes = ["b2 master 10-19 [5-<-a] [6-<-a]", "a1 master,fail 0-9"];
    assert_eq!(go(&facts(5, &comes)), Ok(slots("5-6")));
    assert_eq!(
        go(&facts(5, &["b2 master 6 10-19 [5-<-a]", "a1 master,fail 0-5"])),
        Ok(slots("5")),
        "done in part"
    );
    for other in ["b2 master [5-<-a]", "b2 master [5-<-a] [6-<-c]", "b2 master [5-<-a] [6->-a]"] {
        no(go(&facts(5, &[other, "a1 master 0-9"])), "slot 6 is not on its way to it");
    }
    no(go(&facts(5, &["b2 slave:c", "c3 master", "a1 master 0-9"])), "it has become a replica of");
}

#[test]
fn nothing_is_withdrawn_before_every_pod_was_looked_at() {
    let pod = |uid: &str| {
        let (name, uid) = (PodName::new("p"), PodUid::new(uid));
        Pod::new(name, uid, (Shard(0), 0), Revision::new("r"))
    };
    let seen = BTreeMap::from([(PodName::new("p"), pod("1"))]);
    let go = |name: &str, uid: &str| all_seen(&seen, [(&PodName::new(name), &PodUid::new(uid))]);
    assert_eq!((go("p", "1"), all_seen(&seen, [])), (Ok(()), Ok(())));
    no(go("p", "2"), "p was not looked at yet");
    no(go("q", "1"), "q was not looked at yet");
}

#[test]
fn keys_are_dropped_and_settings_of_the_empty_are_made_where_they_belong() {
    assert_eq!(drop_keys(&source()), Ok(()));
    no(drop_keys(&facts(5, &["a1 slave:b", "b2 master 0-9"])), "it has become a replica");
    assert_eq!(
        (configure(&facts(3, &["a1 master"]), false), configure(&facts(0, &["a1 master"]), true)),
        (Ok(()), Ok(()))
    );
    no(configure(&facts(3, &["a1 master"]), true), "it holds 3 keys by now");
}

#[test]
fn who_leaves_is_no_primary_and_holds_nothing_that_is_not_elsewhere() {
    no(retire(&source()), "it has become a primary");
    no(forget(&source(), &id('a'), true), "it is that node");
    assert_eq!(empty(&facts(0, &["a1 master", "b2 master 0-9"])), Ok(()));
    no(empty(&facts(0, &["a1 master 0-9"])), "owns 10 slots and holds 0 keys");
    no(empty(&facts(1, &["a1 master"])), "owns 0 slots and holds 1 keys");
    assert_eq!(alone(&facts(0, &["a1 master 0-9"])), Ok(()));
    no(alone(&facts(0, &["a1 master 0-9", "b2 master"])), "its node knows 1 other nodes and holds 0 keys");
    no(alone(&facts(1, &["a1 master 0-9"])), "its node knows 0 other nodes and holds 1 keys");
    for held in [facts(0, &["a1 master", "b2 master"]), facts(1, &["a1 master"]), facts(0, &["a1 master 5"])]
    {
        no(unused(&held), "its node is in use");
    }
    assert_eq!(stranded(&facts(7, &["a1 master", "b2 master 0-9"])), Ok(()));
    assert_eq!(stranded(&facts(7, &["a1 slave:b", "b2 master"])), Ok(()));
    no(stranded(&facts(7, &["a1 slave:b", "b2 master 0-9"])), "which owns 10 slots");
    no(stranded(&facts(7, &["a1 master 0-9"])), "its node owns 10 slots");
    no(retired(&facts(5, &["a1 slave:b", "b2 master 0-9"])), "was not asked to leave");
    no(retired(&facts(5, &["a1 master,nofailover 0-9", "b2 slave:a"])), "has become a primary");
    no(replica(&facts(5, &["a1 slave:b"])), "does not know its primary");
    let mut lost = facts(5, &["a1 slave:b", "b2 master 0-9"]);
    assert_eq!(replica(&lost), Ok((id('b'), ip(2))));
    lost.others[0].ip = None;
    no(replica(&lost), "has lost the address of its primary");
    no(
        holds_data(&facts(5, &["c2 master 0-9"]), &id('b')),
        "another node answers at the address of its primary",
    );
    no(holds_data(&facts(5, &["b2 master"]), &id('b')), "owns no slots");
    assert_eq!((enough_others(2, 2), enough_others(0, 0)), (Ok(()), Ok(())));
    no(enough_others(1, 2), "has 1 other replicas online, and 2 have to stay");
}

#[test]
fn a_hand_over_is_agreed_by_both_ends() {
    let primary = || facts(5, &["a1 master 0-9", "b2 slave:a"]);
    let replica = || facts(5, &["b2 slave:a", "a1 master 0-9"]);
    assert_eq!(hand_over(&replica(), &primary()), Ok(()));
    no(
        hand_over(&facts(5, &["b2 slave:c", "c3 master 0", "a1 master 0-9"]), &primary()),
        "does not copy from",
    );
    no(hand_over(&facts(5, &["b2 master 0-9", "a1 slave:b"]), &primary()), "does not copy from");
    no(hand_over(&replica(), &facts(5, &["a1 master", "b2 slave:a"])), "owns no slots");
    no(hand_over(&facts(5, &["b2 slave,nofailover:a", "a1 master 0-9"]), &primary()), "was asked to leave");
    for seen in
        ["a1 master 0-9 !", "a1 master,fail 0-9", "a1 master,fail? 0-9", "a1 handshake", "c3 master 0-9"]
    {
        no(
            hand_over(&facts(5, &["b2 slave:a", seen]), &primary()),
            "has lost its primary on the cluster bus",
        );
    }
    for listed in ["b2 slave:c", "b2 master", "b2 handshake", "d4 slave:a"] {
        let owner = facts(5, &["a1 master 0-9", listed]);
        no(hand_over(&replica(), &owner), "does not list it as its replica yet");
    }
    no(hand_over(&replica(), &facts(5, &["a1 master 0-9", "b2 slave:a !"])), "no link to it yet");
    no(hand_over(&replica(), &facts(5, &["a1 master 0-9 [5->-c]", "b2 slave:a"])), "has slots half way");
}

#[test]
fn who_takes_over_is_close_behind() {
    let primary = |offset| Replication::Primary { replicas: Vec::new(), offset };
    let replica = |up, syncing, offset| Replication::Replica {
        host: "10.0.0.1".to_owned(),
        up,
        syncing,
        offset,
        down_seconds: None,
    };
    assert_eq!(close_behind(&primary(BEHIND + 7), &replica(true, false, 7)), Ok(()));
    assert_eq!(close_behind(&primary(7), &replica(true, false, 9)), Ok(()));
    no(close_behind(&primary(BEHIND + 8), &replica(true, false, 7)), "bytes behind its primary");
    no(close_behind(&primary(7), &replica(false, false, 7)), "its replication link is down");
    no(close_behind(&primary(7), &replica(true, true, 7)), "its replication link is down");
    no(close_behind(&primary(7), &primary(7)), "have changed their roles");
    no(close_behind(&replica(true, false, 7), &replica(true, false, 7)), "have changed their roles");
}
