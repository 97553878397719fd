//! Clusters that are born at the same moment never meet: two in one namespace, and namesakes in two.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use serde_json::json;

use super::Story;
use super::cluster::Cluster;
use super::stage::Stage;
use crate::truth::Truth;

pub(super) const STORY: Story = Story {
    name: "isolation",
    about: "clusters that are created at the same moment never meet",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let (here, there) = (stage.namespace().await?, stage.namespace().await?);
    let spec = || json!({ "shards": 3, "replicas": 1 });
    let (one, two, namesake) = tokio::try_join!(
        Cluster::apply(stage, &here, "one", spec()),
        Cluster::apply(stage, &here, "two", spec()),
        Cluster::apply(stage, &there, "one", spec()),
    )?;
    // Whole means that a node lists exactly the nodes of its own cluster, at their own addresses.
    let truths =
        tokio::try_join!(one.whole(3, 1, LIMIT), two.whole(3, 1, LIMIT), namesake.whole(3, 1, LIMIT))?;
    let known: Vec<BTreeSet<String>> = [&truths.0, &truths.1, &truths.2].into_iter().map(ids).collect();
    for (i, mine) in known.iter().enumerate() {
        ensure!(mine.len() == 6, "cluster {i} lists {} ids", mine.len());
        for other in known.iter().skip(i + 1) {
            ensure!(
                mine.is_disjoint(other),
                "two clusters share nodes: {:?}",
                mine.intersection(other).collect::<Vec<_>>()
            );
        }
    }
    tokio::try_join!(
        one.ready(one.applied, LIMIT),
        two.ready(two.applied, LIMIT),
        namesake.ready(namesake.applied, LIMIT)
    )?;
    stage.say(format_args!(
        "three clusters at once: all Ready after {:.2} s",
        one.applied.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Every id that any node lists.
fn ids(truth: &Truth) -> BTreeSet<String> {
    truth.answered().flat_map(|(_, facts, _)| facts.view.lines.iter().map(|line| line.id.clone())).collect()
}
