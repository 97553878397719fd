//! Decides the names, labels and types of the operator's metrics. Touches memory only (and `/proc/self`, in `process`).
//!
//! Names follow the Prometheus conventions (<https://prometheus.io/docs/practices/naming/>): base units, `_total` on counters.
//! What belongs to one `ValkeyCluster` carries its namespace and name and goes when the cluster goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::migrations::Migrations;
use super::process::Process;
use crate::model::Moved;
use crate::mutex::lock;

/// Buckets from a millisecond (one exchange with a node) to the slowest bounded wait of a pass.
const SECONDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// The three parts of a pass whose time is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reading Kubernetes' caches and every Valkey node.
    Observe,
    /// The rules and the budget: pure computation.
    Plan,
    /// The guarded effects.
    Execute,
}

impl Part {
    fn label(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Plan => "plan",
            Self::Execute => "execute",
        }
    }
}

/// What one pass found out about one cluster; replaces what the pass before it said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterGauges {
    /// Refused steps by code; a code that is not named here is no longer blocked.
    pub blocked: BTreeMap<String, i64>,
    /// Shards by state.
    pub shards: BTreeMap<String, i64>,
    /// Members by state.
    pub members: BTreeMap<String, i64>,
    /// Primaries on the fullest worker minus primaries on the emptiest one.
    pub worker_spread: i64,
    /// When the certificate of a cluster that speaks TLS ends, in seconds since 1970.
    pub certificate_expires: Option<i64>,
}

/// Every metric of the process. Cheap to clone: all clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    reconcile_errors: IntCounterVec,
    reconcile_seconds: Histogram,
    part_seconds: HistogramVec,
    steps: IntCounterVec,
    link_losses: IntCounter,
    forced_failovers: IntCounterVec,
    shards_lost: IntCounterVec,
    purges: IntCounterVec,
    migrations: Migrations,
    leader: IntGauge,
    blocked: IntGaugeVec,
    shards: IntGaugeVec,
    members: IntGaugeVec,
    spread: IntGaugeVec,
    expires: IntGaugeVec,
    shown: Arc<Mutex<BTreeMap<Cluster, Shown>>>,
}

/// Namespace and name.
type Cluster = (String, String);

/// The last label of every series that a cluster has now, so that each can be removed again.
#[derive(Default)]
struct Shown {
    blocked: BTreeSet<String>,
    shards: BTreeSet<String>,
    members: BTreeSet<String>,
}

