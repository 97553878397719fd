//! A `ValkeyCluster` as a story sees it: applied, waited for, looked at, and asked directly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use valkey_cluster_operator::api::ValkeyCluster;
use valkey_cluster_operator::build::credentials::OPERATOR_USER;
use valkey_cluster_operator::build::labels;
use valkey_cluster_operator::model::settings::NODE_TIMEOUT_MS;

use super::pki::Pki;
use super::reach::Way;
use super::stage::{Stage, eventually};
use crate::resp::{Access, Credentials, plain};
use crate::sandbox::Sandbox;
use crate::truth::{Expected, Looker, Truth};

/// Where Valkey listens.
pub(super) const CLIENT_PORT: u16 = 6379;

/// Connections that are kept between two looks, the password that they logged in with, and whether they speak TLS.
struct Kept {
    password: Option<String>,
    encrypted: bool,
    looker: Looker,
}

/// A cluster that a story has applied.
#[derive(Clone)]
pub struct Cluster {
    reach: Way,
    client: Client,
    looker: Arc<Mutex<Option<Kept>>>,
    /// How its applications log in, where the story wants them to.
    pub(super) login: Credentials,
    /// Its certificates, when it speaks TLS.
    pub(super) pki: Option<Arc<Pki>>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was applied last.
    pub applied: Instant,
}

