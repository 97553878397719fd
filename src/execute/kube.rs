//! The effects on the API server. Every delete carries the UID and the resourceVersion that the guard has just read.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Executor, guard};
use crate::api::ValkeyCluster;
use crate::build::{self, PodPlan, labels, metadata};
use crate::model::{Given, Object, Outcome, PodName, PodUid, Step, WorkerName, step::Removable};
use crate::mutex::lock;
use crate::observe::kube as read;
use crate::watch::wakes::owner;

impl Executor<'_> {
    pub(super) async fn kubernetes(&self, step: &Step) -> Outcome {
        let result = match step {
            Step::Latch => self.latch().await,
            Step::Apply(Object::Secret) => self.secret().await,
            Step::Apply(Object::ConfigMap) => self.apply(&build::config_map(&self.s.desired)).await,
            Step::Apply(Object::Service) => self.apply(&build::service(&self.s.desired)).await,
            Step::Apply(Object::Policy) => self.apply(&build::policy(&self.s.desired)).await,
            Step::Apply(Object::Budget) => self.budget().await,
            Step::Certify(_) | Step::Settle => self.withdraw(step).await,
            Step::Renew => self.renew().await,
            Step::CreatePod { .. } => self.create(step).await,
            Step::DeletePod { name, uid, only_if, .. } => self.delete(name, uid, *only_if).await,
            Step::SetGate { name, uid, ready, .. } => self.gate(name, uid, *ready).await,
            Step::SetRole { name, uid, leads, .. } => {
                self.label(name, uid, labels::ROLE, leads.then_some(labels::PRIMARY)).await
            }
            Step::SetApart { name, uid, counts, .. } => {
                self.label(name, uid, labels::APART, counts.then_some("true")).await
            }
            Step::SetMetadata { name, uid, .. } => self.dress(name, uid).await,
            Step::Nudge { name, uid, of, .. } => {
                self.annotate(name, uid, labels::CERTIFICATES, of.as_str()).await
            }
            Step::Note { name, uid, key, before, .. } => self.note(name, uid, key, before.as_deref()).await,
            Step::Purge { on, shape } => self.purge(on, shape).await,
            _ => return Outcome::Stale("not a step of the API server".to_owned()),
        };
        result.unwrap_or_else(|error| Outcome::Failed(sentence(&error)))
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.ctx.clients.api.clone(), &self.s.desired.key.namespace)
    }

    /// Server-side apply; whose name it is was looked up when the facts were read.
    async fn apply<K>(&self, wanted: &K) -> kube::Result<Outcome>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        let params = PatchParams::apply(labels::OPERATOR).force();
        self.api::<K>().patch(&wanted.name_any(), &params, &Patch::Apply(wanted)).await?;
        Ok(Outcome::Done)
    }

    /// Keeps the `PodDisruptionBudget`, or takes it away where none is wanted.
    async fn budget(&self) -> kube::Result<Outcome> {
        if self.s.desired.budget {
            return self.apply(&build::budget(&self.s.desired, self.s.serving())).await;
        }
        let name = labels::common_name(&self.s.desired.key.name);
        match self.api::<PodDisruptionBudget>().delete(&name, &DeleteParams::default()).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(error),
        }
    }

    /// What may end that a node is trusted, or trusts, reads first which Pods there are.
    async fn withdraw(&self, step: &Step) -> kube::Result<Outcome> {
        let ours = ListParams::default().labels(&labels::pod_selector(&self.s.desired.key));
        let live = self.api::<Pod>().list_metadata(&ours).await?.items;
        let of_it = live.iter().filter(|p| owner(*p).is_some_and(|o| o.uid == self.s.desired.key.uid));
        let live: Vec<(PodName, PodUid)> =
            of_it.filter_map(|p| Some((PodName::new(p.name_any()), PodUid::new(p.uid()?)))).collect();
        if let Err(why) = guard::all_seen(&self.s.pods, live.iter().map(|(name, uid)| (name, uid))) {
            return Ok(Outcome::Stale(why));
        }
        match step {
            Step::Certify(given) => self.certify(given).await,
            _ => self.settle().await,
        }
    }

    /// Writes what was decided over what was read, and nothing else.
    async fn certify(&self, given: &Given) -> kube::Result<Outcome> {
        let (stock, version) = {
            let h = lock(self.hints);
            (h.secured.stock(), h.secured.version().map(str::to_owned))
        };
        let Some(mut wanted) = build::tls::secret(&self.s.desired, &stock, given) else {
            return Ok(Outcome::Stale("the certificates have changed meanwhile".to_owned()));
        };
        // Applied from the first time on: what one apply leaves out of the last one goes, former files above all.
        wanted.metadata.resource_version = version;
        let params = PatchParams::apply(labels::OPERATOR).force();
        let written = self.api::<Secret>().patch(&wanted.name_any(), &params, &Patch::Apply(&wanted)).await;
        match written {
            Ok(secret) => {
                lock(self.hints).secured.see(&secret, &self.s.desired.key);
                Ok(Outcome::Done)
            }
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                Ok(Outcome::Stale("the Secret with the certificates has just changed".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// The latch, first on the Secret (which outlives a lost status), then in the status.
    async fn latch(&self) -> kube::Result<Outcome> {
        let key = &self.s.desired.key;
        let cluster = self.api::<ValkeyCluster>();
        let live = cluster.get_metadata_opt(&key.name).await?;
        let Some(live) = live.filter(|l| l.uid().as_deref() == Some(key.uid.as_str())) else {
            return Ok(Outcome::Stale("the ValkeyCluster was deleted meanwhile".to_owned()));
        };
        let mark = json!({ "metadata": { "annotations": { labels::FORMED: "true" } } });
        let merge =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        self.api::<Secret>()
            .patch_metadata(&labels::secret_name(&key.name), &merge, &Patch::Merge(&mark))
            .await?;
        // Bound to the version just read: a namesake created this moment must not inherit the latch.
        let body = json!({ "metadata": { "resourceVersion": live.resource_version() }, "status": { "formed": true } });
        match cluster.patch_status(&key.name, &merge, &Patch::Merge(&body)).await {
            Ok(_) => {
                lock(self.hints).formed = true;
                Ok(Outcome::Done)
            }
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                Ok(Outcome::Stale("the ValkeyCluster has just changed".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&self, step: &Step) -> kube::Result<Outcome> {
        let Step::CreatePod { name, shard, index, worker, demands, failures } = step else {
            return Ok(Outcome::Stale("not a Pod".to_owned()));
        };
        let hostname =
            |w: &WorkerName| self.s.workers.get(w).map_or_else(|| w.to_string(), |w| w.hostname.clone());
        let plan = PodPlan {
            name: name.clone(),
            shard: *shard,
            index: *index,
            worker: worker.clone(),
            worker_hostname: worker.as_ref().map(hostname),
            not_on_hostnames: demands.not_on.iter().map(hostname).collect(),
            demands: demands.clone(),
            failures: *failures,
        };
        let pod = build::pod(&self.s.desired, &self.s.revision, &plan);
        match self.api::<Pod>().create(&PostParams::default(), &pod).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_already_exists() => self.exists(name).await,
            Err(kube::Error::Api(s)) if namespace_ends(&s) => {
                lock(self.hints).ending = true;
                Ok(Outcome::Stale("the namespace is being deleted".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// A Pod of this very cluster was made a moment ago, and the watch has not shown it yet: under another name it would be made twice.
    async fn exists(&self, name: &PodName) -> kube::Result<Outcome> {
        let live = self.api::<Pod>().get_metadata_opt(name.as_str()).await?;
        let owner = live.as_ref().and_then(owner).map(|o| &o.uid);
        if owner == Some(&self.s.desired.key.uid) {
            return Ok(Outcome::Stale(format!("{name} exists already")));
        }
        lock(self.hints).taken.insert(name.clone());
        Ok(Outcome::Stale(format!("the name {name} is taken")))
    }

    /// Reads the Pod and its node again; deletes exactly what was read.
    async fn delete(&self, name: &PodName, uid: &PodUid, only_if: Removable) -> kube::Result<Outcome> {
        let api = self.api::<Pod>();
        let Some(live) = api.get_opt(name.as_str()).await? else { return Ok(Outcome::Done) };
        if live.uid().as_deref() != Some(uid.as_str()) {
            return Ok(Outcome::Stale(format!("{name} is another Pod by now")));
        }
        if let Err(why) = self.removable(&live, only_if).await {
            return Ok(Outcome::Stale(format!("{name} stays: {why}")));
        }
        let exactly = Preconditions { uid: live.uid(), resource_version: live.resource_version() };
        let mut how = DeleteParams::default().preconditions(exactly);
        how.grace_period_seconds = grace(only_if, live.spec.and_then(|s| s.termination_grace_period_seconds));
        match api.delete(name.as_str(), &how).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                Ok(Outcome::Stale(format!("{name} has just changed")))
            }
            Err(error) => Err(error),
        }
    }

    async fn removable(&self, live: &Pod, only_if: Removable) -> Result<(), String> {
        let pod = read::pod(live).ok_or("it lacks the labels of a member")?;
        let running = pod.phase == crate::model::Phase::Running;
        match (only_if, running, pod.ip, &self.nodes) {
            (Removable::NotRunning, false, _, _) => Ok(()),
            (Removable::NotRunning, true, _, _) => Err("its server has started".to_owned()),
            (Removable::Unreachable, _, Some(ip), Some(nodes)) => {
                let workers = self.ctx.workers();
                let worker = workers
                    .iter()
                    .find(|w| live.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&w.name_any()));
                if worker.is_none_or(|w| !read::worker(w, &self.s.desired.template).is_given_up()) {
                    return Err("its worker is heard again".to_owned());
                }
                nodes.removable(ip, only_if).await
            }
            (_, _, Some(ip), Some(nodes)) => nodes.removable(ip, only_if).await,
            (_, _, _, _) => Err("its node cannot be asked".to_owned()),
        }
    }

    /// The condition list of a Pod is merged by type, so that the kubelet's own conditions stay.
    async fn gate(&self, name: &PodName, uid: &PodUid, ready: bool) -> kube::Result<Outcome> {
        let now = k8s_openapi::jiff::Timestamp::from_millisecond(self.s.now.0).unwrap_or_default();
        let status = if ready { "True" } else { "False" };
        let at = self.s.pods.get(name).and_then(|pod| pod.ip).map(labels::at);
        let body = json!({
            "metadata": { "uid": uid },
            "status": { "conditions": [{
                "type": labels::READINESS_GATE, "status": status, "message": at,
                "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
            }] }
        });
        let params =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        match self.api::<Pod>().patch_status(name.as_str(), &params, &Patch::Strategic(&body)).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() || s.is_invalid() => {
                Ok(Outcome::Stale(format!("{name} is another Pod by now")))
            }
            Err(error) => Err(error),
        }
    }

    /// Sets a label or takes it away. Bound to the UID: a namesake's labels are its own.
    async fn label(
        &self,
        name: &PodName,
        uid: &PodUid,
        key: &str,
        value: Option<&str>,
    ) -> kube::Result<Outcome> {
        self.merge(name, json!({ "uid": uid, "labels": { key: value } })).await
    }

    /// The same for an annotation.
    async fn annotate(&self, name: &PodName, uid: &PodUid, key: &str, value: &str) -> kube::Result<Outcome> {
        self.merge(name, json!({ "uid": uid, "annotations": { key: value } })).await
    }

    async fn merge(&self, name: &PodName, metadata: Value) -> kube::Result<Outcome> {
        let body = json!({ "metadata": metadata });
        let params =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        match self.api::<Pod>().patch_metadata(name.as_str(), &params, &Patch::Merge(&body)).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() || s.is_invalid() => {
                Ok(Outcome::Stale(format!("{name} is another Pod by now")))
            }
            Err(error) => Err(error),
        }
    }
}

impl Executor<'_> {
    /// Reads the Pod again: what was given before is noted on it.
    async fn dress(&self, name: &PodName, uid: &PodUid) -> kube::Result<Outcome> {
        let api = self.api::<Pod>();
        let Some(live) =
            api.get_metadata_opt(name.as_str()).await?.filter(|l| l.uid().as_deref() == Some(uid.as_str()))
        else {
            return Ok(Outcome::Stale(format!("{name} is another Pod by now")));
        };
        let before =
            live.annotations().get(labels::GIVEN).map(|note| metadata::noted(note)).unwrap_or_default();
        let mut body = metadata::patch(&before, &self.s.desired.template.metadata);
        if let Some(meta) = body.as_object_mut() {
            meta.insert("uid".to_owned(), json!(uid));
            meta.insert("resourceVersion".to_owned(), json!(live.resource_version()));
        }
        let merge =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        match api.patch_metadata(name.as_str(), &merge, &Patch::Merge(&json!({ "metadata": body }))).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => {
                Ok(Outcome::Stale(format!("{name} has just changed")))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the Pod again: the first note is the true one, whatever a watch that lags behind has shown.
    async fn note(
        &self,
        name: &PodName,
        uid: &PodUid,
        key: &str,
        before: Option<&str>,
    ) -> kube::Result<Outcome> {
        let api = self.api::<Pod>();
        let annotation = labels::before(key);
        let Some(live) =
            api.get_metadata_opt(name.as_str()).await?.filter(|l| l.uid().as_deref() == Some(uid.as_str()))
        else {
            return Ok(Outcome::Stale(format!("{name} is another Pod by now")));
        };
        if live.annotations().contains_key(&annotation) == before.is_some() {
            return Ok(Outcome::Done);
        }
        let body = json!({ "metadata": { "uid": uid, "resourceVersion": live.resource_version(),
            "annotations": { annotation: before } } });
        let merge =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        match api.patch_metadata(name.as_str(), &merge, &Patch::Merge(&body)).await {
            Ok(_) => Ok(Outcome::Done),
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => {
                Ok(Outcome::Stale(format!("{name} has just changed")))
            }
            Err(error) => Err(error),
        }
    }
}

/// How long a Pod with a server that nobody hears has to end, in seconds. A server that hangs does not hear SIGTERM either (seen: a
/// 9.1.2 that went round in `clusterProcessPacket` for ever), and until its Pod is gone its id stays listed. The `preStop` hook
/// needs six of them to find out.
const SILENT_GRACE: i64 = 15;

/// The grace period of a deletion in seconds, where it is not the Pod's own.
fn grace(only_if: Removable, own: Option<i64>) -> Option<u32> {
    match only_if {
        // Nobody is there to confirm an orderly end.
        Removable::Unreachable => Some(0),
        Removable::Silent => short_grace(own),
        _ => None,
    }
}

/// What a Pod with this grace period of its own has where its server may hang, in seconds.
pub(crate) fn short_grace(own: Option<i64>) -> Option<u32> {
    u32::try_from(own.unwrap_or(SILENT_GRACE).min(SILENT_GRACE)).ok()
}

/// The API server's own words, without the client's wrapping.
fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Nothing can be created in a namespace that is being deleted (cause `NamespaceTerminating` of the refusal).
fn namespace_ends(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes.into_iter().any(|c| c.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_cannot_hear_is_given_less_time_than_its_own() {
        assert_eq!(grace(Removable::Unreachable, Some(300)), Some(0));
        assert_eq!(grace(Removable::Silent, Some(300)), Some(15));
        assert_eq!(grace(Removable::Silent, Some(5)), Some(5));
        assert_eq!(grace(Removable::Retired { others: 1 }, Some(300)), None);
    }
}
