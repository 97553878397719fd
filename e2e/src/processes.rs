//! Decides how real Valkey servers run without Kubernetes: each with a loopback address, an announced IP and a
//! directory of its own, so that it looks to the others like a pod.
//!
//! May start and end processes and write below one temporary directory; all of it is gone when [`Processes`] is
//! dropped (the directory stays after a panic, for its logs).

mod form;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::tail;
use crate::debs::ValkeyRoot;

/// The client port of every node; its bus is 10,000 above.
pub const PORT: u16 = 7000;
/// Blocks 127.0.1 to 127.0.200: one for each [`Processes`] that runs at the same time on this machine.
const BLOCKS: std::ops::RangeInclusive<u8> = 1..=200;
/// The address of a block on which its owner holds a port, so that no other process takes the block.
const GUARD: (u8, u16) = (254, 6999);
/// How long a server has to answer its first PING: 10 ms on an idle machine.
const START: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What every node of a [`Processes`] is started with, beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Lines of valkey.conf; they come last, so they win over the defaults.
    pub lines: String,
    /// The text of an ACL file.
    pub acl: Option<String>,
    /// Arguments after the configuration file; they win over it.
    pub args: Vec<String>,
}

impl Config {
    /// Only these lines.
    pub fn lines(lines: &str) -> Self {
        Self { lines: lines.to_owned(), ..Self::default() }
    }
}

/// Running Valkey servers, numbered from 0 in the order in which they were started.
#[derive(Debug)]
pub struct Processes {
    root: ValkeyRoot,
    config: Config,
    block: u8,
    /// Held for as long as the block is in use.
    _guard: TcpListener,
    dir: PathBuf,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    ip: Ipv4Addr,
    dir: PathBuf,
    child: Option<Child>,
}

impl Processes {
    /// Starts `count` servers and waits until each answers. They know nothing of each other.
    ///
    /// # Errors
    /// If one does not start: with the end of its log.
    pub fn start(root: &ValkeyRoot, count: usize, lines: &str) -> Result<Self> {
        Self::start_with(root, count, Config::lines(lines))
    }

    /// [`Processes::start`] with an ACL file and arguments too.
    ///
    /// # Errors
    /// If one does not start: with the end of its log.
    pub fn start_with(root: &ValkeyRoot, count: usize, config: Config) -> Result<Self> {
        let (block, guard) = claim_block()?;
        let dir = std::env::temp_dir().join(format!("valkey-processes-{:016x}", rand::random::<u64>()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let nodes = Vec::new();
        let mut this = Self { root: root.clone(), config, block, _guard: guard, dir, nodes };
        this.add(count)?;
        Ok(this)
    }

    /// Starts `count` more; returns the number of the first.
    ///
    /// # Errors
    /// If one does not start, or the block of addresses is full (253).
    pub fn add(&mut self, count: usize) -> Result<usize> {
        let first = self.nodes.len();
        for number in first..first + count {
            let last = u8::try_from(number + 1).ok().filter(|last| *last < GUARD.0);
            let last =
                last.with_context(|| format!("{} nodes are more than a block has addresses", number + 1))?;
            let ip = Ipv4Addr::new(127, 0, self.block, last);
            let dir = self.dir.join(number.to_string());
            self.nodes.push(Node { ip, dir, child: None });
            self.spawn(number)?;
        }
        (first..first + count).try_for_each(|number| self.wait_answering(number))?;
        Ok(first)
    }

    /// How many nodes there are, running or not.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The client address of node `number`.
    ///
    /// # Panics
    /// If there is no such node: a mistake in the test.
    pub fn addr(&self, number: usize) -> SocketAddr {
        SocketAddr::from((self.node(number).ip, PORT))
    }

    /// The client addresses of all nodes.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| SocketAddr::from((node.ip, PORT))).collect()
    }

    /// The process id of a node, if it runs.
    ///
    /// # Panics
    /// If there is no such node: a mistake in the test.
    pub fn pid(&self, number: usize) -> Option<u32> {
        self.node(number).child.as_ref().map(Child::id)
    }

    /// The directory of a node: nodes.conf, valkey.conf, log.
    ///
    /// # Panics
    /// If there is no such node: a mistake in the test.
    pub fn dir(&self, number: usize) -> &Path {
        &self.node(number).dir
    }

    /// A `valkey-cli` of the same version, to which the caller adds arguments.
    ///
    /// # Errors
    /// If the version has none.
    pub fn cli(&self) -> Result<Command> {
        self.root.command("valkey-cli")
    }

    /// Ends a node as a crash does (SIGKILL) and waits until it is gone: its port refuses from then on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.end(number, Signal::SIGKILL, GONE)
    }

