//! What is said of a dozen situations, as texts that a reviewer can read.
//! `UPDATE=1 cargo test --test report_golden` writes them anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
// The world of the plan cases is a bag of flags and short names.
#![allow(clippy::similar_names, clippy::many_single_char_names, clippy::too_many_lines)]

mod moves;
#[path = "../plan_world/mod.rs"]
mod plan_world;
mod world;

use valkey_cluster_operator::{
    api::{ValkeyCluster, ValkeyClusterSpec, ValkeyClusterStatus},
    model::{
        Done, Link, Moment, Object, Outcome, Plan, Proposal, Revision, Role, Seen, Silence, Slots, Snapshot,
        Step, Trouble, Version, Why, plan::Attempts,
    },
    plan::plan,
    report::{Report, refusal, report},
};
use world::{
    START, change, empty, formed, golden, healthy, id, lose, pending, places, planned, pod_name, pod_uid,
    said,
};

#[test]
fn a_new_cluster() {
    let mut s = empty(1);
    s.drifted = [Object::Secret, Object::ConfigMap, Object::Service].into();
    golden("01-new", &said(&s, None));
}

#[test]
fn an_image_that_cannot_be_pulled() {
    let mut s = pending(1);
    for pod in s.pods.values_mut() {
        let (reason, message) =
            ("ErrImagePull".to_owned(), "docker.io/valkey/valkey:nope: not found".to_owned());
        pod.trouble = Some(Trouble { reason, message });
    }
    let first = said(&s, None);
    golden("02-image", &first);
    for pod in s.pods.values_mut() {
        pod.trouble.as_mut().unwrap().reason = "ImagePullBackOff".into();
    }
    let next = said(&s, Some(&first.status));
    assert_eq!((next.status, next.events), (first.status, vec![]), "the kubelet tells the two in turn");
}

#[test]
fn a_pod_that_no_worker_can_take() {
    let mut s = pending(1);
    let (reason, message) =
        ("Unschedulable".to_owned(), "0/3 nodes are available: 3 Insufficient memory.".to_owned());
    s.pods.get_mut(&pod_name(2, 1)).unwrap().trouble = Some(Trouble { reason, message });
    golden("03-unschedulable", &said(&s, None));
}

#[test]
fn pods_that_do_not_start_are_named_after_ten_seconds() {
    let mut s = pending(0);
    s.now = Moment(START + 10_000);
    assert!(said(&s, None).status.conditions.iter().all(|c| c.type_ != "Degraded"));
    s.now = Moment(START + 10_001);
    let first = said(&s, None);
    golden("04-not-started", &first);
    s.now = Moment(START + 60_000);
    assert_eq!(said(&s, Some(&first.status)).status, first.status, "nothing counts seconds");
}

#[test]
fn nodes_get_to_know_each_other() {
    let mut s = formed(1);
    s.whole = false;
    for (shard, index) in places(1) {
        change(&mut s, shard, index, |n| {
            n.state_ok = false;
            n.peers.lines_mut().retain(|id, _| index == 0 && !id.as_str().ends_with('1'));
            n.online_replicas.clear();
            if index > 0 {
                n.role = Role::Primary { slots: Slots::none() };
            }
        });
    }
    golden("05-joining", &said(&s, None));
}

#[test]
fn the_formation_is_complete() {
    let mut s = formed(1);
    s.whole = false;
    golden("06-formed", &said(&s, None));
}

#[test]
fn a_settled_cluster_says_nothing_new() {
    let first = healthy();
    let mut later = formed(1);
    later.now = Moment(START + 3_600_000);
    let next = said(&later, Some(&first));
    assert_eq!(next.status, first);
    assert_eq!(next.events, vec![]);
    let read_back: ValkeyClusterStatus =
        serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
    assert_eq!(read_back, first, "what the API server gives back is what was written");
}

#[test]
fn a_primary_is_gone() {
    let mut s = formed(1);
    lose(&mut s, 1, 0);
    s.now = Moment(START + 1000);
    golden("07-primary-lost", &said(&s, Some(&healthy())));
}

#[test]
fn a_replica_took_over() {
    let before = {
        let mut s = formed(1);
        lose(&mut s, 1, 0);
        said(&s, Some(&healthy())).status
    };
    let mut s = formed(1);
    lose(&mut s, 1, 0);
    change(&mut s, 1, 1, |n| n.role = Role::Primary { slots: Slots::share(1, 3) });
    s.now = Moment(START + 2000);
    golden("08-took-over", &said(&s, Some(&before)));
}

