//! Decides when lanes begin and end: starts them together, lets a story wait for them, stops them and reads back.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::client::{ClientLane, ClientMaker};
use super::live::{Book, Glance, LaneGlance, LiveLane};
use super::options::{Lane, LaneKind, Options};
use super::plain::{PlainLane, read_counters, remove};
use super::pulse::{self, Control};
use super::relay::Relays;
use super::report::{EndedLane, LaneReport, LedgerReport, Mark, ms, totals};
use super::router::{Router, Routes};
use super::topology::{Directory, Topology};

/// How long the seeds have to give a first slot map.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long [`LedgerHandle::wait_flowing`] waits.
const FLOWING: Duration = Duration::from_secs(30);
/// Between two looks at the lanes' counters.
const LOOK: Duration = Duration::from_millis(2);

/// See [`Ledger::start`].
#[derive(Debug)]
pub struct Ledger;

/// A running ledger. Dropped without [`LedgerHandle::stop`], its lanes end and nothing is read back.
pub struct LedgerHandle {
    options: Options,
    run: String,
    started: jiff::Timestamp,
    zero: Instant,
    routes: Routes,
    lanes: Vec<LiveLane>,
    plain: Vec<JoinHandle<PlainLane>>,
    client: Vec<JoinHandle<ClientLane>>,
    pulse: Option<JoinHandle<Control>>,
    marks: Mutex<Vec<Mark>>,
    stop: CancellationToken,
    topology: CancellationToken,
}

impl Ledger {
    /// Starts all lanes as soon as one seed has given a slot map.
    ///
    /// # Errors
    /// If the options make no sense, or no seed gives a slot map within 10 s: the error says what the last one said.
    pub async fn start(options: Options) -> Result<LedgerHandle> {
        options.check()?;
        let directory = Directory(options.address_map.clone());
        let access = options.access.clone();
        let topology =
            Topology::new(options.seeds.clone(), access.clone(), directory.clone(), options.timeout);
        let routes = Routes { access, directory, hints: topology.hints(), limit: options.timeout };
        let failure = topology.last_failure();
        let asking = CancellationToken::new();
        tokio::spawn(topology.run(asking.clone()));
        let mut first = routes.hints.current.clone();
        if !matches!(timeout(FIRST_ANSWER, first.changed()).await, Ok(Ok(()))) {
            asking.cancel();
            let why = failure.borrow().clone();
            bail!("no seed gave a slot map within {FIRST_ANSWER:?}; the last one said: {why}");
        }
        let mut handle = LedgerHandle {
            run: format!("{:08x}", rand::random::<u32>()),
            started: jiff::Timestamp::now(),
            zero: Instant::now(),
            routes,
            lanes: Vec::new(),
            plain: Vec::new(),
            client: Vec::new(),
            pulse: None,
            marks: Mutex::default(),
            stop: CancellationToken::new(),
            topology: asking,
            options,
        };
        handle.start_lanes()?;
        Ok(handle)
    }
}

impl LedgerHandle {
    fn start_lanes(&mut self) -> Result<()> {
        let interval = self.options.interval();
        let pulse = pulse::run(self.zero, interval, self.options.floor, self.stop.clone());
        self.pulse = Some(tokio::spawn(pulse));
        for lane in Lane::spread(LaneKind::Plain, self.options.lanes, &self.run) {
            let (book, due) = self.open_book(&lane, self.options.lanes)?;
            let router = Router::new(lane.slot, self.routes.clone());
            let copies = self.options.copies;
            let lane = PlainLane { lane, router, book, interval, copies };
            self.plain.push(tokio::spawn(lane.run(due, self.stop.clone())));
        }
        let Options { seeds, access, address_map, .. } = &self.options;
        let maker = ClientMaker {
            seeds: seeds.clone(),
            credentials: access.credentials.clone(),
            relays: (access.relayed || address_map.is_some())
                .then(|| Relays::new(access.connector.clone(), self.routes.directory.clone())),
        };
        for lane in Lane::spread(LaneKind::Client, self.options.client_lanes, &self.run) {
            let (book, due) = self.open_book(&lane, self.options.client_lanes)?;
            let lane = ClientLane { lane, maker: maker.clone(), book, interval };
            self.client.push(tokio::spawn(lane.run(due, self.stop.clone())));
        }
        Ok(())
    }

