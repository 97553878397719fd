//! The demonstration: from nothing to a cluster that serves, with the time that each phase took.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::PostParams;

use super::cluster::Cluster;
use super::operator;
use super::setup::{self, Ground, Target};
use super::stage::eventually;
use crate::progress::Progress;

/// The sample and its name.
const SAMPLE: (&str, &str) = ("manifests/samples/valkeycluster-sample.yaml", "valkeycluster-sample");
/// In the sandbox, where it is the only one.
const NAMESPACE: &str = "default";
/// On a cluster of somebody's.
const GUEST: &str = "valkey-demo";
const LIMIT: Duration = Duration::from_mins(2);
/// What is written through one node and read through another.
const PAIR: (&str, &str) = ("greeting", "written-through-one-node-and-read-through-another");

/// Brings up what is missing, applies the sample and shows that it works. All is left as it is.
///
/// # Errors
/// What did not work, and where to look.
pub async fn demo(target: &Target, progress: &Progress) -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let ground = setup::ground(target, progress, &mut times).await?;
    let cluster = apply(&ground, progress, &mut times).await?;
    let told = tokio::task::block_in_place(|| show(&ground, &cluster))?;
    println!("{told}");
    println!("{:<42}{:>8}", "PHASE", "SECONDS");
    for (phase, took) in &times {
        println!("{phase:<42}{:>8.2}", took.as_secs_f64());
    }
    let (kubectl, namespace) = (ground.reach.kubectl_words(), &cluster.namespace);
    println!(
        "\nLook further:   {kubectl} get vkc -n {namespace} {} -o yaml\n\
         \x20               {kubectl} exec -n {namespace} -it {} -c server -- valkey-cli -c\n\
         \x20               {kubectl} logs -n {} -l {} --prefix",
        SAMPLE.1,
        cluster.pods().await?.keys().next().map_or("POD", String::as_str),
        operator::NAMESPACE,
        operator::SELECTOR,
    );
    if let Some(sandbox) = ground.reach.sandbox() {
        let down = kubectl.replace("kubectl", "down");
        println!("                KUBECONFIG={} kubectl get pods -A", sandbox.kubeconfig().display());
        println!("Remove it all:  {down}");
    } else {
        println!("Remove it all:  {kubectl} delete namespace {namespace}");
        if ground.installed {
            println!(
                "                {kubectl} delete -f manifests/install.yaml    # the operator and its kind"
            );
        }
    }
    Ok(())
}

async fn apply(ground: &Ground, progress: &Progress, times: &mut Vec<(&str, Duration)>) -> Result<Cluster> {
    let file = crate::root().join(SAMPLE.0);
    let file = file.to_str().context("the path of the sample is not text")?;
    let namespace = if ground.reach.sandbox().is_some() { NAMESPACE } else { GUEST };
    if namespace == GUEST {
        let api = Api::<Namespace>::all(ground.client.clone());
        let object = serde_json::from_value(serde_json::json!({ "metadata": { "name": GUEST } }))?;
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other?),
        }
    }
    let cluster = Cluster::existing(&ground.reach, &ground.client, namespace, SAMPLE.1);
    let step = progress.step("the sample cluster");
    let began = Instant::now();
    tokio::task::block_in_place(|| ground.reach.kubectl(&["apply", "-n", namespace, "-f", file]))?;
    let spec = cluster.get().await?.spec;
    let (shards, replicas) = (usize::try_from(spec.shards)?, usize::try_from(spec.replicas)?);
    let members = shards * (1 + replicas);
    step.note("Pods");
    eventually("the Pods to run", LIMIT, async || {
        let pods = cluster.pods().await?;
        let runs = |p: &&k8s_openapi::api::core::v1::Pod| {
            p.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"))
        };
        let running = pods.values().filter(runs).count();
        ensure!(running == members, "{running} of {members} Pods run");
        Ok(())
    })
    .await?;
    times.push(("apply: all Pods run", began.elapsed()));
    step.note("forming");
    cluster.whole(shards, replicas, LIMIT).await?;
    times.push(("apply: the nodes are one whole cluster", began.elapsed()));
    step.note("Ready");
    let ready = cluster.ready(began, LIMIT).await?;
    times.push(("apply: Ready", ready));
    step.done("Ready");
    Ok(cluster)
}

/// The key, and what kubectl shows.
fn show(ground: &Ground, cluster: &Cluster) -> Result<String> {
    let namespace = cluster.namespace.as_str();
    let cli = |pod: &str, command: &[&str]| {
        let exec = ["exec", "-n", namespace, pod, "-c", "server", "--", "valkey-cli", "-c"];
        ground.reach.kubectl(&[&exec[..], command].concat())
    };
    let mut told = String::new();
    let label = format!("valkey.io/cluster={}", cluster.name);
    let names = ground.reach.kubectl(&["get", "pods", "-n", namespace, "-l", &label, "-oname"])?;
    let mut names = names.lines().map(|name| name.trim_start_matches("pod/"));
    let first = names.next().context("there is no Pod")?;
    let second = names.next_back().context("there is one Pod only")?;
    let (key, value) = PAIR;
    let written = cli(first, &["SET", key, value])?;
    ensure!(written.trim() == "OK", "SET through {first} says {written}");
    let read = cli(second, &["GET", key])?;
    ensure!(read.trim() == value, "GET through {second} says {read}");
    // Writing to a String cannot fail.
    let _ = write!(told, "$ valkey-cli -c SET {key} {value}    # in {first}\n{written}");
    let _ = writeln!(told, "$ valkey-cli -c GET {key}    # in {second}\n{read}");
    for arguments in [&["get", "vkc"][..], &["get", "pods", "-l", &label, "-o", "wide"][..]] {
        let _ = writeln!(told, "$ kubectl {}", arguments.join(" "));
        told.push_str(&ground.reach.kubectl(&[arguments, &["-n", namespace]].concat())?);
        told.push('\n');
    }
    Ok(told)
}
