//! Decides how programs outside reach the sandbox: a relay from 127.0.0.1 to the API server, and single connections
//! to any pod.
//!
//! May open sockets on 127.0.0.1 and inside the sandbox's control plane.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::address::API;
use super::instance::{Instance, Machine, Shape};
use super::wait::wait_for;
use super::{machine, network, procfs};

/// The relay's part of the mark.
pub(super) const PART: &str = "relay";
/// A started relay listens after that.
const START: Duration = Duration::from_secs(10);

/// Starts the relay unless it runs and is inside the present network.
///
/// # Errors
/// If it does not listen in time.
pub(super) fn ensure(instance: &Instance, shape: &Shape) -> Result<()> {
    if is_running(instance) {
        return Ok(());
    }
    stop(instance)?;
    let log = instance.dir().join("log/relay.log");
    let mut command = Command::new("setsid");
    command.arg(machine::own_program()?).args(["--name", instance.name(), "relay"]);
    machine::detached(&mut command, instance, PART, &log)?;
    wait_for("the relay to listen", START, || {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, shape.port))
            .map(drop)
            .with_context(|| format!("port {} on 127.0.0.1: see {}", shape.port, log.display()))
    })
}

/// Whether a relay runs that is inside the present network.
pub(super) fn is_running(instance: &Instance) -> bool {
    let Some(netns) = procfs::identity(&instance.netns_path(Machine::Control)) else { return false };
    let inside = |pid| procfs::identity(std::path::Path::new(&format!("/proc/{pid}/ns/net"))) == Some(netns);
    procfs::marked(&instance.mark(PART)).iter().any(|process| inside(process.pid))
}

/// Ends the relay.
///
/// # Errors
/// If it outlives SIGKILL.
pub(super) fn stop(instance: &Instance) -> Result<()> {
    let find = || procfs::marked(&instance.mark(PART)).into_iter().map(|process| process.pid).collect();
    procfs::kill_all("the relay", START, find).map(drop)
}

/// A port on 127.0.0.1 that is free at this moment.
///
/// # Errors
/// If there is none.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Passes on connections for ever. The listening socket is made outside and the connections inside: a socket
/// belongs to the network in which its thread was when it was made.
///
/// # Errors
/// If it cannot listen or cannot enter the control plane's network.
pub(super) fn run(instance: &Instance) -> Result<()> {
    let shape = instance.shape()?.context("there is no sandbox to relay to")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, shape.port)).context("cannot listen")?;
    listener.set_nonblocking(true)?;
    network::enter(&instance.netns_path(Machine::Control))?;
    // One thread for everything: others would not be inside.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut outside, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A refused or broken connection shows itself to the client as its own connection's end.
                let Ok(mut inside) = tokio::net::TcpStream::connect(SocketAddr::V4(API)).await else {
                    return;
                };
                let _ = outside.set_nodelay(true);
                let _ = inside.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    })
}

/// Opens a connection from inside the control plane, whence every pod can be reached.
///
/// # Errors
/// If the address does not answer within `limit`.
pub(super) fn connect(
    instance: &Instance,
    address: SocketAddr,
    limit: Duration,
) -> Result<std::net::TcpStream> {
    let open = || std::net::TcpStream::connect_timeout(&address, limit);
    let stream = network::on_thread_inside(instance, Machine::Control, open)?;
    stream.with_context(|| format!("cannot connect to {address} from inside the sandbox"))
}
