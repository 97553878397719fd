//! Random lives: a seed makes a script; a failing script is made smaller as long as it fails the same way.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use valkey_cluster_operator::model::Version;
use valkey_cluster_operator::model::settings::JOBS_SINCE;

use super::life::live;
use super::script::{Action, Script, When, Who};
use super::trace::Trace;
use super::world::Start;

/// The script of a seed.
pub(crate) fn script(seed: u64) -> Script {
    let mut rng = StdRng::seed_from_u64(seed);
    let gentle = rng.random_bool(0.8);
    let sizes = [(1, 0), (1, 1), (2, 1), (3, 0), (3, 1), (3, 1), (3, 2), (4, 1)];
    let (shards, replicas) = sizes[rng.random_range(0..sizes.len())];
    let versions = [Version::new(8, 1, 1), Version::new(9, 1, 2)];
    let workers = rng.random_range(2..=4);
    let mut more = StdRng::seed_from_u64(!seed);
    let zones = more.random_range(0..=3);
    let start = Start {
        shards,
        replicas,
        workers,
        zones,
        // Never fewer workers than a shard may have copies.
        strict: workers == 4 && more.random_bool(0.5),
        // A worker without a zone takes nobody then.
        strict_zones: zones > 0 && more.random_bool(0.2),
        version: versions[rng.random_range(0..2)],
        seed,
        reuse_addresses: rng.random_bool(0.6),
        brief: more.random_bool(0.4) || std::env::var_os("BRIEF").is_some(),
    };
    // Half of the lives are troubled while they form, the others when they run.
    let span = if rng.random_bool(0.5) { 80 } else { 900 };
    let mut events: Vec<(When, Action)> = (0..rng.random_range(1..=10))
        .flat_map(|_| {
            let at = rng.random_range(0..span);
            fault(&mut rng, &start, at)
        })
        .collect();
    if more.random_bool(0.3) {
        events.extend(certificates(&mut more, span));
    }
    if more.random_bool(0.1) {
        let w = more.random_range(1..=u16::try_from(workers).expect("few workers"));
        let at = more.random_range(0..span);
        events.push((When::At(at), Action::Shutdown(w)));
        if more.random_bool(0.5) {
            events.push((When::At(at + more.random_range(50..=400)), Action::Boot(w)));
        }
    }
    let mut newest = StdRng::seed_from_u64(seed ^ 0x0AFE);
    events.extend(out_of_reach(&mut newest, &start, span));
    events.sort_by_key(|(when, _)| match when {
        When::At(tick) => *tick,
        When::Quiet => i64::MAX,
    });
    let last = events.iter().map(|(w, _)| if let When::At(t) = w { *t } else { 0 }).max().unwrap_or(0);
    let mut peaceful = peace(&start);
    // Who could not ask the API server for it asks again.
    let certificates = |(_, action): &(When, Action)| match action {
        Action::Certificate(..) => Some(action.clone()),
        _ => None,
    };
    peaceful.extend(events.iter().rev().find_map(certificates));
    let peace = peaceful.len();
    events.extend(peaceful.into_iter().map(|a| (When::At(last + 100), a)));
    Script { start, events, gentle, peace }
}

/// After this nothing disturbs the world any more.
fn peace(start: &Start) -> Vec<Action> {
    let mut out = vec![
        Action::Api(true),
        Action::Operators(1),
        Action::Paused(false),
        Action::Image("valkey:9".into()),
        Action::Config("maxmemory-policy".into(), None),
    ];
    for w in 1..=u16::try_from(start.workers).expect("few workers") {
        out.extend([Action::Uncordon(w), Action::Capacity(w, 100), Action::Heal(w), Action::Show(w)]);
        out.push(Action::Boot(w));
    }
    out
}

/// The operator cannot reach some or all of the nodes, or the API server; and a budget of disruptions that is not that of others.
fn out_of_reach(rng: &mut StdRng, start: &Start, span: i64) -> Vec<(When, Action)> {
    let workers = u16::try_from(start.workers).expect("few workers");
    let mut out = Vec::new();
    if rng.random_bool(0.3) {
        out.push((When::At(rng.random_range(0..span)), Action::Disrupted(rng.random_range(1..=3))));
    }
    if rng.random_bool(0.15) {
        let at = rng.random_range(0..span);
        let back = at + rng.random_range(5..=300);
        let all = rng.random_bool(0.3);
        let hidden = if all { 1..=workers } else { rng.random_range(1..=workers)..=workers };
        for w in hidden {
            out.extend([(When::At(at), Action::Hide(w)), (When::At(back), Action::Show(w))]);
        }
    }
    if rng.random_bool(0.15) {
        let at = rng.random_range(0..span);
        let back = at + rng.random_range(5..=300);
        out.extend([(When::At(at), Action::Api(false)), (When::At(back), Action::Api(true))]);
    }
    out
}

