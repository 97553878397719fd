//! Decides where one slot's command goes next: the plain lanes' own routing. One attempt at a time; it opens
//! connections through the given access and keeps at most two (the owner's, and the target's of an ASK).

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::errors::{ErrorKind, UNCONFIRMED};
use super::topology::{Directory, Hints, TroubleGuard};
use crate::resp::{Access, Connection, Fault, Redirect, Reply};

/// How long an attempt goes on before it listens to hints about another owner, once that does no harm.
const PATIENCE: Duration = Duration::from_millis(3);
/// Redirects that are followed without a pause between two acknowledged writes.
const HOPS: u32 = 3;

/// Makes a command, told the number of the connection that it goes to.
type Command<'a> = &'a (dyn Fn(u32) -> Vec<String> + Sync);

/// What every router of a ledger shares.
#[derive(Clone)]
pub(crate) struct Routes {
    pub access: Access,
    pub directory: Directory,
    pub hints: Hints,
    /// The time-out of a connect and of a command.
    pub limit: Duration,
}

/// An attempt that brought no answer to the command.
#[derive(Debug)]
pub(crate) struct Miss {
    pub kind: ErrorKind,
    pub sentence: String,
    /// The connection on which the command may have been carried out nevertheless.
    pub sent: Option<u32>,
    /// The next attempt need not wait.
    pub at_once: bool,
}

impl Miss {
    /// A write that too few replicas have was carried out nevertheless, on the connection of this number.
    fn on(self, number: u32) -> Self {
        let sent = if self.kind == ErrorKind::Unconfirmed { Some(number) } else { self.sent };
        Self { sent, ..self }
    }
}

/// One open connection; its number is the counter field that it writes to.
struct Wire {
    number: u32,
    addr: SocketAddr,
    connection: Connection,
}

/// The routing of one slot.
pub(crate) struct Router {
    slot: u16,
    routes: Routes,
    aim: Option<SocketAddr>,
    main: Option<Wire>,
    asked: Option<Wire>,
    ask: Option<SocketAddr>,
    hops: u32,
    opened: u32,
    guard: Option<TroubleGuard>,
    /// Replicas that must have what is written now.
    copies: u16,
}

impl Router {
    pub(crate) fn new(slot: u16, routes: Routes) -> Self {
        Self {
            slot,
            routes,
            aim: None,
            main: None,
            asked: None,
            ask: None,
            hops: 0,
            opened: 0,
            guard: None,
            copies: 0,
        }
    }

    /// One attempt at a write that counts only when so many replicas have it.
    pub(crate) async fn write(&mut self, command: Command<'_>, copies: u16) -> Result<(u32, Reply), Miss> {
        self.copies = copies;
        let answer = self.call(command).await;
        self.copies = 0;
        answer
    }

    /// One attempt.
    pub(crate) async fn call(&mut self, command: Command<'_>) -> Result<(u32, Reply), Miss> {
        let result = match self.ask.take() {
            Some(addr) => self.call_asking(addr, command).await,
            None => self.call_owner(command).await,
        };
        match result {
            Ok(answer) => {
                self.guard = None;
                self.hops = 0;
                Ok(answer)
            }
            Err(miss) => {
                if !miss.kind.is_redirect() && self.guard.is_none() {
                    self.guard = Some(self.routes.hints.trouble.enter());
                }
                self.hops += 1;
                Err(Miss { at_once: miss.at_once && self.hops <= HOPS, ..miss })
            }
        }
    }

    async fn call_owner(&mut self, command: Command<'_>) -> Result<(u32, Reply), Miss> {
        let mut wire = match self.main.take() {
            Some(wire) => wire,
            None => self.open_owner().await?,
        };
        let (number, addr, limit) = (wire.number, wire.addr, self.routes.limit);
        let args = command(number);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let commands = [args.as_slice()];
        let work = exchange(&mut wire.connection, &commands, self.copies, limit);
        // A node that hands over keeps writes waiting and then says MOVED. Leaving early would only make the write's
        // fate unknown, so the first attempt waits its whole time-out, as any client would.
        let answer = if self.guard.is_some() { self.racing(addr, work).await } else { work.await };
        match answer {
            Ok(Reply::Error(text)) => {
                let miss = self.redirected(addr, text).await;
                if miss.kind != ErrorKind::Moved && !self.named_elsewhere(addr) {
                    self.main = Some(wire);
                }
                Err(miss.on(number))
            }
            Ok(reply) => {
                self.main = Some(wire);
                self.asked = None;
                Ok((number, reply))
            }
            Err(fault) => {
                self.aim = None;
                Err(Miss { sent: Some(number), ..unanswered(addr, &fault) })
            }
        }
    }

