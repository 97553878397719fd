//! Decides whether this process may act: leader election by compare-and-swap on one Lease. Touches that Lease only.
//!
//! The algorithm is client-go's (<https://pkg.go.dev/k8s.io/client-go/tools/leaderelection>): every write carries the
//! resourceVersion that was read, and a record counts as expired when *we* have seen it unchanged for its whole duration by our
//! own monotonic clock; another machine's timestamps are never compared with ours.
//!
//! It differs in one thing: an API server that cannot be reached ends the right to act, not the process. The process keeps
//! its links to the Valkey nodes and goes on as soon as it holds the lease again; it ends only when it *sees* another holder.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Whose lease, and in which rhythm it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Lease's name.
    pub name: String,
    /// Who we are among the candidates; the same after a restart means the same candidate.
    pub identity: String,
    /// Others take over when they have seen no renewal for this long.
    pub duration: Duration,
    /// We stop acting when no renewal succeeded for this long. Shorter than `duration`: the difference is the time that
    /// an effect under way has to end.
    pub renew_deadline: Duration,
    /// Time between two attempts, and what one attempt may take at most is twice this.
    pub retry: Duration,
}

impl Settings {
    /// The usual rhythm: 15 s, 10 s, 2 s.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Until when this process may act. Cheap to clone; every guard asks it right before its effect.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Validity>);

/// What a process is to the clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the lease.
    Leads,
    /// It held the lease, and no other process is known to hold it: most often the API server is away.
    Expired,
    /// It has never held the lease.
    StandsBy,
}

#[derive(Clone, Copy, Debug)]
enum Validity {
    /// Never held.
    Standby,
    /// Held, and to be renewed before this moment.
    Until(Instant),
    /// No election: for development.
    Always,
}

impl Leadership {
    /// Leadership without an election, always valid: for development and tests.
    pub fn always() -> Self {
        // The sender may go: a receiver keeps the last value.
        Self(watch::channel(Validity::Always).1)
    }

    /// Whether an effect may be started now.
    pub fn valid_now(&self) -> bool {
        self.standing() == Standing::Leads
    }

    /// What this process may do now.
    pub fn standing(&self) -> Standing {
        match *self.0.borrow() {
            Validity::Standby => Standing::StandsBy,
            Validity::Until(deadline) if Instant::now() < deadline => Standing::Leads,
            Validity::Until(_) => Standing::Expired,
            Validity::Always => Standing::Leads,
        }
    }

    /// Waits until the lease is held for the first time. Without end while another process holds it: the caller bounds it.
    pub async fn acquired(&mut self) {
        if self.0.wait_for(|v| !matches!(v, Validity::Standby)).await.is_err() {
            // The election ended without ever being won: the caller's other branch says why.
            std::future::pending::<()>().await;
        }
    }
}

/// How an election ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop; the lease was given back if we held it.
    Stopped,
    /// We held it once, and now another process does.
    Lost {
        /// The other process.
        holder: String,
    },
}

/// What one attempt found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    Held,
    HeldBy(String),
    /// Somebody wrote between our read and our write.
    Raced,
}

/// One candidate.
pub struct Election {
    api: Api<Lease>,
    settings: Settings,
    metrics: Metrics,
    validity: watch::Sender<Validity>,
    seen: Seen,
}

/// What the record said when it last changed, and when that was by our own clock.
#[derive(Default)]
struct Seen {
    record: Option<(Option<String>, Option<MicroTime>)>,
    at: Option<Instant>,
}

impl Election {
    /// A candidate, and the handle that says whether it may act.
    pub fn new(api: Api<Lease>, settings: Settings, metrics: Metrics) -> (Self, Leadership) {
        let (validity, receiver) = watch::channel(Validity::Standby);
        (Self { api, settings, metrics, validity, seen: Seen::default() }, Leadership(receiver))
    }

