//! What the operator's own users are granted, command by command on real servers of every version: without any one of them a
//! server refuses something that the code does. What no code needs is not granted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::{alone, call, roots, until};
use e2e::debs::ValkeyRoot;
use e2e::processes::{Config, Processes, Shape};
use e2e::resp::{Access as Login, Connection, Credentials, Reply, tag_for};
use futures::future::join_all;
use valkey_cluster_operator::build::credentials::{
    EXPORTER_USER, IMPORT_RIGHTS, OPERATOR_USER, REPLICATION_USER, rights,
};
use valkey_cluster_operator::valkey::{Access, Connector, FredConnector, Node, commands};

const LIMIT: Duration = Duration::from_secs(1);
const PASSWORD: &str = "0123456789abcdef";

/// Two servers on which this user has its rights but one.
fn servers(root: &ValkeyRoot, user: &str, without: &str, lines: &str) -> Processes {
    let rules: Vec<&str> = rights(user).filter(|right| *right != without).collect();
    let acl = format!("user default on nopass ~* &* +@all\nuser {user} on >{PASSWORD} {}\n", rules.join(" "));
    let config = Config { acl: Some(acl), ..Config::lines(lines) };
    Processes::start_with(root, 2, config).unwrap()
}

/// What a server has refused to this user: command or key, as its log of refusals names it.
async fn refused(at: SocketAddr, user: &str) -> Vec<String> {
    let log = call(at, &["ACL", "LOG", "100"]).await;
    let entry = |entry: &Reply| {
        let fields = entry.items()?;
        let field = |name: &str| fields.chunks(2).find(|f| f[0].text() == Some(name))?[1].text();
        (field("username") == Some(user))
            .then(|| format!("{} {}", field("reason").unwrap(), field("object").unwrap()))
    };
    log.items().unwrap().iter().filter_map(entry).collect()
}

async fn operator(at: SocketAddr) -> Box<dyn Node> {
    let (username, password) = (Some(OPERATOR_USER.to_owned()), Some(PASSWORD.to_owned()));
    FredConnector.connect(at, &Access { username, password, ..Access::default() }).await.unwrap()
}

/// Everything that the operator does to a node, one command after the other; what is refused shows in the log.
async fn work(node: &dyn Node, other: SocketAddr) {
    let _ = commands::ping(node).await;
    let _ = commands::info(node, &["server"]).await;
    let _ = commands::my_id(node).await;
    let _ = commands::keys_in_slots(node, &[0], 10).await;
    let _ = commands::dbsize(node).await;
    let _ = commands::config_get(node, &["maxmemory"]).await;
    let _ = commands::config_set(node, &BTreeMap::from([("maxmemory".to_owned(), "0".to_owned())])).await;
    let _ = commands::acl_setuser(node, "app", &["on"]).await;
    let _ = commands::acl_getuser(node, "app").await;
    let _ = commands::acl_list(node).await;
    let _ = commands::acl_deluser(node, "app").await;
    let _ = node.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let _ = commands::memory_usage(node, &[&b"key".to_vec()]).await;
    let (host, port) = (other.ip().to_string(), other.port().to_string());
    let _ =
        commands::migrate(node, (&host, &port), (OPERATOR_USER, PASSWORD), LIMIT, &[vec![b"key".to_vec()]])
            .await;
}

/// Pairs of servers at a time: each waits two seconds until it serves, and does next to nothing.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_of_its_rights_the_operator_is_refused_something() {
    let _alone = alone().await;
    let all: Vec<&str> = rights(OPERATOR_USER).filter(|right| right.starts_with(['+', '~'])).collect();
    let all: Vec<&str> = [""].into_iter().chain(all).collect();
    for root in roots() {
        for some in all.chunks(AT_ONCE) {
            join_all(some.iter().map(|without| operator_without(root, without))).await;
        }
    }
}