    async fn call_asking(&mut self, addr: SocketAddr, command: Command<'_>) -> Result<(u32, Reply), Miss> {
        let mut wire = match self.asked.take().filter(|wire| wire.addr == addr) {
            Some(wire) => wire,
            None => self.open(addr).await?,
        };
        let args = command(wire.number);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (number, limit) = (wire.number, self.routes.limit);
        match exchange(&mut wire.connection, &[&["ASKING"], &args], self.copies, limit).await {
            Ok(Reply::Error(text)) => {
                let miss = self.redirected(addr, text).await;
                self.asked = Some(wire);
                Err(miss.on(number))
            }
            Ok(reply) => {
                self.asked = Some(wire);
                Ok((number, reply))
            }
            Err(fault) => Err(Miss { sent: Some(number), ..unanswered(addr, &fault) }),
        }
    }

    async fn open_owner(&mut self) -> Result<Wire, Miss> {
        let hinted = self.routes.hints.current.borrow().owner(self.slot);
        let Some(addr) = self.aim.or(hinted) else {
            let sentence = format!("no reachable node names an owner of slot {}", self.slot);
            return Err(Miss { kind: ErrorKind::Other, sentence, sent: None, at_once: false });
        };
        self.aim = Some(addr);
        let opened = self.open(addr).await;
        if opened.is_err() {
            self.aim = None;
        }
        opened
    }

    async fn open(&mut self, addr: SocketAddr) -> Result<Wire, Miss> {
        let (access, limit) = (self.routes.access.clone(), self.routes.limit);
        let connection = self.racing(addr, Connection::open(&access, addr, limit)).await;
        // Nothing was sent yet: a broken connect is no reason to try again at once.
        let connection = connection.map_err(|fault| Miss { at_once: false, ..unanswered(addr, &fault) })?;
        self.opened += 1;
        Ok(Wire { number: self.opened, addr, connection })
    }

    /// Waits for `work`, but not for a silent node once another one is named as the slot's owner.
    async fn racing<T>(
        &mut self,
        addr: SocketAddr,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let begun = Instant::now();
        let mut work = pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = sleep(PATIENCE) => {}
        }
        if self.guard.is_none() {
            self.guard = Some(self.routes.hints.trouble.enter());
        }
        loop {
            if self.named_elsewhere(addr) {
                return Err(Fault::Timeout(begun.elapsed()));
            }
            tokio::select! {
                done = &mut work => return done,
                news = self.routes.hints.current.changed() => if news.is_err() { return work.await },
            }
        }
    }

    /// Whether the newest hint names another owner than `addr`; marks that hint as seen.
    fn named_elsewhere(&mut self, addr: SocketAddr) -> bool {
        let owner = self.routes.hints.current.borrow_and_update().owner(self.slot);
        let elsewhere = owner.is_some_and(|owner| owner != addr);
        if elsewhere {
            self.aim = owner;
        }
        elsewhere
    }

    async fn redirected(&mut self, addr: SocketAddr, text: String) -> Miss {
        let kind = ErrorKind::of_reply(&text);
        let mut at_once = false;
        match Redirect::read(&text, &addr.ip().to_string()) {
            Some(Redirect::Moved(place)) => {
                self.aim = self.routes.directory.locate(&place).await;
                if let Some(owner) = self.aim {
                    // Nobody listens only while the ledger ends.
                    let _ = self.routes.hints.redirects.send(owner);
                }
                at_once = true;
            }
            Some(Redirect::Ask(place)) => {
                self.ask = self.routes.directory.locate(&place).await;
                at_once = true;
            }
            None => {}
        }
        Miss { kind, sentence: format!("{addr}: {text}"), sent: None, at_once }
    }
}

/// The answer to the last of these commands; when replicas are to have it, only if so many say in time that they do.
async fn exchange(
    connection: &mut Connection,
    commands: &[&[&str]],
    copies: u16,
    limit: Duration,
) -> Result<Reply, Fault> {
    let (wanted, patience) = (copies.to_string(), (limit / 2).as_millis().to_string());
    let wait = ["WAIT", wanted.as_str(), patience.as_str()];
    let mut all = commands.to_vec();
    if copies > 0 {
        all.push(&wait);
    }
    let replies = connection.pipeline(&all, limit).await?;
    let mut last = replies.into_iter().skip(commands.len() - 1);
    let answer = last.next().ok_or(Fault::Reset)?;
    let have = last.next().and_then(|reply| reply.number()).unwrap_or(0);
    if matches!(answer, Reply::Error(_)) || have >= i64::from(copies) {
        return Ok(answer);
    }
    Ok(Reply::Error(format!("{UNCONFIRMED} {have} of {copies} replicas have it")))
}

fn unanswered(addr: SocketAddr, fault: &Fault) -> Miss {
    // A broken connection is made anew at once; a time-out has waited long enough.
    Miss { kind: ErrorKind::of_fault(fault), sentence: format!("{addr}: {fault}"), sent: None, at_once: true }
}
