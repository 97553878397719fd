//! Processes that die without a word, under a write load: the heir takes over in milliseconds, and a shard of which
//! nothing is left begins anew.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use futures::future::try_join_all;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use valkey_cluster_operator::build::labels;

use super::Story;
use super::cluster::Cluster;
use super::load::Load;
use super::stage::{Stage, eventually};
use crate::sandbox::Container;

pub(super) const STORY: Story = Story {
    name: "crash",
    about: "a primary that dies has its heir at once; a shard that is lost begins anew and says so",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);

/// The longest time without an acknowledged write on any lane.
const GAP: Duration = Duration::from_millis(250);

/// One way for a primary to die alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    ForceDeleted,
}

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    for death in [Death::Killed, Death::ForceDeleted] {
        let mut gaps = Vec::new();
        for round in 0..stage.times(1, 10) {
            let shard = u16::try_from(round % 3)?;
            gaps.push(
                one_primary(stage, &cluster, shard, death).await.with_context(|| format!("{death:?}"))?,
            );
        }
        gaps.sort_unstable();
        let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
        stage.say(format_args!("{death:?}: median of the longest gaps {median:?}"));
        ensure!(median <= stage.bound(GAP), "{death:?}: a gap of {median:?}");
    }
    whole_shard(stage, &cluster).await.context("a whole shard")?;
    all_primaries(stage, &cluster).await.context("all primaries")
}

/// The longest gap that the load saw.
async fn one_primary(stage: &Stage, cluster: &Cluster, shard: u16, death: Death) -> Result<Duration> {
    let load = Load::start(stage, cluster).await?;
    let name = cluster.primary_of(shard).await?;
    load.mark("death");
    let began = Instant::now();
    match death {
        Death::Killed => kill(stage, cluster, &name).await?,
        Death::ForceDeleted => {
            let now = DeleteParams::default().grace_period(0);
            cluster.pod_api().delete(&name, &now).await?;
        }
    }
    eventually("another primary", LIMIT, async || {
        let heir = cluster.primary_of(shard).await?;
        ensure!(heir != name, "{name} still leads");
        Ok(())
    })
    .await?;
    load.follow(cluster).await?;
    cluster.whole(3, 1, LIMIT).await?;
    let whole = began.elapsed();
    load.follow(cluster).await?;
    let (report, history) = load.end(stage, &format!("{death:?}")).await?;
    let below = history.below(2).values().max().copied().unwrap_or_default();
    stage.say(format_args!(
        "{death:?}: whole again after {:.1} s, below two copies for {:.1} s, {} lost",
        whole.as_secs_f64(),
        below.as_secs_f64(),
        report.lost()
    ));
    cluster.ready(began, LIMIT).await?;
    Ok(report.longest_gap())
}

/// Nothing of the shard is left: no write of its can be, but the others go on and the shard serves again.
async fn whole_shard(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    kill_all(stage, cluster, &members_of(cluster, 1).await?).await?;
    cluster.whole(3, 1, LIMIT).await?;
    stage
        .say(format_args!("a whole shard: whole again, empty, after {:.1} s", began.elapsed().as_secs_f64()));
    let told = ["get", "events", "-n", &cluster.namespace, "--field-selector=reason=ShardLost", "-o", "name"];
    eventually("the event ShardLost", LIMIT, async || {
        ensure!(!stage.kubectl(&told).await?.trim().is_empty(), "there is none");
        Ok(())
    })
    .await?;
    cluster.ready(began, LIMIT).await?;
    Ok(())
}

/// Nobody is left to elect: the replicas take over on proof, and nothing that they had is lost.
async fn all_primaries(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let mut names = Vec::new();
    for shard in 0..3 {
        names.push(cluster.primary_of(shard).await?);
    }
    let began = Instant::now();
    kill_all(stage, cluster, &names).await?;
    cluster.whole(3, 1, LIMIT).await?;
    stage.say(format_args!("all primaries: whole again after {:.1} s", began.elapsed().as_secs_f64()));
    cluster.ready(began, LIMIT).await?;
    Ok(())
}

async fn members_of(cluster: &Cluster, shard: u16) -> Result<Vec<String>> {
    let ordinal = shard.to_string();
    let pods = cluster.pods().await?.into_iter();
    Ok(pods.filter(|(_, p)| p.labels().get(labels::SHARD_INDEX) == Some(&ordinal)).map(|(n, _)| n).collect())
}

async fn kill_all(stage: &Stage, cluster: &Cluster, names: &[String]) -> Result<()> {
    try_join_all(names.iter().map(|name| kill(stage, cluster, name))).await?;
    Ok(())
}

pub(super) async fn kill(stage: &Stage, cluster: &Cluster, name: &str) -> Result<()> {
    let container = Container { namespace: &cluster.namespace, pod: name, name: "server" };
    stage.sandbox("it kills processes on the workers")?.signal(&container, "SIGKILL").await
}
