//! The number of replicas is changed on a running cluster, under a write load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::load::Load;
use super::stage::Stage;

pub(super) const STORY: Story = Story {
    name: "replicas",
    about: "replicas are added and removed while an application writes: nothing lost, no gap",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// No role changes, so no write has to wait for one.
const GAP: Duration = Duration::from_millis(500);

async fn run(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster(json!({ "shards": 3, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let load = Load::start(stage, &cluster).await?;
    for replicas in [2, 0, 1] {
        load.mark(&format!("replicas {replicas}"));
        let began = Instant::now();
        cluster.change(json!({ "shards": 3, "replicas": replicas })).await?;
        cluster.whole(3, replicas, LIMIT).await?;
        let ready = cluster.ready(began, LIMIT).await?;
        let pods = cluster.addresses().await?.len();
        ensure!(pods == 3 * (1 + replicas), "{pods} Pods for 3x{replicas}");
        stage.say(format_args!("3x{replicas}: Ready after {:.1} s", ready.as_secs_f64()));
        load.flowing().await?;
    }
    let (report, _) = load.end(stage, "3x1 to 3x2 to 3x0 to 3x1").await?;
    ensure!(report.lost() == 0, "acknowledged writes are lost: {}", report.summary());
    ensure!(report.longest_gap() < stage.bound(GAP), "the longest gap is {:?}", report.longest_gap());
    Ok(())
}
