//! Who may connect to whom: the policy that the operator writes, and, on a network that enforces policies, what it does.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use valkey_cluster_operator::{api, build};

use super::Story;
use super::cluster::{CLIENT_PORT, Cluster};
use super::mend::BUS_PORT;
use super::stage::{Skipped, Stage, eventually};

pub(super) const STORY: Story = Story {
    name: "network",
    about: "clients are those that the spec names, and the bus is for members alone: as a policy, and where it is enforced",
    run: |stage| run(stage).boxed_local(),
};

const LIMIT: Duration = Duration::from_mins(2);
/// A network that enforces policies has heard of a new one after that.
const HEARD: Duration = Duration::from_secs(20);
/// Seconds in which a connection comes up, or never.
const CONNECT: &str = "2";
const IMAGE: &str = "docker.io/valkey/valkey:9.1.2";
/// The label of those that the spec names.
const TEAM: (&str, &str) = ("team", "shop");

async fn run(stage: &Stage) -> Result<()> {
    let outside = stage.namespace().await?;
    let (friend, stranger) =
        (Outsider::new(stage, &outside, "friend"), Outsider::new(stage, &outside, "stranger"));
    // Before the Pod that it closes: so there is no moment at which a network that enforces it lets somebody in.
    close(stage, &outside, "friend").await?;
    friend.create(json!({ TEAM.0: TEAM.1 })).await?;
    stranger.create(json!({})).await?;
    let cluster = stage.cluster(json!({ "shards": 1, "replicas": 1 })).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    cluster.whole(1, 1, LIMIT).await?;
    as_built(stage, &cluster).await.context("everybody is a client")?;
    // Where nothing is enforced everybody gets everywhere, and that shows that the looks tell the two apart.
    let open = !is_enforced(stage, &friend, &stranger).await?;
    lets_in(&stranger, &cluster, CLIENT_PORT, true).await?;
    lets_in(&stranger, &cluster, BUS_PORT, open).await?;
    let named = json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { TEAM.0: TEAM.1 } } }]);
    let closed = json!({ "shards": 1, "replicas": 1, "networking": { "allowedClients": named } });
    cluster.change(closed).await?;
    as_built(stage, &cluster).await.context("some are clients")?;
    lets_in(&stranger, &cluster, CLIENT_PORT, open).await?;
    lets_in(&friend, &cluster, CLIENT_PORT, true).await?;
    lets_in(&friend, &cluster, BUS_PORT, open).await?;
    cluster.whole(1, 1, LIMIT).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let what = if open { "as it should be; this network enforces none" } else { "what the network does" };
    stage.say(format_args!("the policy is {what}"));
    Ok(())
}

/// The policy of the members is the one that belongs to the spec as it is now.
async fn as_built(stage: &Stage, cluster: &Cluster) -> Result<()> {
    let policies: Api<NetworkPolicy> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    eventually("the policy to be that of the spec", LIMIT, async || {
        let wanted = build::policy(&api::desired(&cluster.get().await?).map_err(anyhow::Error::msg)?);
        let live = policies.get(&build::labels::common_name(&cluster.name)).await?;
        ensure!(
            live.spec == wanted.spec,
            "it is {} instead of {}",
            serde_json::to_string(&live.spec)?,
            serde_json::to_string(&wanted.spec)?
        );
        Ok(())
    })
    .await
}

/// Nobody may connect to this Pod.
async fn close(stage: &Stage, namespace: &str, pod: &str) -> Result<()> {
    let policies: Api<NetworkPolicy> = Api::namespaced(stage.client.clone(), namespace);
    let policy = json!({ "metadata": { "name": pod },
        "spec": { "podSelector": { "matchLabels": { "name": pod } }, "policyTypes": ["Ingress"] } });
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    Ok(())
}

/// Whether nobody can connect to the Pod that is closed. The sandbox enforces nothing; elsewhere the rest counts as left out where nothing does.
async fn is_enforced(stage: &Stage, closed: &Outsider<'_>, from: &Outsider<'_>) -> Result<bool> {
    let at = closed.address().await?;
    from.address().await?;
    eventually("the closed Pod to serve itself", LIMIT, async || {
        ensure!(closed.reaches(at, CLIENT_PORT).await?, "it does not listen");
        Ok(())
    })
    .await?;
    if stage.reach().sandbox().is_some() {
        ensure!(
            from.reaches(at, CLIENT_PORT).await?,
            "the sandbox enforces policies: let the story rest on it"
        );
        return Ok(false);
    }
    let shut = eventually("the network to enforce a policy", HEARD, async || {
        ensure!(!from.reaches(at, CLIENT_PORT).await?, "a Pod that nobody may connect to was reached");
        Ok(())
    });
    if let Err(error) = shut.await {
        let why = Skipped(format!("this network enforces no policies: {error:#}")).into();
        stage.leave_out("who can connect to whom", &why);
        return Ok(false);
    }
    Ok(true)
}

/// Both members can be reached from there, or neither.
async fn lets_in(from: &Outsider<'_>, cluster: &Cluster, port: u16, wanted: bool) -> Result<()> {
    eventually("the network to do what the policy says", HEARD, async || {
        for (name, at) in cluster.addresses().await? {
            let reached = from.reaches(at.ip(), port).await?;
            ensure!(reached == wanted, "port {port} of {name}: reached by {}: {reached}", from.name);
        }
        Ok(())
    })
    .await
}

/// A Pod that is no member, with a server of its own.
struct Outsider<'a> {
    stage: &'a Stage,
    pods: Api<Pod>,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Outsider<'a> {
    fn new(stage: &'a Stage, namespace: &'a str, name: &'a str) -> Self {
        Self { stage, pods: Api::namespaced(stage.client.clone(), namespace), namespace, name }
    }

    async fn create(&self, mut labels: Value) -> Result<()> {
        labels.as_object_mut().context("labels are an object")?.insert("name".to_owned(), json!(self.name));
        let security = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
        let container = json!({ "name": "server", "image": IMAGE, "securityContext": security,
            "command": ["valkey-server", "--protected-mode", "no", "--save", "", "--dir", "/tmp"] });
        let spec = json!({ "containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } } });
        let pod = json!({ "metadata": { "name": self.name, "labels": labels }, "spec": spec });
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        Ok(())
    }

    /// Its address, once it runs.
    async fn address(&self) -> Result<IpAddr> {
        eventually("a Pod that is no member to run", LIMIT, async || {
            let status = self.pods.get(self.name).await?.status.unwrap_or_default();
            ensure!(status.phase.as_deref() == Some("Running"), "{} is {:?}", self.name, status.phase);
            Ok(status.pod_ip.context("it has no address")?.parse()?)
        })
        .await
    }

    /// Whether a connection comes up from there; what is answered does not matter, and a bus answers nothing.
    async fn reaches(&self, ip: IpAddr, port: u16) -> Result<bool> {
        let (ip, port) = (ip.to_string(), port.to_string());
        let exec = ["exec", "-n", self.namespace, self.name, "-c", "server", "--"];
        let ask = ["valkey-cli", "-t", CONNECT, "-h", &ip, "-p", &port, "PING"];
        let Err(error) = self.stage.kubectl(&[&exec[..], &ask[..]].concat()).await else { return Ok(true) };
        let said = format!("{error:#}");
        if said.contains("Could not connect") {
            return Ok(false);
        }
        // So it begins what happened on a connection; kubectl's own errors begin otherwise.
        ensure!(said.contains("Error: "), said);
        Ok(true)
    }
}
