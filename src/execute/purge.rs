//! Drops all keys of a cluster because its spec says so: the one effect that destroys data on purpose.
//!
//! Right before it the spec is read again from the API server, not from a cache: the wish must still be there, for this very
//! change, and nobody may have done it already. Right after it the status says that it was done. When the operator dies between the two,
//! what was written in that moment is dropped as well.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::Executor;
use crate::api::{self, ValkeyCluster};
use crate::build::{self, labels};
use crate::model::{Desired, Outcome, Shape, Target};

/// Somebody may edit the object at the same moment: the record is tried with a fresh version.
const TRIES: usize = 5;

/// Whether the spec, as it is now, asks for this. `None` when it was done already. `seen` is the spec as the plan saw it: without the wish for
/// TLS while the certificate that it names cannot be used.
///
/// # Errors
/// A sentence that says what has changed.
pub fn wish(live: &ValkeyCluster, seen: &Desired, shape: &Shape) -> Result<Option<()>, String> {
    if live.uid().as_deref() != Some(seen.key.uid.as_str()) {
        return Err("the ValkeyCluster was deleted meanwhile".to_owned());
    }
    let mut desired = api::desired(live)?;
    if seen.template.tls.is_none() {
        desired.template.tls = None;
    }
    if !desired.purge || desired.paused || desired.deleting {
        return Err("the spec does not ask for it any more".to_owned());
    }
    let now = Shape { shards: desired.shards, revision: build::revision(&desired) };
    if now != *shape {
        return Err(format!("the spec asks for {now} by now, not for {shape}"));
    }
    let done = live.status.as_ref().and_then(|s| s.shape.as_deref()) == Some(shape.to_string().as_str());
    Ok((!done).then_some(()))
}

impl Executor<'_> {
    pub(super) async fn purge(&self, on: &[Target], shape: &Shape) -> kube::Result<Outcome> {
        let key = &self.s.desired.key;
        let api: Api<ValkeyCluster> = Api::namespaced(self.ctx.clients.api.clone(), &key.namespace);
        let Some(live) = api.get_opt(&key.name).await? else {
            return Ok(Outcome::Stale("the ValkeyCluster was deleted meanwhile".to_owned()));
        };
        match wish(&live, &self.s.desired, shape) {
            Ok(Some(())) => {}
            Ok(None) => return Ok(Outcome::Stale("it was done a moment ago".to_owned())),
            Err(why) => return Ok(Outcome::Stale(why)),
        }
        let Some(nodes) = &self.nodes else {
            return Ok(Outcome::Stale("the passwords of the system users are not known yet".to_owned()));
        };
        match nodes.drop_keys(on).await {
            Outcome::Done => self.record(&api, live.resource_version(), shape).await,
            other => Ok(other),
        }
    }

    async fn record(
        &self,
        api: &Api<ValkeyCluster>,
        mut version: Option<String>,
        shape: &Shape,
    ) -> kube::Result<Outcome> {
        let key = &self.s.desired.key;
        let merge =
            PatchParams { field_manager: Some(labels::OPERATOR.to_owned()), ..PatchParams::default() };
        for _ in 0..TRIES {
            let body = json!({ "metadata": { "resourceVersion": version }, "status": { "shape": shape.to_string() } });
            match api.patch_status(&key.name, &merge, &Patch::Merge(&body)).await {
                Ok(_) => return Ok(Outcome::Done),
                Err(kube::Error::Api(s)) if s.is_conflict() => {
                    let live = api.get_metadata_opt(&key.name).await?;
                    match live.filter(|l| l.uid().as_deref() == Some(key.uid.as_str())) {
                        Some(l) => version = l.resource_version(),
                        None => return Ok(Outcome::Done),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Failed("the keys are dropped, and the status could not be written".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ValkeyClusterSpec, ValkeyClusterStatus};
    use crate::model::Revision;

    fn live(change: impl Fn(&mut ValkeyCluster)) -> ValkeyCluster {
        let spec = ValkeyClusterSpec { shards: 4, purge_keys_on_rebalance: true, ..Default::default() };
        let mut cr = ValkeyCluster::new("c", spec);
        cr.metadata.namespace = Some("ns".into());
        cr.metadata.uid = Some("u".into());
        cr.status = Some(ValkeyClusterStatus { shape: Some("3/x".into()), ..Default::default() });
        change(&mut cr);
        cr
    }

    #[test]
    fn keys_are_dropped_once_and_only_while_the_spec_says_so() {
        let seen = api::desired(&live(|_| ())).unwrap();
        let shape = Shape { shards: 4, revision: build::revision(&seen) };
        let wish = |cr: &ValkeyCluster| wish(cr, &seen, &shape);
        assert_eq!(wish(&live(|_| ())), Ok(Some(())));
        let done = live(|cr| {
            cr.status = Some(ValkeyClusterStatus { shape: Some(shape.to_string()), ..Default::default() });
        });
        assert_eq!(wish(&done), Ok(None));
        assert!(wish(&live(|cr| cr.spec.purge_keys_on_rebalance = false)).is_err());
        assert!(wish(&live(|cr| cr.spec.paused = true)).is_err());
        assert!(wish(&live(|cr| cr.spec.shards = 5)).is_err());
        assert!(wish(&live(|cr| cr.spec.image = "other:1".into())).is_err());
        assert!(wish(&live(|cr| cr.metadata.uid = Some("another".into()))).is_err());
        let other = Shape { shards: 4, revision: Revision::new("x") };
        assert!(super::wish(&live(|_| ()), &seen, &other).is_err());
    }

    #[test]
    fn tls_that_cannot_be_had_keeps_no_other_change_from_its_turn() {
        let secured = live(|cr| {
            cr.spec = serde_json::from_value(json!({
                "shards": 4, "purgeKeysOnRebalance": true,
                "networking": { "tls": { "certificates": { "server": { "secretName": "certs" } } } }
            }))
            .unwrap();
        });
        let asked = api::desired(&secured).unwrap();
        assert!(asked.template.tls.is_some());
        let mut seen = asked.clone();
        seen.template.tls = None;
        let shape = |desired: &Desired| Shape { shards: 4, revision: build::revision(desired) };
        assert_eq!(wish(&secured, &seen, &shape(&seen)), Ok(Some(())));
        assert_eq!(wish(&secured, &asked, &shape(&asked)), Ok(Some(())));
        assert!(wish(&secured, &asked, &shape(&seen)).is_err());
    }
}
