//! What is secret stays in Secrets: it is in no line of the operator's log, in no event, and in nothing else that is to be read of a
//! cluster.

use anyhow::{Result, ensure};
use valkey_cluster_operator::build::Credentials;

use super::cluster::Cluster;
use super::operator;
use super::stage::Stage;

/// What is shorter can be in a text by chance.
const LEAST: usize = 12;
/// What a person may read who may not read Secrets.
const OBJECTS: &str = "vkc,pods,services,configmaps,events";

/// Looks for these, and for the passwords of the cluster's system users.
///
/// # Errors
/// Where one of them is. It is not repeated.
pub(super) async fn kept(stage: &Stage, cluster: &Cluster, others: &[String]) -> Result<()> {
    let known = Credentials::from_secret(&cluster.secret().await?).map_err(anyhow::Error::msg)?;
    let system = [known.operator, known.replication, known.exporter];
    let secrets: Vec<&String> = system.iter().chain(others).collect();
    ensure!(secrets.iter().all(|secret| secret.len() >= LEAST), "a secret is too short to be looked for");
    let log =
        stage.kubectl(&["logs", "-n", operator::NAMESPACE, "-l", operator::SELECTOR, "--tail=-1"]).await?;
    ensure!(log.contains(&cluster.namespace), "the operator's log does not tell of {}", cluster.namespace);
    let json = ["get", "-n", &cluster.namespace, OBJECTS, "-o", "json", "--show-managed-fields"];
    let objects = stage.kubectl(&json).await?;
    for (place, text) in [("the operator's log", log), (OBJECTS, objects)] {
        let found = secrets.iter().filter(|secret| text.contains(secret.as_str())).count();
        ensure!(found == 0, "{found} of {} secrets are in {place}", secrets.len());
    }
    stage.say(format_args!("{} secrets are neither in the operator's log nor in {OBJECTS}", secrets.len()));
    Ok(())
}