async fn operator_without(root: &ValkeyRoot, without: &str) {
    let servers = servers(root, OPERATOR_USER, without, "");
    let (here, there) = (servers.addr(0), servers.addr(1));
    call(here, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    until("the server to serve", async || {
        call(here, &["CLUSTER", "INFO"]).await.text().unwrap().contains("cluster_state:ok")
    })
    .await;
    call(here, &["SET", "key", "value"]).await;
    work(&*operator(here).await, there).await;
    let found = [refused(here, OPERATOR_USER).await, refused(there, OPERATOR_USER).await].concat();
    let what = format!("Valkey {} without {without:?}: refused {found:?}", root.version);
    match without.split_at_checked(1) {
        None => assert!(found.is_empty(), "{what}"),
        Some(("~", _)) => assert!(found.iter().any(|f| f.starts_with("key ")), "{what}"),
        Some((_, command)) => {
            let of = format!("command {command}");
            assert!(found.iter().any(|f| *f == of || f.starts_with(&format!("{of}|"))), "{what}");
        }
    }
}

/// What `redis_exporter` (<https://github.com/oliver006/redis_exporter>) sends for a scrape of a cluster's node, told not to ask for settings.
const SCRAPE: [&[&str]; 7] = [
    &["CLIENT", "SETNAME", "redis_exporter"],
    &["PING"],
    &["INFO", "ALL"],
    &["CLUSTER", "INFO"],
    &["LATENCY", "LATEST"],
    &["LATENCY", "HISTOGRAM"],
    &["SLOWLOG", "LEN"],
];
/// What it sends as well and goes without: the one shows the password of replication, the other what clients have sent.
const WITHHELD: [&[&str]; 2] = [&["CONFIG", "GET", "*"], &["SLOWLOG", "GET", "1"]];

/// Which of these the exporter's user is refused.
async fn scraped(at: SocketAddr, commands: &[&[&str]]) -> Vec<String> {
    let login = Credentials { user: Some(EXPORTER_USER.to_owned()), password: Some(PASSWORD.to_owned()) };
    let mut open = Connection::open(&Login::default().with_login(login), at, LIMIT).await.unwrap();
    let mut refused = Vec::new();
    for command in commands {
        let reply = open.call(command, LIMIT).await.unwrap();
        let words = command.iter().take(2).map(|w| w.to_ascii_lowercase()).collect::<Vec<_>>();
        match reply.error() {
            Some(why) if why.starts_with("NOPERM") => refused.push(words.join("|")),
            Some(why) => panic!("{command:?}: {why}"),
            None => {}
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_of_its_rights_an_exporter_is_refused() {
    let _alone = alone().await;
    for root in roots() {
        let granted: Vec<&str> =
            rights(EXPORTER_USER).filter(|right| right.starts_with(['+', '~', '&'])).collect();
        assert!(granted.iter().all(|right| right.starts_with('+')), "neither keys nor channels: {granted:?}");
        for without in granted {
            let servers = servers(root, EXPORTER_USER, without, "");
            let found = scraped(servers.addr(0), &SCRAPE).await;
            let of = without.trim_start_matches('+');
            let is = |f: &String| f == of || f.split('|').next() == Some(of);
            assert!(
                found.len() == 1 && found.iter().all(is),
                "Valkey {} without {without}: {found:?}",
                root.version
            );
        }
        let servers = servers(root, EXPORTER_USER, "", "");
        assert!(scraped(servers.addr(0), &SCRAPE).await.is_empty(), "Valkey {}", root.version);
        let withheld = scraped(servers.addr(0), &WITHHELD).await;
        assert_eq!(withheld, ["config|get", "slowlog|get"], "Valkey {}", root.version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_of_its_rights_replication_is_refused() {
    let _alone = alone().await;
    let lines = format!(
        "cluster-enabled no\nprimaryuser {REPLICATION_USER}\nprimaryauth {PASSWORD}\nrepl-diskless-sync yes\n\
         repl-diskless-sync-delay 0\ndual-channel-replication-enabled yes\n"
    );
    for root in roots() {
        for right in rights(REPLICATION_USER).filter(|right| right.starts_with('+')) {
            let servers = servers(root, REPLICATION_USER, right, &lines);
            let (primary, replica) = (servers.addr(0), servers.addr(1));
            call(replica, &["REPLICAOF", &primary.ip().to_string(), &primary.port().to_string()]).await;
            let of = format!("command {}", right.trim_start_matches('+'));
            until(&format!("Valkey {} to refuse {right}", root.version), async || {
                refused(primary, REPLICATION_USER).await.contains(&of)
            })
            .await;
        }
        let servers = servers(root, REPLICATION_USER, "", &lines);
        let (primary, replica) = (servers.addr(0), servers.addr(1));
        call(replica, &["REPLICAOF", &primary.ip().to_string(), &primary.port().to_string()]).await;
        until("the link to be up", async || {
            call(replica, &["INFO", "replication"]).await.text().unwrap().contains("master_link_status:up")
        })
        .await;
        assert!(refused(primary, REPLICATION_USER).await.is_empty(), "Valkey {}", root.version);
    }
}

/// Two primaries between which a slot goes to and fro, by jobs of the servers.
struct Shuttle {
    servers: Processes,
    /// Which of them has the slot now.
    at: usize,
}

/// The slot that moves.
const SLOT: u16 = 0;

impl Shuttle {
    async fn new(root: &ValkeyRoot) -> Self {
        let lines = format!("primaryuser {REPLICATION_USER}\nprimaryauth {PASSWORD}\n");
        let shape = Shape { shards: 2, replicas: 0 };
        Self { servers: Processes::cluster(root, shape, &lines).await.unwrap(), at: 0 }
    }

    /// The replication user has its rights but one from now on.
    async fn grant(&self, without: &str) {
        let password = format!(">{PASSWORD}");
        let user = ["ACL", "SETUSER", REPLICATION_USER, "reset", "on", password.as_str()];
        let all = rights(REPLICATION_USER).chain(IMPORT_RIGHTS);
        let rules = [&user[..], &all.filter(|right| *right != without).collect::<Vec<_>>()].concat();
        for end in self.servers.addrs() {
            call(end, &rules).await;
            call(end, &["ACL", "LOG", "RESET"]).await;
        }
    }

    /// One job, while clients write by transactions and publish; says how it ended.
    async fn go(&mut self) -> String {
        let (from, to) = (self.servers.addr(self.at), self.servers.addr(1 - self.at));
        let (target, slot) = (call(to, &["CLUSTER", "MYID"]).await, SLOT.to_string());
        let target = target.text().unwrap();
        call(from, &["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &slot, &slot, "NODE", target]).await;
        let key = format!("{{{}}}key", tag_for(SLOT));
        loop {
            let state = state(from).await;
            if ["success", "failed", "cancelled"].contains(&state.as_str()) {
                self.at = if state == "success" { 1 - self.at } else { self.at };
                return state;
            }
            // Whether they are taken, or sent elsewhere, is for others to look at.
            let mut client = Connection::open(&Login::default(), from, LIMIT).await.unwrap();
            let said: &[&str] = &["PUBLISH", "news", "x"];
            let _ = client.pipeline(&[&["MULTI"], &["INCR", &key], said, &["EXEC"], said], LIMIT).await;
        }
    }

    /// What both have refused to the replication user.
    async fn refused(&self) -> Vec<String> {
        let [here, there] = [0, 1].map(|at| refused(self.servers.addr(at), REPLICATION_USER));
        [here.await, there.await].concat()
    }
}

/// How far the newest job is.
async fn state(at: SocketAddr) -> String {
    let jobs = call(at, &["CLUSTER", "GETSLOTMIGRATIONS"]).await;
    let newest = jobs.items().unwrap().first().unwrap().items().unwrap();
    let field = |name: &str| newest.chunks(2).find(|f| f[0].text() == Some(name)).unwrap()[1].text();
    field("state").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_one_of_its_rights_a_job_that_moves_slots_is_refused() {
    let _alone = alone().await;
    for root in roots().iter().filter(|root| !root.version.starts_with('8')) {
        let mut shuttle = Shuttle::new(root).await;
        for without in IMPORT_RIGHTS {
            shuttle.grant(without).await;
            let is = |found: &String| match without {
                "~*" => found.starts_with("key "),
                // The value of a key, as it is written anew at the other end.
                "+@write" => found == "command set",
                command => *found == format!("command {}", command.trim_start_matches('+')),
            };
            until(&format!("Valkey {} to refuse {without}", root.version), async || {
                shuttle.go().await;
                shuttle.refused().await.iter().any(is)
            })
            .await;
        }
        shuttle.grant("").await;
        for _ in 0..5 {
            assert_eq!(shuttle.go().await, "success", "Valkey {}", root.version);
        }
        let found = shuttle.refused().await;
        assert!(found.is_empty(), "Valkey {}: {found:?}", root.version);
    }
}