#[test]
fn a_replica_is_gone() {
    let mut s = formed(1);
    lose(&mut s, 2, 1);
    change(&mut s, 2, 0, |n| n.online_replicas.clear());
    golden("09-replica-lost", &said(&s, Some(&healthy())));
}

#[test]
fn more_replicas_are_wanted() {
    let mut s = formed(1);
    s.desired.replicas = 2;
    s.desired.generation = 2;
    let first = said(&s, Some(&healthy()));
    golden("10-more-replicas", &first);
    assert!(said(&s, Some(&first.status)).status.operation.unwrap().kind.to_string() == "ScalingOut");
}

#[test]
fn fewer_replicas_are_wanted() {
    let mut s = formed(1);
    s.desired.replicas = 0;
    s.desired.generation = 2;
    golden("11-fewer-replicas", &said(&s, Some(&healthy())));
}

#[test]
fn nothing_is_changed_while_paused() {
    let mut s = formed(1);
    s.desired.replicas = 2;
    s.desired.generation = 2;
    s.desired.paused = true;
    golden("12-paused", &said(&s, Some(&healthy())));
    let mut idle = formed(1);
    idle.desired.paused = true;
    let status = said(&idle, Some(&healthy())).status;
    assert_eq!(status.state.unwrap().to_string(), "Ready", "nothing is wanted that is not there");
}

#[test]
fn a_setting_that_no_server_knows() {
    let mut s = formed(1);
    s.desired.config.insert("maxmemry".into(), "1gb".into());
    s.desired.generation = 2;
    golden("13-setting", &said(&s, Some(&healthy())));
}

#[test]
fn a_quota_refuses_pods() {
    let s = empty(0);
    let error = "pods \"valkey-c-0-0\" is forbidden: exceeded quota: pods, requested: pods=1";
    let mut attempts = Attempts::default();
    let failing = planned(&s).steps.into_iter().find(|p| matches!(p.step, Step::CreatePod { .. })).unwrap();
    attempts.failed(&failing.step, s.now, error);
    let held_back = plan(&s, &attempts);
    let step = failing.step.clone();
    let failed = Done { proposal: failing, outcome: Outcome::Failed(error.into()) };
    let first = report(&s, &held_back, &[failed], None);
    golden("14-quota", &first);
    let mut later = s.clone();
    later.now = s.now.plus_ms(100);
    attempts.failed(&step, later.now, error);
    let next = report(&later, &plan(&later, &attempts), &[], Some(&first.status));
    assert_eq!(next.status, first.status, "seconds until the next try are not told");
}

#[test]
fn nobody_answers() {
    let mut s = formed(1);
    for seen in s.nodes.values_mut() {
        *seen = Seen::Silent(Silence::Timeout);
    }
    let report = said(&s, Some(&healthy()));
    golden("15-silent", &report);
    assert_eq!(report.status.topology.len(), 3, "that data may exist is never forgotten");
}

/// A replica that runs and gives no report is named by its kind of silence, after ten seconds and in words that stay.
#[test]
fn each_kind_of_silence_has_its_name() {
    let kinds = [
        (Silence::Refused, "NodeRefuses", "no server listens"),
        (Silence::Timeout, "NodeSilent", "no answer in time"),
        (Silence::Reset, "NodeResets", "connections break"),
        (Silence::Auth, "NodeRejectsOperator", "changed its ACL"),
        (Silence::Busy, "NodeBusy", "busy with a script"),
        (Silence::Garbled, "NodeUnclear", "not understood"),
    ];
    for (kind, reason, words) in kinds {
        let mut s = formed(1);
        s.nodes.insert(pod_uid(1, 1), Seen::Silent(kind));
        s.past.silent.insert(pod_uid(1, 1), s.now);
        let named = |s: &Snapshot| {
            let status = said(s, Some(&healthy())).status;
            let degraded = status.conditions.into_iter().find(|c| c.type_ == "Degraded");
            degraded.filter(|c| c.reason == reason && c.message.contains("valkey-c-1-1"))
        };
        s.now = s.now.plus_ms(10_000);
        assert!(named(&s).is_none(), "{reason}: it may be over in a moment");
        s.now = s.now.plus_ms(1);
        let first = named(&s).unwrap_or_else(|| panic!("{reason} is not said"));
        assert!(first.message.contains(words), "{first:?}");
        s.now = s.now.plus_ms(10_000);
        assert_eq!(named(&s).map(|c| c.message), Some(first.message), "nothing counts seconds");
    }
}

