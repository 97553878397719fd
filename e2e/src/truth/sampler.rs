//! Decides what redundancy was, second by second: looks at all nodes every 100 ms in the background and keeps what
//! matters of each look. A node that is silent holds no look up: the next one begins beside it. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tabled::builder::Builder;
use tabled::settings::Style;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use valkey_cluster_operator::mutex::lock;

use super::judge::{Truth, short};
use super::look::Looker;
use crate::ledger::AddressMap;
use crate::resp::{Access, SLOTS};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// How long one node has to answer.
const ANSWER: Duration = Duration::from_millis(250);
/// Looks that may be under way at one time: one that waits for a silent node delays no other.
const BESIDE: usize = 4;

/// What is kept of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the look began, from the start of the sampler.
    pub at: Duration,
    /// Every node knew every other, and all agreed.
    pub formed: bool,
    /// Slots with exactly one owner that answered.
    pub covered: usize,
    /// Copies in sync (the primary included) of each shard that owned slots, by shard id.
    pub copies: BTreeMap<String, usize>,
    /// How many problems there were, and the first.
    pub problems: (usize, Option<String>),
}

/// All looks of a sampler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In order of time.
    pub samples: Vec<Sample>,
    /// When the sampler was stopped.
    pub end: Duration,
}

/// One second of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Second {
    /// Which one.
    pub second: u64,
    /// The fewest copies that each shard had in it.
    pub copies: BTreeMap<String, usize>,
    /// The fewest covered slots in it.
    pub covered: usize,
    /// Formed at every look in it.
    pub formed: bool,
}

/// See [`Sampler::start`].
#[derive(Debug)]
pub struct Sampler;

/// A running sampler; it ends when dropped.
pub struct SamplerHandle {
    nodes: watch::Sender<Vec<SocketAddr>>,
    latest: watch::Receiver<Truth>,
    samples: Arc<Mutex<Vec<Sample>>>,
    zero: Instant,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Sampler {
    /// Starts to look at `nodes`, and with `follow` also at every node that one of them knows: a story's pods come
    /// and go. The map translates announced endpoints; endpoints that it does not know are left out.
    pub fn start(access: Access, nodes: Vec<SocketAddr>, follow: Option<AddressMap>) -> SamplerHandle {
        let limit = ANSWER + access.slack;
        let (nodes, given) = watch::channel(nodes);
        let (shown, latest) = watch::channel(Truth::default());
        let (samples, stop, zero) = (Arc::default(), CancellationToken::new(), Instant::now());
        let work = Arc::new(Work {
            access,
            limit,
            idle: Mutex::default(),
            given,
            follow,
            shown,
            samples: Arc::clone(&samples),
            zero,
        });
        let task = tokio::spawn(work.run(stop.clone()));
        SamplerHandle { nodes, latest, samples, zero, task, stop }
    }

    /// A follow map for whoever reaches the nodes at the addresses that they announce.
    pub fn as_announced() -> AddressMap {
        Arc::new(|place| Some(SocketAddr::new(place.host.parse().ok()?, place.port)))
    }
}

struct Work {
    access: Access,
    limit: Duration,
    /// Those that look at nothing now, with their connections.
    idle: Mutex<Vec<Looker>>,
    given: watch::Receiver<Vec<SocketAddr>>,
    follow: Option<AddressMap>,
    shown: watch::Sender<Truth>,
    samples: Arc<Mutex<Vec<Sample>>>,
    zero: Instant,
}

impl Work {
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut due = interval(EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = JoinSet::new();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => break,
            }
            while looks.try_join_next().is_some() {}
            if looks.len() < BESIDE {
                looks.spawn(Arc::clone(&self).sample());
            }
        }
        looks.join_all().await;
    }

    async fn sample(self: Arc<Self>) {
        let at = self.zero.elapsed();
        let nodes: Vec<_> = self.nodes().into_iter().collect();
        let idle = lock(&self.idle).pop();
        let mut looker = idle.unwrap_or_else(|| Looker::new(self.access.clone(), self.limit));
        let truth = Truth { seen: looker.ask(&nodes).await };
        lock(&self.idle).push(looker);
        if self.keep(Sample::of(&truth, at)) {
            self.shown.send_replace(truth);
        }
    }

    /// In order of time: a look that waited for a silent node ends after later ones. Says whether it is the newest.
    fn keep(&self, sample: Sample) -> bool {
        let mut samples = lock(&self.samples);
        let place = samples.partition_point(|other| other.at <= sample.at);
        samples.insert(place, sample);
        place + 1 == samples.len()
    }

    fn nodes(&self) -> BTreeSet<SocketAddr> {
        let mut nodes: BTreeSet<_> = self.given.borrow().iter().copied().collect();
        if let Some(map) = &self.follow {
            let truth = self.shown.borrow();
            let lines = truth.answered().flat_map(|(_, facts, _)| &facts.view.lines);
            nodes.extend(lines.filter_map(|line| map(line.place.as_ref()?)));
        }
        nodes
    }
}