/// TLS comes, changes and goes at random moments; a Secret that cannot be used is mended.
fn certificates(rng: &mut StdRng, span: i64) -> Vec<(When, Action)> {
    let mut out = Vec::new();
    for leaf in ["l", "m", "n"].into_iter().take(rng.random_range(1..=3)) {
        let authority = if rng.random_bool(0.5) { "a" } else { "b" };
        let at = rng.random_range(0..span);
        if rng.random_bool(0.3) {
            out.push((When::At(at - at.min(30)), Action::Certificate("spoilt".into(), Vec::new())));
        }
        out.push((When::At(at), Action::Certificate(leaf.into(), vec![authority.into()])));
        if rng.random_bool(0.4) {
            let off = at + rng.random_range(0..=200);
            out.push((When::At(off), Action::Certificate("off".into(), Vec::new())));
        }
    }
    out
}

fn who(rng: &mut StdRng, start: &Start) -> Who {
    let shard = rng.random_range(0..start.shards);
    match rng.random_range(0..5) {
        0 | 1 => Who::Primary(shard),
        2 | 3 => Who::Replica(shard),
        _ => Who::Pod(shard, rng.random_range(0..3)),
    }
}

/// New Pods with the same version, or with another one.
fn another_image(start: &Start, at: i64) -> String {
    let other = if start.version < JOBS_SINCE { "valkey:9.1.2" } else { "valkey:8.1.1" };
    if at % 2 == 0 { "valkey:10".to_owned() } else { other.to_owned() }
}

/// One fault, sometimes with its end.
fn fault(rng: &mut StdRng, start: &Start, at: i64) -> Vec<(When, Action)> {
    let w = rng.random_range(1..=u16::try_from(start.workers).expect("few workers"));
    let later = at + rng.random_range(5..=120);
    let small = rng.random_range(0..6);
    let both = |a: Action, b: Action| vec![(When::At(at), a), (When::At(later), b)];
    let one = |a: Action| vec![(When::At(at), a)];
    match rng.random_range(0..38) {
        0 | 1 => one(Action::Crash(small)),
        2 => one(Action::Stale(rng.random_range(1..12), rng.random_range(1..8))),
        3 => one(Action::StalePods(rng.random_range(1..12), rng.random_range(1..8))),
        4 => one(Action::Refuse(rng.random_range(1..6))),
        5 => one(Action::Lose(rng.random_range(1..6))),
        6 => one(Action::Slow(rng.random_range(1..10))),
        7 | 8 => one(Action::Kill(who(rng, start))),
        9..=11 => one(Action::Delete(who(rng, start))),
        12 => one(Action::ForceDelete(who(rng, start))),
        13 => both(Action::Cordon(w), Action::Uncordon(w)),
        14 => both(Action::Capacity(w, rng.random_range(0..3)), Action::Capacity(w, 100)),
        15 => both(Action::Cut(w), Action::Heal(w)),
        16 => both(Action::Operators(2), Action::Operators(1)),
        17 | 18 => one(Action::Replicas(rng.random_range(0..=3))),
        19 => one(Action::Config("maxmemory-policy".into(), Some("allkeys-lru".into()))),
        20 => {
            let bad = if rng.random_bool(0.5) { "missing" } else { "crashing" };
            both(Action::Image(bad.into()), Action::Image("valkey:9".into()))
        }
        24 | 25 => one(Action::Image(another_image(start, at))),
        21 => both(Action::Paused(true), Action::Paused(false)),
        22 => one(Action::Stranger),
        26..=28 => one(Action::Shards(rng.random_range(1..=6))),
        29 | 30 => both(Action::Power(w), Action::Boot(w)),
        31 => one(match rng.random_range(0..3) {
            0 => Action::KillShard(rng.random_range(0..start.shards)),
            1 => Action::KillPrimaries(rng.random_range(1..=start.shards)),
            _ => Action::KillAll,
        }),
        32 | 33 => one(Action::Rotate),
        36 | 37 => one(Action::Purge(rng.random_bool(0.7))),
        34 => both(Action::User("app".into(), Some("+get".into())), Action::User("app".into(), None)),
        35 => both(
            Action::User("app".into(), Some("+nonsense".into())),
            Action::User("app".into(), Some("+@read".into())),
        ),
        _ => one(if rng.random_bool(0.5) { Action::Drift } else { Action::Shards(rng.random_range(1..=4)) }),
    }
}

/// Leaves out events one by one as long as what is left still fails.
pub(crate) fn shrink(script: &Script) -> Script {
    let fails = |s: &Script| live(s, Trace::default()).failure.is_some();
    let mut small = script.clone();
    let mut again = true;
    while again {
        again = false;
        let mut i = small.events.len() - small.peace;
        while i > 0 {
            i -= 1;
            let mut fewer = small.clone();
            fewer.events.remove(i);
            if fails(&fewer) {
                small = fewer;
                again = true;
            }
        }
    }
    small
}
