//! The demonstration: from nothing to a cluster that serves, with the time that each phase took.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::cluster::Cluster;
use super::operator;
use super::setup::{self, Ground};
use super::stage::eventually;
use crate::progress::Progress;

/// The sample and its name.
const SAMPLE: (&str, &str) = ("manifests/samples/valkeycluster-sample.yaml", "valkeycluster-sample");
const NAMESPACE: &str = "default";
const LIMIT: Duration = Duration::from_mins(2);
/// What is written through one node and read through another.
const PAIR: (&str, &str) = ("greeting", "written-through-one-node-and-read-through-another");

/// Brings up what is missing, applies the sample and shows that it works. All is left as it is.
///
/// # Errors
/// What did not work, and where to look.
pub async fn demo(name: &str, progress: &Progress) -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let ground = setup::ground(name, progress, &mut times).await?;
    let cluster = apply(&ground, progress, &mut times).await?;
    let told = show(&ground, &cluster)?;
    println!("{told}");
    println!("{:<42}{:>8}", "PHASE", "SECONDS");
    for (phase, took) in &times {
        println!("{phase:<42}{:>8.2}", took.as_secs_f64());
    }
    let option = if name == crate::sandbox::DEFAULT_NAME { String::new() } else { format!("--name {name} ") };
    println!(
        "\nLook further:   cargo sandbox {option}kubectl get vkc {} -o yaml\n\
         \x20               cargo sandbox {option}kubectl exec -it {} -c server -- valkey-cli -c\n\
         \x20               cargo sandbox {option}logs {}/OPERATOR-POD\n\
         \x20               KUBECONFIG={} kubectl get pods -A\n\
         Remove it all:  cargo sandbox {option}down",
        SAMPLE.1,
        cluster.pods().await?.keys().next().map_or("POD", String::as_str),
        operator::NAMESPACE,
        ground.sandbox.kubeconfig().display(),
    );
    Ok(())
}

async fn apply(ground: &Ground, progress: &Progress, times: &mut Vec<(&str, Duration)>) -> Result<Cluster> {
    let file = crate::root().join(SAMPLE.0);
    let file = file.to_str().context("the path of the sample is not text")?;
    let cluster = Cluster::existing(&ground.sandbox, &ground.client, NAMESPACE, SAMPLE.1);
    let step = progress.step("the sample cluster");
    let began = Instant::now();
    ground.sandbox.kubectl(["apply", "-n", NAMESPACE, "-f", file])?;
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
    let cli = |pod: &str, command: &[&str]| {
        let exec = ["exec", "-n", NAMESPACE, pod, "-c", "server", "--", "valkey-cli", "-c"];
        ground.sandbox.kubectl(exec.iter().chain(command))
    };
    let mut told = String::new();
    let label = format!("valkey.io/cluster={}", cluster.name);
    let names = ground.sandbox.kubectl(["get", "pods", "-n", NAMESPACE, "-l", &label, "-oname"])?;
    let mut names = names.lines().map(|name| name.trim_start_matches("pod/"));
    let first = names.next().context("there is no Pod")?;
    let second = names.next_back().context("there is one Pod only")?;
    let (key, value) = PAIR;
    let written = cli(first, &["SET", key, value])?;
    ensure!(written.trim() == "OK", "SET through {first} says {written}");
    let read = cli(second, &["GET", key])?;
    ensure!(read.trim() == value, "GET through {second} says {read}");
    write!(told, "$ valkey-cli -c SET {key} {value}    # in {first}\n{written}")?;
    write!(told, "$ valkey-cli -c GET {key}    # in {second}\n{read}\n")?;
    for arguments in [&["get", "vkc"][..], &["get", "pods", "-l", &label, "-o", "wide"][..]] {
        write!(told, "$ kubectl {}\n", arguments.join(" "))?;
        let all = arguments.iter().copied().chain(["-n", NAMESPACE]);
        told.push_str(&ground.sandbox.kubectl(all)?);
        told.push('\n');
    }
    Ok(told)
}
