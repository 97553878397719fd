//! Reads Pods and workers out of what the API server shows. No client here: the stores are filled by watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerStatus, Node, NodeCondition, Pod as KubePod, PodStatus, Taint, Toleration,
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::matching;
use crate::build::{labels, place::ZONE, pod::CERTIFICATES, sidecars::EXPORTER};
use crate::model::{
    Fingerprint, Moment, Phase, Place, Pod, PodName, PodUid, Revision, Shard, Template, Trouble, Worker,
    WorkerName, Zone,
};

/// Taints of workers that somebody removes: the cordon itself, cluster autoscaler, Karpenter, and a person's word that the
/// machine is off. A mere candidate (`DeletionCandidateOfClusterAutoscaler`) is not among them.
const LEAVING: &[&str] = &[
    "node.kubernetes.io/unschedulable",
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "node.kubernetes.io/out-of-service",
];

/// What only makes a worker less welcome.
const SHUNNED: &[&str] = &["DeletionCandidateOfClusterAutoscaler"];

/// Waiting reasons that belong to every start.
const ORDINARY: &[&str] = &["ContainerCreating", "PodInitializing"];

/// A Pod of ours; none when it lacks the labels that the operator gives every Pod.
pub fn pod(p: &KubePod) -> Option<Pod> {
    let number = |key: &str| p.labels().get(key)?.parse::<u16>().ok();
    let status = p.status.clone().unwrap_or_default();
    let spec = p.spec.as_ref();
    let annotation = |key: &str| p.annotations().get(key).map(String::as_str);
    Some(Pod {
        name: PodName::new(p.name_any()),
        uid: PodUid::new(p.uid()?),
        shard: Shard(number(labels::SHARD_INDEX)?),
        index: number(labels::NODE_INDEX)?,
        revision: Revision::new(annotation(labels::REVISION).unwrap_or_default()),
        failures: annotation(labels::FAILURES).and_then(|t| t.parse().ok()).unwrap_or(0),
        worker: spec.and_then(|s| s.node_name.as_deref()).map(WorkerName::new),
        ip: address(&status),
        phase: phase(&status),
        terminating: p.metadata.deletion_timestamp.is_some(),
        disrupted: holds(&status, "DisruptionTarget"),
        gate: gate(&status),
        before: before(p.annotations()),
        encrypted: spec.is_some_and(|s| s.volumes.iter().flatten().any(|v| v.name == CERTIFICATES)),
        exporting: spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == EXPORTER)),
        nudged: annotation(labels::CERTIFICATES).map(Fingerprint::new),
        leads: p.labels().get(labels::ROLE).is_some_and(|r| r == labels::PRIMARY),
        place: Place {
            asked: annotation(labels::WORKER).map(WorkerName::new),
            pinned: spec.and_then(|s| s.node_selector.as_ref()?.get(ZONE)).map(Zone::new),
            counted: p.labels().contains_key(labels::APART),
            instead_of: annotation(labels::INSTEAD_OF).map(PodUid::new),
        },
        given: annotation(labels::GIVEN).unwrap_or_default().to_owned(),
        created: p.metadata.creation_timestamp.as_ref().map_or_else(Moment::default, |t| moment(t.0)),
        trouble: trouble(&status),
    })
}

fn moment(t: Timestamp) -> Moment {
    Moment(t.as_millisecond())
}

fn server(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|c| c.name == crate::build::pod::SERVER)
}

fn phase(status: &PodStatus) -> Phase {
    let state = server(status).and_then(|c| c.state.as_ref());
    if let Some(end) = state.and_then(|s| s.terminated.as_ref()) {
        let at = end.finished_at.as_ref().map_or_else(Moment::default, |t| moment(t.0));
        let from = end.started_at.as_ref().map_or(at, |t| moment(t.0));
        return Phase::Finished { at, ran_ms: at.since(from) };
    }
    match status.phase.as_deref() {
        // An evicted Pod may have no container status at all; how long it ran is not known then.
        Some("Failed" | "Succeeded") => Phase::Finished { at: Moment::default(), ran_ms: i64::MAX },
        _ if state.is_some_and(|s| s.running.is_some()) => Phase::Running,
        _ => Phase::Pending,
    }
}

fn holds(status: &PodStatus, condition: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == condition && c.status == "True")
}

/// A server that has ended keeps the address that it had, also where its kubelet does not tell it any more.
fn address(status: &PodStatus) -> Option<IpAddr> {
    let noted = || {
        let ended = matches!(phase(status), Phase::Finished { .. });
        let gate = status.conditions.iter().flatten().find(|c| c.type_ == labels::READINESS_GATE);
        gate.filter(|_| ended).and_then(|c| labels::address(c.message.as_deref()?))
    };
    status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()).or_else(noted)
}

