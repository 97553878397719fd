//! The preStop hook as a shell runs it: what ends it, and what does not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use valkey_cluster_operator::build::{self, PodPlan, labels};
use valkey_cluster_operator::model::{ClusterKey, Demands, Desired, Shard, Template};

/// It holds for so many seconds here: the grace period less 15.
const HELD: i64 = 20;

const ANSWERS: &str = "echo PONG";
const HANGS: &str = "exec sleep 60";
/// As coreutils has it: 124 when the time is over.
const COREUTILS: &str =
    r#"s=$1; shift; "$@" & p=$!; sleep "$s" && kill $p & wait $p; [ $? -gt 128 ] && exit 124; exit 0"#;
/// A time-out that is never reached: it ends as the program does.
const PROMPT: &str = r#"shift; exec "$@""#;
/// As `BusyBox` has it: what the program ended with, which is the signal.
const BUSYBOX: &str = r#"s=$1; shift; "$@" & p=$!; sleep "$s" && kill $p & wait $p"#;

const OTHER: &str = "a1 10.0.0.2:6379@16379,,shard-id=s,nodename=b master - 0 0 1 connected 0-100\n";

fn own(nodename: &str, slots: &str) -> String {
    format!(
        "a0 10.0.0.1:6379@16379,,shard-id=s,nodename={nodename} myself,master - 0 0 2 connected {slots}\nvars currentEpoch 2 lastVoteEpoch 0\n"
    )
}

/// The script that the Pod carries, with a directory of ours in the place of /dev/shm.
fn hook(dir: &Path) -> (String, String) {
    let desired = Desired {
        key: ClusterKey { namespace: "ns".into(), name: "c".into(), uid: "uid-1".into() },
        shards: 1,
        template: Template { termination_grace_period_seconds: HELD + 15, ..Template::default() },
        ..Desired::default()
    };
    let plan = PodPlan {
        name: labels::pod_name("c", Shard(0), 0),
        shard: Shard(0),
        index: 0,
        worker: None,
        worker_hostname: None,
        demands: Demands::default(),
        not_on_hostnames: Vec::new(),
        failures: 0,
    };
    let pod = build::pod(&desired, &build::revision(&desired), &plan);
    let container = pod.spec.unwrap().containers.remove(0);
    let command = container.lifecycle.unwrap().pre_stop.unwrap().exec.unwrap().command.unwrap();
    assert_eq!((command[0].as_str(), command[1].as_str()), ("sh", "-c"));
    (command[2].replace("/dev/shm", dir.to_str().unwrap()), command[4].clone())
}

fn program(dir: &Path, name: &str, body: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the hook with these programs and this `nodes.conf` (none if empty); how long it took, none when it was still holding after the limit.
fn held(name: &str, cli: &str, timeout: &str, nodes: &str, limit: Duration) -> Option<Duration> {
    held_as(name, cli, timeout, nodes, limit, |script| script)
}

/// The same with something changed in the script.
fn held_as(
    name: &str,
    cli: &str,
    timeout: &str,
    nodes: &str,
    limit: Duration,
    change: impl Fn(String) -> String,
) -> Option<Duration> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hold-{name}"));
    fs::create_dir_all(&dir).unwrap();
    program(&dir, "valkey-cli", cli);
    program(&dir, "timeout", timeout);
    match nodes {
        "" => drop(fs::remove_file(dir.join("nodes.conf"))),
        nodes => fs::write(dir.join("nodes.conf"), nodes).unwrap(),
    }
    let (script, seconds) = hook(&dir);
    let script = change(script);
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let began = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &script, "hold", &seconds])
        .env("PATH", path)
        .env("POD_UID", "u-1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ended(&mut child, began, limit)
}

fn ended(child: &mut Child, began: Instant, limit: Duration) -> Option<Duration> {
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "a hook that fails is an event that frightens people: {status}");
            return Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn it_holds_until_it_is_released() {
    let serving = format!("{}{OTHER}", own("valkey-c-0-0", "101-200"));
    let limit = Duration::from_secs(5);
    assert_eq!(held("serving", ANSWERS, COREUTILS, &serving, limit), None);
    let of_another = format!("{}{OTHER}", own("released:u-2", "101-200"));
    assert_eq!(held("another", ANSWERS, COREUTILS, &of_another, limit), None, "the mark of a predecessor");
    let released = format!("{}{OTHER}", own("released:u-1", ""));
    assert!(held("released", ANSWERS, COREUTILS, &released, limit).is_some());
}

