//! A cluster that serves is switched from plain text to TLS and back, on real servers of every version: nobody fails over, replicas go on by
//! a partial sync, an operator that dies half way does no harm, and nothing goes on in plain text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{THREE, alone, roots, until};
use e2e::processes::Processes;
use e2e::resp::{Access as Client, Connection};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use valkey_cluster_operator::model::Mode;
use valkey_cluster_operator::model::wire::CLIENT_PORT;
use valkey_cluster_operator::valkey::{Access, Connector, FredConnector, Node, Tls, Ways, commands};

const LIMIT: Duration = Duration::from_secs(2);
/// An operator that died half way is followed by another within this time, and more.
const HALF_WAY: Duration = Duration::from_secs(8);

/// A CA and a certificate of it in files, as settings, and the operator's side of it.
fn certificates(dir: &Path) -> (String, Tls) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["valkey".to_owned()]).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "valkey");
    let leaf = leaf.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    let mut lines = "tls-auth-clients optional\ncluster-announce-bus-port 17000\n".to_owned();
    for (setting, file, text) in [
        ("tls-ca-cert-file", "ca.crt", ca.pem()),
        ("tls-cert-file", "tls.crt", leaf.pem()),
        ("tls-key-file", "tls.key", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
        let _ = writeln!(lines, "{setting} {}", dir.join(file).display());
    }
    let (authorities, leaves) = ([ca.der().clone()], [leaf.der().clone()]);
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (lines, Tls::new(&authorities, &leaves, &["valkey".to_owned()], (&leaves, &private)).unwrap())
}

struct World {
    ips: Vec<IpAddr>,
    access: Access,
}

impl World {
    fn at(&self, i: usize) -> SocketAddr {
        SocketAddr::new(self.ips[i], CLIENT_PORT)
    }

    /// As the operator speaks to members that can speak TLS, whatever they speak now.
    async fn node(&self, i: usize) -> Box<dyn Node> {
        FredConnector.connect(self.at(i), &self.access).await.unwrap()
    }

    async fn switch(&self, which: &[usize], to: Mode) {
        let mut nodes = Vec::new();
        for i in which {
            nodes.push(self.node(*i).await);
        }
        for told in
            futures::future::join_all(nodes.iter().map(|node| commands::switch(node.as_ref(), to))).await
        {
            told.unwrap();
        }
    }

    /// Who leads, and who has copied how: a full sync or a failover would show.
    async fn history(&self) -> (Vec<BTreeSet<String>>, usize) {
        let (mut owners, mut full) = (Vec::new(), 0);
        for i in 0..self.ips.len() {
            let node = self.node(i).await;
            let lines = commands::cluster_nodes(node.as_ref()).await.unwrap();
            let owns = lines.iter().filter(|n| n.primary.is_none() && !n.slots.is_empty());
            owners.push(owns.map(|n| n.id.to_string()).collect());
            let info = commands::info(node.as_ref(), &["stats"]).await.unwrap();
            full += info.number::<usize>("sync_full").unwrap();
        }
        (owners, full)
    }

    async fn state_is_ok(&self) -> bool {
        for i in 0..self.ips.len() {
            if !commands::cluster_info(self.node(i).await.as_ref()).await.unwrap().ok {
                return false;
            }
        }
        true
    }

    /// Everybody hears everybody, every copy follows, and each tells clients the one port.
    async fn is_whole(&self) -> bool {
        for i in 0..self.ips.len() {
            let node = self.node(i).await;
            let lines = commands::cluster_nodes(node.as_ref()).await.unwrap();
            let info = node.call(&["INFO", "replication"]).await.unwrap();
            let linked = !info.text().unwrap().contains("master_link_status:down");
            if !linked || !lines.iter().all(|n| n.connected) {
                return false;
            }
        }
        self.state_is_ok().await
    }
}

async fn plain(at: SocketAddr) -> Option<Connection> {
    let mut open = Connection::open(&Client::default(), at, LIMIT).await.ok()?;
    let answer = open.call(&["PING"], LIMIT).await.ok()?;
    answer.error().is_none().then_some(open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_switched_to_tls_and_back() {
    let _alone = alone().await;
    for root in roots() {
        let dir = std::env::temp_dir().join(format!("valkey-switch-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&dir).unwrap();
        let (lines, tls) = certificates(&dir);
        let servers = Processes::cluster(root, THREE, &lines).await.unwrap();
        let ips: Vec<IpAddr> = servers.addrs().iter().map(SocketAddr::ip).collect();
        // They begin at a port of the tests': the first switch brings them to where Pods are.
        for addr in servers.addrs() {
            let node = FredConnector.connect(addr, &Access::default()).await.unwrap();
            commands::switch(node.as_ref(), Mode::Plain).await.unwrap();
        }
        let aside: BTreeMap<IpAddr, bool> = ips.iter().map(|ip| (*ip, true)).collect();
        let access = Access { tls: Some(tls), ways: Ways { aside, ..Ways::default() }, ..Access::default() };
        let w = World { ips, access };
        let all: Vec<usize> = (0..w.ips.len()).collect();
        until("the cluster to be whole in plain text", async || w.is_whole().await).await;
        let before = w.history().await;

        let mut client = plain(w.at(0)).await.expect("plain text is spoken");
        w.switch(&all[..3], Mode::Tls).await;
        assert!(
            client.call(&["PING"], LIMIT).await.is_err(),
            "{}: a client in plain text stays",
            root.version
        );
        let began = Instant::now();
        while began.elapsed() < HALF_WAY {
            assert!(
                w.state_is_ok().await,
                "{}: half way, a node says that the cluster is down",
                root.version
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(w.history().await.0, before.0, "{}: half way, roles have changed", root.version);
        let began = Instant::now();
        w.switch(&all, Mode::Tls).await;
        until("the cluster to be whole by TLS", async || w.is_whole().await).await;
        println!("Valkey {}: whole by TLS after {:?}", root.version, began.elapsed());
        for i in &all {
            assert!(plain(w.at(*i)).await.is_none(), "{}: plain text is answered", root.version);
            let node = w.node(*i).await;
            until("clients to be told the port", async || {
                let lines = commands::cluster_nodes(node.as_ref()).await.unwrap();
                lines.iter().all(|line| line.port == CLIENT_PORT)
            })
            .await;
        }
        assert_eq!(w.history().await, before, "{}: a failover or a full sync", root.version);

        w.switch(&all, Mode::Plain).await;
        until("the cluster to be whole in plain text again", async || w.is_whole().await).await;
        assert!(plain(w.at(0)).await.is_some(), "{}: plain text is spoken again", root.version);
        assert_eq!(w.history().await, before, "{}: a failover or a full sync", root.version);
        drop(servers);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
