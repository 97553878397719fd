//! Decides when the Kubernetes of the sandbox is usable: API server ready, workers Ready, the default service
//! account and the name service there; and gives the workers their zones.
//!
//! May read the cluster, label its workers and wait.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::address::Worker;
use super::instance::{Instance, Shape};
use super::wait::wait_shown;
use crate::progress::Step;

/// Three seconds on an idle machine; at the first `up` the name service is compiled beside it.
const API: Duration = Duration::from_mins(4);
/// Two seconds after the API server on an idle machine; ten after a worker was lost.
const NODES: Duration = Duration::from_mins(2);
/// One second after the controller manager's start.
const ACCOUNT: Duration = Duration::from_mins(1);
/// Three seconds after the workers.
const DNS: Duration = Duration::from_secs(90);
/// No single request may hold up a wait.
const REQUEST: Duration = Duration::from_secs(5);
const ZONE: &str = "topology.kubernetes.io/zone";

/// A client through the relay, with no retries and no time-out of its own on answers.
///
/// # Errors
/// If there is no kubeconfig.
pub(super) async fn client(instance: &Instance) -> Result<Client> {
    let path = instance.kubeconfig();
    let kubeconfig =
        Kubeconfig::read_from(&path).context("there is no sandbox of this name: `sandbox up` makes it")?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(REQUEST);
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Runs a future to its end on a thread of its own: callers may themselves be inside a runtime.
///
/// # Errors
/// Those of the future.
pub(super) fn block_on<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(future)
        });
        thread.join().unwrap_or_else(|_| bail!("a thread that talks to Kubernetes died"))
    })
}

/// Waits until the API server says that it is ready.
///
/// # Errors
/// If it does not in time.
pub(super) fn wait_api(instance: &Instance, step: &Step) -> Result<()> {
    wait_shown("the API server", API, step, || block_on(bounded(ready(instance))))
}

/// Whether the API server is ready now.
pub(super) fn is_ready(instance: &Instance) -> bool {
    block_on(bounded(ready(instance))).is_ok()
}

async fn ready(instance: &Instance) -> Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    let answer = client(instance).await?.request_text(request).await.context("no answer")?;
    if answer != "ok" {
        bail!("it says {answer}");
    }
    Ok(())
}

/// Waits until all of these workers have said, after `since`, that they are Ready: what Kubernetes remembers of a
/// worker that was lost a moment ago does not count.
///
/// # Errors
/// If one does not in time: the error says which and why.
pub(super) fn wait_workers(
    instance: &Instance,
    workers: &[(Worker, Option<Timestamp>)],
    step: &Step,
) -> Result<()> {
    wait_shown("the workers to be Ready", NODES, step, || {
        let states = block_on(bounded(states(instance)))?;
        let late: Vec<String> = workers
            .iter()
            .filter_map(|(worker, since)| match states.get(&worker.to_string()) {
                // Reports are dated in whole seconds.
                Some(NodeState { heard, .. })
                    if since.is_some_and(|since| heard.as_second() <= since.as_second()) =>
                {
                    Some(format!("{worker} (not heard of since its start)"))
                }
                Some(NodeState { why: None, .. }) => None,
                Some(NodeState { why: Some(why), .. }) => Some(format!("{worker} ({why})")),
                None => Some(format!("{worker} (has not registered)")),
            })
            .collect();
        if !late.is_empty() {
            bail!("{}", late.join(", "));
        }
        Ok(())
    })
}

/// What Kubernetes knows of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeState {
    /// Why it is not Ready, if it is not.
    pub(super) why: Option<String>,
    /// When its kubelet last reported.
    pub(super) heard: Timestamp,
}

/// Every worker that Kubernetes knows.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn states(instance: &Instance) -> Result<BTreeMap<String, NodeState>> {
    let nodes: Api<Node> = Api::all(client(instance).await?);
    let mut states = BTreeMap::new();
    for node in nodes.list(&ListParams::default()).await? {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let heard =
            ready.as_ref().and_then(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0);
        let why = match ready {
            Some(condition) if condition.status == "True" => None,
            Some(condition) => Some(condition.message.or(condition.reason).unwrap_or(condition.status)),
            None => Some("no report yet".to_owned()),
        };
        let state = NodeState { why, heard: heard.unwrap_or(Timestamp::MIN) };
        states.insert(node.metadata.name.unwrap_or_default(), state);
    }
    Ok(states)
}

/// Labels the workers with their zones, or takes the label away.
///
/// # Errors
/// If the API server refuses.
pub(super) fn set_zones(instance: &Instance, shape: &Shape) -> Result<()> {
    block_on(bounded(async {
        let nodes: Api<Node> = Api::all(client(instance).await?);
        for worker in Worker::first(shape.workers) {
            let zone = (shape.zones > 0).then(|| worker.zone(shape.zones));
            let patch = json!({ "metadata": { "labels": { ZONE: zone } } });
            nodes.patch(&worker.to_string(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }))
}

/// Waits until pods can be created in the namespace `default`.
///
/// # Errors
/// If not in time.
pub(super) fn wait_default_account(instance: &Instance, step: &Step) -> Result<()> {
    wait_shown("the default service account", ACCOUNT, step, || {
        block_on(bounded(async {
            let accounts: Api<ServiceAccount> = Api::namespaced(client(instance).await?, "default");
            accounts.get("default").await.map(drop).context("not there yet")
        }))
    })
}

/// Waits until the name service runs on every worker.
///
/// # Errors
/// If not in time.
pub(super) fn wait_dns(instance: &Instance, workers: u8, step: &Step) -> Result<()> {
    wait_shown("the name service", DNS, step, || {
        block_on(bounded(async {
            let sets: Api<DaemonSet> = Api::namespaced(client(instance).await?, "kube-system");
            let status = sets.get("coredns").await?.status.unwrap_or_default();
            if status.number_ready < i32::from(workers) {
                bail!("ready on {} of {workers} workers", status.number_ready);
            }
            Ok(())
        }))
    })
}

async fn bounded<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(REQUEST, future).await.context("no answer in time")?
}
