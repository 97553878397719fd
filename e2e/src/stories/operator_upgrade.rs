//! The operator itself is upgraded while an application writes: no Pod is replaced, and what the earlier one wrote is taken over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::load::{GAP, Load};
use super::operator;
use super::stage::{Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "operator_upgrade",
    about: "another build of the operator takes over under a write load: the same Pods, no gap",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// What an earlier operator may have written into `valkey.conf`, and this one does not.
const EARLIER: &str = "# An earlier operator wrote this line.\n";

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("replaces the operator, with whatever else it looks after")?;
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let before = uids(&cluster).await?;
    let load = Load::start(stage, &cluster).await?;
    operator::scale(&stage.client, 0).await?;
    let written = write_as_an_earlier_one(stage, &cluster).await;
    let began = Instant::now();
    // From here on this story's operator runs again, whatever came of it.
    operator::scale(&stage.client, 2).await?;
    written?;
    operator::restart(sandbox, &stage.client).await?;
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let name = labels::common_name(&cluster.name);
    eventually("the ConfigMap to be this operator's", LIMIT, async || {
        let text = serde_json::to_string(&maps.get(&name).await?.data)?;
        ensure!(!text.contains("An earlier operator"), "{text}");
        Ok(())
    })
    .await?;
    cluster.ready(began, LIMIT).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let after = uids(&cluster).await?;
    ensure!(after == before, "Pods were replaced: {before:?} became {after:?}");
    stage
        .say(format_args!("replaced twice within {:.1} s: the same six Pods", began.elapsed().as_secs_f64()));
    load.judged(stage, "operator replaced", 2, GAP).await
}

/// Leaves the text of another build behind, as that build would: by its field manager.
async fn write_as_an_earlier_one(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let name = labels::common_name(&cluster.name);
    let live = maps.get(&name).await?;
    let mut data = live.data.context("an empty ConfigMap")?;
    for text in data.values_mut() {
        text.insert_str(0, EARLIER);
    }
    let metadata = json!({ "name": name, "labels": live.metadata.labels, "annotations": live.metadata.annotations,
        "ownerReferences": live.metadata.owner_references });
    let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
    maps.patch(&name, &PatchParams::apply(labels::OPERATOR).force(), &Patch::Apply(&body)).await?;
    Ok(())
}

async fn uids(cluster: &Cluster) -> Result<BTreeSet<String>> {
    Ok(cluster.pods().await?.values().filter_map(ResourceExt::uid).collect())
}
