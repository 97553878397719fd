//! The leading operator vanishes in the middle of a creation; the other goes on where it was.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use super::Story;
use super::operator;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "takeover",
    about: "the other operator takes over in the middle of a creation and finishes it",
    run: |stage| run(stage).boxed_local(),
};

/// The lease has to run out first: its holder had no chance to give it back.
const TAKEN: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    stage.own_operator("removes the leading operator").await?;
    let leader = operator::leader(&stage.client).await?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    eventually("the first Pod", LIMIT, async || {
        ensure!(!cluster.pods().await?.is_empty(), "no Pod was created");
        Ok(())
    })
    .await?;
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), operator::NAMESPACE);
    let lost = Instant::now();
    pods.delete(&leader, &DeleteParams::default().grace_period(0)).await?;
    let begun = cluster.uids().await?;
    let ready = cluster.ready(lost, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let now = cluster.uids().await?;
    ensure!(now.len() == 6, "there are {} Pods", now.len());
    ensure!(begun.is_subset(&now), "Pods of the first operator were replaced by the second");
    let next = operator::leader(&stage.client).await?;
    ensure!(next != leader, "{leader} still holds the lease");
    stage.say(format_args!(
        "{next} finished what {leader} began, Ready {:.1} s after its loss",
        ready.as_secs_f64()
    ));
    ensure!(ready < stage.bound(TAKEN), "that is more than {:?}", stage.bound(TAKEN));
    operator::scale(&stage.client, 2).await
}