    /// The lane's book, and when its first write is due: lanes of a kind take turns within an interval.
    fn open_book(&mut self, lane: &Lane, count: u16) -> Result<(Book, Instant)> {
        let interval = self.options.interval();
        let phase = interval * u32::from(lane.index) / u32::from(count.max(1));
        let account = Account::new(phase, interval, self.options.floor)?;
        let live = LiveLane::new(lane.clone());
        let book = Book::new(account, live.counters.clone(), self.zero);
        self.lanes.push(live);
        Ok((book, self.zero + phase))
    }

    /// Names this moment in the report.
    pub fn mark(&self, name: &str) {
        let mark = Mark { name: name.to_owned(), at_ms: ms(self.zero.elapsed()) };
        if let Ok(mut marks) = self.marks.lock() {
            marks.push(mark);
        }
    }

    /// How long it has been writing.
    pub fn elapsed(&self) -> Duration {
        self.zero.elapsed()
    }

    /// The lanes of a kind at this moment.
    pub fn glance(&self, kind: LaneKind) -> Glance {
        Glance::of(&self.lanes, kind)
    }

    /// Every lane at this moment.
    pub fn lanes(&self) -> Vec<LaneGlance> {
        self.lanes.iter().map(LaneGlance::from).collect()
    }

    /// Waits until every plain lane has had a write acknowledged that was sent after this call.
    ///
    /// # Errors
    /// After 30 s: names the lanes that do not flow.
    pub async fn wait_flowing(&self) -> Result<()> {
        self.wait_flowing_within(FLOWING).await
    }

    /// [`LedgerHandle::wait_flowing`] with another bound.
    ///
    /// # Errors
    /// After `limit`: names the lanes that do not flow.
    pub async fn wait_flowing_within(&self, limit: Duration) -> Result<()> {
        let plain = || self.lanes.iter().filter(|live| live.lane.kind == LaneKind::Plain);
        // Two more: the first may have been on its way already.
        let wanted: Vec<_> = plain().map(|live| live.acked() + 2).collect();
        let waiting = || plain().zip(&wanted).filter(|(live, wanted)| live.acked() < **wanted);
        let deadline = Instant::now() + limit;
        while waiting().next().is_some() {
            if Instant::now() >= deadline {
                let dry: Vec<_> = waiting().map(|(live, _)| live.lane.slot.to_string()).collect();
                bail!("within {limit:?} no write was acknowledged on the lanes of slots {}", dry.join(", "));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends all lanes, reads every counter back from its owner, removes them and reports.
    ///
    /// # Errors
    /// If a lane's task died.
    pub async fn stop(mut self) -> Result<LedgerReport> {
        self.stop.cancel();
        let duration_ms = ms(self.zero.elapsed());
        let control = match self.pulse.take() {
            Some(pulse) => pulse.await.context("the ledger's pulse died")?,
            None => Control::default(),
        };
        let mut ended = Vec::new();
        for task in std::mem::take(&mut self.plain) {
            let PlainLane { lane, router, book, .. } = task.await.context("a plain lane died")?;
            ended.push((lane, router, book.account));
        }
        for task in std::mem::take(&mut self.client) {
            let ClientLane { lane, book, .. } = task.await.context("a client lane died")?;
            let router = Router::new(lane.slot, self.routes.clone());
            ended.push((lane, router, book.account));
        }
        let deadline = Instant::now() + self.options.read_back_within;
        let keep = self.options.keep_keys;
        let ended = join_all(ended.into_iter().map(|(lane, mut router, mut account)| async move {
            let unread = match read_counters(&mut router, &lane.key, deadline).await {
                Ok(counters) => {
                    account.read_back(&counters);
                    if !keep {
                        remove(&mut router, &lane.key).await;
                    }
                    None
                }
                Err(why) => Some(why.to_string()),
            };
            EndedLane { lane, account, unread }
        }))
        .await;
        let marks = self.marks.lock().map(|marks| marks.clone()).unwrap_or_default();
        let client = totals(&ended, LaneKind::Client);
        Ok(LedgerReport {
            run: self.run.clone(),
            started: self.started.to_string(),
            duration_ms,
            marks,
            judged: totals(&ended, LaneKind::Plain),
            client: (client.lanes > 0).then_some(client),
            control,
            lanes: ended.iter().map(LaneReport::from).collect(),
        })
    }
}

impl Drop for LedgerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.topology.cancel();
    }
}
