//! What the operator may do is what it does: the API server's audit log against `src/build/rbac.rs`, right by right.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use valkey_cluster_operator::build::{labels, rbac};

use super::Story;
use super::stage::{Stage, eventually};
use crate::sandbox::Sandbox;

pub(super) const STORY: Story = Story {
    name: "rights",
    about: "nothing was refused to the operator, and after all stories no right of it is unused",
    run: |stage| run(stage).boxed_local(),
};

/// Who the operator is to the API server.
pub(super) const ACCOUNT: &str = "system:serviceaccount:valkey-operator-system:valkey-cluster-operator";
/// Rights that no request shows.
const UNSEEN: [(&str, &str); 1] = [(
    "update valkey.io/valkeyclusters/finalizers",
    "asked for where an object with blockOwnerDeletion is made, by clusters with the admission plugin \
     OwnerReferencesPermissionEnforcement; it is no request of its own",
)];
/// Rights that only an accident needs, which no story brings about for certain.
const RARE: [(&str, &str); 1] =
    [("list /events", "when a Pod has not started after 10 s and says nothing of the reason itself")];
const LIMIT: Duration = Duration::from_mins(2);

async fn run(stage: &Stage) -> Result<()> {
    let sandbox = stage.sandbox("reads the audit log")?;
    // Alone, too, there is something to see: a life from the first Pod to the last. No other story takes the budget away.
    let spec = |mode: &str| json!({ "shards": 1, "replicas": 1, "podDisruptionBudget": { "mode": mode } });
    let cluster = stage.cluster(spec("Cluster")).await?;
    cluster.ready(cluster.applied, LIMIT).await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(stage.client.clone(), &cluster.namespace);
    let budget = labels::common_name(&cluster.name);
    ensure!(budgets.get_metadata_opt(&budget).await?.is_some(), "there is no budget {budget}");
    cluster.change(spec("Disabled")).await?;
    eventually("the budget to be gone", LIMIT, async || {
        ensure!(budgets.get_metadata_opt(&budget).await?.is_none(), "{budget} is left");
        Ok(())
    })
    .await?;
    cluster.api().delete(&cluster.name, &DeleteParams::default()).await?;
    eventually("the Pods to be gone", LIMIT, async || {
        let left = cluster.pods().await?.len();
        ensure!(left == 0, "{left} Pods are left");
        Ok(())
    })
    .await?;
    let seen = seen(sandbox, 0)?;
    let granted = granted();
    seen.within(&granted)?;
    let unseen: BTreeSet<String> = UNSEEN.map(|(right, _)| right.to_owned()).into();
    let rare: BTreeSet<String> = RARE.map(|(right, _)| right.to_owned()).into();
    ensure!(rare.is_subset(&granted), "rights that are rare: {}", list(&rare));
    ensure!(
        unseen.is_subset(&granted) && unseen.is_disjoint(&seen.used),
        "rights that no request shows: {}",
        list(&unseen)
    );
    let excused = |right: &String| unseen.contains(right) || rare.contains(right);
    let unused: BTreeSet<_> = granted.difference(&seen.used).filter(|r| !excused(r)).cloned().collect();
    stage.say(format_args!(
        "{} of {} rights used, none refused in {} requests",
        seen.used.len(),
        granted.len(),
        seen.requests
    ));
    if stage.told_all() {
        ensure!(unused.is_empty(), "no story needs these rights, take them away: {}", list(&unused));
    } else if !unused.is_empty() {
        stage.say(format_args!("not used by the stories told so far: {}", list(&unused)));
    }
    Ok(())
}

/// For a sentence.
pub(super) fn list(rights: &BTreeSet<String>) -> String {
    rights.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn granted() -> BTreeSet<String> {
    of(&[rbac::NAMESPACED, rbac::EVERYWHERE, rbac::GLOBAL, rbac::OWN].concat())
}

/// Rights as `verb group/resource`.
pub(super) fn of(all: &[rbac::Right]) -> BTreeSet<String> {
    let each = |(group, resources, verbs, _): &rbac::Right| {
        let of = |resource: &&str| {
            verbs.iter().map(|verb| format!("{verb} {group}/{resource}")).collect::<Vec<_>>()
        };
        resources.iter().flat_map(of).collect::<Vec<_>>()
    };
    all.iter().flat_map(each).collect()
}

/// What the audit log says of the operator.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) used: BTreeSet<String>,
    pub(super) refused: BTreeSet<String>,
    /// Where it was; the empty name stands for all of them at once.
    pub(super) namespaces: BTreeSet<String>,
    pub(super) requests: usize,
}