impl Cluster {
    /// Applies a spec under this name.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn apply(stage: &Stage, namespace: &str, name: &str, spec: Value) -> Result<Self> {
        let mut this = Self::existing(stage.reach(), &stage.client, namespace, name);
        if stage.tls {
            this.certify(stage).await?;
        }
        this.change(spec).await?;
        stage.note(&this);
        Ok(this)
    }

    /// The same, by TLS in any case.
    ///
    /// # Errors
    /// The API server's refusal.
    pub(super) async fn apply_tls(stage: &Stage, namespace: &str, name: &str, spec: Value) -> Result<Self> {
        let mut this = Self::existing(stage.reach(), &stage.client, namespace, name);
        this.certify(stage).await?;
        this.change(spec).await?;
        stage.note(&this);
        Ok(this)
    }

    async fn certify(&mut self, stage: &Stage) -> Result<()> {
        let pki = Pki::new(&self.namespace, &self.name)?;
        pki.issue(&stage.client, pki.first()).await?;
        self.pki = Some(Arc::new(pki));
        Ok(())
    }

    /// A cluster that is there already.
    pub fn existing(reach: &Way, client: &Client, namespace: &str, name: &str) -> Self {
        Self {
            reach: reach.clone(),
            client: client.clone(),
            looker: Arc::default(),
            login: Credentials::default(),
            pki: None,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            applied: Instant::now(),
        }
    }

    /// Applies another spec, as `kubectl apply --server-side` would.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn change(&self, mut spec: Value) -> Result<()> {
        if let Some(pki) = &self.pki
            && let Some(spec) = spec.as_object_mut()
        {
            spec.entry("networking").or_insert_with(|| pki.networking());
        }
        let body = json!({ "apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster",
            "metadata": { "name": self.name }, "spec": spec });
        self.api().patch(&self.name, &PatchParams::apply("story").force(), &Patch::Apply(&body)).await?;
        Ok(())
    }

    /// The custom resources of its namespace.
    pub fn api(&self) -> Api<ValkeyCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The Pods of its namespace.
    pub fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The custom resource as it is.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn get(&self) -> Result<ValkeyCluster> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Waits as `kubectl wait --for=condition=Ready` does: for the condition of the newest generation. The time since `from`.
    ///
    /// # Errors
    /// What is missing when time is up.
    pub async fn ready(&self, from: Instant, limit: Duration) -> Result<Duration> {
        eventually("the cluster to be Ready", limit, async || {
            let cr = self.get().await?;
            let status = cr.status.clone().unwrap_or_default();
            let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
            match ready {
                Some(c) if c.status == "True" && c.observed_generation == cr.metadata.generation => {
                    Ok(from.elapsed())
                }
                _ => bail!("{:?} {}: {}", status.state, status.reason, status.message),
            }
        })
        .await
    }

    /// Waits until the status says what the story expects.
    ///
    /// # Errors
    /// The status as it is when time is up.
    pub async fn says(
        &self,
        what: &str,
        limit: Duration,
        expected: impl Fn(&ValkeyCluster) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        eventually(what, limit, async || {
            let cr = self.get().await?;
            ensure!(expected(&cr), "status is {}", serde_json::to_string(&cr.status)?);
            Ok(began.elapsed())
        })
        .await
    }

    /// Its Pods by name, terminating ones included.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn pods(&self) -> Result<BTreeMap<String, Pod>> {
        let mine = ListParams::default().labels(&format!("{}={}", labels::CLUSTER, self.name));
        let list = self.pod_api().list(&mine).await?;
        Ok(list.items.into_iter().map(|p| (p.name_any(), p)).collect())
    }

    /// Which Pods they are: as long as these are the same, none was replaced.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn uids(&self) -> Result<BTreeSet<String>> {
        Ok(self.pods().await?.into_values().filter_map(|p| p.metadata.uid).collect())
    }

    /// The address of one of its Pods that are meant to stay.
    ///
    /// # Errors
    /// If it has none.
    pub async fn address(&self, pod: &str) -> Result<SocketAddr> {
        self.addresses().await?.remove(pod).with_context(|| format!("{pod} has no address"))
    }

    /// The addresses of its Pods that are meant to stay, by Pod name.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn addresses(&self) -> Result<BTreeMap<String, SocketAddr>> {
        let staying = self.pods().await?.into_iter().filter(|(_, p)| p.metadata.deletion_timestamp.is_none());
        let address = |p: &Pod| p.status.as_ref()?.pod_ip.as_deref()?.parse().ok();
        Ok(staying.filter_map(|(name, p)| Some((name, SocketAddr::new(address(&p)?, CLIENT_PORT)))).collect())
    }

    /// The worker of each of its Pods.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn workers(&self) -> Result<BTreeMap<String, String>> {
        let worker = |p: &Pod| p.spec.as_ref()?.node_name.clone();
        Ok(self.pods().await?.into_iter().filter_map(|(name, p)| Some((name, worker(&p)?))).collect())
    }

    /// How to talk to its nodes from outside, as the operator does.
    ///
    /// # Errors
    /// If its Secret cannot be read.
    pub async fn access(&self) -> Result<Access> {
        let secret = self.secret().await?;
        let known =
            valkey_cluster_operator::build::Credentials::from_secret(&secret).map_err(anyhow::Error::msg)?;
        Ok(self.access_as(OPERATOR_USER, &known.operator))
    }

    /// How to talk to its nodes as this user.
    pub fn access_as(&self, user: &str, password: &str) -> Access {
        let login = Credentials { user: Some(user.to_owned()), password: Some(password.to_owned()) };
        self.open_access().with_login(login)
    }

    /// The way to its Pods, neither encrypted nor with a login.
    pub(super) fn plain_access(&self) -> Access {
        self.reach.access(&self.namespace)
    }

    /// How to talk to its nodes as an application does: without a login, unless the story has given it one.
    pub fn open_access(&self) -> Access {
        self.encrypted(self.plain_access()).with_login(self.login.clone())
    }

    /// By TLS, when the cluster speaks it.
    pub(super) fn encrypted(&self, access: Access) -> Access {
        match &self.pki {
            Some(pki) => Access { connector: pki.connector(access.connector), relayed: true, ..access },
            None => access,
        }
    }

    /// The Secret of its system users.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn secret(&self) -> Result<Secret> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        Ok(secrets.get(&labels::secret_name(&self.name)).await?)
    }

    /// What its nodes say themselves.
    ///
    /// # Errors
    /// If it cannot be found out whom to ask.
    pub async fn truth(&self) -> Result<Truth> {
        let nodes: Vec<SocketAddr> = self.addresses().await?.into_values().collect();
        self.look(&nodes).await
    }

    /// What these nodes say, over connections that are kept.
    ///
    /// # Errors
    /// If its Secret cannot be read.
    pub async fn look(&self, nodes: &[SocketAddr]) -> Result<Truth> {
        let access = self.access().await?;
        let mut kept = self.looker.lock().await;
        let password = access.credentials.password.clone();
        let mut with = match kept.take() {
            Some(with) if with.password == password && with.encrypted == self.pki.is_some() => with,
            _ => Kept { password, encrypted: self.pki.is_some(), looker: Looker::patient(access) },
        };
        let truth = Truth { seen: with.looker.ask(nodes).await };
        *kept = Some(with);
        Ok(truth)
    }

    /// Waits until the nodes themselves say that all is as it should be, node-timeouts included.
    ///
    /// # Errors
    /// What is wrong when time is up.
    pub async fn whole(&self, shards: usize, replicas: usize, limit: Duration) -> Result<Truth> {
        let expected = Expected {
            shards: Some(shards),
            replicas: Some(replicas),
            node_timeout_ms: Some(u64::from(NODE_TIMEOUT_MS)),
        };
        eventually("the nodes to be one whole cluster", limit, async || {
            let truth = self.truth().await?;
            let problems = truth.problems_against(&expected);
            ensure!(problems.is_empty(), "{}", problems.join("; "));
            Ok(truth)
        })
        .await
    }

    /// The name of the Pod that serves a shard now, as the nodes say.
    ///
    /// # Errors
    /// If no node says so.
    pub async fn primary_of(&self, shard: u16) -> Result<String> {
        let truth = self.truth().await?;
        let pods = self.pods().await?;
        let shard_of =
            |name: &String| pods.get(name).and_then(|p| p.labels().get(labels::SHARD_INDEX).cloned());
        let primaries: Vec<SocketAddr> = truth.shards().iter().filter_map(|s| s.primary_addr).collect();
        let mine =
            self.addresses().await?.into_iter().find(|(name, address)| {
                primaries.contains(address) && shard_of(name) == Some(shard.to_string())
            });
        mine.map(|(name, _)| name)
            .with_context(|| format!("no node says that it is the primary of shard {shard}"))
    }

    /// The names of the Pods that serve the shards now, as the nodes say.
    ///
    /// # Errors
    /// If its Pods cannot be listed.
    pub async fn primaries(&self) -> Result<Vec<String>> {
        let leaders: Vec<SocketAddr> =
            self.truth().await?.shards().iter().filter_map(|s| s.primary_addr).collect();
        let all = self.addresses().await?;
        Ok(all.into_iter().filter(|(_, at)| leaders.contains(at)).map(|(name, _)| name).collect())
    }

    /// The name of another Pod of a shard than this one.
    ///
    /// # Errors
    /// If there is none.
    pub async fn replica_of(&self, shard: u16, primary: &str) -> Result<String> {
        let pods = self.pods().await?;
        let of_shard = |p: &Pod| p.labels().get(labels::SHARD_INDEX) == Some(&shard.to_string());
        let found = pods.into_iter().find(|(name, p)| name != primary && of_shard(p));
        found.map(|(name, _)| name).with_context(|| format!("shard {shard} has no replica"))
    }

    /// Deletes one of its Pods, as a person would.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        self.pod_api()
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete {name}"))?;
        Ok(())
    }
}

/// Connections from inside the sandbox.
pub(super) fn connector(sandbox: &Sandbox) -> crate::resp::Connector {
    let sandbox = sandbox.clone();
    std::sync::Arc::new(move |addr| {
        let sandbox = sandbox.clone();
        Box::pin(async move { sandbox.connect(addr).await.map(plain).map_err(std::io::Error::other) })
    })
}
