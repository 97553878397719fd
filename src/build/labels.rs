//! Names, labels and annotations: how objects of one cluster are told from all others. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::api::ValkeyCluster;
use crate::model::{ClusterKey, Desired, PodName, Shard};

/// Label: name of the cluster.
pub const CLUSTER: &str = "valkey.io/cluster";
/// Label: UID of the cluster. Members are selected by it: a namesake made later has another one.
pub const CLUSTER_UID: &str = "valkey.io/cluster-uid";
/// Label: ordinal of the pod's shard.
pub const SHARD_INDEX: &str = "valkey.io/shard-index";
/// Label: number of the pod within its shard. Says nothing of its role.
pub const NODE_INDEX: &str = "valkey.io/node-index";
/// Label: on exactly one pod a shard, the one that leads it. It follows the role and decides nothing: a `HorizontalPodAutoscaler`
/// multiplies by the pods of the scale's selector, which therefore has one a shard.
pub const ROLE: &str = "valkey.io/role";
/// The value of [`ROLE`].
pub const PRIMARY: &str = "primary";
/// Label: the pod counts among the copies of its shard that the scheduler keeps apart. Only where the spec requires that.
pub const APART: &str = "valkey.io/apart";
/// Annotation of a pod or of the Service: the labels and annotations that the spec has given it.
pub const GIVEN: &str = "valkey.io/given";
/// Annotation of the cluster: a pod that shall lead its shard, or a shard (by its number) that another of its pods shall lead.
pub const HAND_OVER: &str = "valkey.io/hand-over";
/// Annotation of the cluster: ids of nodes, with commas between them, of which a person says that their processes do not run any more.
pub const GONE: &str = "valkey.io/gone";
/// Annotation of a pod: the worker that it was asked for.
pub const WORKER: &str = "valkey.io/worker";
/// Annotation of a pod: UID of the member that it was made to take the place of, when that was only to be moved.
pub const INSTEAD_OF: &str = "valkey.io/instead-of";
/// Annotation of a pod: its revision.
pub const REVISION: &str = "valkey.io/revision";
/// Annotation of a pod: how many predecessors in a row failed right after their start.
pub const FAILURES: &str = "valkey.io/failures";
/// Annotation of the Secret: mirror of `status.formed`.
pub const FORMED: &str = "valkey.io/formed";
/// Annotation of a pod: the certificates that its kubelet was told of.
pub const CERTIFICATES: &str = "valkey.io/certificates";
/// Annotation of a `ValkeyCluster`: a new text asks for new passwords of the system users.
pub const ROTATE: &str = "valkey.io/rotate-passwords";
/// Annotation of the Secret: the text of [`ROTATE`] that its passwords were made for.
pub const ROTATED: &str = "valkey.io/rotated";
/// Annotation of the Secret: when the exporters' password was made, in milliseconds since 1970.
pub const EXPORTER_SINCE: &str = "valkey.io/exporter-since";
/// Annotations of a pod begin with this: what its server showed for a setting before `spec.config` first set it live.
pub const BEFORE: &str = "before.valkey.io/";
/// Condition of a pod that the operator writes and that its readiness waits for.
pub const READINESS_GATE: &str = "valkey.io/member-ready";

/// The message of that condition: where the member is. A kubelet that comes back after a loss of power says that its servers have
/// ended, and no longer at which address (Kubernetes 1.34); only so is it known which node is dead.
pub fn at(address: std::net::IpAddr) -> String {
    format!("{AT}{address}")
}

/// The address in such a message.
pub fn address(message: &str) -> Option<std::net::IpAddr> {
    message.strip_prefix(AT)?.parse().ok()
}

const AT: &str = "at ";

/// Recommended label: who manages the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The operator, as [`MANAGED_BY`] and as the field manager of server-side apply.
pub const OPERATOR: &str = "valkey-cluster-operator";

/// The label selector of all objects that the operator manages.
pub fn managed_selector() -> String {
    format!("{MANAGED_BY}={OPERATOR}")
}

/// The operator made it.
pub fn is_managed<K: Resource>(object: &K) -> bool {
    object.meta().labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == OPERATOR)
}

