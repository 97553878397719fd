//! Where a Pod goes: what it demands holds, what it wishes is followed where it can be, otherwise the emptiest worker takes it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

/// What the scheduler knows of a worker that takes Pods.
pub(crate) struct Place {
    pub name: String,
    pub zone: Option<String>,
    /// For so many Pods.
    pub room: usize,
}

impl Place {
    fn label(&self, key: &str) -> Option<&str> {
        match key {
            "kubernetes.io/hostname" => Some(&self.name),
            "topology.kubernetes.io/zone" => self.zone.as_deref(),
            _ => None,
        }
    }

    fn fulfils(&self, wish: &NodeSelectorRequirement) -> bool {
        let among = self.label(&wish.key).is_some_and(|v| wish.values.iter().flatten().any(|w| w == v));
        match wish.operator.as_str() {
            "In" => among,
            "NotIn" => !among,
            other => panic!("the scheduler of the tests does not know {other}"),
        }
    }
}

fn on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// The worker for this Pod, if one can take it. `open` are the workers that take any, `all` the Pods that there are.
pub(crate) fn choose<'a>(pod: &Pod, open: &'a [Place], all: &[Pod]) -> Option<&'a Place> {
    let load = |place: &Place| all.iter().filter(|p| on(p) == Some(&place.name)).count();
    let wished = wishes(pod);
    let possible = open.iter().filter(|place| load(place) < place.room && accepted(pod, place, open, all));
    possible.min_by_key(|place| (!wished.contains(&place.name), load(place)))
}

/// The workers that its affinity prefers.
fn wishes(pod: &Pod) -> BTreeSet<String> {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let terms =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()).into_iter();
    let wishes = terms.flatten().flat_map(|t| t.preference.match_expressions.iter().flatten());
    wishes.flat_map(|w| w.values.iter().flatten().cloned()).collect()
}

fn accepted(pod: &Pod, place: &Place, open: &[Place], all: &[Pod]) -> bool {
    let spec = pod.spec.as_ref().unwrap();
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| place.label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fulfils = required.is_none_or(|r| {
        r.node_selector_terms
            .iter()
            .any(|term| term.match_expressions.iter().flatten().all(|wish| place.fulfils(wish)))
    });
    let here = || all.iter().filter(|p| on(p) == Some(&place.name) && !ended(p));
    // Anti-affinity holds both ways.
    let repels = |a: &Pod, b: &Pod| repelled(a).any(|term| matches(term.label_selector.as_ref(), b));
    selected
        && fulfils
        && !here().any(|other| repels(pod, other) || repels(other, pod))
        && spec.topology_spread_constraints.iter().flatten().all(|c| keeps_even(c, pod, place, open, all))
}

fn repelled(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
}

fn matches(selector: Option<&LabelSelector>, pod: &Pod) -> bool {
    let wanted = selector.and_then(|s| s.match_labels.as_ref());
    wanted.is_some_and(|w| w.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
}

/// `DoNotSchedule` with `nodeTaintsPolicy: Honor`: only places where there is an open worker are counted, and Pods that are told to
/// go are not.
fn keeps_even(
    constraint: &TopologySpreadConstraint,
    pod: &Pod,
    place: &Place,
    open: &[Place],
    all: &[Pod],
) -> bool {
    let key = constraint.topology_key.as_str();
    let Some(own) = place.label(key) else { return false };
    let mut counts: BTreeMap<&str, i32> = open.iter().filter_map(|p| Some((p.label(key)?, 0))).collect();
    let selector = constraint.label_selector.as_ref();
    let counted = |p: &&Pod| matches(selector, p) && p.metadata.deletion_timestamp.is_none() && !ended(p);
    for other in all.iter().filter(counted) {
        let there = open.iter().find(|p| on(other) == Some(&p.name)).and_then(|p| p.label(key));
        if let Some(count) = there.and_then(|there| counts.get_mut(there)) {
            *count += 1;
        }
    }
    let least = counts.values().min().copied().unwrap_or(0);
    counts[own] + i32::from(matches(selector, pod)) - least <= constraint.max_skew
}