/// It hears too few of the others on the bus, and the operator hears it well.
#[test]
fn a_node_that_turns_clients_away() {
    let mut s = formed(1);
    change(&mut s, 1, 1, |n| n.state_ok = false);
    let see = |s: &mut Snapshot, ms: i64| {
        s.now = Moment(START + ms);
        let mut past = s.past.clone();
        past.see(s);
        s.past = past;
    };
    let told = |s: &Snapshot| said(s, Some(&healthy())).status.message.contains("CLUSTERDOWN");
    see(&mut s, 0);
    see(&mut s, 10_000);
    assert!(!told(&s), "it may be over in a moment");
    see(&mut s, 10_001);
    golden("21-clusterdown", &said(&s, Some(&healthy())));
    let mut leaderless = s.clone();
    lose(&mut leaderless, 0, 0);
    assert!(!told(&leaderless), "a lost primary explains it");
    change(&mut s, 1, 1, |n| n.state_ok = true);
    see(&mut s, 10_002);
    change(&mut s, 1, 1, |n| n.state_ok = false);
    see(&mut s, 20_000);
    assert!(!told(&s), "it was well in between");
}

/// A slow node serves: that is told, and the cluster stays Ready.
#[test]
fn a_slow_node() {
    let mut s = formed(1);
    s.past.slow = [pod_uid(2, 0)].into();
    let report = said(&s, Some(&healthy()));
    golden("22-slow", &report);
    let ready = report.status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.status, "True");
    s.past.slow = [pod_uid(7, 0)].into();
    assert_eq!(said(&s, Some(&healthy())).status, healthy(), "it is gone");
}

#[test]
fn pods_of_an_earlier_spec_are_told_of() {
    let mut s = formed(1);
    s.revision = Revision::new("r2");
    let status = said(&s, Some(&healthy())).status;
    let operation = status.operation.unwrap();
    assert_eq!((operation.kind.to_string(), operation.done, operation.total), ("Upgrading".to_owned(), 0, 6));
    assert_eq!(status.state.unwrap().to_string(), "Reconciling");
    s.desired.paused = true;
    let status = said(&s, Some(&healthy())).status;
    assert_eq!(status.state.unwrap().to_string(), "Ready");
    assert_eq!(status.message, "Cluster is healthy; 6 pods were made from an earlier spec");
}

#[test]
fn the_latch_never_opens() {
    let s = empty(1);
    let latch = Proposal::new(Step::Latch, Why::Form, "slots are given out next");
    let latched =
        report(&s, &Plan::default(), &[Done { proposal: latch, outcome: Outcome::Done }], None).status;
    assert!(latched.formed);
    assert!(said(&s, Some(&latched)).status.formed);
    assert!(latched.topology.is_empty(), "not complete yet");
}

#[test]
fn counters_only_grow() {
    let (mut s, mut previous, mut last) = (formed(1), healthy(), (0, 0));
    s.desired.replicas = 0;
    s.desired.generation = 2;
    for gone in [0, 2, 1] {
        lose(&mut s, gone, 1);
        change(&mut s, gone, 0, |n| n.online_replicas.clear());
        previous = said(&s, Some(&previous)).status;
        let Some(operation) = &previous.operation else { continue };
        let now = (operation.done, operation.total);
        assert!(now.0 >= last.0 && now.1 >= last.1, "{last:?} then {now:?}");
        last = now;
    }
}

#[test]
fn a_spec_that_cannot_be_planned_for() {
    let mut cr = ValkeyCluster::new("c", ValkeyClusterSpec::default());
    cr.metadata.generation = Some(7);
    cr.status = Some(healthy());
    let sentence = "spec.shards is 0: set it to a number from 1 to 1000";
    let status = refusal(&cr, sentence, Moment(START + 5000));
    assert_eq!(status.formed, cr.status.as_ref().unwrap().formed);
    cr.status = Some(status.clone());
    assert_eq!(refusal(&cr, sentence, Moment(START + 9000)), status, "said once");
    let gauges = valkey_cluster_operator::report::Gauges::default();
    golden("16-refused", &Report { status, events: vec![], gauges });
}

