//! The exporter beside every server: it is scraped, plain and by TLS, as a user that may read numbers alone; and one whose image
//! does not exist is named, takes nothing away from the servers that run, and is forgotten as soon as it is corrected.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use valkey_cluster_operator::build::sidecars::METRICS_PORT;

use super::Story;
use super::cluster::Cluster;
use super::denied;
use super::load::{GAP, Load};
use super::stage::{Stage, eventually};
use crate::resp::Connector;
use crate::sandbox::images::VALKEY;

pub(super) const STORY: Story = Story {
    name: "exporter",
    about: "metrics of every server, plain and by TLS; an exporter that cannot be pulled is named and takes nothing away",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
const ASK: Duration = Duration::from_secs(5);
const REFUSED: &str = "NOPERM";
/// What it asks, and what is in the answer; the last two are refused.
const ASKED: [(&str, &str); 7] = [
    ("INFO", "connected_clients:"),
    ("CLUSTER INFO", "cluster_state:ok"),
    ("SLOWLOG LEN", ""),
    ("LATENCY LATEST", ""),
    ("LATENCY HISTOGRAM info", "info"),
    ("CONFIG GET primaryauth", REFUSED),
    ("GET key", REFUSED),
];

/// An exporter of a few lines, by the tools of Valkey's own image: each scrape asks the server as the published one does, with the
/// address, the user and the password that the operator gives it.
fn exporter(image: &str) -> Value {
    let ask = |(command, _): &(&str, &str)| format!("echo '# {command}'; $ask {command} 2>&1;");
    let script = format!(
        r#"while read -r line && [ ${{#line}} -gt 1 ]; do :; done; export VALKEYCLI_AUTH="$REDIS_PASSWORD" REDISCLI_AUTH="$REDIS_PASSWORD"
        case "$REDIS_ADDR" in rediss:*) tls="--tls --insecure";; esac
        ask="valkey-cli --no-auth-warning $tls --user $REDIS_USER -h 127.0.0.1"
        printf 'HTTP/1.0 200 OK\r\n\r\n'; {}"#,
        ASKED.iter().map(ask).collect::<String>()
    );
    let port = METRICS_PORT.to_string();
    json!({ "enabled": true, "image": image, "args": ["nc", "-ll", "-p", port, "-e", "sh", "-c", script] })
}

/// As the first process of its container this exporter does not hear SIGTERM: its Pods stay until their grace period ends, which is
/// made short, and nobody may wait for them.
fn spec(exporter: &Value) -> Value {
    json!({ "shards": 2, "replicas": 1, "exporter": exporter, "terminationGracePeriodSeconds": 30 })
}

async fn run(stage: &Stage) -> Result<()> {
    let (namespace, image) = (stage.namespace().await?, format!("{VALKEY}:9.1.2"));
    let plain = Cluster::apply(stage, &namespace, "plain", spec(&exporter(&image))).await?;
    let secured = Cluster::apply_tls(stage, &namespace, "secured", spec(&exporter(&image))).await?;
    for cluster in [&plain, &secured] {
        cluster.ready(cluster.applied, LIMIT).await?;
        let took = scraped(cluster).await.with_context(|| format!("cluster {}", cluster.name))?;
        denied::forget(cluster).await?;
        stage.say(format_args!("{}: four servers scraped in {:.2} s", cluster.name, took.as_secs_f64()));
    }
    broken(stage, &plain).await
}

/// Every server's exporter answers with what the server says.
async fn scraped(cluster: &Cluster) -> Result<Duration> {
    let (way, began) = (cluster.plain_access().connector, Instant::now());
    for (pod, at) in cluster.addresses().await? {
        let at = SocketAddr::new(at.ip(), u16::try_from(METRICS_PORT)?);
        let text = eventually("the exporter to answer", ASK, async || scrape(&way, at).await).await?;
        for (command, says) in ASKED {
            let answer = text
                .split(&format!("# {command}\n"))
                .nth(1)
                .with_context(|| format!("{pod}: no {command}: {text}"))?;
            let answer = answer.split("\n# ").next().unwrap_or_default();
            // INFO has sections that begin with the same sign: its answer goes on.
            let found = if command == "INFO" { text.contains(says) } else { answer.contains(says) };
            let refused = answer.contains("NOPERM") == (says == REFUSED);
            ensure!(found && refused, "{pod}: {command} answers {answer:?}");
        }
    }
    Ok(began.elapsed())
}

/// The metrics that a program shows at this address.
///
/// # Errors
/// If it does not answer as it should.
pub(super) async fn scrape(way: &Connector, at: SocketAddr) -> Result<String> {
    let mut socket = way(at).await?;
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    tokio::time::timeout(ASK, socket.read_to_string(&mut text)).await.context("it does not end")??;
    ensure!(text.starts_with("HTTP/1.0 200"), "it answers {text:?}");
    Ok(text)
}

/// An image that nobody can pull: the first new Pod shows it, and no server that runs is given up for it.
async fn broken(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let before = cluster.pods().await?;
    cluster.change(spec(&exporter("registry.invalid/no/exporter:1"))).await?;
    let named = cluster
        .says("the status to name the exporter's image", LIMIT, |cr| {
            let conditions = cr.status.clone().unwrap_or_default().conditions;
            conditions
                .iter()
                .any(|c| c.reason == "ImagePullBackOff" && c.message.contains("registry.invalid"))
        })
        .await?;
    let corrected = Instant::now();
    let pods = cluster.pods().await?;
    ensure!(before.keys().all(|name| pods.contains_key(name)), "servers were given up: {:?}", pods.keys());
    cluster.change(spec(&json!({ "enabled": false }))).await?;
    cluster.ready(corrected, LIMIT * 2).await?;
    load.judged(stage, "exporter corrected", 1, GAP).await?;
    stage.say(format_args!(
        "an image that does not exist is named after {:.1} s; corrected, all are replaced after {:.1} s",
        named.as_secs_f64(),
        corrected.elapsed().as_secs_f64()
    ));
    Ok(())
}
