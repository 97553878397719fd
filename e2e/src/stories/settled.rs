//! A cluster that is Ready is left alone: no write, no change, hardly any work.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::Story;
use super::cluster::Cluster;
use super::operator;
use super::rights::ACCOUNT;
use super::stage::Stage;
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "settled",
    about: "a settled cluster causes no write and hardly any work",
    run: |stage| run(stage).boxed_local(),
};

/// How long it is watched.
const WATCHED: Duration = Duration::from_mins(1);
/// After Ready the last events and the last status may still be on their way.
const QUIET: Duration = Duration::from_secs(3);
/// Of a core.
const CPU: f64 = 0.01;

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("reads the audit log and the kernel's account of processor time")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, Duration::from_mins(2)).await?;
    tokio::time::sleep(QUIET).await;
    let (versions, used) = (versions(stage, &cluster).await?, cpu(stage, sandbox).await?);
    let from = std::fs::metadata(sandbox.audit_log_path())?.len();
    tokio::time::sleep(WATCHED).await;
    let now = self::versions(stage, &cluster).await?;
    let changed: Vec<_> = now.iter().filter(|(k, v)| versions.get(*k) != Some(*v)).collect();
    ensure!(now.len() == versions.len() && changed.is_empty(), "changed while settled: {changed:?}");
    let writes = writes(sandbox, from)?;
    ensure!(writes.is_empty(), "the operator wrote while settled: {}", writes.join("; "));
    for (pod, seconds) in cpu(stage, sandbox).await? {
        let before = used.get(&pod).with_context(|| format!("{pod} is new"))?;
        let share = (seconds - before) / WATCHED.as_secs_f64();
        stage.say(format_args!(
            "{pod}: {:.2} % of a core over {} s, no write",
            share * 100.0,
            WATCHED.as_secs()
        ));
        ensure!(share < CPU, "{pod} used {:.2} % of a core", share * 100.0);
    }
    Ok(())
}

/// The resourceVersion of the cluster and of everything that belongs to it.
async fn versions(stage: &Stage, cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let format =
        "-ojsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
    let kinds = "vkc,pods,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies";
    let text = stage.kubectl(&["get", kinds, "-n", &cluster.namespace, format]).await?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let all: BTreeMap<_, _> = lines.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
    for kind in ["PodDisruptionBudget/", "NetworkPolicy/"] {
        ensure!(all.keys().any(|name| name.starts_with(kind)), "there is no {kind}: {:?}", all.keys());
    }
    Ok(all)
}

/// Writes of the operator's service account in the audit log after this offset, except to its Lease.
fn writes(sandbox: &Sandbox, from: u64) -> Result<Vec<String>> {
    let mut file = std::fs::File::open(sandbox.audit_log_path())?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let field =
        |event: &Value, path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
    let ours = events.filter(|event| field(event, "/user/username") == ACCOUNT);
    let writes = ours.filter(|event| {
        !["get", "list", "watch"].contains(&field(event, "/verb").as_str())
            && field(event, "/objectRef/resource") != "leases"
    });
    Ok(writes.map(|event| format!("{} {}", field(&event, "/verb"), field(&event, "/requestURI"))).collect())
}

/// The processor time in seconds of each of the operator's Pods, as the kernel counts it.
async fn cpu(stage: &Stage, sandbox: &Sandbox) -> Result<BTreeMap<String, f64>> {
    let api: Api<Pod> = Api::namespaced(stage.client.clone(), operator::NAMESPACE);
    let mut used = BTreeMap::new();
    for pod in api.list(&ListParams::default().labels(operator::SELECTOR)).await? {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let worker = pod.spec.and_then(|s| s.node_name).with_context(|| format!("{name} is on no worker"))?;
        let worker = worker.parse().map_err(anyhow::Error::msg)?;
        used.insert(name, sandbox.pod_cpu_seconds(worker, &uid)?);
    }
    Ok(used)
}