    /// Takes part until `stop`, or until it is lost. Cancel `stop` only after everything that acts has ended: the lease
    /// is given back then, and the next holder begins at its next attempt.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut told = None;
        loop {
            let began = Instant::now();
            let attempt = timeout(self.settings.retry * 2, self.attempt()).await;
            match attempt {
                Ok(Ok(Attempt::Held)) => self.held(began),
                Ok(Ok(Attempt::HeldBy(holder))) => {
                    if self.was_held() {
                        self.metrics.set_leader(false);
                        self.validity.send_replace(Validity::Standby);
                        return Ended::Lost { holder };
                    }
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(%holder, lease = %self.settings.name, "standing by");
                        told = Some(holder);
                    }
                }
                Ok(Ok(Attempt::Raced)) => {}
                Ok(Err(error)) => self.failed(&error.to_string()),
                Err(_) => self.failed("the API server did not answer in time"),
            }
            tokio::select! {
                () = tokio::time::sleep_until(began + self.settings.retry) => {}
                () = stop.cancelled() => break,
            }
        }
        self.release().await;
        Ended::Stopped
    }

    fn was_held(&self) -> bool {
        !matches!(*self.validity.borrow(), Validity::Standby)
    }

    fn held(&self, began: Instant) {
        if !self.was_held() {
            tracing::info!(lease = %self.settings.name, identity = %self.settings.identity, "this process leads");
        }
        // Counted from before the write: the record cannot be older than that.
        self.validity.send_replace(Validity::Until(began + self.settings.renew_deadline));
        self.metrics.set_leader(true);
    }

    fn failed(&self, error: &str) {
        let valid = match *self.validity.borrow() {
            Validity::Until(deadline) => Instant::now() < deadline,
            Validity::Standby | Validity::Always => false,
        };
        self.metrics.set_leader(valid);
        if valid || !self.was_held() {
            tracing::warn!(error, lease = %self.settings.name, "the lease could not be read or renewed");
        } else {
            tracing::warn!(error, lease = %self.settings.name, "the lease is not valid: nothing is changed until it can be renewed");
        }
    }

    /// One read and at most one write.
    async fn attempt(&mut self) -> kube::Result<Attempt> {
        let Some(mut lease) = self.api.get_opt(&self.settings.name).await? else {
            return self.create().await;
        };
        let mut spec = lease.spec.take().unwrap_or_default();
        self.seen.look(&spec);
        let ours = spec.holder_identity.as_deref() == Some(self.settings.identity.as_str());
        if let Some(holder) = spec.holder_identity.as_ref().filter(|h| !ours && !h.is_empty())
            && !self.seen.expired(&spec, self.settings.duration)
        {
            return Ok(Attempt::HeldBy(holder.clone()));
        }
        let now = MicroTime(jiff::Timestamp::now());
        if !ours {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.holder_identity = Some(self.settings.identity.clone());
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = Some(whole_seconds(self.settings.duration));
        lease.spec = Some(spec);
        // The object carries the resourceVersion that was read: this is the compare-and-swap.
        match self.api.replace(&self.settings.name, &PostParams::default(), &lease).await {
            Ok(written) => {
                self.seen.look(&written.spec.unwrap_or_default());
                Ok(Attempt::Held)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                Ok(Attempt::Raced)
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&self) -> kube::Result<Attempt> {
        let now = MicroTime(jiff::Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: Some(whole_seconds(self.settings.duration)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(Attempt::Held),
            Err(kube::Error::Api(s)) if s.is_already_exists() || s.is_conflict() => Ok(Attempt::Raced),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, so that the next holder need not wait for it to expire.
    async fn release(&self) {
        if !self.was_held() {
            return;
        }
        self.validity.send_replace(Validity::Standby);
        self.metrics.set_leader(false);
        match timeout(self.settings.retry * 2, self.give_back()).await {
            Ok(Ok(())) => tracing::info!(lease = %self.settings.name, "the lease was given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = %self.settings.name, "the lease could not be given back and has to expire");
            }
            Err(_) => {
                tracing::warn!(lease = %self.settings.name, "the API server did not answer in time: the lease has to expire");
            }
        }
    }

    async fn give_back(&self) -> kube::Result<()> {
        let mut lease = self.api.get(&self.settings.name).await?;
        match lease.spec.as_mut() {
            Some(spec) if spec.holder_identity.as_deref() == Some(self.settings.identity.as_str()) => {
                spec.holder_identity = Some(String::new());
                spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            }
            // Another process has it already.
            Some(_) | None => return Ok(()),
        }
        self.api.replace(&self.settings.name, &PostParams::default(), &lease).await.map(drop)
    }
}

impl Seen {
    fn look(&mut self, spec: &LeaseSpec) {
        let record = (spec.holder_identity.clone(), spec.renew_time.clone());
        if self.record.as_ref() != Some(&record) {
            self.record = Some(record);
            self.at = Some(Instant::now());
        }
    }

    /// Whether we have seen the record unchanged for its whole duration (`usual` when it states none).
    fn expired(&self, spec: &LeaseSpec, usual: Duration) -> bool {
        let stated = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let duration = stated.map_or(usual, Duration::from_secs);
        self.at.is_some_and(|at| at.elapsed() > duration)
    }
}

fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
