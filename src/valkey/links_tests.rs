//! Links against tiny servers, in real time: sockets do not wait for a paused clock.

use std::time::Duration;

use super::*;
use crate::valkey::testing::{SILENCE, TinyServer, access};
use crate::valkey::{FredConnector, WireError};

type Events = mpsc::UnboundedReceiver<Event<&'static str, u8>>;

fn links() -> (Links<&'static str, u8>, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let settings = LinkSettings {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
        ..LinkSettings::default()
    };
    (Links::new(Arc::new(FredConnector), settings, sender), events)
}

async fn next(events: &mut Events) -> Event<&'static str, u8> {
    tokio::time::timeout(Duration::from_secs(5), events.recv()).await.expect("an event within 5 s").unwrap()
}

#[tokio::test]
async fn the_end_of_a_process_is_known_within_milliseconds_and_its_return_too() {
    let (links, mut events) = links();
    let server = TinyServer::start(|_| None).await;
    let addr = server.addr;
    links.keep(&"a", &[(1, addr)], &access());
    let up = next(&mut events).await;
    assert_eq!((up.cluster, up.member, up.change), ("a", 1, Change::Up));
    assert!(links.is_up(&"a", &1));
    let (lost_here, lost_elsewhere) = (links.lost_since(&"a"), links.lost_since(&"b"));
    assert!(!lost_here());

    let ended = Instant::now();
    drop(server);
    let lost = next(&mut events).await;
    assert_eq!(lost.change, Change::Lost(WireError::Reset));
    assert!(lost.at - ended < Duration::from_millis(50), "{:?}", lost.at - ended);
    let counts = links.counts();
    assert_eq!((counts.wanted, counts.up, counts.lost), (1, 0, BTreeMap::from([("Reset", 1)])));
    assert!(lost_here() && !lost_elsewhere() && !links.lost_since(&"a")());

    let _again = TinyServer::start_at(addr, |_| None).await;
    assert_eq!(next(&mut events).await.change, Change::Up);
    assert_eq!(links.counts().up, 1);
}

#[tokio::test]
async fn a_node_that_stops_answering_is_lost_after_the_time_out() {
    let (links, mut events) = links();
    let mute = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let script = {
        let mute = Arc::clone(&mute);
        move |argv: &[String]| {
            let stuck = argv[0] == "PING" && mute.load(std::sync::atomic::Ordering::SeqCst);
            stuck.then(|| SILENCE.to_owned())
        }
    };
    let server = TinyServer::start(script).await;
    links.keep(&"a", &[(1, server.addr)], &access());
    assert_eq!(next(&mut events).await.change, Change::Up);
    mute.store(true, std::sync::atomic::Ordering::SeqCst);
    let stuck = Instant::now();
    let lost = next(&mut events).await;
    assert_eq!(lost.change, Change::Lost(WireError::Timeout));
    let after = lost.at - stuck;
    assert!(after >= Duration::from_millis(150) && after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test]
async fn a_server_that_is_loading_is_there() {
    let (links, mut events) = links();
    let loading = |argv: &[String]| (argv[0] == "PING").then(|| "-LOADING wait\r\n".to_owned());
    let server = TinyServer::start(loading).await;
    links.keep(&"a", &[(1, server.addr)], &access());
    assert_eq!(next(&mut events).await.change, Change::Up);
    // Several intervals.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(links.is_up(&"a", &1) && events.try_recv().is_err());
}

#[tokio::test]
async fn wanted_links_are_kept_untouched_and_others_closed() {
    let (links, mut events) = links();
    let (mut one, mut two) = (TinyServer::start(|_| None).await, TinyServer::start(|_| None).await);
    links.keep(&"a", &[(1, one.addr), (2, two.addr)], &access());
    links.keep(&"b", &[(1, two.addr)], &access());
    for _ in 0..3 {
        assert_eq!(next(&mut events).await.change, Change::Up);
    }
    links.keep(&"a", &[(1, one.addr)], &access());
    two.until_open(1).await;
    one.until_open(1).await;
    assert!(links.is_up(&"a", &1) && !links.is_up(&"a", &2));

    // The same member at another address, and other credentials, are new links.
    links.keep(&"a", &[(1, two.addr)], &access());
    assert_eq!(next(&mut events).await.member, 1);
    one.until_open(0).await;
    let other = Access { password: Some("new".to_owned()), ..access() };
    links.keep(&"a", &[(1, two.addr)], &other);
    assert_eq!(next(&mut events).await.change, Change::Up);

    links.forget(&"a");
    links.keep(&"b", &[], &access());
    two.until_open(0).await;
    assert_eq!(links.counts().wanted, 0);
    assert!(events.try_recv().is_err(), "a link that is dropped on purpose is not a loss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_slow_node_among_others_is_told_and_where_all_are_slow_none_is() {
    let (sender, mut events) = mpsc::unbounded_channel();
    let (interval, slow) = (Duration::from_millis(20), Duration::from_millis(100));
    let settings = LinkSettings { interval, slow, ..LinkSettings::default() };
    let links = Links::new(Arc::new(FredConnector), settings, sender);
    let late = |argv: &[String]| {
        if argv[0] == "PING" {
            std::thread::sleep(Duration::from_millis(150));
        }
        None
    };
    let servers = [TinyServer::start(late).await, TinyServer::start(|_| None).await];
    let third = TinyServer::start(|_| None).await;
    links.keep(&"a", &[(1, servers[0].addr), (2, servers[1].addr), (3, third.addr)], &access());
    for _ in 0..3 {
        assert_eq!(next(&mut events).await.change, Change::Up);
    }
    let told = next(&mut events).await;
    assert_eq!((told.member, told.change), (1, Change::Slow(true)));
    assert_eq!(links.slow(&"a"), BTreeSet::from([1]));
    assert!(links.is_up(&"a", &1), "it answers");
    links.keep(&"a", &[(1, servers[0].addr), (2, servers[1].addr)], &access());
    assert!(links.slow(&"a").is_empty(), "half of them");
    assert!(links.slow(&"b").is_empty(), "there are none");
}