fn gate(status: &PodStatus) -> Option<bool> {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().find(|c| c.type_ == labels::READINESS_GATE).map(|c| c.status == "True")
}

/// The notes of earlier values, by setting.
fn before(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = annotations.iter().filter_map(|(k, v)| Some((k.strip_prefix(labels::BEFORE)?, v)));
    ours.map(|(k, v)| (k.to_owned(), v.clone())).collect()
}

/// What keeps the Pod from running, in the words of Kubernetes.
fn trouble(status: &PodStatus) -> Option<Trouble> {
    let say = |reason: Option<&String>, message: Option<&String>| Trouble {
        reason: reason.cloned().unwrap_or_default(),
        message: message.map(|m| m.trim().to_owned()).unwrap_or_default(),
    };
    if let Some(state) = server(status).and_then(|c| c.state.as_ref()) {
        if let Some(end) = &state.terminated {
            return Some(say(end.reason.as_ref(), end.message.as_deref().map(last_words).as_ref()));
        }
        if let Some(w) =
            state.waiting.as_ref().filter(|w| !ORDINARY.contains(&w.reason.as_deref().unwrap_or_default()))
        {
            return Some(say(w.reason.as_ref(), w.message.as_ref()));
        }
    }
    if matches!(status.phase.as_deref(), Some("Failed")) {
        return Some(say(status.reason.as_ref(), status.message.as_ref()));
    }
    if let Some(beside) = status.init_container_statuses.iter().flatten().find_map(beside) {
        return Some(beside);
    }
    let conditions = status.conditions.iter().flatten();
    conditions
        .into_iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")
        .map(|c| say(c.reason.as_ref(), c.message.as_ref()))
}

/// A container beside the server that does not run, by its name: until it has started once, the server does not either.
fn beside(c: &ContainerStatus) -> Option<Trouble> {
    let waiting = c.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().unwrap_or_default();
    let words = waiting.message.as_deref().unwrap_or(&reason).trim().to_owned();
    let message = format!("container {}: {words}", c.name);
    (!ORDINARY.contains(&reason.as_str())).then_some(Trouble { reason, message })
}

