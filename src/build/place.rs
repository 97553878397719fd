//! What a pod asks of the scheduler: the spec's own terms, the rules of the spread, and the place that the planner wants. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
        PodAntiAffinity, PreferredSchedulingTerm, TopologySpreadConstraint, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    labels::{APART, CLUSTER_UID, SHARD_INDEX},
    pod::PodPlan,
};
use crate::model::{Desired, Scheduling, SpreadMode};

/// The label of a worker that names it to the scheduler.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a worker that names its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The chosen worker counts more than any distance: the choice already keeps a shard's copies apart.
const CHOSEN: i32 = 100;
/// When the chosen worker cannot take the pod, it still stays away from the shard's other copies.
const OTHER_WORKER: i32 = 50;
/// And from their zones.
const OTHER_ZONE: i32 = 25;

/// The labels that a pod must have.
pub(super) fn node_selector(desired: &Desired, plan: &PodPlan) -> BTreeMap<String, String> {
    let mut all = desired.template.scheduling.node_selector.clone();
    all.extend(plan.demands.zone.as_ref().map(|z| (ZONE.to_owned(), z.to_string())));
    all
}

/// The spec's affinity with ours beside it.
pub(super) fn affinity(desired: &Desired, plan: &PodPlan) -> Affinity {
    let scheduling = &desired.template.scheduling;
    let mut all = scheduling.affinity.clone().unwrap_or_default();
    apart(desired, plan, all.pod_anti_affinity.get_or_insert_with(PodAntiAffinity::default));
    if all.pod_anti_affinity == Some(PodAntiAffinity::default()) {
        all.pod_anti_affinity = None;
    }
    let demands = demands(plan);
    if plan.worker_hostname.is_none() && demands.is_empty() {
        return all;
    }
    let nodes = all.node_affinity.get_or_insert_with(NodeAffinity::default);
    if let Some(hostname) = plan.worker_hostname.as_deref().filter(|_| !plan.demands.only) {
        let preferred = nodes.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
        preferred.push(PreferredSchedulingTerm {
            weight: CHOSEN,
            preference: NodeSelectorTerm {
                match_expressions: Some(vec![one_of(HOSTNAME, "In", vec![hostname.to_owned()])]),
                match_fields: None,
            },
        });
    }
    if !demands.is_empty() {
        require(nodes, &demands);
    }
    all
}

fn one_of(key: &str, operator: &str, values: Vec<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values: Some(values) }
}

/// What is demanded of this pod's worker.
fn demands(plan: &PodPlan) -> Vec<NodeSelectorRequirement> {
    let mut all = Vec::new();
    if let Some(hostname) = plan.worker_hostname.clone().filter(|_| plan.demands.only) {
        all.push(one_of(HOSTNAME, "In", vec![hostname]));
    }
    if !plan.not_on_hostnames.is_empty() {
        all.push(one_of(HOSTNAME, "NotIn", plan.not_on_hostnames.clone()));
    }
    if !plan.demands.not_in.is_empty() {
        all.push(one_of(ZONE, "NotIn", plan.demands.not_in.iter().map(ToString::to_string).collect()));
    }
    all
}

/// Terms are alternatives, what is within a term holds together: ours goes into each.
fn require(nodes: &mut NodeAffinity, demands: &[NodeSelectorRequirement]) {
    let required = nodes
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_expressions.get_or_insert_default().extend(demands.iter().cloned());
    }
}

/// Copies of a shard keep away from each other.
fn apart(desired: &Desired, plan: &PodPlan, all: &mut PodAntiAffinity) {
    let scheduling = &desired.template.scheduling;
    let term = |key: &str, labels: BTreeMap<String, String>| PodAffinityTerm {
        topology_key: key.to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
        ..PodAffinityTerm::default()
    };
    let mut prefer = |weight: i32, key: &str| {
        let wishes = all.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
        wishes.push(WeightedPodAffinityTerm { weight, pod_affinity_term: term(key, shard(desired, plan)) });
    };
    if scheduling.node.shard == SpreadMode::Preferred {
        prefer(OTHER_WORKER, HOSTNAME);
    }
    if scheduling.zone.shard == SpreadMode::Preferred && scheduling.pinned.is_empty() {
        prefer(OTHER_ZONE, ZONE);
    }
    if scheduling.node.shard == SpreadMode::Required {
        let terms = all.required_during_scheduling_ignored_during_execution.get_or_insert_default();
        terms.push(term(HOSTNAME, counted(desired, plan)));
    }
}

/// The spec's constraints with ours behind them.
pub(super) fn topology(desired: &Desired, plan: &PodPlan) -> Vec<TopologySpreadConstraint> {
    let Scheduling { node, zone, topology_spread_constraints, .. } = &desired.template.scheduling;
    let all_pods = || BTreeMap::from([(CLUSTER_UID.to_owned(), desired.key.uid.clone())]);
    let mut all = topology_spread_constraints.clone();
    let mut even = |mode: SpreadMode, key: &str, labels: BTreeMap<String, String>| {
        if mode == SpreadMode::Required {
            all.push(TopologySpreadConstraint {
                max_skew: 1,
                topology_key: key.to_owned(),
                when_unsatisfiable: "DoNotSchedule".to_owned(),
                label_selector: Some(LabelSelector { match_labels: Some(labels), match_expressions: None }),
                // A worker that is being emptied or has failed is no place to be even with.
                node_taints_policy: Some("Honor".to_owned()),
                ..TopologySpreadConstraint::default()
            });
        }
    };
    even(zone.shard, ZONE, counted(desired, plan));
    even(node.pods, HOSTNAME, all_pods());
    even(zone.pods, ZONE, all_pods());
    all
}

fn shard(desired: &Desired, plan: &PodPlan) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CLUSTER_UID.to_owned(), desired.key.uid.clone()),
        (SHARD_INDEX.to_owned(), plan.shard.to_string()),
    ])
}

/// The copies of the shard that count: a member that leaves does not, nor does its successor before it has a worker.
fn counted(desired: &Desired, plan: &PodPlan) -> BTreeMap<String, String> {
    let mut labels = shard(desired, plan);
    labels.insert(APART.to_owned(), "true".to_owned());
    labels
}