impl Metrics {
    /// Registers everything, and the process collector (`process_*`, without our prefix as scrapers expect).
    ///
    /// # Errors
    /// When a name is not valid or is given twice: a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        // A registry with a prefix would put it before process_* too.
        let registry = Registry::new();
        let of_cluster = |name: &str, help: &str, last: &[&str]| {
            IntGaugeVec::new(opts(name, help), &[&["namespace", "cluster"], last].concat())
        };
        let count = |name: &str, help: &str| IntCounter::with_opts(opts(name, help));
        let lossy = |name: &str, help: &str| IntCounterVec::new(opts(name, help), &["namespace", "cluster"]);
        let this = Self {
            reconciles: count("reconciles_total", "Passes over a ValkeyCluster that ended.")?,
            reconcile_errors: IntCounterVec::new(
                opts("reconcile_errors_total", "Passes over a ValkeyCluster that ended in an error."),
                &["reason"],
            )?,
            reconcile_seconds: Histogram::with_opts(seconds(
                "reconcile_duration_seconds",
                "Time that one pass over a ValkeyCluster took.",
            ))?,
            part_seconds: HistogramVec::new(
                seconds("reconcile_part_duration_seconds", "Time that one part of a pass took."),
                &["part"],
            )?,
            steps: IntCounterVec::new(
                opts("steps_total", "Steps that were carried out or refused."),
                &["step", "why", "outcome"],
            )?,
            link_losses: count("link_losses_total", "Lost connections to Valkey nodes.")?,
            forced_failovers: lossy(
                "forced_failovers_total",
                "Replicas that took over from a dead primary at the operator's word.",
            )?,
            shards_lost: lossy(
                "shards_lost_total",
                "Times that slots began anew, empty, because every copy of them was lost.",
            )?,
            purges: lossy(
                "purges_total",
                "Times that all keys were dropped because spec.purgeKeysOnRebalance says so.",
            )?,
            migrations: Migrations::new()?,
            leader: IntGauge::with_opts(opts(
                "leader",
                "1 while this process may act (its lease is valid), else 0.",
            ))?,
            blocked: of_cluster(
                "blocked",
                "Steps that are refused now, by the code of the refusal.",
                &["code"],
            )?,
            shards: of_cluster("shards", "Shards by state.", &["state"])?,
            members: of_cluster("members", "Members (pod and Valkey node) by state.", &["state"])?,
            spread: of_cluster("worker_primaries_spread", "Most minus fewest primaries on a worker.", &[])?,
            expires: of_cluster(
                "certificate_expires_timestamp_seconds",
                "When the certificate that the nodes have, or what its trust rests on, ends.",
                &[],
            )?,
            shown: Arc::default(),
            registry,
        };
        this.register()?;
        Ok(this)
    }

    fn register(&self) -> prometheus::Result<()> {
        let version =
            IntGaugeVec::new(opts("build_info", "Always 1; the version is the label."), &["version"])?;
        version.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn Collector>; 17] = [
            Box::new(self.reconciles.clone()),
            Box::new(self.reconcile_errors.clone()),
            Box::new(self.reconcile_seconds.clone()),
            Box::new(self.part_seconds.clone()),
            Box::new(self.steps.clone()),
            Box::new(self.link_losses.clone()),
            Box::new(self.forced_failovers.clone()),
            Box::new(self.shards_lost.clone()),
            Box::new(self.purges.clone()),
            Box::new(self.leader.clone()),
            Box::new(self.blocked.clone()),
            Box::new(self.shards.clone()),
            Box::new(self.members.clone()),
            Box::new(self.spread.clone()),
            Box::new(self.expires.clone()),
            Box::new(version),
            Box::new(Process::new()),
        ];
        for collector in all.into_iter().chain(self.migrations.collectors()) {
            self.registry.register(collector)?;
        }
        Ok(())
    }

    /// One pass ended well or badly; `reason` is the error's (see `Error::reason`).
    pub fn reconciled(&self, took: Duration, reason: Option<&'static str>) {
        self.reconciles.inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
        if let Some(reason) = reason {
            self.reconcile_errors.with_label_values(&[reason]).inc();
        }
    }

    /// One part of a pass ended.
    pub fn part_took(&self, part: Part, took: Duration) {
        self.part_seconds.with_label_values(&[part.label()]).observe(took.as_secs_f64());
    }

    /// One step was tried: its kind, the rule's reason, and how it ended.
    pub fn step(&self, step: &str, why: &str, outcome: &str) {
        self.steps.with_label_values(&[step, why, outcome]).inc();
    }

    /// A connection to a Valkey node was lost.
    pub fn link_lost(&self) {
        self.link_losses.inc();
    }

    /// A replica took over from a dead primary at the operator's word.
    pub fn failover_forced(&self, namespace: &str, cluster: &str) {
        self.forced_failovers.with_label_values(&[namespace, cluster]).inc();
    }

    /// Slots began anew, empty.
    pub fn shard_lost(&self, namespace: &str, cluster: &str) {
        self.shards_lost.with_label_values(&[namespace, cluster]).inc();
    }

    /// All keys of a cluster were dropped on purpose.
    pub fn keys_purged(&self, namespace: &str, cluster: &str) {
        self.purges.with_label_values(&[namespace, cluster]).inc();
    }

    /// What has moved between shards since the last look.
    pub fn moved(&self, namespace: &str, cluster: &str, moved: &Moved) {
        self.migrations.count(namespace, cluster, moved);
    }

    /// Whether this process may act.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Shows what the newest pass found out, and takes back what no longer holds.
    pub fn show_cluster(&self, namespace: &str, cluster: &str, gauges: &ClusterGauges) {
        // A poisoned lock protects nothing that could be half-written for long: the next pass writes it anew.
        let mut shown = lock(&self.shown);
        let old = shown.entry((namespace.to_owned(), cluster.to_owned())).or_default();
        replace(&self.blocked, namespace, cluster, &mut old.blocked, &gauges.blocked);
        replace(&self.shards, namespace, cluster, &mut old.shards, &gauges.shards);
        replace(&self.members, namespace, cluster, &mut old.members, &gauges.members);
        self.spread.with_label_values(&[namespace, cluster]).set(gauges.worker_spread);
        match gauges.certificate_expires {
            Some(seconds) => self.expires.with_label_values(&[namespace, cluster]).set(seconds),
            None => drop(self.expires.remove_label_values(&[namespace, cluster])),
        }
    }

    /// Takes back every series of a cluster that is gone.
    pub fn forget_cluster(&self, namespace: &str, cluster: &str) {
        let mut shown = lock(&self.shown);
        let Some(mut old) = shown.remove(&(namespace.to_owned(), cluster.to_owned())) else { return };
        let none = BTreeMap::new();
        replace(&self.blocked, namespace, cluster, &mut old.blocked, &none);
        replace(&self.shards, namespace, cluster, &mut old.shards, &none);
        replace(&self.members, namespace, cluster, &mut old.members, &none);
        // Gone already is as good as removed.
        let _ = self.spread.remove_label_values(&[namespace, cluster]);
        let _ = self.expires.remove_label_values(&[namespace, cluster]);
    }

    /// The text that a scrape gets.
    ///
    /// # Errors
    /// When a collector gave something that has no text form.
    pub fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("valkey_operator_{name}"), help)
}

