//! Connections that are kept from one pass over a cluster to the next: as many to a node as were in use at one time, and
//! only such as were without a fault.
//!
//! A kept connection is to the same process as before. It is dropped with its first error, when it was closed at the other end, when its Pod is gone, and when
//! passwords or certificates have changed since it was opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::error::WireError;
use super::node::{Access, Connector, Limits, Node};
use super::reply::Reply;
use crate::mutex::lock;

/// The connections of one cluster that nobody uses at the moment. Copies share them.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<BTreeMap<SocketAddr, Vec<Idle>>>>);

struct Idle {
    access: Access,
    node: Box<dyn Node>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.len()).finish()
    }
}

impl Kept {
    /// Drops what is not to one of these addresses.
    pub fn only(&self, addresses: &BTreeSet<SocketAddr>) {
        lock(&self.0).retain(|addr, _| addresses.contains(addr));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.0).values().map(Vec::len).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes from these, and opens by `connector` what is missing.
    pub fn over<'c>(&'c self, connector: &'c dyn Connector) -> Keeping<'c> {
        Keeping { kept: self, connector }
    }

    fn take(&self, addr: SocketAddr, access: &Access) -> Option<Box<dyn Node>> {
        let mut all = lock(&self.0);
        let here = all.get_mut(&addr)?;
        here.retain(|idle| idle.node.closed().now_or_never().is_none() && same(&idle.access, access));
        here.pop().map(|idle| idle.node)
    }
}

/// How long a connection may take says nothing about one that is open.
fn same(a: &Access, b: &Access) -> bool {
    let limits = Limits { connect: b.limits.connect, ..a.limits };
    limits == b.limits
        && (&a.username, &a.password, &a.tls, &a.former) == (&b.username, &b.password, &b.tls, &b.former)
}

/// Opens connections, or takes those that are kept.
pub struct Keeping<'c> {
    kept: &'c Kept,
    connector: &'c dyn Connector,
}

impl Connector for Keeping<'_> {
    fn connect<'a>(
        &'a self,
        addr: SocketAddr,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Box<dyn Node>, WireError>> {
        Box::pin(async move {
            let node = match self.kept.take(addr, access) {
                Some(node) => node,
                None => self.connector.connect(addr, access).await?,
            };
            let idle = Some(Idle { access: access.clone(), node });
            let (kept, faulty) = (self.kept.clone(), AtomicBool::new(false));
            Ok(Box::new(Lent { addr, idle, kept, faulty }) as Box<dyn Node>)
        })
    }
}

/// A connection in use. It goes back when it is dropped.
struct Lent {
    addr: SocketAddr,
    idle: Option<Idle>,
    kept: Kept,
    /// An answer was an error of the connection, or has not come.
    faulty: AtomicBool,
}

impl Lent {
    fn node(&self) -> Result<&dyn Node, WireError> {
        self.idle.as_ref().map(|idle| idle.node.as_ref()).ok_or(WireError::Reset)
    }

    fn begins(&self) {
        self.faulty.store(true, Ordering::Relaxed);
    }

    fn ends(&self, fine: bool) {
        self.faulty.store(!fine, Ordering::Relaxed);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(idle) = self.idle.take().filter(|_| !self.faulty.load(Ordering::Relaxed)) {
            lock(&self.kept.0).entry(self.addr).or_default().push(idle);
        }
    }
}

fn is_fine(answer: &Result<Reply, WireError>) -> bool {
    answer.as_ref().err().is_none_or(|why| !why.is_connection())
}

impl Node for Lent {
    fn call<'a>(&'a self, argv: &'a [&'a str]) -> BoxFuture<'a, Result<Reply, WireError>> {
        Box::pin(async move {
            self.begins();
            let answer = self.node()?.call(argv).await;
            self.ends(is_fine(&answer));
            answer
        })
    }

    fn call_many_bytes<'a>(
        &'a self,
        commands: &'a [Vec<&'a [u8]>],
    ) -> BoxFuture<'a, Vec<Result<Reply, WireError>>> {
        Box::pin(async move {
            self.begins();
            let answers = match self.node() {
                Ok(node) => node.call_many_bytes(commands).await,
                Err(why) => vec![Err(why); commands.len()],
            };
            self.ends(answers.iter().all(is_fine));
            answers
        })
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        match self.node() {
            Ok(node) => node.closed(),
            Err(_) => Box::pin(std::future::ready(())),
        }
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
