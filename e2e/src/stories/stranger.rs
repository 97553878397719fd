//! The sandbox is treated as somebody else's cluster: reached through its kubeconfig on 127.0.0.1 and nothing else.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;

use super::Story;
use super::create;
use super::load::{Load, never_below};
use super::stage::{Stage, eventually};
use crate::stranger::{LedgerPod, Options, Stranger};

pub(super) const STORY: Story = Story {
    name: "stranger",
    about: "the same stories through a kubeconfig alone, with the write ledger as a Pod",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// The kubelet says within seconds that there is no such image.
const NAMED: Duration = Duration::from_secs(30);
/// No registry answers to this name.
const NO_IMAGE: &str = "localhost/no-such-ledger:1";

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("treats the sandbox as somebody else's cluster")?;
    let options = Options { kubeconfig: Some(sandbox.kubeconfig()), ..Options::default() };
    let stranger = Stranger::open(options.clone(), &stage.progress).await?;
    let lost =
        Stranger::open(Options { ledger_image: Some(NO_IMAGE.to_owned()), ..options }, &stage.progress)
            .await?;
    let guest =
        Stage::new(Arc::new(stranger.clone()), stranger.client(), stage.suite, stage.progress.clone());
    let told = tell(&guest, &lost).await;
    let cleaned = guest.clean().await;
    told.and(cleaned)
}

async fn tell(guest: &Stage, lost: &Stranger) -> Result<()> {
    ensure!(guest.sandbox("must not be at hand here").is_err(), "the sandbox is within reach");
    create::create(guest, 3, 1).await.context("a creation")?;
    replaced(guest).await.context("a replica is deleted under a write load")?;
    unpullable(guest, lost).await.context("an image that nobody has")
}

/// The ledger's Pod writes while a replica is replaced; its report is read from its log.
async fn replaced(guest: &Stage) -> Result<()> {
    let cluster = guest.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(guest, &cluster).await?;
    let name = cluster.replica_of(1, &cluster.primary_of(1).await?).await?;
    let uid = cluster.pods().await?.get(&name).and_then(ResourceExt::uid);
    load.mark("loss");
    cluster.delete_pod(&name).await?;
    eventually("the deleted Pod to be gone", LIMIT, async || {
        let left = cluster.pods().await?;
        ensure!(left.values().all(|pod| pod.uid() != uid), "{name} is still there");
        Ok(())
    })
    .await?;
    load.follow(&cluster).await?;
    cluster.whole(3, 1, LIMIT).await?;
    load.flowing().await?;
    let (report, history) = load.end(guest, "a replica replaced, ledger as a Pod").await?;
    ensure!(report.judged.acked > 0, "the ledger's Pod wrote nothing");
    ensure!(report.mark_ms("loss").is_some(), "the ledger's Pod did not hear of the loss");
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    ensure!(!history.by_second().is_empty(), "nobody looked at the nodes");
    never_below(guest, &history, "the Pod was to serve until it was replaced", 2)?;
    guest.say(history.summary());
    Ok(())
}

/// The error is a sentence with the command that helps.
async fn unpullable(guest: &Stage, lost: &Stranger) -> Result<()> {
    let namespace = guest.namespace().await?;
    let node = "127.0.0.1:6379".parse()?;
    let began = std::time::Instant::now();
    let Err(error) = LedgerPod::start(lost, &namespace, &[node], 0).await else {
        bail!("{NO_IMAGE} was found");
    };
    let text = format!("{error:#}");
    ensure!(text.contains(NO_IMAGE) && text.contains("kind load image-archive"), "it says: {text}");
    ensure!(began.elapsed() < NAMED, "it was said after {:?}", began.elapsed());
    guest.say(text);
    Ok(())
}
