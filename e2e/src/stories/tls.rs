//! A cluster that speaks TLS everywhere, under a write load by TLS: what is refused, rotation of certificate and CA without a Pod
//! replaced, and the usual changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::failures::Failures;
use super::load::{GAP, Load};
use super::pki::Pki;
use super::secrets;
use super::stage::{Stage, eventually};
use crate::resp::{Access, Connection};

pub(super) const STORY: Story = Story {
    name: "tls",
    about: "clients, replication and bus by TLS: certificate and CA change under load, and no Pod is replaced",
    run: |stage| run(stage).boxed_local(),
};

/// From a change of the Secret to the beginning of the rotation.
const NOTICED: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_mins(5);
const IMAGE: &str = "docker.io/valkey/valkey:9.1.2";
const OTHER: &str = "docker.io/valkey/valkey:9.1";

fn spec(shards: u16, image: &str, pki: &Pki) -> Value {
    json!({ "shards": shards, "replicas": 1, "image": image, "networking": pki.networking() })
}

async fn run(stage: &Stage) -> Result<()> {
    stage.sandbox("speaks TLS to nodes from outside of their Kubernetes")?;
    let namespace = stage.namespace().await?;
    let pki = Arc::new(Pki::new(&namespace, "demo")?);
    let mut cluster = Cluster::existing(stage.reach(), &stage.client, &namespace, "demo");
    cluster.pki = Some(Arc::clone(&pki));
    refused(stage, &cluster, &pki).await?;
    nothing_in_plain_text(stage, &cluster).await?;
    rotation(stage, &cluster, &pki).await?;
    let load = Load::start(stage, &cluster).await?;
    spoilt(stage, &cluster, &pki).await?;
    load.mark("mutual TLS");
    clients_need_a_certificate(stage, &cluster, &pki, &load).await?;
    for (what, shards, image) in [("scale out", 4, IMAGE), ("upgrade", 4, OTHER), ("scale in", 3, OTHER)] {
        load.mark(what);
        let began = Instant::now();
        cluster.change(spec(shards, image, &pki)).await?;
        cluster.ready(began, LIMIT).await?;
        cluster.whole(usize::from(shards), 1, LIMIT).await?;
        load.follow(&cluster).await?;
        stage.say(format_args!("{what}: {:.1} s", began.elapsed().as_secs_f64()));
    }
    load.judged(stage, "changes by TLS", 2, GAP).await?;
    crashed(stage, &cluster).await?;
    secrets::kept(stage, &cluster, &pki.keys()?).await
}

/// A missing and a wrong Secret hold the first Pod back, with a sentence; the right one lets it come.
async fn refused(stage: &Stage, cluster: &Cluster, pki: &Pki) -> Result<()> {
    cluster.change(spec(3, IMAGE, pki)).await?;
    said(cluster, "there is no Secret demo-tls").await?;
    pki.write(&stage.client, json!({ "tls.crt": "x", "tls.key": "x" })).await?;
    said(cluster, "it has no ca.crt").await?;
    ensure!(cluster.pods().await?.is_empty(), "no Pod is made before there is a certificate for it");
    let began = Instant::now();
    pki.issue(&stage.client, pki.first()).await?;
    let took = cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    stage.say(format_args!("from the right Secret to Ready: {:.1} s", took.as_secs_f64()));
    Ok(())
}

async fn said(cluster: &Cluster, words: &str) -> Result<()> {
    let told = |cr: &ValkeyCluster| {
        let degraded = cr.status.iter().flat_map(|s| &s.conditions).find(|c| c.type_ == "Degraded");
        degraded.is_some_and(|c| c.reason == "CertificateRefused" && c.message.contains(words))
    };
    cluster.says(&format!("the status to say {words:?}"), LIMIT, told).await.map(drop)
}

/// No node answers in plain text, at either port.
pub(super) async fn nothing_in_plain_text(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let plain = stage.reach().access(&cluster.namespace);
    for (name, addr) in cluster.addresses().await? {
        for port in [6379, 16379] {
            let addr = std::net::SocketAddr::new(addr.ip(), port);
            ensure!(!answers(&plain, addr).await, "{name} answers in plain text at port {port}");
        }
    }
    Ok(())
}

async fn answers(access: &Access, addr: std::net::SocketAddr) -> bool {
    let limit = Duration::from_secs(2);
    let Ok(mut node) = Connection::open(access, addr, limit).await else { return false };
    node.call(&["PING"], limit).await.is_ok()
}

