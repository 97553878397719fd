//! A tiny server that speaks just enough RESP for the client library, and real servers where the environment
//! names them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Access, Limits};

/// What a tiny server does with a command: the raw bytes of an answer, or nothing at all for ever.
pub(crate) type Script = dyn Fn(&[String]) -> Option<String> + Send + Sync;

/// A server on a loopback port of its own; it and its connections end when it is dropped.
pub(crate) struct TinyServer {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
    open: watch::Receiver<usize>,
}

impl Drop for TinyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TinyServer {
    /// Answers as `script` says; greetings and `PING` are answered for it.
    pub(crate) async fn start(script: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(crate) async fn start_at(
        addr: SocketAddr,
        script: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (count, open) = watch::channel(0);
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => {
                        count.send_modify(|n| *n += 1);
                        connections.spawn(serve(stream, Arc::clone(&script)));
                    }
                    Some(_) = connections.join_next() => count.send_modify(|n| *n -= 1),
                }
            }
        });
        Self { addr, task, open }
    }

    /// Waits until so many connections are open.
    pub(crate) async fn until_open(&mut self, wanted: usize) {
        let wait = self.open.wait_for(|n| *n == wanted);
        tokio::time::timeout(Duration::from_secs(5), wait)
            .await
            .unwrap_or_else(|_| panic!("not {wanted} connections within 5 s"))
            .unwrap();
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    while let Some(argv) = command(&mut read).await {
        let answer = script(&argv).or_else(|| greeting(&argv));
        match answer {
            Some(text) if text == CLOSE => return,
            Some(text) if text == SILENCE => {
                let _ = read.read_to_end(&mut Vec::new()).await;
                return;
            }
            Some(text) => write.write_all(text.as_bytes()).await.unwrap_or(()),
            None => write.write_all(b"-ERR unknown command\r\n").await.unwrap_or(()),
        }
    }
}

/// A script's answer that closes the connection.
pub(crate) const CLOSE: &str = "close";
/// A script's answer that never comes.
pub(crate) const SILENCE: &str = "silence";

fn greeting(argv: &[String]) -> Option<String> {
    match argv[0].to_ascii_uppercase().as_str() {
        "HELLO" => Some("%2\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$5\r\nproto\r\n:3\r\n".to_owned()),
        "CLIENT" => Some(":7\r\n".to_owned()),
        "INFO" => Some(bulk("# Server\r\nredis_version:7.2.4\r\n")),
        "PING" => Some("+PONG\r\n".to_owned()),
        _ => None,
    }
}

/// A text as a bulk string.
pub(crate) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

async fn command(read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<Vec<String>> {
    let first = line(read).await?;
    let Some(count) = first.strip_prefix('*') else {
        // fred greets in one plain line: `HELLO 3 AUTH user password`.
        return Some(first.split_whitespace().map(str::to_owned).collect());
    };
    let mut argv = Vec::new();
    for _ in 0..count.parse().unwrap() {
        let len: usize = line(read).await?.strip_prefix('$').unwrap().parse().unwrap();
        let mut bytes = vec![0; len + 2];
        read.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(len);
        argv.push(String::from_utf8(bytes).unwrap());
    }
    Some(argv)
}

async fn line(read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<String> {
    let mut line = String::new();
    read.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    Some(line.trim_end().to_owned())
}

/// Access without credentials and with short limits.
pub(crate) fn access() -> Access {
    let limits = Limits {
        connect: Duration::from_millis(300),
        reply: Duration::from_millis(300),
        long_reply: Duration::from_millis(900),
    };
    Access { limits, ..Access::default() }
}

/// Answers by command line, everything else as a greeting.
pub(crate) fn answers(
    pairs: &[(&str, &str)],
) -> impl Fn(&[String]) -> Option<String> + Send + Sync + 'static {
    let map: BTreeMap<String, String> =
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |argv| map.get(&argv.join(" ")).cloned()
}

/// Names the variable that lists `valkey-server` programs, separated by colons, for tests on real processes.
pub(crate) const SERVERS: &str = "VALKEY_SERVERS";

/// The servers to test on. Tests that need them are ignored unless asked for, so that none passes without a server.
pub(crate) fn real_programs() -> Vec<String> {
    let list =
        std::env::var(SERVERS).unwrap_or_else(|_| panic!("{SERVERS} must list valkey-server programs"));
    list.split(':').map(str::to_owned).collect()
}

/// A real server on a loopback address of its own, configured as the operator's Pods are: it dies with this value.
pub(crate) struct RealServer {
    pub(crate) ip: std::net::IpAddr,
    process: tokio::process::Child,
    dir: std::path::PathBuf,
}

/// Its ports: every server has its own address.
pub(crate) const REAL_PORTS: super::Ports = super::Ports { client: 7000, bus: 17000 };

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl RealServer {
    /// Starts `program` at the address `127.<of this process>.<group>.<index>`.
    pub(crate) fn start(
        program: &str,
        group: u8,
        index: u8,
        credentials: &crate::build::Credentials,
    ) -> Self {
        let second = u8::try_from(std::process::id() % 200).unwrap() + 20;
        let ip = std::net::IpAddr::from([127, second, group, index]);
        let dir = std::env::temp_dir().join(format!("valkey-{ip}"));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in credentials.data(true) {
            std::fs::write(dir.join(name), bytes.0).unwrap();
        }
        let at = ip.to_string();
        let port = REAL_PORTS.client.to_string();
        let process = tokio::process::Command::new(program)
            .args(["--port", &port, "--bind", &at, "--bind-source-addr", &at, "--cluster-announce-ip", &at])
            .args([
                "--cluster-enabled",
                "yes",
                "--cluster-config-file",
                "nodes.conf",
                "--cluster-node-timeout",
                "2000",
            ])
            .args(["--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"])
            .args(["--protected-mode", "no", "--save", "", "--repl-diskless-sync-delay", "0"])
            .args(["--aclfile", "users.acl", "--include", "primary.conf", "--dir", &dir.to_string_lossy()])
            .current_dir(&dir)
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        Self { ip, process, dir }
    }

    /// Whether nobody has ended it.
    pub(crate) fn runs(&self) -> bool {
        self.process.id().is_some()
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Where clients reach it.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, REAL_PORTS.client)
    }
}