impl SamplerHandle {
    /// From now on looks at these nodes (and, when following, at those that they know).
    pub fn set_nodes(&self, nodes: Vec<SocketAddr>) {
        self.nodes.send_replace(nodes);
    }

    /// The newest look.
    pub fn latest(&self) -> Truth {
        self.latest.borrow().clone()
    }

    /// The time that samples are stamped with.
    pub fn elapsed(&self) -> Duration {
        self.zero.elapsed()
    }

    /// Ends the sampling.
    ///
    /// # Errors
    /// If its task died.
    pub async fn stop(mut self) -> Result<History> {
        self.stop.cancel();
        (&mut self.task).await.context("the sampler died")?;
        let samples = std::mem::take(&mut *lock(&self.samples));
        Ok(History { samples, end: self.zero.elapsed() })
    }
}

impl Drop for SamplerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Sample {
    fn of(truth: &Truth, at: Duration) -> Self {
        let mut problems = truth.problems().into_iter();
        let first = problems.next();
        Self {
            at,
            formed: truth.formed(),
            covered: truth.covered(),
            copies: truth.shards().iter().map(|shard| (shard.id.clone(), shard.copies())).collect(),
            problems: (usize::from(first.is_some()) + problems.count(), first),
        }
    }

    /// Formed, every slot owned, and nothing else wrong.
    pub fn whole(&self) -> bool {
        self.problems.0 == 0
    }
}

impl History {
    /// When the cluster was first seen formed, with every slot covered.
    pub fn first_formed(&self) -> Option<Duration> {
        self.samples.iter().find(|sample| sample.formed && sample.covered == usize::from(SLOTS)).map(|s| s.at)
    }

    /// How long each shard had fewer than `wanted` copies in sync; shards that never had are left out. A look counts
    /// until the next one.
    pub fn below(&self, wanted: usize) -> BTreeMap<String, Duration> {
        let mut below = BTreeMap::new();
        for (sample, lasted) in self.lasting() {
            for (shard, _) in sample.copies.iter().filter(|(_, copies)| **copies < wanted) {
                *below.entry(shard.clone()).or_default() += lasted;
            }
        }
        below
    }

    /// The longest time at a stretch that each shard had fewer than `wanted` copies in sync; shards that never had are left out.
    pub fn longest_below(&self, wanted: usize) -> BTreeMap<String, Duration> {
        let mut now: BTreeMap<&String, Duration> = BTreeMap::new();
        let mut longest: BTreeMap<String, Duration> = BTreeMap::new();
        for (sample, lasted) in self.lasting() {
            now.retain(|shard, _| sample.copies.get(*shard).is_some_and(|copies| *copies < wanted));
            for (shard, _) in sample.copies.iter().filter(|(_, copies)| **copies < wanted) {
                let stretch = now.entry(shard).or_default();
                *stretch += lasted;
                let most = longest.entry(shard.clone()).or_default();
                *most = (*most).max(*stretch);
            }
        }
        longest
    }

