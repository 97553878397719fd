//! What is let pass and what is stopped before a replica takes over.

use super::*;
use crate::execute::guard::testing::{facts, id, slots};

const UP: Link = Link { up: true, syncing: false, offset: 50 };
const DOWN: Link = Link { up: false, syncing: false, offset: 50 };

const CANDIDATE: &[&str] = &["b2 slave:a", "a1 master 0-9 !", "d4 master 10-19", "e5 master 20-29"];

/// Primary a is dead; b (the candidate) and c copy from it, d and e own the other slots.
fn scene(others: &[(&[&str], Option<Link>)]) -> Scene {
    Scene {
        candidate: facts(9, CANDIDATE),
        link: Some(DOWN),
        asked: others.len(),
        others: others.iter().map(|(view, link)| (facts(9, view), *link)).collect(),
        there: There::Nobody,
    }
}

fn claim(dead: &NodeId, by: Promotion) -> Claim<'_> {
    Claim { dead, by, offset: 50 }
}

const HEARS: &[&str] = &["d4 master 10-19", "a1 master 0-9", "b2 slave:a"];
const LOST: &[&str] = &["d4 master 10-19", "a1 master 0-9 !", "b2 slave:a"];
const SUSPECTS: &[&str] = &["d4 master 10-19", "a1 master,fail? 0-9", "b2 slave:a"];
const SIBLING: &[&str] = &["c3 slave:a", "a1 master 0-9 !"];

#[test]
fn a_refusal_needs_a_second_witness() {
    let dead = id('a');
    let go = |s: &Scene| promote(s, claim(&dead, Promotion::Refused));
    assert_eq!(go(&scene(&[(LOST, None)])), Ok(Some(())));
    assert!(go(&scene(&[(HEARS, None)])).unwrap_err().starts_with("no other node has lost"));
    assert_eq!(go(&scene(&[(HEARS, None), (SUSPECTS, None)])), Ok(Some(())));
    assert_eq!(go(&scene(&[(HEARS, None), (SIBLING, Some(DOWN))])), Ok(Some(())));
}

#[test]
fn witnesses_that_do_not_answer_in_time_are_no_witnesses() {
    let dead = id('a');
    let go = |s: &Scene| promote(s, claim(&dead, Promotion::Refused));
    let pair = Scene { asked: 0, ..scene(&[]) };
    assert_eq!(go(&pair), Ok(Some(())), "there is nobody else");
    let slow = Scene { asked: 2, ..scene(&[]) };
    assert!(go(&slow).unwrap_err().starts_with("no other node answers"));
    assert_eq!([0, 1, 2, 7].map(patience), [300, 600, 1200, 1200].map(Duration::from_millis));
}

#[test]
fn a_person_is_not_believed_against_a_node_that_hears_the_primary() {
    let dead = id('a');
    for by in [Promotion::Takeover(Proof::Vouched), Promotion::Empty(Proof::Vouched)] {
        let go = |s: &Scene| promote(s, claim(&dead, by));
        assert_eq!(go(&Scene { candidate: facts(0, CANDIDATE), ..scene(&[(SUSPECTS, None)]) }), Ok(Some(())));
        assert!(go(&scene(&[(SUSPECTS, None), (HEARS, None)])).unwrap_err().contains("still hears"));
    }
}

#[test]
fn a_primary_that_answers_or_is_heard_stays() {
    let dead = id('a');
    let stopped = |s: &Scene, by| promote(s, claim(&dead, by)).unwrap_err();
    let fine = scene(&[(LOST, None), (SIBLING, Some(DOWN))]);
    for by in [Promotion::Refused, Promotion::Takeover(Proof::Refused), Promotion::Takeover(Proof::Ended)] {
        let alive = Scene { there: There::Itself, ..fine.clone() };
        assert!(stopped(&alive, by).ends_with("it is alive"));
        let unclear = Scene { there: There::Unclear, ..fine.clone() };
        assert!(stopped(&unclear, by).starts_with("somebody at the address"));
    }
    let own = Scene { link: Some(UP), ..fine.clone() };
    assert!(stopped(&own, Promotion::Refused).starts_with("a replica still hears"));
    let sibling = scene(&[(LOST, None), (SIBLING, Some(UP))]);
    assert!(stopped(&sibling, Promotion::Refused).starts_with("a replica still hears"));
    assert!(stopped(&sibling, Promotion::Takeover(Proof::Refused)).starts_with("a replica still hears"));
}

