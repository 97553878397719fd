//! From the custom resource to what is wanted, with a sentence for what admission could not see.
//!
//! Pure. Also guards against objects that were stored under an older, laxer schema.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{
    extras,
    keys::{self, Owner},
    networking::{ClientAuthSpec, TlsSpec},
    rules::NODE_TIMEOUT_MS,
    scheduling,
    spec::{DisruptionBudgetMode, ValkeyCluster},
    users,
};
use crate::build::labels;
use crate::model::{ClientAuth, ClusterKey, Desired, Template, Tls};

/// What the custom resource asks for.
///
/// # Errors
/// A sentence for the person who wrote it, when something in it cannot be built. Admission refuses all of these, so they
/// show only for an object that was stored before a rule existed.
pub fn desired(cr: &ValkeyCluster) -> Result<Desired, String> {
    let spec = &cr.spec;
    let key = ClusterKey {
        namespace: cr
            .namespace()
            .ok_or("the ValkeyCluster has no namespace: it was not read from an API server")?,
        name: cr.name_any(),
        uid: cr.uid().ok_or("the ValkeyCluster has no UID: it was not read from an API server")?,
    };
    if key.name.len() > super::MAX_NAME || key.name.contains('.') {
        return Err(format!(
            "the name {} cannot be part of host names: create the cluster under a name of at most {} letters, digits and '-'",
            key.name,
            super::MAX_NAME
        ));
    }
    let desired = Desired {
        key,
        generation: cr.metadata.generation.unwrap_or_default(),
        shards: within("shards", spec.shards, 1, 1000)?,
        replicas: within("replicas", spec.replicas, 0, 5)?,
        template: Template {
            image: spec.image.clone(),
            image_pull_secrets: spec.image_pull_secrets.clone(),
            resources: spec.resources.clone().unwrap_or_default(),
            pod_security_context: spec.pod_security_context.clone().unwrap_or_default(),
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
            restarted_at: spec.restarted_at.clone(),
            tls: spec.networking.as_ref().and_then(|n| n.tls.as_ref()).map(tls),
            scheduling: scheduling::wanted(spec.scheduling.clone().unwrap_or_default())?,
            exporter: extras::exporter(spec.exporter.as_ref())?,
            containers: extras::read_containers(&spec.containers)?,
            metadata: extras::metadata(spec.pod_metadata.as_ref()),
            service: extras::metadata(spec.service_metadata.as_ref()),
        },
        max_disrupted_shards: max_disrupted(&spec.max_disrupted_shards, spec.shards)?,
        budget: spec.pod_disruption_budget.mode == DisruptionBudgetMode::Cluster,
        config: spec.config.clone(),
        purge: spec.purge_keys_on_rebalance,
        users: users::wanted(&cr.name_any(), &spec.users)?,
        allowed_clients: spec.networking.clone().unwrap_or_default().allowed_clients,
        rotation: cr.annotations().get(labels::ROTATE).cloned(),
        paused: spec.paused,
        deleting: cr.metadata.deletion_timestamp.is_some(),
    };
    check_config(&desired)?;
    Ok(desired)
}

fn tls(given: &TlsSpec) -> Tls {
    Tls {
        secret: Some(given.certificates.server.secret_name.clone()),
        client_auth: match given.client_auth {
            ClientAuthSpec::Optional => ClientAuth::Optional,
            ClientAuthSpec::Required => ClientAuth::Required,
            ClientAuthSpec::Disabled => ClientAuth::Disabled,
        },
    }
}

fn within(field: &str, value: i32, least: u16, most: u16) -> Result<u16, String> {
    u16::try_from(value)
        .ok()
        .filter(|v| (least..=most).contains(v))
        .ok_or_else(|| format!("spec.{field} is {value}: set it to a number from {least} to {most}"))
}

