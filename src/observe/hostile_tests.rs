//! Nodes that lie: they must not stall, mislead or end the look at the others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::valkey::FredConnector;
use crate::valkey::testing::{TinyServer, access, bulk};

/// A server that greets as Valkey does, and answers everything else with these bytes, again and again when `endless`.
async fn liar(answer: &'static [u8], endless: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let greeting = "%2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$5\r\nproto\r\n:3\r\n";
                    let told = if text.contains("HELLO") {
                        stream.write_all(greeting.as_bytes()).await
                    } else if text.contains("CLIENT") {
                        stream.write_all(b":7\r\n").await
                    } else if text.contains("INFO") && !text.contains("CLUSTER") {
                        stream.write_all(bulk("redis_version:7.2.4\r\n").as_bytes()).await
                    } else {
                        tell(&mut stream, answer, endless).await
                    };
                    if told.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

async fn tell(stream: &mut tokio::net::TcpStream, answer: &[u8], endless: bool) -> std::io::Result<()> {
    stream.write_all(answer).await?;
    while endless {
        stream.write_all(&[b'x'; 16 * 1024]).await?;
        // Fast enough to never end, slow enough that the test machine is not the one that suffers.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Its own line names the honest node's id; nothing else is true either.
const HONEST: &str =
    "0123456789012345678901234567890123456789 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-16383\n";

fn honest(argv: &[String]) -> Option<String> {
    let info = "redis_version:7.2.4\r\nvalkey_version:9.1.2\r\nuptime_in_seconds:5\r\nserver_time_usec:1000\r\nloading:0\r\n\
                async_loading:0\r\nrole:master\r\nconnected_slaves:0\r\nmaster_repl_offset:0\r\n";
    match argv.join(" ").as_str() {
        "CLUSTER NODES" => Some(bulk(HONEST)),
        "CLUSTER INFO" => Some(bulk("cluster_state:ok\r\ncluster_my_epoch:1\r\ncluster_known_nodes:1\r\n")),
        "CLUSTER GETSLOTMIGRATIONS" => Some("*0\r\n".to_owned()),
        "ACL LIST" => Some(format!("*1\r\n{}", bulk("user default on nopass ~* &* +@all"))),
        text if text.starts_with("INFO") && text.contains("replication") => Some(bulk(info)),
        text if text.starts_with("ACL GETUSER") => Some("_\r\n".to_owned()),
        _ => None,
    }
}

#[tokio::test]
async fn a_node_that_lies_costs_its_own_time_and_nobody_elses_report() {
    let lies: &[(&str, &[u8], bool)] = &[
        ("a text without end", b"$9223372036854775807\r\n", true),
        ("a line without end", b"+", true),
        ("a list of everything", b"*9223372036854775807\r\n", true),
        ("a length that is no number", b"$-99\r\nx\r\n", false),
        ("a number that does not fit", b":99999999999999999999999\r\n", false),
        ("no protocol at all", b"\0\xff\xfeHTTP/1.1 200 OK\r\n\r\n", false),
        ("silence", b"", false),
        ("no node of its own", b"$3\r\nabc\r\n", false),
    ];
    let good = TinyServer::start(honest).await;
    for (what, answer, endless) in lies {
        let bad = liar(answer, *endless).await;
        let probe = |uid: &str, addr| Probe { uid: PodUid::new(uid), addr, silent: false };
        let bounds = Bounds {
            connect: Duration::from_millis(300),
            reply: Duration::from_millis(300),
            ..Bounds::default()
        };
        let began = Instant::now();
        let seen = observe_nodes(
            &[probe("bad", bad), probe("good", good.addr)],
            &[],
            &access(),
            &FredConnector,
            &bounds,
        )
        .await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{what}: the look took {took:?}");
        assert!(
            matches!(seen[&PodUid::new("bad")], Seen::Silent(_)),
            "{what}: {:?}",
            seen[&PodUid::new("bad")]
        );
        let report = seen[&PodUid::new("good")].now();
        assert_eq!(report.map(|r| r.slots().len()), Some(16384), "{what}: {:?}", seen[&PodUid::new("good")]);
    }
}