/// API conventions: conditions are dated and say of which generation they speak; reasons are one word.
#[test]
fn conditions_keep_the_conventions() {
    let mut silent = formed(1);
    silent.nodes.values_mut().for_each(|seen| *seen = Seen::Never);
    for s in [empty(0), pending(1), formed(2), silent] {
        let status = said(&s, None).status;
        assert!(status.conditions.len() >= 4);
        for c in &status.conditions {
            assert_eq!(c.observed_generation, Some(1), "{}", c.type_);
            assert!(c.reason.chars().all(char::is_alphanumeric) && !c.reason.is_empty(), "{c:?}");
            assert!(c.reason.starts_with(char::is_uppercase) && !c.message.is_empty(), "{c:?}");
        }
        assert_eq!(status.observed_generation, Some(1));
    }
}

#[test]
fn what_a_person_vouches_for_is_answered_id_by_id() {
    let mut s = formed(1);
    // 1-0 and its Pod are gone, 2-0 answers, and nobody has ever heard of the third.
    s.vouched = [id(1, 0), id(2, 0), id(9, 9)].into();
    let pod = s.pods.remove(&pod_name(1, 0)).unwrap();
    s.nodes.remove(&pod.uid);
    s.ghosts.insert(id(1, 0), Seen::Silent(Silence::Timeout));
    for (shard, index) in places(1).filter(|at| *at != (1, 0)) {
        change(&mut s, shard, index, |n| n.peers.lines_mut().get_mut(&id(1, 0)).unwrap().suspected = true);
    }
    let first = said(&s, None);
    golden("17-vouched", &first);
    let again = said(&s, Some(&first.status));
    assert!(again.events.iter().all(|e| !e.reason.contains("Vouch")), "it is told once");
}

/// 2-1 was made with the older image again, after something was written that its version does not know.
#[test]
fn the_way_back_to_an_older_version_is_closed() {
    let mut s = formed(1);
    change(&mut s, 2, 1, |n| {
        n.version = Version::new(8, 1, 1);
        n.role = Role::Replica { of: id(2, 0), link: Link { up: false, syncing: false, offset: 0 } };
    });
    change(&mut s, 2, 0, |n| n.online_replicas.clear());
    let see = |s: &mut Snapshot, ms: i64| {
        s.now = Moment(START + ms);
        let mut past = s.past.clone();
        past.see(s);
        s.past = past;
    };
    see(&mut s, 0);
    let closed = |s: &Snapshot| said(s, None).status.message.contains("newer version");
    see(&mut s, 20_000);
    assert!(!closed(&s), "a full sync takes a while");
    // A full sync that has begun again is none that has succeeded.
    change(&mut s, 2, 1, |n| {
        n.role = Role::Replica { of: id(2, 0), link: Link { up: false, syncing: true, offset: 0 } }
    });
    see(&mut s, 20_001);
    golden("20-no-way-back", &said(&s, None));
    change(&mut s, 2, 1, |n| n.version = Version::new(9, 1, 1));
    see(&mut s, 20_002);
    assert!(!closed(&s), "of the same line");
}

#[test]
fn a_user_that_cannot_be_set_is_an_event_whatever_else_is_wrong() {
    let told = |lines: &[&str], previous: Option<&ValkeyClusterStatus>| {
        let world = [&["cluster 3x1 healthy", "all nodes has=app"], lines].concat();
        let report = said(&plan_world::world(&world).unwrap(), previous);
        let warnings = report.events.iter().filter(|e| e.warning);
        let told: Vec<String> = warnings.map(|e| format!("{}: {}", e.reason, e.note)).collect();
        (told, report.status)
    };
    let (nothing, calm) = told(&["user app"], None);
    assert_eq!(nothing, [""; 0]);
    let no_password = "UserRefused: app has no password";
    let (first, refused) = told(&["user app missing"], Some(&calm));
    assert_eq!(first, [no_password], "once, though it is the worst trouble, too");
    assert_eq!(told(&["user app missing"], Some(&refused)).0, [""; 0], "it is no news");
    let (worse, lost) = told(&["user app missing", "dead 1-0 Refused"], Some(&calm));
    assert_eq!(worse.len(), 2, "{worse:?}");
    assert!(worse[0].starts_with("PrimaryLost: ") && worse[1] == no_password, "{worse:?}");
    let both = told(&["user app missing", "user eve missing", "dead 1-0 Refused"], Some(&lost)).0;
    assert_eq!(both, ["UserRefused: app has no password; eve has no password"], "another sentence is news");
    let slow = told(&["user app", "node 1-0 lacks=app"], Some(&calm)).0;
    assert_eq!(slow, [""; 0], "a node that is about to get its users is no trouble");
    assert_eq!(told(&["user app"], Some(&refused)).0, [""; 0]);
}