/// Another certificate and another CA, judged by a load of their own.
async fn rotation(stage: &Stage, cluster: &Cluster, pki: &Pki) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let failures = Failures::so_far(stage).await?;
    for (what, ca) in [("another certificate", pki.first()), ("another CA", pki.second())] {
        load.mark(what);
        let before = held(stage, cluster).await?.resource_version();
        pki.issue(&stage.client, ca).await?;
        noticed(stage, cluster, what, before).await?;
        rotated(stage, cluster, pki, what).await?;
    }
    let what = "another certificate and another CA";
    // A node refuses files that its kubelet has not brought yet, and is told again: that is how it is known that they are there.
    failures.none_since(stage, what, Some(r#"step="Configure""#)).await?;
    load.judged(stage, what, 2, GAP).await
}

/// The Secret that the operator gives to the nodes.
async fn held(stage: &Stage, cluster: &Cluster) -> Result<Secret> {
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    Ok(secrets.get(&labels::certificates_name(&cluster.name)).await?)
}

/// The operator gives the nodes what is new as soon as the Secret changes. When they have it is for the kubelet to say.
async fn noticed(stage: &Stage, cluster: &Cluster, what: &str, before: Option<String>) -> Result<()> {
    let began = Instant::now();
    eventually("the operator to give the nodes the new certificate", stage.bound(NOTICED), async || {
        ensure!(held(stage, cluster).await?.resource_version() != before, "the nodes' Secret is the same");
        Ok(())
    })
    .await?;
    stage.say(format_args!("{what}: on its way to the nodes after {:.2} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Every node shows the new certificate, and the Pods are the same.
async fn rotated(stage: &Stage, cluster: &Cluster, pki: &Pki, what: &str) -> Result<()> {
    let (before, began) = (cluster.uids().await?, Instant::now());
    let way = stage.reach().access(&cluster.namespace).connector;
    eventually("every node to show the new certificate", LIMIT, async || {
        for addr in cluster.addresses().await?.into_values() {
            pki.is_shown(&way, addr).await?;
        }
        Ok(())
    })
    .await?;
    let shown = began.elapsed();
    eventually("the former certificates to be gone", LIMIT, async || {
        let files: Vec<String> = held(stage, cluster).await?.data.unwrap_or_default().into_keys().collect();
        // The settings, the CA, the certificate and its key.
        ensure!(files.len() == 4, "the nodes still have {}", files.join(" "));
        Ok(())
    })
    .await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    ensure!(cluster.uids().await? == before, "{what}: Pods were replaced");
    let (shown, all) = (shown.as_secs_f64(), began.elapsed().as_secs_f64());
    stage.say(format_args!(
        "{what}: shown by every node after {shown:.1} s, all done after {all:.1} s, no Pod replaced"
    ));
    Ok(())
}

/// What cannot be used changes nothing, and is named; neither does it when the Secret goes.
async fn spoilt(stage: &Stage, cluster: &Cluster, pki: &Pki) -> Result<()> {
    let before = cluster.uids().await?;
    pki.write(&stage.client, json!({ "tls.key": "-----BEGIN PRIVATE KEY-----\n" })).await?;
    said(cluster, "the nodes keep the certificate that they have").await?;
    pki.delete(&stage.client).await?;
    said(cluster, "there is no Secret demo-tls").await?;
    let way = stage.reach().access(&cluster.namespace).connector;
    for addr in cluster.addresses().await?.into_values() {
        pki.is_shown(&way, addr).await?;
    }
    let began = Instant::now();
    pki.issue(&stage.client, pki.second()).await?;
    rotated(stage, cluster, pki, "after a Secret that was spoilt and gone").await?;
    cluster.ready(began, LIMIT).await?;
    ensure!(cluster.uids().await? == before, "Pods were replaced for a certificate that cannot be used");
    Ok(())
}

/// Asked for and taken back live. The load's connections stay; new ones without a certificate are refused meanwhile, and those with one live as ever.
async fn clients_need_a_certificate(stage: &Stage, cluster: &Cluster, pki: &Pki, load: &Load) -> Result<()> {
    let access = cluster.access().await?;
    // The first shard's primary is replaced below.
    let last = *cluster.addresses().await?.values().last().context("there is no Pod")?;
    let served = async |wanted: bool| {
        eventually(&format!("such clients to be served: {wanted}"), LIMIT, async || {
            ensure!(answers(&access, last).await == wanted, "a client is served: {}", !wanted);
            Ok(())
        })
        .await
    };
    cluster.change(with_client_auth(pki, "Required")?).await?;
    served(false).await.context("without a certificate")?;
    pki.clients_show(pki.second())?;
    served(true).await.context("with a certificate")?;
    let lived = replaced(stage, cluster, load).await;
    cluster.change(with_client_auth(pki, "Optional")?).await?;
    pki.clients_show_none()?;
    lived.context("while clients need a certificate")?;
    served(true).await.context("without a certificate again")?;
    cluster.ready(Instant::now(), LIMIT).await?;
    stage.say("clientAuth Required refuses clients without a certificate, and is taken back live");
    Ok(())
}

fn with_client_auth(pki: &Pki, auth: &str) -> Result<Value> {
    let mut spec = spec(3, IMAGE, pki);
    let tls =
        spec.pointer_mut("/networking/tls").and_then(Value::as_object_mut).context("the spec has no TLS")?;
    tls.insert("clientAuth".to_owned(), json!(auth));
    Ok(spec)
}

/// A primary's Pod is deleted: its role goes to a replica, and another Pod takes its place.
async fn replaced(stage: &Stage, cluster: &Cluster, load: &Load) -> Result<()> {
    let (primary, began) = (cluster.primary_of(0).await?, Instant::now());
    cluster.delete_pod(&primary).await?;
    eventually("the Pod to be replaced", LIMIT, async || {
        ensure!(!cluster.pods().await?.contains_key(&primary), "{primary} is still there");
        Ok(())
    })
    .await?;
    cluster.whole(3, 1, LIMIT).await?;
    load.follow(cluster).await?;
    load.flowing().await?;
    stage.say(format_args!("mutual TLS: a primary's Pod replaced in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

async fn crashed(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let load = Load::start(stage, cluster).await?;
    let primary = cluster.primary_of(0).await?;
    super::mend::kill(stage, cluster, &primary).await?;
    let began = Instant::now();
    eventually("another primary", LIMIT, async || {
        ensure!(cluster.primary_of(0).await? != primary, "{primary} is still the primary");
        Ok(())
    })
    .await?;
    stage.say(format_args!(
        "a killed primary is replaced as such within {:.2} s",
        began.elapsed().as_secs_f64()
    ));
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let (report, _) = load.end(stage, "crash").await?;
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    Ok(())
}
