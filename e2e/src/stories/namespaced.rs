//! An operator for one namespace, installed as `crdgen install --namespaces` prints it: it works there, and asks for nothing elsewhere.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;
use valkey_cluster_operator::build::{install, labels, rbac};

use super::Story;
use super::cluster::Cluster;
use super::operator;
use super::rights::{self, Seen};
use super::stage::{Stage, eventually};
use crate::sandbox::{Sandbox, instance};

pub(super) const STORY: Story = Story {
    name: "namespaced",
    about: "with rights in one namespace alone the operator does all its work there, and is refused nothing",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("takes most of its rights from the operator, and reads the audit log")?;
    let (here, elsewhere) = (stage.namespace().await?, stage.namespace().await?);
    // One operator at a time: what runs with all rights would be refused what this one may not.
    operator::scale(&stage.client, 0).await?;
    let since = rights::now(sandbox)?;
    let told = live(stage, sandbox, &here, &elsewhere).await;
    // Whatever came of it, the next story finds the operator for all namespaces.
    operator::scale(&stage.client, 0).await?;
    // Only now: a watch is in the log when it has ended.
    let seen = rights::seen(sandbox, since);
    operator::install(sandbox, &stage.client).await?;
    told?;
    judge(stage, &seen?, &here)
}

/// A cluster comes and goes in the operator's namespace, and one in another namespace waits.
async fn live(stage: &Stage, sandbox: &Sandbox, here: &str, elsewhere: &str) -> Result<()> {
    let began = Instant::now();
    install(sandbox, here)?;
    operator::scale(&stage.client, 2).await.context("with rights in one namespace")?;
    stage.say(format_args!("installed for {here} in {:.1} s", began.elapsed().as_secs_f64()));
    let spec = || json!({ "shards": 1, "replicas": 1 });
    let waiting = Cluster::apply(stage, elsewhere, "demo", spec()).await?;
    let cluster = Cluster::apply(stage, here, "demo", spec()).await?;
    let ready = cluster.ready(cluster.applied, LIMIT).await?;
    cluster.whole(1, 1, LIMIT).await?;
    stage.say(format_args!("Ready after {:.2} s", ready.as_secs_f64()));
    ensure!(waiting.get().await?.status.is_none(), "it has looked after a cluster in {elsewhere}");
    ensure!(waiting.pods().await?.is_empty(), "it has made Pods in {elsewhere}");
    // Nobody shall begin with it later, when the operator looks everywhere again.
    waiting.api().delete(&waiting.name, &DeleteParams::default()).await?;
    cluster.api().delete(&cluster.name, &DeleteParams::default()).await?;
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), here);
    let secret = labels::secret_name(&cluster.name);
    eventually("the last Pod to be gone, and the passwords with it", LIMIT, async || {
        let left = cluster.pods().await?.len();
        let passwords = secrets.get_metadata_opt(&secret).await?.is_some();
        ensure!(left == 0 && !passwords, "{left} Pods are left, and {secret}: {passwords}");
        Ok(())
    })
    .await
}

/// By the way that the other installation came, so that each takes back what is not its own.
fn install(sandbox: &Sandbox, namespace: &str) -> Result<()> {
    let items = install::install(&[namespace.to_owned()])?;
    let manifest = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let file = sandbox.instance().path("operator-for-one-namespace.json");
    instance::write(&file, &serde_json::to_vec(&manifest)?)?;
    operator::apply(sandbox, &file)
}

/// What the audit log says of these minutes.
fn judge(stage: &Stage, seen: &Seen, here: &str) -> Result<()> {
    ensure!(seen.requests > 0, "the audit log says nothing of the operator");
    seen.within(&rights::of(&[rbac::NAMESPACED, rbac::GLOBAL, rbac::OWN].concat()))?;
    let places: BTreeSet<String> = [here, operator::NAMESPACE].map(str::to_owned).into();
    let foreign: BTreeSet<_> = seen.namespaces.difference(&places).cloned().collect();
    ensure!(foreign.is_empty(), "it was in namespaces that are not its own: {}", rights::list(&foreign));
    stage.say(format_args!("{} requests, none refused, none elsewhere", seen.requests));
    Ok(())
}