#[test]
fn a_node_that_is_alone_and_owns_nothing_is_not_held() {
    let limit = Duration::from_secs(5);
    assert!(held("alone", ANSWERS, COREUTILS, &own("valkey-c-0-0", ""), limit).is_some());
    assert_eq!(
        held("sole", ANSWERS, COREUTILS, &own("valkey-c-0-0", "0-16383"), limit),
        None,
        "all data is here"
    );
}

#[test]
fn a_server_that_starts_is_waited_for() {
    let limit = Duration::from_secs(5);
    let half = "vars currentEpoch 0 lastVoteEpoch 0\n";
    for (name, nodes) in [("unborn", ""), ("half-born", half)] {
        assert_eq!(held(name, "exit 1", COREUTILS, nodes, limit), None, "{name}: it would not hear SIGTERM");
    }
}

/// How long a server that never comes to write `nodes.conf` is waited for: 30 s in a Pod, 3 s here.
#[test]
fn a_server_that_never_starts_is_not_waited_for_without_end() {
    let sooner = |script: String| {
        assert_eq!(script.matches("+ 30 ))").count(), 1, "the bound: {script}");
        script.replace("+ 30 ))", "+ 3 ))")
    };
    let half = "vars currentEpoch 0 lastVoteEpoch 0\n";
    for (name, nodes) in [("never-born", ""), ("never-half-born", half)] {
        let took = held_as(name, "exit 1", COREUTILS, nodes, Duration::from_secs(15), sooner).unwrap();
        assert!(took >= Duration::from_secs(2), "{name}: {took:?} is too little patience");
    }
}

/// What a server says that cannot serve, or not us: `valkey-cli` prints it, whether it then ends well or not.
#[test]
fn an_error_is_an_answer() {
    let serving = format!("{}{OTHER}", own("valkey-c-0-0", "101-200"));
    // The first question comes after 2 s, the second 2 s later.
    let limit = Duration::from_secs(5);
    let answers = [
        ("busy", "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
        ("loading", "LOADING Valkey is loading the dataset in memory"),
        ("noauth", "NOAUTH Authentication required."),
        ("wrongpass", "WRONGPASS invalid username-password pair or user is disabled."),
        ("refused", "Could not connect to Valkey at /dev/shm/valkey.sock: Connection refused"),
    ];
    std::thread::scope(|threads| {
        for (name, answer) in answers {
            for code in [0, 1] {
                let (serving, name) = (&serving, format!("{name}-{code}"));
                let says = format!("echo '{answer}'; exit {code}");
                threads.spawn(move || {
                    assert_eq!(held(&name, &says, PROMPT, serving, limit), None, "{name}");
                });
            }
        }
        threads.spawn(|| {
            let took = held("no-cli", "exit 127", PROMPT, &serving, limit);
            assert_eq!(took, None, "a program that is not there says nothing of the server");
        });
    });
}

#[test]
fn a_server_that_gives_no_answer_is_not_held() {
    let serving = format!("{}{OTHER}", own("valkey-c-0-0", "101-200"));
    for (name, timeout) in [("hung-coreutils", COREUTILS), ("hung-busybox", BUSYBOX)] {
        let took = held(name, HANGS, timeout, &serving, Duration::from_mins(1));
        let took = took.unwrap();
        assert!(
            took < Duration::from_secs(18),
            "{name}: {took:?} is the end of the time, not that of the patience"
        );
        assert!(took >= Duration::from_secs(5), "{name}: {took:?} is too little patience");
    }
}

#[test]
fn it_ends_before_the_grace_period_does() {
    let serving = format!("{}{OTHER}", own("valkey-c-0-0", "101-200"));
    let took = held("end", ANSWERS, COREUTILS, &serving, Duration::from_mins(1)).unwrap();
    assert!((HELD - 2..=HELD + 3).contains(&i64::try_from(took.as_secs()).unwrap()), "{took:?}");
}