pub(super) fn seconds(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::from(opts(name, help)).buckets(SECONDS.to_vec())
}

fn replace(
    family: &IntGaugeVec,
    namespace: &str,
    cluster: &str,
    shown: &mut BTreeSet<String>,
    now: &BTreeMap<String, i64>,
) {
    for label in shown.iter().filter(|label| !now.contains_key(*label)) {
        let _ = family.remove_label_values(&[namespace, cluster, label]);
    }
    for (label, value) in now {
        family.with_label_values(&[namespace, cluster, label]).set(*value);
    }
    *shown = now.keys().cloned().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges(blocked: &[(&str, i64)]) -> ClusterGauges {
        ClusterGauges {
            blocked: blocked.iter().map(|(code, n)| ((*code).to_owned(), *n)).collect(),
            shards: BTreeMap::from([("ok".into(), 3)]),
            members: BTreeMap::from([("in_sync".into(), 6)]),
            worker_spread: 1,
            certificate_expires: blocked.first().map(|(_, n)| *n),
        }
    }

    #[test]
    fn a_cluster_is_shown_replaced_and_forgotten() {
        let metrics = Metrics::new().unwrap();
        metrics.show_cluster("ns", "a", &gauges(&[("Foreign", 2), ("Silent", 1)]));
        metrics.show_cluster("ns", "b", &gauges(&[]));
        metrics.show_cluster("ns", "a", &gauges(&[("Silent", 3)]));
        let text = metrics.encode().unwrap();
        assert!(!text.contains("Foreign"), "{text}");
        assert!(
            text.contains(r#"valkey_operator_blocked{cluster="a",code="Silent",namespace="ns"} 3"#),
            "{text}"
        );
        assert!(
            text.contains(r#"valkey_operator_worker_primaries_spread{cluster="a",namespace="ns"} 1"#),
            "{text}"
        );

        let expires = "valkey_operator_certificate_expires_timestamp_seconds{cluster=";
        assert!(text.contains(&format!("{expires}\"a\",namespace=\"ns\"}} 3")), "{text}");
        assert!(!text.contains(&format!("{expires}\"b\"")), "a cluster without TLS has none: {text}");
        metrics.forget_cluster("ns", "a");
        metrics.forget_cluster("ns", "never-seen");
        let text = metrics.encode().unwrap();
        assert!(!text.contains(r#"cluster="a""#), "{text}");
        assert!(
            text.contains(r#"valkey_operator_shards{cluster="b",namespace="ns",state="ok"} 3"#),
            "{text}"
        );
    }

    #[test]
    fn what_moves_is_counted_by_cluster() {
        let metrics = Metrics::new().unwrap();
        metrics.moved("ns", "still", &Moved::default());
        metrics.moved("ns", "a", &Moved { slots: 100, bytes: 4096, jobs_ms: vec![250, 1500], failed: 0 });
        metrics.moved("ns", "a", &Moved { slots: 28, bytes: 0, jobs_ms: vec![-1], failed: 2 });
        let text = metrics.encode().unwrap();
        for line in [
            r#"valkey_operator_migrated_slots_total{cluster="a",namespace="ns"} 128"#,
            r#"valkey_operator_migrated_bytes_total{cluster="a",namespace="ns"} 4096"#,
            r#"valkey_operator_migration_job_failures_total{cluster="a",namespace="ns"} 2"#,
            "valkey_operator_migration_job_duration_seconds_count 3",
            "valkey_operator_migration_job_duration_seconds_sum 1.75",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("still"), "a cluster of which nothing has moved has no series: {text}");
    }

    #[test]
    fn names_and_types_follow_the_conventions() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled(Duration::from_millis(3), None);
        metrics.reconciled(Duration::from_millis(3), Some("api_conflict"));
        metrics.part_took(Part::Plan, Duration::from_micros(40));
        metrics.step("Meet", "join", "done");
        metrics.link_lost();
        metrics.set_leader(true);
        let text = metrics.encode().unwrap();
        for line in [
            "valkey_operator_reconciles_total 2",
            r#"valkey_operator_reconcile_errors_total{reason="api_conflict"} 1"#,
            "valkey_operator_reconcile_duration_seconds_count 2",
            r#"valkey_operator_reconcile_part_duration_seconds_count{part="plan"} 1"#,
            r#"valkey_operator_steps_total{outcome="done",step="Meet",why="join"} 1"#,
            "valkey_operator_link_losses_total 1",
            "valkey_operator_leader 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains("\nprocess_resident_memory_bytes "),
            "process collector without prefix:\n{text}"
        );
        for family in metrics.registry.gather() {
            let (name, kind) = (family.name(), family.get_field_type());
            assert_eq!(
                name.ends_with("_total"),
                kind == prometheus::proto::MetricType::COUNTER && !name.starts_with("process_")
                    || name == "process_cpu_seconds_total",
                "{name}"
            );
        }
    }
}
