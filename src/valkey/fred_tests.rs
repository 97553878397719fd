//! The connection against a tiny server: what fred does wrong by default must not show.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::*;
use crate::valkey::testing::{CLOSE, SILENCE, TinyServer, access, answers};

fn blackhole() -> SocketAddr {
    // A port that is bound and never accepts would still complete handshakes; one that nobody has bound refuses.
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1)
}

async fn connect(addr: SocketAddr) -> Result<Box<dyn Node>, WireError> {
    FredConnector.connect(addr, &access()).await
}

fn code<T>(result: Result<T, WireError>) -> &'static str {
    result.err().map_or("ok", |e| e.code())
}

#[tokio::test]
async fn answers_of_every_kind_become_replies() {
    let server = TinyServer::start(answers(&[
        ("A", "_\r\n"),
        ("B", ":12\r\n"),
        ("C", "=8\r\ntxt:text\r\n"),
        ("D", "*2\r\n+a\r\n*1\r\n#t\r\n"),
        ("E", "%1\r\n+k\r\n,1.5\r\n"),
        ("F", "~1\r\n+member\r\n"),
        ("G", "-NOPERM User op has no permissions\r\n"),
        ("H", "-ERR Slot 5 is already busy\r\n"),
    ]))
    .await;
    let node = connect(server.addr).await.unwrap();
    let text = |t: &str| Reply::Text(t.to_owned());
    let list = |items: &[Reply]| Reply::List(items.to_vec());
    assert_eq!(node.call(&["A"]).await, Ok(Reply::Nil));
    assert_eq!(node.call(&["B"]).await, Ok(Reply::Int(12)));
    assert_eq!(node.call(&["C"]).await, Ok(text("text")));
    assert_eq!(node.call(&["D"]).await, Ok(list(&[text("a"), list(&[Reply::Int(1)])])));
    assert_eq!(node.call(&["E"]).await.unwrap().texts().unwrap()["k"], "1.5");
    assert_eq!(node.call(&["F"]).await, Ok(list(&[text("member")])));
    assert_eq!(node.call(&["G"]).await, Err(WireError::Denied("NOPERM User op has no permissions".into())));
    assert_eq!(node.call(&["H"]).await, Err(WireError::Server("ERR Slot 5 is already busy".into())));
    assert_eq!(code(node.call(&[]).await), "Protocol");
}

#[tokio::test]
async fn a_burst_has_one_answer_for_each_command_also_when_some_are_refused() {
    let server =
        TinyServer::start(answers(&[("A", ":1\r\n"), ("B", "-LOADING wait\r\n"), ("C", "*1\r\n:3\r\n")]))
            .await;
    let node = connect(server.addr).await.unwrap();
    let burst = [vec!["A"], vec!["B"], vec!["C"]];
    assert_eq!(
        node.call_many(&burst).await,
        [Ok(Reply::Int(1)), Err(WireError::Loading), Ok(Reply::List(vec![Reply::Int(3)]))]
    );
    assert_eq!(node.call_many(&burst[1..2]).await, [Err(WireError::Loading)]);
    assert_eq!(node.call_many(&burst[2..]).await, [Ok(Reply::List(vec![Reply::Int(3)]))]);
    assert!(node.call_many(&[]).await.is_empty());
}

#[tokio::test]
async fn nobody_listening_is_refused_at_once() {
    let begun = Instant::now();
    assert_eq!(code(connect(blackhole()).await), "Refused");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_from_silence() {
    let refuse = |argv: &[String]| {
        (argv[0] == "HELLO")
            .then(|| "-WRONGPASS invalid username-password pair or user is disabled.\r\n".to_owned())
    };
    let server = TinyServer::start(refuse).await;
    assert_eq!(code(connect(server.addr).await), "Auth");
}

#[tokio::test]
async fn a_silent_server_costs_the_limit_and_no_more() {
    let server = TinyServer::start(|_| Some(SILENCE.to_owned())).await;
    let begun = Instant::now();
    assert_eq!(code(connect(server.addr).await), "Timeout");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_silent_command_costs_the_limit_and_no_more() {
    let server = TinyServer::start(answers(&[("STOP", SILENCE)])).await;
    let node = connect(server.addr).await.unwrap();
    let begun = Instant::now();
    assert_eq!(code(node.call(&["STOP"]).await), "Timeout");
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    // From here on the connection is of no use, and says so at once.
    assert_eq!(code(node.call(&["PING"]).await), "Reset");
    assert_eq!(
        node.call_many(&[vec!["PING"], vec!["PING"]]).await,
        [Err(WireError::Reset), Err(WireError::Reset)]
    );
    tokio::time::timeout(Duration::from_millis(200), node.closed()).await.unwrap();

    let node = connect(server.addr).await.unwrap();
    let late = [Err(WireError::Timeout), Err(WireError::Timeout)];
    assert_eq!(node.call_many(&[vec!["PING"], vec!["STOP"]]).await, late);
    assert_eq!(code(node.call(&["PING"]).await), "Reset");
}

#[tokio::test]
async fn a_dead_connection_is_known_at_once_and_refuses_commands() {
    let server = TinyServer::start(answers(&[("DIE", CLOSE)])).await;
    let node = connect(server.addr).await.unwrap();
    assert_eq!(code(node.call(&["DIE"]).await), "Reset");
    tokio::time::timeout(Duration::from_millis(200), node.closed()).await.unwrap();
    let begun = Instant::now();
    assert_eq!(code(node.call(&["PING"]).await), "Reset");
    assert_eq!(node.call_many(&[vec!["PING"]]).await, [Err(WireError::Reset)]);
    assert!(begun.elapsed() < Duration::from_millis(50));
}

#[tokio::test]
async fn an_idle_connection_notices_the_end_of_the_server() {
    let server = TinyServer::start(|_| None).await;
    let node = connect(server.addr).await.unwrap();
    let begun = Instant::now();
    drop(server);
    tokio::time::timeout(Duration::from_secs(1), node.closed()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn dropped_connections_and_cancelled_connects_leave_no_socket() {
    let mut server = TinyServer::start(|_| None).await;
    let nodes = futures::future::join_all((0..50).map(|_| connect(server.addr))).await;
    let failed: Vec<_> = nodes.iter().filter_map(|n| n.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    server.until_open(50).await;
    drop(nodes);
    server.until_open(0).await;

    let mut mute = TinyServer::start(|_| Some(SILENCE.to_owned())).await;
    let access = access();
    for _ in 0..20 {
        let attempt = FredConnector.connect(mute.addr, &access);
        assert!(tokio::time::timeout(Duration::from_millis(10), attempt).await.is_err());
    }
    mute.until_open(0).await;
}