/// What no namespace has.
const WORKERS: &str = "nodes";

impl Seen {
    /// Nothing was refused, and no right was used but these.
    ///
    /// # Errors
    /// What was.
    pub(super) fn within(&self, granted: &BTreeSet<String>) -> Result<()> {
        ensure!(self.refused.is_empty(), "the operator was refused: {}", list(&self.refused));
        let more: BTreeSet<_> = self.used.difference(granted).cloned().collect();
        ensure!(more.is_empty(), "the operator has rights from elsewhere, and uses them: {}", list(&more));
        Ok(())
    }

    fn take(&mut self, event: &Value) {
        let field = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if field("/user/username") != ACCOUNT || event.get("objectRef").is_none() {
            return;
        }
        self.requests += 1;
        if field("/objectRef/resource") != WORKERS {
            self.namespaces.insert(field("/objectRef/namespace").to_owned());
        }
        let resource = match field("/objectRef/subresource") {
            "" => field("/objectRef/resource").to_owned(),
            sub => format!("{}/{sub}", field("/objectRef/resource")),
        };
        let right = |verb: &str| format!("{verb} {}/{resource}", field("/objectRef/apiGroup"));
        if field("/annotations/authorization.k8s.io~1decision") == "forbid" {
            self.refused.insert(right(field("/verb")));
            return;
        }
        self.used.insert(right(field("/verb")));
        // What is applied and new takes the right to create besides.
        if field("/verb") == "patch"
            && event.pointer("/responseStatus/code").and_then(Value::as_u64) == Some(201)
        {
            self.used.insert(right("create"));
        }
    }
}

/// Where the audit log ends now.
///
/// # Errors
/// If there is none.
pub(super) fn now(sandbox: &Sandbox) -> Result<u64> {
    Ok(std::fs::metadata(sandbox.audit_log_path())?.len())
}

/// What the audit log says from there on.
///
/// # Errors
/// If it cannot be read.
pub(super) fn seen(sandbox: &Sandbox, since: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut log = std::fs::File::open(sandbox.audit_log_path())?;
    log.seek(SeekFrom::Start(since))?;
    for line in BufReader::new(log).lines() {
        let line = line?;
        // The last line may be half written.
        if line.contains(ACCOUNT)
            && let Ok(event) = serde_json::from_str(&line)
        {
            seen.take(&event);
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_request_is_the_rights_that_it_takes() {
        let event = |verb: &str, decision: &str, code: u16, sub: &str| {
            let mut object = BTreeMap::from([("resource", "pods"), ("apiGroup", ""), ("namespace", "a")]);
            object.extend((!sub.is_empty()).then_some(("subresource", sub)));
            json!({ "user": { "username": ACCOUNT }, "verb": verb, "objectRef": object, "responseStatus": { "code": code },
                "annotations": { "authorization.k8s.io/decision": decision } })
        };
        let mut seen = Seen::default();
        let stranger =
            json!({ "user": { "username": "admin" }, "verb": "delete", "objectRef": { "resource": "pods" } });
        let worker =
            json!({ "user": { "username": ACCOUNT }, "verb": "list", "objectRef": { "resource": "nodes" } });
        for event in [
            worker,
            event("patch", "allow", 200, "status"),
            event("patch", "allow", 201, ""),
            event("get", "forbid", 403, ""),
            stranger,
        ] {
            seen.take(&event);
        }
        assert_eq!(list(&seen.used), "create /pods, list /nodes, patch /pods, patch /pods/status");
        assert_eq!((list(&seen.refused).as_str(), seen.requests), ("get /pods", 4));
        assert_eq!(list(&seen.namespaces), "a");
        assert!(granted().contains("patch valkey.io/valkeyclusters/status"));
        assert!(granted().iter().all(|right| !right.contains('*')));
    }
}
