//! Loopback addresses: a block of them for this process, a part of it for each life, one for each server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

/// Blocks 127.100 to 127.250.
const BLOCKS: std::ops::RangeInclusive<u8> = 100..=250;
/// Who holds this port at the last address of a block has the block.
const GUARD: u16 = 6378;

/// The block of this process: no other such process has it at the same time.
fn block() -> u8 {
    static BLOCK: OnceLock<(u8, TcpListener)> = OnceLock::new();
    let claim = |block: u8| {
        let at = SocketAddr::from((Ipv4Addr::new(127, block, 255, 254), GUARD));
        TcpListener::bind(at).ok().map(|guard| (block, guard))
    };
    BLOCK.get_or_init(|| BLOCKS.into_iter().find_map(claim).expect("a free block of addresses")).0
}

/// The addresses of one life.
pub(crate) struct Addresses {
    part: u8,
    next: u8,
    free: Vec<IpAddr>,
    /// A new server gets the address that was freed last.
    reuse: bool,
}

impl Addresses {
    pub(crate) fn new(reuse: bool) -> Self {
        static PARTS: AtomicU8 = AtomicU8::new(0);
        Self { part: PARTS.fetch_add(1, SeqCst), next: 1, free: Vec::new(), reuse }
    }

    /// For a server that starts.
    pub(crate) fn take(&mut self) -> IpAddr {
        if self.reuse
            && let Some(ip) = self.free.pop()
        {
            return ip;
        }
        let ip = Ipv4Addr::new(127, block(), self.part, self.next);
        self.next = self.next.checked_add(1).expect("a life has at most 254 servers");
        IpAddr::V4(ip)
    }

    pub(crate) fn free(&mut self, ip: IpAddr) {
        self.free.push(ip);
    }
}