/// What a server said last. The message of a container that ended in an error is the tail of its log: what explains the
/// end is Valkey's own verdict on its configuration, or else the last line.
fn last_words(log: &str) -> String {
    let text = match log.find("FATAL CONFIG FILE ERROR") {
        Some(at) => log.get(at..).unwrap_or(log),
        None => log.trim_end().lines().next_back().unwrap_or_default(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// What a person or a controller puts on a worker that is off for good: its Pods are then moved, volumes and all.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What a kubelet whose worker shuts down says at once. Of its Pods it says so (`DisruptionTarget`) only when their servers have ended.
const SHUTS_DOWN: &str = "node is shutting down";

fn readiness(n: &Node) -> Option<&NodeCondition> {
    n.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready")
}

/// Its kubelet ends all its Pods, in the time that it has for that.
fn shuts_down(n: &Node) -> bool {
    let said = |c: &NodeCondition| c.message.as_deref().is_some_and(|m| m.contains(SHUTS_DOWN));
    readiness(n).is_some_and(|c| c.status == "False" && said(c))
}

/// Pods on workers that shut down are told to go: their hooks run, and nothing at the Pods tells.
pub fn disrupt<'a>(pods: &mut BTreeMap<PodName, Pod>, workers: impl Iterator<Item = &'a Node>) {
    let ending: BTreeSet<WorkerName> =
        workers.filter(|n| shuts_down(n)).map(|n| WorkerName::new(n.name_any())).collect();
    for pod in pods.values_mut() {
        pod.disrupted |= pod.worker.as_ref().is_some_and(|w| ending.contains(w));
    }
}

/// A worker, as Pods of this template may use it.
pub fn worker(n: &Node, template: &Template) -> Worker {
    let scheduling = &template.scheduling;
    let labels: &BTreeMap<String, String> = n.labels();
    let spec = n.spec.clone().unwrap_or_default();
    let state = readiness(n);
    let ready = state.is_some_and(|c| c.status == "True");
    // The node controller writes Unknown when the kubelet has not been heard for its grace period.
    let lost = state.filter(|c| c.status == "Unknown");
    let lost_since =
        lost.map(|c| c.last_transition_time.as_ref().map_or_else(Moment::default, |t| moment(t.0)));
    let cordoned = spec.unschedulable.unwrap_or(false);
    let tolerated = |t: &Taint| scheduling.tolerations.iter().any(|toleration| tolerates(toleration, t));
    let repels = |t: &Taint| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated(t);
    let repels_softly = |t: &Taint| t.effect == "PreferNoSchedule" && !tolerated(t);
    let closed = spec.taints.iter().flatten().any(repels);
    let selected = scheduling.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    Worker {
        name: WorkerName::new(n.name_any()),
        hostname: labels.get("kubernetes.io/hostname").cloned().unwrap_or_else(|| n.name_any()),
        zone: labels.get(ZONE).map(Zone::new),
        open: ready
            && !closed
            && !cordoned
            && selected
            && matching::accepted(n, scheduling.affinity.as_ref()),
        leaving: cordoned || spec.taints.iter().flatten().any(|t| LEAVING.contains(&t.key.as_str())),
        lost_since,
        shunned: spec.taints.iter().flatten().any(|t| SHUNNED.contains(&t.key.as_str()) || repels_softly(t)),
        room: matching::room(n, &template.resources),
        out_of_service: spec.taints.iter().flatten().any(|t| t.key == OUT_OF_SERVICE),
    }
}

/// As the scheduler sees it: no key tolerates all keys, no effect all effects, and `Exists` every value.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |given: &Option<String>, has: &str| given.as_deref().is_none_or(|g| g.is_empty() || g == has);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    let keyed = toleration.key.as_deref().is_some_and(|k| !k.is_empty());
    (keyed || exists)
        && same(&toleration.key, &taint.key)
        && same(&toleration.effect, &taint.effect)
        && (exists || value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Scheduling, snapshot::serving};

    #[allow(clippy::needless_pass_by_value)] // json! makes values
    fn read(status: serde_json::Value) -> Pod {
        let object = json!({
            "metadata": {
                "name": "valkey-a-1-0", "uid": "u1", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": { labels::SHARD_INDEX: "1", labels::NODE_INDEX: "0" },
                "annotations": { labels::REVISION: "r1", labels::FAILURES: "2" }
            },
            "spec": { "nodeName": "w1", "containers": [] },
            "status": status
        });
        pod(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn a_running_member() {
        let p = read(json!({
            "podIP": "10.0.0.7", "phase": "Running",
            "conditions": [{ "type": labels::READINESS_GATE, "status": "False" }],
            "containerStatuses": [{ "name": "server", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": {} } }]
        }));
        assert_eq!((p.phase, p.gate, p.trouble, p.failures), (Phase::Running, Some(false), None, 2));
        assert_eq!(p.worker, Some(WorkerName::new("w1")));
    }

    #[test]
    fn a_server_that_ended_says_how() {
        let p = read(json!({ "phase": "Failed", "containerStatuses": [{
            "name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 1, "reason": "Error", "message": "Bad directive\n",
                "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "2026-01-02T03:04:07Z" } } }] }));
        assert!(matches!(p.phase, Phase::Finished { ran_ms: 2000, .. }));
        assert_eq!(p.trouble.unwrap().message, "Bad directive");
    }

    #[test]
    fn a_server_that_ended_with_its_worker_keeps_its_address() {
        let ended = json!([{ "name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 137, "reason": "Unknown" } } }]);
        let with = |message: &str| {
            read(json!({ "phase": "Failed", "containerStatuses": ended, "conditions": [
                { "type": labels::READINESS_GATE, "status": "True", "message": message }] }))
        };
        let address: IpAddr = "10.0.0.7".parse().unwrap();
        assert_eq!(with(&labels::at(address)).ip, Some(address));
        assert_eq!(with("").ip, None);
        let running = read(json!({ "phase": "Pending", "conditions": [
            { "type": labels::READINESS_GATE, "status": "True", "message": labels::at(address) }] }));
        assert_eq!(running.ip, None);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_and_a_pod_without_worker() {
        let p = read(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ErrImagePull", "message": "not found" } } }] }));
        assert_eq!(p.trouble.unwrap().reason, "ErrImagePull");
        let p = read(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }] }));
        assert_eq!(p.trouble.unwrap().reason, "Unschedulable");
        let p = read(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ContainerCreating" } } }] }));
        assert_eq!(p.trouble, None);
    }

    #[test]
    fn a_pod_whose_worker_ends_is_told_to_go_without_being_deleted() {
        let with = |status: &str| {
            read(json!({ "phase": "Running",
                "conditions": [
                    { "type": labels::READINESS_GATE, "status": "True" },
                    { "type": "DisruptionTarget", "status": status, "reason": "TerminationByKubelet" }],
                "containerStatuses": [{ "name": "server", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": { "running": {} } }] }))
        };
        let told = |status: &str| {
            let p = with(status);
            let serves = serving(&BTreeMap::from([(p.name.clone(), p.clone())]));
            (p.terminating, p.disrupted, serves)
        };
        assert_eq!(told("True"), (false, true, 0));
        assert_eq!(told("False"), (false, false, 1), "an eviction that did not come to pass");
        assert_eq!(told("Unknown"), (false, false, 1));
    }

    #[allow(clippy::needless_pass_by_value)] // json! makes values
    fn of(spec: serde_json::Value, ready: &str) -> Worker {
        let n = json!({ "metadata": { "name": "w1", "labels": { "topology.kubernetes.io/zone": "a" } }, "spec": spec,
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
        worker(&serde_json::from_value(n).unwrap(), &Template::default())
    }

    #[test]
    fn a_worker_that_somebody_removes_is_leaving_and_a_mere_candidate_is_not() {
        let with = |key: &str, effect: &str| {
            let w = of(json!({ "taints": [{ "key": key, "effect": effect }] }), "True");
            (w.leaving, w.open, w.shunned)
        };
        for key in [
            "node.kubernetes.io/unschedulable",
            "ToBeDeletedByClusterAutoscaler",
            "karpenter.sh/disrupted",
            "node.kubernetes.io/out-of-service",
        ] {
            for effect in ["NoSchedule", "NoExecute"] {
                assert_eq!(with(key, effect), (true, false, false), "{key} {effect}");
            }
        }
        // Soft, as the cluster autoscaler sets it: it takes members, where no other is better.
        assert_eq!(with("DeletionCandidateOfClusterAutoscaler", "PreferNoSchedule"), (false, true, true));
        assert_eq!(with("anything", "PreferNoSchedule"), (false, true, true), "it asks to be left alone");
        assert_eq!(with("anything", "NoSchedule"), (false, false, false), "closed, and nobody has to go");
        assert_eq!(with("node.kubernetes.io/not-ready", "NoExecute"), (false, false, false));
        let plain = of(json!({}), "True");
        assert!(!plain.leaving && !plain.shunned && !plain.out_of_service);
    }

    #[test]
    fn closed_workers() {
        assert!(of(json!({}), "True").open);
        assert!(!of(json!({}), "Unknown").open);
        assert!(of(json!({}), "Unknown").lost_since.is_some() && of(json!({}), "False").lost_since.is_none());
        let taint = json!({ "taints": [{ "key": OUT_OF_SERVICE, "effect": "NoExecute" }] });
        assert!(of(taint, "Unknown").out_of_service);
        assert!(!of(json!({ "unschedulable": true }), "True").open);
        assert!(!of(json!({ "taints": [{ "key": "x", "effect": "NoSchedule" }] }), "True").open);
        assert!(of(json!({ "taints": [{ "key": "x", "effect": "PreferNoSchedule" }] }), "True").open);
        assert_eq!(of(json!({}), "True").zone, Some(Zone::new("a")));
        assert!(of(json!({ "unschedulable": true }), "True").leaving);
    }

    #[test]
    fn a_worker_that_shuts_down_tells_its_pods_to_go() {
        let of = |name: &str, ready: &str, message: &str| -> Node {
            let condition = json!({ "type": "Ready", "status": ready, "message": message });
            let n = json!({ "metadata": { "name": name }, "status": { "conditions": [condition] } });
            serde_json::from_value(n).unwrap()
        };
        let told = |workers: &[Node]| {
            let p = read(json!({ "phase": "Running" }));
            let mut pods = BTreeMap::from([(p.name.clone(), p)]);
            disrupt(&mut pods, workers.iter());
            pods.values().all(|p| p.disrupted)
        };
        assert!(told(&[of("w1", "False", "[container runtime is down, node is shutting down]")]));
        assert!(!told(&[of("w1", "False", "container runtime is down")]));
        assert!(!told(&[of("w1", "True", "kubelet is posting ready status")]));
        assert!(!told(&[of("w2", "False", "node is shutting down"), of("w1", "True", "")]));
    }

    #[test]
    fn what_the_spec_tolerates_and_selects() {
        let n: Node = serde_json::from_value(json!({
            "metadata": { "name": "w1", "labels": { "pool": "cache" } },
            "spec": { "taints": [{ "key": "dedicated", "value": "cache", "effect": "NoSchedule" }] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }))
        .unwrap();
        let open = |selector: serde_json::Value, tolerations: serde_json::Value| {
            let scheduling = Scheduling {
                node_selector: serde_json::from_value(selector).unwrap(),
                tolerations: serde_json::from_value(tolerations).unwrap(),
                ..Scheduling::default()
            };
            worker(&n, &Template { scheduling, ..Template::default() }).open
        };
        assert!(!open(json!({}), json!([])));
        assert!(open(json!({}), json!([{ "key": "dedicated", "value": "cache" }])));
        assert!(open(json!({ "pool": "cache" }), json!([{ "operator": "Exists" }])));
        assert!(!open(json!({ "pool": "other" }), json!([{ "operator": "Exists" }])));
        assert!(!open(json!({}), json!([{ "key": "dedicated", "value": "other" }])));
        assert!(!open(
            json!({}),
            json!([{ "key": "dedicated", "operator": "Exists", "effect": "NoExecute" }])
        ));
    }
}
