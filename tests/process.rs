//! The operator's binary as a process: what it says when it cannot start, and that it lives on without an API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A process that is ended with its test.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valkey-cluster-operator"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A port of this host that nobody listens on just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < within, "no {what} within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A kubeconfig for an API server where nobody listens.
fn kubeconfig(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("valkey-cluster-operator-{name}-{}", std::process::id()));
    let port = free_port();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{{name: x, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
         contexts: [{{name: x, context: {{cluster: x, user: x}}}}]\nusers: [{{name: x, user: {{}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn ended(operator: &mut Operator, within: Duration) -> ExitStatus {
    wait_for("end of the process", within, || operator.0.try_wait().unwrap())
}

fn said(operator: &mut Operator) -> String {
    let mut text = String::new();
    operator.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_version_and_the_help_say_what_there_is() {
    let version = command().arg("--version").output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        format!("valkey-cluster-operator {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    for flag in [
        "--namespaces",
        "--log-format",
        "--log-level",
        "--concurrency",
        "--api-qps",
        "--listen",
        "--lease-name",
        "--lease-namespace",
        "--identity",
        "--no-lease",
        "[env: VALKEY_OPERATOR_NAMESPACES=",
    ] {
        assert!(help.contains(flag), "{flag} is not in\n{help}");
    }
}

#[test]
fn a_wrong_command_line_and_a_missing_api_server_are_refused_with_a_sentence() {
    let refused = command().args(["--log-level", "loud,x=y"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("write error, warn, info"), "{refused:?}");

    let refused = command().args(["--listen", "127.0.0.1:0"]).env("KUBECONFIG", "/nowhere").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("no API server is configured") && text.contains("set KUBECONFIG"), "{text}");
}

#[test]
fn without_an_api_server_it_lives_is_not_ready_and_stops_in_order() {
    let config = kubeconfig("unreachable");
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let child = command()
        .env("KUBECONFIG", &config)
        .args(["--listen", &address.to_string(), "--identity", "me"])
        .spawn();
    let mut operator = Operator(child.unwrap());
    let answer = wait_for("answer of /livez", Duration::from_secs(20), || get(address, "/livez"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Longer than a connection to nowhere takes to be refused, several times over.
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        operator.0.try_wait().unwrap().is_none(),
        "an API server that cannot be reached is no reason to end"
    );
    assert!(get(address, "/readyz").unwrap().starts_with("HTTP/1.1 503"));
    let metrics = get(address, "/metrics").unwrap();
    assert!(
        metrics.contains("\nvalkey_operator_leader 0\n") && metrics.contains("\nprocess_open_fds "),
        "{metrics}"
    );

    let pid = operator.0.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status().unwrap().success());
    let status = ended(&mut operator, Duration::from_secs(10));
    std::fs::remove_file(config).unwrap();
    let text = said(&mut operator);
    assert_eq!(status.code(), Some(0), "{text}");
    for line in text.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "one JSON object a line: {line}");
    }
    assert!(
        text.contains("the lease could not be read or renewed") && text.contains("\"stopped\""),
        "{text}"
    );
}
