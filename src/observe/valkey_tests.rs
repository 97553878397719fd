//! Reports from recorded answers, and silences of every kind.

use std::time::Instant;

use super::*;
use crate::valkey::FredConnector;
use crate::valkey::parse::testdata::{LINES, recorded};
use crate::valkey::testing::{SILENCE, TinyServer, access, bulk};

/// Answers the burst of a pass with what a server of this line was recorded to answer.
pub(super) fn recorded_server(
    line: &'static str,
    nodes: &'static str,
    cluster: &'static str,
    info: &'static str,
) -> impl Fn(&[String]) -> Option<String> + Send + Sync + 'static {
    move |argv| match argv.join(" ").as_str() {
        "CLUSTER NODES" => Some(bulk(&recorded(line, nodes))),
        "CLUSTER INFO" => Some(bulk(&recorded(line, cluster))),
        "INFO server persistence replication keyspace memory" => Some(bulk(&recorded(line, info))),
        "ACL GETUSER _replication" => Some(
            "%3\r\n+flags\r\n*1\r\n+on\r\n+passwords\r\n*0\r\n+commands\r\n+-@all +cluster|syncslots\r\n"
                .to_owned(),
        ),
        "CLUSTER GETSLOTMIGRATIONS" if line.starts_with('8') => {
            Some("-ERR unknown subcommand 'GETSLOTMIGRATIONS'. Try CLUSTER HELP.\r\n".to_owned())
        }
        "CLUSTER GETSLOTMIGRATIONS" => Some("*0\r\n".to_owned()),
        "ACL LIST" => Some(format!("*1\r\n{}", bulk("user default on nopass ~* &* +@all"))),
        "CONFIG GET primaryauth cluster-node-timeout nosuch" => {
            Some("%2\r\n+cluster-node-timeout\r\n+2000\r\n+primaryauth\r\n+pw\r\n".to_owned())
        }
        _ => None,
    }
}

async fn observe(probes: &[(&str, SocketAddr)]) -> BTreeMap<PodUid, Seen<NodeReport>> {
    let probes: Vec<Probe> = probes
        .iter()
        .map(|(uid, addr)| Probe { uid: PodUid::new(*uid), addr: *addr, silent: false })
        .collect();
    let asked = ["cluster-node-timeout".to_owned(), "nosuch".to_owned()];
    observe_nodes(&probes, &asked, &access(), &FredConnector, &Bounds::default()).await
}

fn report_of<'a>(seen: &'a BTreeMap<PodUid, Seen<NodeReport>>, uid: &str) -> &'a NodeReport {
    seen[&PodUid::new(uid)].now().unwrap_or_else(|| panic!("{uid}: {:?}", seen[&PodUid::new(uid)]))
}

#[tokio::test]
async fn a_primary_and_a_replica_report_what_they_said() {
    for line in LINES {
        let primary =
            TinyServer::start(recorded_server(line, "nodes-formed", "cluster-info-formed", "info-primary"))
                .await;
        let seen = observe(&[("p", primary.addr)]).await;
        let p = report_of(&seen, "p");
        assert_eq!(p.slots().to_string(), "0-5460", "{line}");
        assert_eq!((p.peers.len(), p.keys, p.epoch, p.state_ok), (5, 32, 1, true));
        assert!(p.admitted && !p.loading && p.uptime_ms > 0 && p.open_slots.is_empty());
        assert_eq!(p.online_replicas.len(), 1);
        assert_eq!(p.config, BTreeMap::from([("cluster-node-timeout".to_owned(), "2000".to_owned())]));
        let copies: Vec<&Peer> = p.peers.values().filter(|n| n.replica_of.as_ref() == Some(&p.id)).collect();
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].ip, p.online_replicas.first().copied());
    }
}