/// A number of shards, or a percentage of them rounded down; at least 1.
fn max_disrupted(given: &IntOrString, shards: i32) -> Result<u16, String> {
    let percent = |text: &str| text.strip_suffix('%')?.parse::<i32>().ok().filter(|p| (1..=100).contains(p));
    let count = match given {
        IntOrString::Int(n) => Some(*n).filter(|n| *n >= 1),
        IntOrString::String(text) => percent(text).map(|p| (shards * p / 100).max(1)),
    };
    count.map(|n| u16::try_from(n).unwrap_or(u16::MAX)).ok_or_else(|| {
        "spec.maxDisruptedShards is neither a number from 1 on nor a percentage from 1% to 100%: correct it".to_owned()
    })
}

fn check_config(desired: &Desired) -> Result<(), String> {
    for (key, value) in &desired.config {
        if let Owner::Managed(class) = keys::owner(key) {
            return Err(format!(
                "spec.config.{key} is a {class} setting of the operator: remove it from spec.config"
            ));
        }
        if value.chars().any(char::is_control) || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            return Err(format!("spec.config.{key} is not one line of text under a plain name: correct it"));
        }
    }
    match desired.config.get("cluster-node-timeout") {
        Some(text) if !text.parse().is_ok_and(|ms: u32| NODE_TIMEOUT_MS.contains(&ms)) => Err(format!(
            "spec.config.cluster-node-timeout is {text:?}: set it to milliseconds from {} to {}, or leave it out",
            NODE_TIMEOUT_MS.start(),
            NODE_TIMEOUT_MS.end()
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ValkeyClusterSpec;

    fn stored(spec: ValkeyClusterSpec) -> ValkeyCluster {
        let mut cr = ValkeyCluster::new("c", spec);
        cr.metadata.namespace = Some("ns".into());
        cr.metadata.uid = Some("u-1".into());
        cr.metadata.generation = Some(3);
        cr
    }

    #[test]
    fn the_spec_becomes_what_is_wanted() {
        let d = desired(&stored(ValkeyClusterSpec { shards: 3, replicas: 1, ..Default::default() })).unwrap();
        assert_eq!((d.shards, d.replicas, d.generation, d.members()), (3, 1, 3, 6));
        assert_eq!(d.template.image, crate::api::DEFAULT_IMAGE);
        assert_eq!(d.template.termination_grace_period_seconds, crate::api::DEFAULT_GRACE_SECONDS);
        assert!(!d.paused && !d.deleting);
    }

    #[test]
    fn a_share_of_the_shards_is_rounded_down_to_at_least_one() {
        let share =
            |text: &str, shards| max_disrupted(&IntOrString::String(text.to_owned()), shards).unwrap();
        assert_eq!((share("25%", 6), share("50%", 6), share("100%", 6), share("1%", 6)), (1, 3, 6, 1));
        assert_eq!(max_disrupted(&IntOrString::Int(4), 6), Ok(4));
    }

    #[test]
    fn what_was_stored_before_a_rule_existed_gets_a_sentence() {
        let with = |key: &str, value: &str| ValkeyClusterSpec {
            config: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        let disrupted = |max: &str| ValkeyClusterSpec {
            max_disrupted_shards: IntOrString::String(max.to_owned()),
            ..Default::default()
        };
        for (spec, says) in [
            (disrupted("0%"), "spec.maxDisruptedShards is neither"),
            (disrupted("some"), "spec.maxDisruptedShards is neither"),
            (ValkeyClusterSpec { shards: 0, ..Default::default() }, "set it to a number from 1 to 1000"),
            (ValkeyClusterSpec { replicas: -1, ..Default::default() }, "spec.replicas is -1"),
            (with("port", "1"), "remove it from spec.config"),
            (with("maxmemory", "1\nport 2"), "one line of text"),
            (with("cluster-node-timeout", "5"), "milliseconds from 500 to 60000"),
        ] {
            let error = desired(&stored(spec)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let unread = desired(&ValkeyCluster::new("c", ValkeyClusterSpec::default())).unwrap_err();
        assert!(unread.contains("not read from an API server"), "{unread}");
    }
}
