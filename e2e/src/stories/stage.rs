//! What every story has at hand: a Kubernetes, a client, and a namespace of its own that is removed afterwards.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use valkey_cluster_operator::api::ValkeyCluster;

use super::Suite;
use super::cluster::Cluster;
use super::denied;
use super::reach::Way;
use crate::progress::Progress;
use crate::sandbox::Sandbox;

/// Namespaces of stories begin with this.
const PREFIX: &str = "story-";
/// Sets the random moments of a story, so that a run can be told again.
const SEED: &str = "SEED";
/// A poll of a story: fine enough for the figures, and it costs the machine little.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// The stage on which stories are told.
pub struct Stage {
    reach: Way,
    /// As administrator.
    pub client: Client,
    /// How much of everything.
    pub suite: Suite,
    /// Every cluster speaks TLS.
    pub tls: bool,
    /// For what takes longer than a second.
    pub progress: Progress,
    namespaces: Mutex<Vec<String>>,
    counter: AtomicUsize,
    left_out: Mutex<Vec<String>>,
    told: Mutex<BTreeSet<&'static str>>,
    clusters: Mutex<Vec<Cluster>>,
}

/// Why a story cannot be told on this stage. It is no failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skipped(pub String);

impl Stage {
    /// A stage on a Kubernetes that the operator runs on.
    pub fn new(reach: Way, client: Client, suite: Suite, progress: Progress) -> Self {
        Self {
            reach,
            client,
            suite,
            tls: false,
            progress,
            namespaces: Mutex::default(),
            counter: AtomicUsize::new(0),
            left_out: Mutex::default(),
            told: Mutex::default(),
            clusters: Mutex::default(),
        }
    }

    /// Every cluster of every story speaks TLS, or none but those of stories about it.
    #[must_use]
    pub fn encrypted(self, tls: bool) -> Self {
        Self { tls, ..self }
    }

    /// The ways into its Kubernetes.
    pub fn reach(&self) -> &Way {
        &self.reach
    }

    /// The sandbox, for a story that needs its powers; `why` ends the sentence "needs the sandbox: it …".
    ///
    /// # Errors
    /// [`Skipped`], on any other Kubernetes.
    pub fn sandbox(&self, why: &str) -> Result<&Sandbox> {
        Ok(self.reach.sandbox().ok_or_else(|| Skipped(format!("needs the sandbox: it {why}")))?)
    }

    /// For a story that stops or kills the operator; `why` ends the sentence "not on a cluster …: it …".
    ///
    /// # Errors
    /// [`Skipped`], on somebody's cluster whose operator has `ValkeyCluster`s of others to look after.
    pub async fn own_operator(&self, why: &str) -> Result<()> {
        if self.reach.sandbox().is_some() {
            return Ok(());
        }
        let all =
            Api::<ValkeyCluster>::all(self.client.clone()).list_metadata(&ListParams::default()).await?;
        let foreign = |name: &str| !name.starts_with(PREFIX);
        let others = all.items.iter().find(|cr| foreign(&cr.namespace().unwrap_or_default()));
        if let Some(other) = others {
            let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
            bail!(Skipped(format!(
                "not beside a ValkeyCluster that is in use ({namespace}/{name}): it {why}"
            )));
        }
        Ok(())
    }

    /// Notes a part of a story that cannot be told on this stage: it is counted as skipped.
    pub fn leave_out(&self, what: &str, why: &anyhow::Error) {
        self.say(format_args!("left out: {what}: {why:#}"));
        if let Ok(mut left_out) = self.left_out.lock() {
            left_out.push(format!("{what}: {why:#}"));
        }
    }

    /// What was left out since the last call.
    pub(super) fn take_left_out(&self) -> Vec<String> {
        self.left_out.lock().map(|mut left_out| std::mem::take(&mut *left_out)).unwrap_or_default()
    }

    /// Notes that a story is over.
    pub(super) fn told(&self, story: &'static str) {
        if let Ok(mut told) = self.told.lock() {
            told.insert(story);
        }
    }