    /// How long not every slot had exactly one owner that answered, once the cluster had been formed.
    pub fn uncovered(&self) -> Duration {
        let since = self.first_formed().unwrap_or(self.end);
        let holes =
            self.lasting().filter(|(sample, _)| sample.at >= since && sample.covered < usize::from(SLOTS));
        holes.map(|(_, lasted)| lasted).sum()
    }

    /// The history in seconds; seconds without a look are left out.
    pub fn by_second(&self) -> Vec<Second> {
        let mut seconds: BTreeMap<u64, Second> = BTreeMap::new();
        for sample in &self.samples {
            let second = sample.at.as_secs();
            let empty =
                || Second { second, copies: BTreeMap::new(), covered: usize::from(SLOTS), formed: true };
            let entry = seconds.entry(second).or_insert_with(empty);
            for (shard, copies) in &sample.copies {
                let fewest = entry.copies.entry(shard.clone()).or_insert(*copies);
                *fewest = (*fewest).min(*copies);
            }
            entry.covered = entry.covered.min(sample.covered);
            entry.formed &= sample.formed;
        }
        seconds.into_values().collect()
    }

    /// A table of the seconds; runs of equal ones are one row.
    pub fn summary(&self) -> String {
        let mut builder = Builder::default();
        builder.push_record(["SECONDS", "FORMED", "SLOTS", "COPIES IN SYNC (fewest)"]);
        let seconds = self.by_second();
        let same =
            |a: &Second, b: &Second| (&a.copies, a.covered, a.formed) == (&b.copies, b.covered, b.formed);
        for run in seconds.chunk_by(same) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let copies: Vec<_> =
                    first.copies.iter().map(|(id, n)| format!("{}={n}", short(id))).collect();
                let formed = if first.formed { "yes" } else { "no" };
                let span = format!("{}-{}", first.second, last.second);
                builder.push_record([span, formed.to_owned(), first.covered.to_string(), copies.join(" ")]);
            }
        }
        builder.build().with(Style::blank()).to_string()
    }

    fn lasting(&self) -> impl Iterator<Item = (&Sample, Duration)> {
        let ends = self.samples.iter().skip(1).map(|sample| sample.at).chain([self.end]);
        self.samples.iter().zip(ends).map(|(sample, end)| (sample, end.saturating_sub(sample.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, copies: usize, covered: usize) -> Sample {
        let copies = BTreeMap::from([("s1".to_owned(), copies), ("s2".to_owned(), 2)]);
        Sample { at: Duration::from_millis(at_ms), formed: covered > 0, covered, copies, problems: (0, None) }
    }

    #[test]
    fn time_below_and_uncovered_lasts_until_the_next_look() {
        let all = usize::from(SLOTS);
        let samples = vec![
            sample(0, 0, 0),
            sample(300, 2, all),
            sample(400, 1, all),
            sample(650, 0, 10),
            sample(1100, 2, all),
        ];
        let history = History { samples, end: Duration::from_millis(1200) };
        assert_eq!(history.first_formed(), Some(Duration::from_millis(300)));
        assert_eq!(history.below(2), BTreeMap::from([("s1".to_owned(), Duration::from_secs(1))]));
        let stretch = Duration::from_millis(700);
        assert_eq!(history.longest_below(2), BTreeMap::from([("s1".to_owned(), stretch)]), "not all at once");
        assert_eq!(history.uncovered(), Duration::from_millis(450));
        let seconds = history.by_second();
        assert_eq!((seconds.len(), seconds[0].copies["s1"], seconds[1].copies["s1"]), (2, 0, 2));
        assert!(history.summary().contains("s1=0 s2=2"), "{}", history.summary());
    }
}