/// The label selector of a cluster's pods, of all roles.
pub fn pod_selector(key: &ClusterKey) -> String {
    format!("{CLUSTER}={},{CLUSTER_UID}={}", key.name, key.uid)
}

/// The label selector of the pods that lead a shard each: what the scale subresource counts.
pub fn leader_selector(key: &ClusterKey) -> String {
    format!("{},{ROLE}={PRIMARY}", pod_selector(key))
}

/// Name of the Service and of the `ConfigMap`.
pub fn common_name(cluster: &str) -> String {
    format!("valkey-{cluster}")
}

/// Name of the Secret with the passwords of the system users.
pub fn secret_name(cluster: &str) -> String {
    format!("internal-{cluster}-system-passwords")
}

/// Name of the Secret with the certificates that pods mount.
pub fn certificates_name(cluster: &str) -> String {
    format!("internal-{cluster}-certificates")
}

/// Name of a pod: the same wish always has the same name, so a wish carried out twice is refused as a duplicate.
pub fn pod_name(cluster: &str, shard: Shard, index: u16) -> PodName {
    PodName::new(format!("valkey-{cluster}-{shard}-{index}"))
}

/// The annotation for the earlier value of a setting.
pub fn before(key: &str) -> String {
    format!("{BEFORE}{key}")
}

/// The recommended labels (`app.kubernetes.io/…`) and those that tell the cluster.
pub fn labels(desired: &Desired) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (CLUSTER.to_owned(), desired.key.name.clone()),
        (CLUSTER_UID.to_owned(), desired.key.uid.clone()),
    ]);
    labels.extend(recommended("valkey", &desired.key.name, &version(&desired.template.image), "cluster"));
    labels
}

/// The six recommended labels of Kubernetes.
pub fn recommended(name: &str, instance: &str, version: &str, component: &str) -> BTreeMap<String, String> {
    [
        ("name", name),
        ("instance", instance),
        ("version", version),
        ("component", component),
        ("part-of", "valkey"),
    ]
    .map(|(key, value)| (format!("app.kubernetes.io/{key}"), value.to_owned()))
    .into_iter()
    .chain([(MANAGED_BY.to_owned(), OPERATOR.to_owned())])
    .collect()
}

/// Metadata of an object beside the pods, without an owner.
pub fn metadata(desired: &Desired, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.key.namespace.clone()),
        labels: Some(labels(desired)),
        ..Default::default()
    }
}

/// The reference that makes the cluster the one controller of an object, so that it goes with the cluster.
pub fn owned_by(key: &ClusterKey) -> Vec<OwnerReference> {
    vec![OwnerReference {
        api_version: ValkeyCluster::api_version(&()).into_owned(),
        kind: ValkeyCluster::kind(&()).into_owned(),
        name: key.name.clone(),
        uid: key.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]
}

/// A label value that tells the image's version: its tag, or the start of its digest.
fn version(image: &str) -> String {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    let hex = digest.map(|d| d.split_once(':').map_or(d, |(_, hex)| hex));
    let text: String = match (tag, hex) {
        (Some(tag), _) => tag.chars().take(63).collect(),
        (None, Some(hex)) => hex.chars().take(12).collect(),
        (None, None) => "latest".to_owned(),
    };
    let text: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_image_is_its_tag_or_the_start_of_its_digest() {
        for (image, wanted) in [
            ("docker.io/valkey/valkey:9.1.2", "9.1.2"),
            ("registry.example:5000/valkey", "latest"),
            ("registry.example:5000/valkey:8.1.1-alpine", "8.1.1-alpine"),
            ("valkey@sha256:0123456789abcdef", "0123456789ab"),
            ("valkey:9.0@sha256:0123456789abcdef", "9.0"),
            ("valkey:_odd_", "odd"),
        ] {
            assert_eq!(version(image), wanted, "{image}");
        }
    }

    #[test]
    fn the_longest_names_are_host_names_and_labels() {
        let cluster = "a".repeat(crate::api::MAX_NAME);
        assert!(pod_name(&cluster, Shard(999), u16::MAX).as_str().len() <= 63);
        assert!(common_name(&cluster).len() <= 63);
        assert!(secret_name(&cluster).len() <= 253, "a Secret's name is no host name and no label");
    }
}
