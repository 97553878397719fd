//! Nodes that lie: they must not stall, mislead or end the look at the others.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::tests::recorded_server;
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
    if !endless {
        return Ok(());
    }
    loop {
        stream.write_all(&[b'x'; 16 * 1024]).await?;
        // Fast enough to never end, slow enough that the test machine is not the one that suffers.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Fifty thousand lists, each within the one before, without an end and with one: half of what there is room for.
static NESTED: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let lists = b"*1\r\n".repeat(50_000);
    [lists.clone(), [lists, b":1\r\n".to_vec()].concat()]
});

#[test]
fn lists_within_lists_do_not_end_the_process() {
    // What a runtime still holds when it ends is dropped by who ends it, list by list: that needs the room, too.
    let room = std::thread::Builder::new().stack_size(crate::valkey::STACK);
    room.spawn(nested_lists_are_read).unwrap().join().unwrap();
}

fn nested_lists_are_read() {
    // As in `main`: on as many threads, with a stack for it. While one reads them, the others go on.
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .thread_stack_size(crate::valkey::STACK)
        .enable_all()
        .build()
        .unwrap();
    let lies: Vec<Lie> =
        NESTED.iter().map(|nested| ("lists within lists", nested.as_slice(), false)).collect();
    threads
        .block_on(threads.spawn(async move { cost_their_own_time(&lies, Duration::from_secs(2)).await }))
        .unwrap();
}

#[tokio::test]
async fn a_node_that_lies_costs_its_own_time_and_nobody_elses_report() {
    let lies: &[Lie] = &[
        ("a text without end", b"$9223372036854775807\r\n", true),
        ("a line without end", b"+", true),
        ("a list of everything", b"*9223372036854775807\r\n", true),
        ("a length that is no number", b"$-99\r\nx\r\n", false),
        ("a number that does not fit", b":99999999999999999999999\r\n", false),
        ("no protocol at all", b"\0\xff\xfeHTTP/1.1 200 OK\r\n\r\n", false),
        ("silence", b"", false),
        ("no node of its own", b"$3\r\nabc\r\n", false),
    ];
    cost_their_own_time(lies, Duration::from_millis(300)).await;
}

/// What it is, the answer, and whether it goes on for ever.
type Lie = (&'static str, &'static [u8], bool);

async fn cost_their_own_time(lies: &[Lie], limit: Duration) {
    let honest = recorded_server("9.1", "nodes-formed", "cluster-info-formed", "info-primary");
    let good = TinyServer::start(honest).await;
    for (what, answer, endless) in lies {
        let bad = liar(answer, *endless).await;
        let probe = |uid: &str, addr| Probe { uid: PodUid::new(uid), addr, silent: false };
        let bounds = Bounds { connect: limit, reply: limit, ..Bounds::default() };
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
        assert!(took < limit * 10, "{what}: the look took {took:?}");
        assert!(
            matches!(seen[&PodUid::new("bad")], Seen::Silent(_)),
            "{what}: {:?}",
            seen[&PodUid::new("bad")]
        );
        let report = seen[&PodUid::new("good")].now();
        assert_eq!(report.map(|r| r.slots().len()), Some(5461), "{what}: {:?}", seen[&PodUid::new("good")]);
    }
}

/// What is changed in the honest list of a server, which owns 0-5460, and what it then seems to be: whether its id is its own, its
/// slots, its epoch, and how many others it has failed.
type WellFormed = (&'static str, &'static [(&'static str, &'static str)], (bool, &'static str, u64, usize));

#[tokio::test]
async fn a_lie_in_good_form_is_the_report_of_the_liar_and_changes_nobody_elses() {
    const LIES: &[WellFormed] = &[
        ("the truth", &[], (true, "0-5460", 1, 0)),
        (
            "another's id",
            &[
                ("myself,master", "master"),
                ("127.91.0.2:7000@17000 master", "127.91.0.2:7000@17000 myself,master"),
            ],
            (false, "5461-10922", 1, 0),
        ),
        (
            "the slots of all others at a high epoch",
            &[("0 0 1 connected 0-5460", "0 0 99 connected 0-16383"), ("my_epoch:1", "my_epoch:99")],
            (true, "0-16383", 99, 0),
        ),
        ("failed primaries that are well", &[(" master -", " master,fail -")], (true, "0-5460", 1, 2)),
    ];
    let told = |what: &str| crate::valkey::parse::testdata::recorded("9.1", what);
    let honest = || recorded_server("9.1", "nodes-formed", "cluster-info-formed", "info-primary");
    let good = TinyServer::start(honest()).await;
    let (of_good, of_bad) = (PodUid::new("good"), PodUid::new("bad"));
    let probe = |uid: &PodUid, addr| Probe { uid: uid.clone(), addr, silent: false };
    let look = async |probes: &[Probe]| {
        observe_nodes(probes, &[], &access(), &FredConnector, &Bounds::default()).await
    };
    let alone = look(&[probe(&of_good, good.addr)]).await.remove(&of_good);
    let own = alone.as_ref().and_then(Seen::now).unwrap().id.clone();
    for (what, changes, (is_own, slots, epoch, failed)) in LIES {
        let lie = |what| changes.iter().fold(told(what), |text, (from, to)| text.replace(from, to));
        let (nodes, info) = (lie("nodes-formed"), lie("cluster-info-formed"));
        let rest = honest();
        let bad = TinyServer::start(move |argv| match argv.join(" ").as_str() {
            "CLUSTER NODES" => Some(bulk(&nodes)),
            "CLUSTER INFO" => Some(bulk(&info)),
            _ => rest(argv),
        })
        .await;
        let mut seen = look(&[probe(&of_bad, bad.addr), probe(&of_good, good.addr)]).await;
        assert_eq!(seen.remove(&of_good), alone, "{what}");
        let seen = seen.remove(&of_bad);
        let report = seen.as_ref().and_then(Seen::now).unwrap();
        assert_eq!(
            (report.id == own, report.slots().to_string().as_str(), report.epoch),
            (*is_own, *slots, *epoch),
            "{what}"
        );
        assert_eq!(report.peers.values().filter(|p| p.failed).count(), *failed, "{what}");
    }
}
