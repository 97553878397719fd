//! The `CustomResourceDefinition`: the derived schema plus what a derive cannot say.
//!
//! Pure. Decides nothing at run time; `crdgen` prints it and a test keeps the printed file current.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceSubresourceScale, JSONSchemaProps,
};
use kube::CustomResourceExt;

use super::{
    rules::{self, REFUSED_FIELDS},
    spec::ValkeyCluster,
};

/// Label that says whose the CRD is. An installation that finds the CRD without it must not overwrite it:
/// another operator of the same group may be using it.
pub const OPERATOR_LABEL: (&str, &str) = ("valkey.io/operator", "valkey-cluster-operator");

/// Whether a CRD that is there was written by an installation of this operator.
pub fn is_ours(there: &CustomResourceDefinition) -> bool {
    let label = there.metadata.labels.as_ref().and_then(|labels| labels.get(OPERATOR_LABEL.0));
    label.is_some_and(|value| value == OPERATOR_LABEL.1)
}

/// The columns of `kubectl get`: name, type, path, and what it tells. Health of the data comes first.
const COLUMNS: &[(&str, &str, &str, &str)] = &[
    ("State", "string", ".status.state", "Ready, Degraded, Reconciling, Initializing or Failed."),
    ("Reason", "string", ".status.reason", "Why, in one word."),
    (
        "ReadyShards",
        "integer",
        ".status.readyShards",
        "Shards with their primary and every wanted replica in sync.",
    ),
    ("Operation", "string", ".status.operation.kind", "What the operator is doing, empty when nothing."),
    ("Progress", "string", ".status.operation.progress", "Stage of the operation and its counter."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
];

/// The columns that `-o wide` adds.
const WIDE_COLUMNS: &[(&str, &str, &str, &str)] = &[
    ("Shards", "integer", ".spec.shards", "Wanted shards."),
    ("Replicas", "integer", ".spec.replicas", "Wanted replicas of each shard."),
    ("Pods", "integer", ".status.replicas", "Pods of the cluster."),
    ("Image", "string", ".spec.image", "Valkey image."),
];

/// The whole `CustomResourceDefinition`, ready to be applied.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ValkeyCluster::crd();
    let labels = crd.metadata.labels.get_or_insert_default();
    labels.insert(OPERATOR_LABEL.0.to_owned(), OPERATOR_LABEL.1.to_owned());
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns());
        version.subresources.get_or_insert_default().scale = Some(scale());
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            refuse_fields(schema);
            place_rules(schema);
            unwrap_lines(schema);
        }
    }
    crd
}

/// `kubectl scale` and autoscalers count shards. The selector finds one pod a shard, because an autoscaler multiplies by the
/// pods that it finds.
fn scale() -> CustomResourceSubresourceScale {
    CustomResourceSubresourceScale {
        spec_replicas_path: ".spec.shards".to_owned(),
        status_replicas_path: ".status.shards".to_owned(),
        label_selector_path: Some(".status.selector".to_owned()),
    }
}

fn columns() -> Vec<CustomResourceColumnDefinition> {
    let standard = COLUMNS.iter().map(|column| (column, None));
    let wide = WIDE_COLUMNS.iter().map(|column| (column, Some(1)));
    let definition = |((name, type_, path, tells), priority): (&(&str, &str, &str, &str), Option<i32>)| {
        CustomResourceColumnDefinition {
            name: (*name).to_owned(),
            type_: (*type_).to_owned(),
            json_path: (*path).to_owned(),
            description: Some((*tells).to_owned()),
            priority,
            format: None,
        }
    };
    standard.chain(wide).map(definition).collect()
}

/// Declares the fields that exist only to be refused.
fn refuse_fields(schema: &mut JSONSchemaProps) {
    let Some(spec) = descend(schema, &["spec"]) else { return };
    for (field, kind, sentence) in REFUSED_FIELDS {
        let open = (*kind == "object").then_some(true);
        let refused = JSONSchemaProps {
            type_: Some((*kind).to_owned()),
            description: Some(format!("Always refused: {sentence}.")),
            x_kubernetes_preserve_unknown_fields: open,
            ..Default::default()
        };
        spec.properties.get_or_insert_default().insert((*field).to_owned(), refused);
    }
}

fn place_rules(schema: &mut JSONSchemaProps) {
    for placed in rules::all() {
        if let Some(place) = descend(schema, placed.path) {
            place.x_kubernetes_validations.get_or_insert_default().push(placed.rule);
        }
    }
}

/// Descriptions are read in `kubectl explain`, which breaks lines itself.
fn unwrap_lines(schema: &mut JSONSchemaProps) {
    for property in schema.properties.iter_mut().flatten().map(|(_, property)| property) {
        if let Some(description) = &mut property.description {
            let paragraphs: Vec<String> = description.split("\n\n").map(|p| p.replace('\n', " ")).collect();
            *description = paragraphs.join("\n\n");
        }
        unwrap_lines(property);
    }
}

/// The schema at the end of a path of properties, if it is there.
fn descend<'a>(schema: &'a mut JSONSchemaProps, path: &[&str]) -> Option<&'a mut JSONSchemaProps> {
    path.iter().try_fold(schema, |at, property| at.properties.as_mut()?.get_mut(*property))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_found_its_place() {
        let crd = crd();
        let placed = serde_json::to_string(&crd).unwrap().matches("\"rule\":").count();
        assert_eq!(placed, rules::all().len());
    }

    #[test]
    fn the_scale_is_that_of_shards() {
        let version = &crd().spec.versions[0];
        let subresources = version.subresources.clone().unwrap();
        assert!(subresources.status.is_some());
        assert_eq!(subresources.scale.unwrap().spec_replicas_path, ".spec.shards");
    }

    #[test]
    fn the_definition_says_whose_it_is() {
        let mut there = crd();
        assert!(is_ours(&there));
        there.metadata.labels.get_or_insert_default().insert(OPERATOR_LABEL.0.to_owned(), "other".to_owned());
        assert!(!is_ours(&there));
        there.metadata.labels = None;
        assert!(!is_ours(&there));
    }
}