#[tokio::test]
async fn listed_troubles_become_facts_of_the_peer() {
    for line in LINES {
        let info = ("cluster-info-lost-shard", "info-primary");
        let server = TinyServer::start(recorded_server(line, "nodes-noaddr", info.0, info.1)).await;
        let seen = observe(&[("p", server.addr)]).await;
        let peers = &report_of(&seen, "p").peers;
        assert_eq!(peers.values().filter(|p| p.ip.is_none()).count(), 1, "{line}");
        assert!(peers.values().filter(|p| p.failed).count() >= 2);

        let server = TinyServer::start(recorded_server(line, "nodes-handshake", info.0, info.1)).await;
        let seen = observe(&[("p", server.addr)]).await;
        assert_eq!(report_of(&seen, "p").peers.values().filter(|p| p.handshake).count(), 1);

        let server = TinyServer::start(recorded_server(line, "nodes-open-source", info.0, info.1)).await;
        let seen = observe(&[("p", server.addr)]).await;
        let open = &report_of(&seen, "p").open_slots;
        assert!(open.incoming.is_empty());
        let mut slots: Vec<String> = open.outgoing.values().map(ToString::to_string).collect();
        slots.sort_unstable();
        assert_eq!(slots, ["100", "7"]);
    }
}

#[tokio::test]
async fn silences_are_told_apart_and_cost_no_more_than_a_second() {
    let refuse = |argv: &[String]| (argv[0] == "HELLO").then(|| "-WRONGPASS no\r\n".to_owned());
    let loading = |argv: &[String]| (argv[0] == "CLUSTER").then(|| "-LOADING wait\r\n".to_owned());
    let most = recorded_server("9.1", "nodes-formed", "cluster-info-formed", "info-primary");
    let denied = move |argv: &[String]| {
        if argv[0] == "ACL" { Some("-NOPERM no\r\n".to_owned()) } else { most(argv) }
    };
    let (auth, busy) = (TinyServer::start(refuse).await, TinyServer::start(loading).await);
    let (garbled, mute) =
        (TinyServer::start(|_| None).await, TinyServer::start(|_| Some(SILENCE.to_owned())).await);
    let stuck = TinyServer::start(|argv| (argv[0] == "CLUSTER").then(|| SILENCE.to_owned())).await;
    let noperm = TinyServer::start(denied).await;
    let good =
        TinyServer::start(recorded_server("9.1", "nodes-formed", "cluster-info-formed", "info-primary"))
            .await;
    let nobody = "127.0.0.1:1".parse().unwrap();

    let begun = Instant::now();
    let seen = observe(&[
        ("auth", auth.addr),
        ("busy", busy.addr),
        ("garbled", garbled.addr),
        ("good", good.addr),
        ("mute", mute.addr),
        ("nobody", nobody),
        ("noperm", noperm.addr),
        ("stuck", stuck.addr),
    ])
    .await;
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let kinds: Vec<String> = seen
        .iter()
        .map(|(uid, s)| match s {
            Seen::Silent(kind) => format!("{uid} {kind:?}"),
            Seen::Now(_) => format!("{uid} now"),
            Seen::Never => format!("{uid} never"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "auth Auth",
            "busy Busy",
            "garbled Garbled",
            "good now",
            "mute Timeout",
            "nobody Refused",
            "noperm Auth",
            "stuck Timeout"
        ]
    );
}

#[tokio::test]
async fn somebody_else_at_a_ghosts_address_means_that_the_ghost_is_gone() {
    let script = recorded_server("9.1", "nodes-formed", "cluster-info-formed", "info-primary");
    let server = TinyServer::start(script).await;
    let own = recorded("9.1", "nodes-formed");
    let own = own.lines().find(|l| l.contains("myself")).unwrap().split(' ').next().unwrap();
    let (itself, other) = (NodeId::new(own), NodeId::new("0".repeat(40)));
    let addresses = BTreeMap::from([(itself.clone(), server.addr), (other.clone(), server.addr)]);
    let seen = observe_ghosts(&addresses, &access(), &FredConnector, &Bounds::default()).await;
    assert!(seen[&itself].now().is_some());
    assert_eq!(seen[&other], Seen::Silent(Silence::Refused));
}

#[test]
fn a_view_without_its_own_line_is_not_understood() {
    let nodes = cluster_nodes(&recorded("9.1", "nodes-formed")).unwrap();
    let others: Vec<NodeLine> = nodes.into_iter().filter(|n| !n.is(Flag::Myself)).collect();
    let cluster = ClusterInfo::parse(&recorded("9.1", "cluster-info-formed")).unwrap();
    let info = Info::parse(&recorded("9.1", "info-primary")).unwrap();
    let error = assemble(others, cluster, &info, Vec::new(), true, BTreeMap::new()).unwrap_err();
    assert_eq!(error.silence(), Silence::Garbled);
}
