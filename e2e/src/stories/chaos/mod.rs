//! Chaos: rounds of faults under a write load, made from a seed. After each round everything is mended and the cluster has
//! to become whole; at the end every write that two nodes had is there.
//!
//! * `schedule`: what goes wrong (pure) · `survive`: what is left out, because no copy would survive it (pure)
//! * `act`: does it · this file: the rounds, and the judgement
//!
//! What is judged, exactly: the lanes count a write as acknowledged only when a replica has it, too (`WAIT 1`), and no fault
//! takes the last copy in sync. So not one of these writes may be lost.

mod act;
mod schedule;
mod survive;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::json;

use self::act::Actor;
use self::schedule::{Round, Schedule, Size};
use super::cluster::Cluster;
use super::count::Count;
use super::setup::{self, Target};
use super::stage::Stage;
use super::{Story, Suite, operator};
use crate::ledger::{LaneKind, Ledger, LedgerHandle, LedgerReport, Options};
use crate::progress::Progress;
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "chaos",
    about: "five minutes of random faults: the cluster becomes whole after each, and no write that two nodes had is lost",
    run: |stage| from_the_environment(stage).boxed_local(),
};

/// Of the story.
const MINUTES: u64 = 5;
/// After a round everything is as wanted within this.
const WHOLE: Duration = Duration::from_mins(3);
/// Tried at the end for so long.
const READ_BACK: Duration = Duration::from_secs(30);

async fn from_the_environment(stage: &Stage) -> Result<()> {
    let seed = stage.seed()?;
    told(stage, Play { seed, minutes: MINUTES, round: None }).await.map(drop)
}

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// Chooses what goes wrong.
    pub seed: u64,
    /// No round begins later.
    pub minutes: u64,
    /// This round alone, again and again.
    pub round: Option<NonZeroUsize>,
}

impl Play {
    fn rounds(self, workers: usize) -> Box<dyn Iterator<Item = Round>> {
        let mut all = Schedule::new(self.seed, workers);
        match self.round {
            None => Box::new(all),
            Some(number) => Box::new(all.nth(number.get() - 1).into_iter().cycle()),
        }
    }
}

impl fmt::Display for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo sandbox chaos --seed {} --minutes {}", self.seed, self.minutes)?;
        self.round.map_or(Ok(()), |round| write!(f, " --round {round}"))
    }
}

/// `cargo sandbox chaos`: on the sandbox of this name, which is brought up if there is none and stays up.
///
/// # Errors
/// If the ground cannot be laid.
pub async fn command(name: &str, play: Play, progress: &Progress) -> Result<Count> {
    let ground = setup::ground(&Target::Sandbox(name.to_owned()), progress, &mut Vec::new()).await?;
    let stage = Stage::new(ground.reach, ground.client, Suite::Full, progress.clone());
    stage.sweep().await?;
    let told = told(&stage, play).await;
    if told.is_err() {
        progress.line(stage.what_happened());
    }
    stage.clean().await?;
    Ok(told.map_or_else(|error| Count::failed(format!("chaos: {error:#}")), |_| Count::passed()))
}

/// Rounds until the minutes are over; the number of rounds.
async fn told(stage: &Stage, play: Play) -> Result<usize> {
    let sandbox = stage.sandbox("takes power and cables from workers")?;
    stage.say(format_args!("to tell it again: {play}"));
    let cluster = stage.cluster(spec(Size::FIRST, 0)).await?;
    cluster.ready(cluster.applied, WHOLE).await?;
    let ledger = writes(sandbox, &cluster).await?;
    let mut actor = Actor::new(stage, sandbox, &cluster).await?;
    let (began, mut rounds) = (Instant::now(), 0);
    for round in play.rounds(actor.workers()) {
        if began.elapsed() >= Duration::from_mins(play.minutes) {
            break;
        }
        rounds += 1;
        stage.say(&round);
        ledger.mark(&round.to_string());
        let settled = async {
            actor.act(&round).await?;
            settle(stage, &cluster, &ledger, &round).await
        };
        let took = settled.await.with_context(|| format!("{play}: {round}"))?;
        stage.say(format_args!(
            "round {}: whole {:.1} s after it was mended",
            round.number,
            took.as_secs_f64()
        ));
        if ledger.glance(LaneKind::Plain).regressed > 0 {
            // The logs still tell of this round.
            break;
        }
    }
    let report = ledger.stop().await?;
    judge(stage, &report).with_context(|| format!("{play}, {rounds} rounds"))?;
    stage.say(format_args!(
        "seed {}: {rounds} rounds in {:.1} min, {} writes on two nodes each, none lost",
        play.seed,
        began.elapsed().as_secs_f64() / 60.0,
        report.judged.acked
    ));
    Ok(rounds)
}

/// The spec of a size; another `restart` asks for new members.
fn spec(size: Size, restart: u64) -> serde_json::Value {
    let mut spec = json!({ "shards": size.shards, "replicas": size.replicas });
    if let Some(fields) = spec.as_object_mut().filter(|_| restart > 0) {
        let at = format!("2026-01-01T00:{:02}:{:02}Z", restart / 60 % 60, restart % 60);
        fields.insert("restartedAt".to_owned(), json!(at));
    }
    spec
}

/// Lanes on which a write counts when a replica has it, too.
async fn writes(sandbox: &Sandbox, cluster: &Cluster) -> Result<LedgerHandle> {
    let nodes: BTreeSet<SocketAddr> = cluster.addresses().await?.into_values().collect();
    let mut options = Options::new(nodes.iter().map(ToString::to_string).collect());
    options.access = crate::resp::Access::through(super::cluster::connector(sandbox));
    options.copies = 1;
    options.rate = 50.0;
    options.read_back_within = READ_BACK;
    let ledger = Ledger::start(options).await?;
    ledger.wait_flowing().await?;
    Ok(ledger)
}

/// Everything is as wanted: the nodes themselves say so, and so does Kubernetes.
async fn settle(stage: &Stage, cluster: &Cluster, ledger: &LedgerHandle, round: &Round) -> Result<Duration> {
    let (shards, replicas) = (usize::from(round.size.shards), usize::from(round.size.replicas));
    let began = Instant::now();
    operator::scale(&stage.client, 2).await?;
    cluster.whole(shards, replicas, WHOLE).await?;
    cluster.ready(began, WHOLE).await?;
    let pods = cluster.addresses().await?.len();
    ensure!(pods == shards * (replicas + 1), "{pods} Pods for {shards}x{replicas}");
    ledger.wait_flowing().await?;
    Ok(began.elapsed())
}

fn judge(stage: &Stage, report: &LedgerReport) -> Result<()> {
    let when = |at: f64| {
        let before = report.marks.iter().rev().find(|mark| mark.at_ms <= at);
        before.map_or("before the first round", |mark| mark.name.as_str())
    };
    let mut rounds = BTreeSet::new();
    for lane in &report.lanes {
        for seen in &lane.regressions {
            stage.say(format_args!(
                "slot {}: a counter went back from {} to {} at {:.0} ms, in {}",
                lane.slot,
                seen.acknowledged,
                seen.found,
                seen.at_ms,
                when(seen.at_ms)
            ));
            rounds.insert(when(seen.at_ms));
        }
    }
    ensure!(report.judged.unread == 0, "{} writes could not be read back", report.judged.unread);
    let lost = report.lost();
    ensure!(lost == 0, "{lost} writes that two nodes had are lost, in {rounds:?}: {}", report.summary());
    Ok(())
}