    /// Asks a node to end (SIGTERM) and waits until it is gone, at most `limit`.
    ///
    /// # Errors
    /// If it does not run, or is not gone in time; it is killed then.
    pub fn terminate(&mut self, number: usize, limit: Duration) -> Result<()> {
        self.end(number, Signal::SIGTERM, limit)
    }

    /// Freezes a node (SIGSTOP): it holds its connections and answers nothing.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGSTOP)
    }

    /// Lets a frozen node go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    /// A new, empty server with a new id at the same address, as when a pod's IP is used again. Kills the old one if
    /// it still runs.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_empty(&mut self, number: usize) -> Result<()> {
        let dir = self.node_mut(number)?.dir.clone();
        self.restart(number, || fs::remove_dir_all(&dir).context("cannot empty the node's directory"))
    }

    /// The same id without its data, as when a process restarts in place and nodes.conf outlives it. Kills the old
    /// one if it still runs.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_keeping_id(&mut self, number: usize) -> Result<()> {
        self.restart(number, || Ok(()))
    }

    fn restart(&mut self, number: usize, between: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.node_mut(number)?.child.is_some() {
            self.kill(number)?;
        }
        between()?;
        self.spawn(number)?;
        self.wait_answering(number)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the number of a node that does not exist is a mistake in a test"
    )]
    fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    fn node_mut(&mut self, number: usize) -> Result<&mut Node> {
        let count = self.nodes.len();
        self.nodes.get_mut(number).with_context(|| format!("there is no node {number}, only {count} nodes"))
    }

    fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        let node = self.node_mut(number)?;
        let child = node.child.as_ref().with_context(|| format!("node {number} does not run"))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal).context("cannot signal the process")
    }

    fn end(&mut self, number: usize, signal: Signal, limit: Duration) -> Result<()> {
        self.signal(number, signal)?;
        let node = self.node_mut(number)?;
        let Some(mut child) = node.child.take() else { return Ok(()) };
        let deadline = Instant::now() + limit;
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                bail!("node {number} was not gone {limit:?} after {signal} and was killed");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn spawn(&mut self, number: usize) -> Result<()> {
        let mut command = self.root.command("valkey-server")?;
        let config = self.config.clone();
        let node = self.node_mut(number)?;
        fs::create_dir_all(&node.dir)?;
        let file = node.dir.join("valkey.conf");
        fs::write(&file, node.conf(&config)?)?;
        let log = fs::File::options().create(true).append(true).open(node.dir.join("log"))?;
        command.arg(file).args(&config.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        node.child = Some(command.spawn().context("cannot start valkey-server")?);
        Ok(())
    }

    fn wait_answering(&mut self, number: usize) -> Result<()> {
        let node = self.node_mut(number)?;
        let deadline = Instant::now() + START;
        while !answers(node.ip) {
            let ended = node.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() >= deadline {
                let log = fs::read_to_string(node.dir.join("log")).unwrap_or_default();
                let why =
                    ended.map_or_else(|| format!("no PONG within {START:?}"), |status| status.to_string());
                bail!("node {number} did not start ({why}):\n{}", tail(&log, 15).join("\n"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Node {
    /// The configuration of a node without a disk, as a pod has it, apart from the addresses.
    fn conf(&self, config: &Config) -> Result<String> {
        let Self { ip, dir, .. } = self;
        let mut text = format!(
            "bind {ip}\nport {PORT}\nbind-source-addr {ip}\nprotected-mode no\ndaemonize no\ndir {dir}\n\
             cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-announce-ip {ip}\n\
             cluster-node-timeout 2000\ncluster-require-full-coverage no\ncluster-allow-replica-migration no\n\
             save \"\"\nappendonly no\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n\
             repl-diskless-load on-empty-db\n",
            dir = dir.display()
        );
        if let Some(acl) = &config.acl {
            let file = dir.join("users.acl");
            fs::write(&file, acl)?;
            writeln!(text, "aclfile {}", file.display())?;
        }
        text.push_str(&config.lines);
        text.push('\n');
        Ok(text)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                // SIGKILL ends a frozen process too; one that has ended already is only waited for.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("the logs of the Valkey processes are in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A block of addresses that nobody on this machine uses. The bound guard port is the claim: it ends with the
/// process that holds it, however that ends.
fn claim_block() -> Result<(u8, TcpListener)> {
    for block in BLOCKS {
        let Ok(guard) = TcpListener::bind((Ipv4Addr::new(127, 0, block, GUARD.0), GUARD.1)) else { continue };
        // Left over from a run that was killed, or started by hand: the ten first addresses tell.
        let free = (1..=10).all(|last| TcpListener::bind((Ipv4Addr::new(127, 0, block, last), PORT)).is_ok());
        if free {
            return Ok((block, guard));
        }
    }
    bail!(
        "every block of loopback addresses from 127.0.1.0 to 127.0.200.0 is in use: end old valkey-server processes"
    )
}

/// Whether a server answers a PING at all; one that asks for a login answers too.
fn answers(ip: Ipv4Addr) -> bool {
    let ping = || -> std::io::Result<bool> {
        let limit = Duration::from_millis(500);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, PORT)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        Ok(&reply == b"+PONG" || &reply == b"-NOAU")
    };
    ping().unwrap_or(false)
}

/// The shape of a cluster to be formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Primaries: the first nodes.
    pub shards: usize,
    /// Replicas of each: the nodes after the primaries, shard by shard.
    pub replicas: usize,
}

impl Shape {
    /// How many nodes that is.
    pub fn nodes(self) -> usize {
        self.shards * (1 + self.replicas)
    }

    /// The number of the node that is the primary of the shard of node `number`.
    pub fn primary_of(self, number: usize) -> usize {
        if number < self.shards { number } else { (number - self.shards) / self.replicas.max(1) }
    }

    /// The number of a shard's replica `index`.
    pub fn replica(self, shard: usize, index: usize) -> usize {
        self.shards + shard * self.replicas + index
    }

    /// The slots of a shard, both ends inclusive.
    pub fn slots(self, shard: usize) -> (u16, u16) {
        let start = |shard: usize| shard * usize::from(crate::resp::SLOTS) / self.shards;
        let narrow = |slot: usize| u16::try_from(slot).unwrap_or(u16::MAX);
        (narrow(start(shard)), narrow(start(shard + 1) - 1))
    }
}

impl Processes {
    /// Starts a cluster of this shape and forms it by hand; returns when the truth check finds nothing wrong.
    ///
    /// # Errors
    /// If a node does not start or the cluster is not whole within 30 s.
    pub async fn cluster(root: &ValkeyRoot, shape: Shape, lines: &str) -> Result<Self> {
        ensure!(shape.shards > 0, "a cluster has at least one shard");
        let this = Self::start(root, shape.nodes(), lines)?;
        form::form(&this.addrs(), shape).await?;
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_numbers_primaries_first_and_shares_out_all_slots() {
        let shape = Shape { shards: 3, replicas: 2 };
        assert_eq!(shape.nodes(), 9);
        assert_eq!((0..9).map(|n| shape.primary_of(n)).collect::<Vec<_>>(), [0, 1, 2, 0, 0, 1, 1, 2, 2]);
        assert_eq!(shape.replica(1, 1), 6);
        assert_eq!(
            (0..3).map(|n| shape.slots(n)).collect::<Vec<_>>(),
            [(0, 5460), (5461, 10921), (10922, 16383)]
        );
        assert_eq!(Shape { shards: 1, replicas: 0 }.slots(0), (0, 16_383));
    }

    #[test]
    fn a_block_is_claimed_once_at_a_time() {
        let (first, guard) = claim_block().unwrap();
        let (second, _other) = claim_block().unwrap();
        assert_ne!(first, second);
        drop(guard);
    }
}