#[test]
fn only_data_that_was_seen_in_sync_takes_over() {
    let dead = id('a');
    let stopped = |s: &Scene| promote(s, claim(&dead, Promotion::Refused)).unwrap_err();
    let fine = scene(&[(LOST, None)]);
    let syncing = Link { syncing: true, ..DOWN };
    assert!(stopped(&Scene { link: Some(syncing), ..fine.clone() }).contains("full sync"));
    let behind = Link { offset: 49, ..DOWN };
    assert!(stopped(&Scene { link: Some(behind), ..fine.clone() }).contains("was replaced"));
    assert!(stopped(&Scene { link: None, ..fine.clone() }).contains("replication"));
    let elsewhere = facts(9, &["b2 slave:d", "d4 master 10-19"]);
    assert!(stopped(&Scene { candidate: elsewhere, ..fine.clone() }).contains("does not copy"));
    let done = facts(9, &["b2 master 0-9", "d4 master 10-19"]);
    assert_eq!(promote(&Scene { candidate: done, ..fine }, claim(&dead, Promotion::Refused)), Ok(None));
}

#[test]
fn silence_needs_the_majority_of_the_owners() {
    let dead = id('a');
    let go = |s: &Scene| promote(s, claim(&dead, Promotion::Suspected));
    let e: &[&str] = &["e5 master 20-29", "a1 master,fail? 0-9"];
    assert!(go(&scene(&[(SUSPECTS, None), (HEARS, None)])).unwrap_err().starts_with("1 slot owners"));
    assert_eq!(go(&scene(&[(SUSPECTS, None), (e, None)])), Ok(Some(())));
    // A replica's suspicion counts for nothing, and a lost link alone is none.
    let replica: &[&str] = &["c3 slave:a", "a1 master,fail? 0-9"];
    assert!(go(&scene(&[(SUSPECTS, None), (replica, Some(DOWN)), (LOST, None)])).is_err());
}

#[test]
fn proof_of_kubernetes_needs_no_witness_and_the_empty_hold_nothing() {
    let dead = id('a');
    let alone = scene(&[]);
    assert_eq!(promote(&alone, claim(&dead, Promotion::Takeover(Proof::Ended))), Ok(Some(())));
    assert!(promote(&alone, claim(&dead, Promotion::Empty(Proof::Ended))).unwrap_err().contains("9 keys"));
    let empty = Scene { candidate: facts(0, &["b2 slave:a", "a1 master 0-9 !"]), ..alone };
    assert_eq!(promote(&empty, claim(&dead, Promotion::Empty(Proof::Refused))), Ok(Some(())));
}

#[test]
fn an_owner_is_given_up_only_by_those_that_hold_nothing_of_it() {
    let dead = id('a');
    assert_eq!(abandon(&facts(9, LOST), &dead), Ok(Some(())));
    assert_eq!(abandon(&facts(9, &["d4 master 10-19"]), &dead), Ok(None));
    assert!(abandon(&facts(9, SIBLING), &dead).unwrap_err().contains("may be a copy"));
    assert!(abandon(&facts(9, &["a1 master 0-9"]), &dead).is_err());
}

#[test]
fn slots_that_nobody_lists_begin_anew() {
    let fresh = facts(0, &["f6 master", "d4 master 10-19"]);
    assert_eq!(restore(&fresh, &slots("0-9")), Ok(slots("0-9")));
    assert_eq!(restore(&facts(9, &["d4 master 10-19"]), &slots("0-9")), Ok(slots("0-9")));
    assert_eq!(restore(&facts(0, &["f6 master 0-9"]), &slots("0-9")), Ok(Slots::none()));
    assert_eq!(
        restore(&facts(3, &["f6 master"]), &slots("0-9")),
        Ok(slots("0-9")),
        "all that is left of them"
    );
    assert!(restore(&facts(0, &["f6 slave:d", "d4 master"]), &slots("0-9")).is_err());
    assert!(restore(&fresh, &slots("0-10")).unwrap_err().contains("lists slots 10"));
}