    /// Whether all stories but one were told on this stage: the one that asks, as the last.
    pub(super) fn told_all(&self) -> bool {
        self.told.lock().is_ok_and(|told| told.len() + 1 >= super::all().len())
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let (reach, arguments) =
            (self.reach.clone(), arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            reach.kubectl(&arguments)
        })
        .await?
    }

    /// Prints the figures of a story, in one line.
    pub fn say(&self, text: impl std::fmt::Display) {
        self.progress.line(format_args!("  {text}"));
    }

    /// The bound of a time: the figure itself where medians are judged, ten times as much on a machine that may be busy.
    pub fn bound(&self, figure: Duration) -> Duration {
        match self.suite {
            Suite::Ci => figure * 10,
            Suite::Full => figure,
        }
    }

    /// Takes a namespace that a story has removed itself off the list.
    ///
    /// # Errors
    /// Never in practice: only if another story panicked at this very place.
    pub fn gone(&self, namespace: &str) -> Result<()> {
        self.namespaces.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.retain(|n| n != namespace);
        Ok(())
    }

    /// The count for the suite: once for CI, as often as the figures need for the full one.
    pub fn times(&self, ci: usize, full: usize) -> usize {
        match self.suite {
            Suite::Ci => ci,
            Suite::Full => full,
        }
    }

    /// The number that the random moments of a story come from, printed: `SEED`. Without it every `ci` run takes the same one, so that a
    /// change is judged by the faults that the one before was judged by, and the full suite a new one.
    ///
    /// # Errors
    /// If `SEED` is no number.
    pub fn seed(&self) -> Result<u64> {
        let seed = match (std::env::var(SEED), self.suite) {
            (Ok(text), _) => text.parse().with_context(|| format!("{SEED}={text} is no number"))?,
            (Err(_), Suite::Ci) => 1,
            (Err(_), Suite::Full) => rand::random(),
        };
        self.say(format_args!("{SEED}={seed}"));
        Ok(seed)
    }

    /// A namespace of the story's own, under the strictest Pod Security.
    ///
    /// # Errors
    /// If it cannot be created.
    pub async fn namespace(&self) -> Result<String> {
        let stamp = k8s_openapi::jiff::Timestamp::now().as_second();
        let name = format!("{PREFIX}{stamp}-{}", self.counter.fetch_add(1, Ordering::Relaxed));
        let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": name,
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } }))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &object).await?;
        self.namespaces.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push(name.clone());
        Ok(name)
    }

    /// The names of all workers.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn workers(&self) -> Result<Vec<String>> {
        let list = Api::<Node>::all(self.client.clone()).list_metadata(&ListParams::default()).await?;
        Ok(list.items.iter().map(ResourceExt::name_any).collect())
    }

    /// A cluster in a new namespace, applied.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn cluster(&self, spec: serde_json::Value) -> Result<Cluster> {
        let namespace = self.namespace().await?;
        Cluster::apply(self, &namespace, "demo", spec).await
    }

    /// Notes a cluster that the story has made.
    pub(super) fn note(&self, cluster: &Cluster) {
        if let Ok(mut clusters) = self.clusters.lock() {
            clusters.push(cluster.clone());
        }
    }

    /// Whether a node of the story's clusters has refused a command to one of the operator's own users.
    async fn refusals(&self) -> Result<()> {
        let clusters = self.clusters.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
        for cluster in &clusters {
            denied::nobody_was(cluster).await.with_context(|| format!("cluster {}", cluster.name))?;
        }
        Ok(())
    }

    /// Looks for what the story's clusters refused, removes what the story has made, and waits until its Pods are gone.
    ///
    /// # Errors
    /// If a node has refused a command to a user of the operator's, or Pods stay for more than two minutes.
    pub async fn clean(&self) -> Result<()> {
        let refused = self.refusals().await;
        self.remove().await?;
        refused
    }

    /// Takes away what a run that was killed has left on the sandbox: its load goes on otherwise.
    ///
    /// # Errors
    /// As `clean`.
    pub async fn sweep(&self) -> Result<()> {
        if self.reach.sandbox().is_none() {
            return Ok(());
        }
        let all = Api::<Namespace>::all(self.client.clone()).list_metadata(&ListParams::default()).await?;
        let left = all.items.iter().map(ResourceExt::name_any).filter(|name| name.starts_with(PREFIX));
        self.namespaces.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.extend(left);
        self.remove().await
    }

    async fn remove(&self) -> Result<()> {
        let names = std::mem::take(&mut *self.namespaces.lock().map_err(|_| anyhow::anyhow!("poisoned"))?);
        let api = Api::<Namespace>::all(self.client.clone());
        for name in &names {
            if let Err(error) = api.delete(name, &DeleteParams::default()).await
                && !matches!(&error, kube::Error::Api(s) if s.is_not_found())
            {
                return Err(error).context("remove a namespace");
            }
        }
        for name in &names {
            let pods = Api::<Pod>::namespaced(self.client.clone(), name);
            eventually("the namespace to be empty", Duration::from_mins(2), async || {
                let left = pods.list_metadata(&ListParams::default()).await?.items;
                match left.first() {
                    None => Ok(()),
                    Some(pod) => bail!("{} Pods are left, {} among them", left.len(), pod.name_any()),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// The newest lines of the leading operator, and the events of the story, for a story that failed.
    pub fn what_happened(&self) -> String {
        let mut out = String::new();
        let mut show = |title: &str, arguments: &[&str]| {
            let text = self.reach.kubectl(arguments).unwrap_or_else(|e| format!("{e:#}"));
            let (kubectl, shown) = (self.reach.kubectl_words(), arguments.join(" "));
            out.extend(["--- ", title, " (", &kubectl, " ", &shown, ")\n", &text, "\n"]);
        };
        let namespaces = self.namespaces.lock().map(|n| n.clone()).unwrap_or_default();
        for namespace in &namespaces {
            show("clusters", &["get", "vkc", "-n", namespace, "-o", "yaml"]);
            show("Pods", &["get", "pods", "-n", namespace, "-o", "wide"]);
            show("events", &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]);
        }
        show(
            "operator",
            &[
                "logs",
                "-n",
                super::operator::NAMESPACE,
                "-l",
                super::operator::SELECTOR,
                "--tail=60",
                "--prefix",
            ],
        );
        out
    }
}

/// Tries until it succeeds; when time is up the last error says what was missing.
///
/// # Errors
/// The last error, with what was waited for.
pub(super) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if began.elapsed() > limit => {
                return Err(error).with_context(|| format!("waited {:.1} s for {what}", limit.as_secs_f64()));
            }
            Err(_) => tokio::time::sleep(TICK).await,
        }
    }
}
