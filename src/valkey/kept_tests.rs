//! Kept connections against tiny servers, in real time: sockets do not wait for a paused clock.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::valkey::FredConnector;
use crate::valkey::testing::{SILENCE, TinyServer, access};

/// A server that counts greetings: one a connection.
async fn counted() -> (TinyServer, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let server = TinyServer::start(move |argv| {
        if argv.first().is_some_and(|w| w.eq_ignore_ascii_case("HELLO")) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        (argv.first().is_some_and(|w| w == "STUCK")).then(|| SILENCE.to_owned())
    })
    .await;
    (server, opened)
}

async fn ask(kept: &Kept, addr: SocketAddr, access: &Access, word: &str) -> Result<Reply, WireError> {
    kept.over(&FredConnector).connect(addr, access).await?.call(&[word]).await
}

#[tokio::test]
async fn a_connection_without_a_fault_is_used_again() {
    let (server, opened) = counted().await;
    let kept = Kept::default();
    for _ in 0..3 {
        ask(&kept, server.addr, &access(), "PING").await.unwrap();
        assert_eq!((kept.len(), opened.load(Ordering::Relaxed)), (1, 1));
    }
    // An error in words is an answer.
    ask(&kept, server.addr, &access(), "WHAT").await.unwrap_err();
    assert_eq!(kept.len(), 1);
    // Two at one time are two, and both stay for the next two.
    let keeping = kept.over(&FredConnector);
    let access = access();
    let first = keeping.connect(server.addr, &access).await.unwrap();
    let second = keeping.connect(server.addr, &access).await.unwrap();
    assert!(first.call(&["PING"]).await.is_ok() && second.call(&["PING"]).await.is_ok());
    drop((first, second));
    assert_eq!((kept.len(), opened.load(Ordering::Relaxed)), (2, 2));
    ask(&kept, server.addr, &access, "PING").await.unwrap();
    assert_eq!((kept.len(), opened.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test]
async fn other_credentials_and_other_pods_drop_it() {
    let (mut server, opened) = counted().await;
    let kept = Kept::default();
    ask(&kept, server.addr, &access(), "PING").await.unwrap();
    let patient = Access {
        limits: Limits { connect: std::time::Duration::from_secs(9), ..access().limits },
        ..access()
    };
    ask(&kept, server.addr, &patient, "PING").await.unwrap();
    assert_eq!(
        opened.load(Ordering::Relaxed),
        1,
        "how long a connection may take is no matter of one that is open"
    );
    let former = Access { former: Some("before".to_owned()), ..access() };
    ask(&kept, server.addr, &former, "PING").await.unwrap();
    assert_eq!((kept.len(), opened.load(Ordering::Relaxed)), (1, 2));
    server.until_open(1).await;
    kept.only(&BTreeSet::from([server.addr]));
    assert_eq!(kept.len(), 1);
    kept.only(&BTreeSet::new());
    assert!(kept.is_empty());
    server.until_open(0).await;
}

#[tokio::test]
async fn one_that_failed_or_was_closed_is_not_kept() {
    let (mut server, opened) = counted().await;
    let kept = Kept::default();
    assert_eq!(ask(&kept, server.addr, &access(), "STUCK").await, Err(WireError::Timeout));
    assert!(kept.is_empty());
    ask(&kept, server.addr, &access(), "PING").await.unwrap();
    assert_eq!((kept.len(), opened.load(Ordering::Relaxed)), (1, 2));
    server.until_open(1).await;
    let addr = server.addr;
    drop(server);
    let answer = tokio::time::timeout(std::time::Duration::from_secs(5), async {
        loop {
            match ask(&kept, addr, &access(), "PING").await {
                // It was taken a moment before its end was known.
                Err(WireError::Reset) | Ok(_) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    });
    assert_eq!(answer.await.unwrap(), Err(WireError::Refused));
    assert!(kept.is_empty());
}
