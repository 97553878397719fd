//! What goes into the pods beside Valkey: labels, annotations, the exporter, further containers. Plain data, no decisions.

#![expect(clippy::doc_markdown, reason = "these docstrings are what kubectl explain prints")]

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{DEFAULT_EXPORTER_IMAGE, schema};
use crate::model::{Exporter, Metadata};

/// Labels and annotations of an object.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MetadataSpec {
    /// Labels. Those of the operator (valkey.io/, app.kubernetes.io/) are refused by name.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::spec::null_is_empty"
    )]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,

    /// Annotations. Those of the operator (valkey.io/) are refused by name.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "super::spec::null_is_empty"
    )]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// The exporter of metrics in each pod.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExporterSpec {
    /// Whether pods have the container metrics-exporter (port 9121, name metrics). Default false: a pod does not start
    /// while its image cannot be pulled.
    #[serde(default)]
    pub enabled: bool,

    /// Image of the exporter. Default docker.io/oliver006/redis_exporter:v1.80.0.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Arguments of the exporter. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "args")]
    pub args: Vec<String>,

    /// CPU and memory of the exporter. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::spec::resources")]
    pub resources: Option<ResourceRequirements>,

    /// Security context of the exporter. Each field given here replaces the default of that field: no privileges, no
    /// capabilities, a root file system that is read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub security_context: Option<serde_json::Value>,
}

fn default_image() -> String {
    DEFAULT_EXPORTER_IMAGE.to_owned()
}

/// The wanted exporter, if one is wanted.
///
/// # Errors
/// A sentence, when its security context is none.
pub(super) fn exporter(given: Option<&ExporterSpec>) -> Result<Option<Exporter>, String> {
    let Some(e) = given.filter(|e| e.enabled) else { return Ok(None) };
    Ok(Some(Exporter {
        image: e.image.clone(),
        args: e.args.clone(),
        resources: e.resources.clone().unwrap_or_default(),
        security_context: read("spec.exporter.securityContext", e.security_context.as_ref())?,
    }))
}

/// What changes our containers, and what is added.
///
/// # Errors
/// A sentence that names the container that cannot be read.
pub(super) fn read_containers(given: &[serde_json::Value]) -> Result<Vec<Container>, String> {
    let one = |value: &serde_json::Value| {
        let name = value.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
        read::<Container>(&format!("spec.containers {name}"), Some(value)).map(Option::unwrap_or_default)
    };
    given.iter().map(one).collect()
}

/// A part of a Pod that the schema lets through as it is.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    what: &str,
    given: Option<&serde_json::Value>,
) -> Result<Option<T>, String> {
    given
        .map(|value| serde_json::from_value(value.clone()))
        .transpose()
        .map_err(|error| format!("{what} is not as in a Pod: {error}; correct it"))
}

/// The wanted labels and annotations.
pub(super) fn metadata(given: Option<&MetadataSpec>) -> Metadata {
    let given = given.cloned().unwrap_or_default();
    Metadata { labels: given.labels, annotations: given.annotations }
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 32,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
            "description": "Value of the label."
        }
    })
}

fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 4096, "description": "Value of the annotation."}
    })
}

fn args(_: &mut SchemaGenerator) -> Schema {
    schema::list(32, &json_schema!({"type": "string", "maxLength": 1024}))
}

fn open_object(_: &mut SchemaGenerator) -> Schema {
    schema::open_field()
}

/// What can be given of a container, declared so that nothing is dropped in silence.
pub(super) fn containers(_: &mut SchemaGenerator) -> Schema {
    let text = |description: Cow<'static, str>| json_schema!({"type": "string", "maxLength": 512, "description": description});
    let list = |description: Cow<'static, str>, item: Schema| {
        json_schema!({
            "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic",
            "description": description, "items": item
        })
    };
    let words = || json_schema!({"type": "string", "maxLength": 1024});
    let variable = json_schema!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "required": ["name"],
        "description": "One variable, as in a Pod.",
        "properties": {"name": {"type": "string", "maxLength": 256, "description": "Its name."}}
    });
    let container = json_schema!({
            "type": "object",
            "description": "A container by its name.",
            "required": ["name"],
            "properties": {
                "name": {
                    "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                    "description": "server and metrics-exporter are those of the operator; any other is added."
                },
                "image": text("Image of a container that is added.".into()),
                "imagePullPolicy": text("Always, IfNotPresent or Never.".into()),
                "command": list("Command of a container that is added.".into(), words()),
                "args": list("Arguments of a container that is added.".into(), words()),
                "env": list("Variables, as in a Pod.".into(), variable),
                "envFrom": list("Variables from ConfigMaps and Secrets, as in a Pod.".into(), schema::open("One source, as in a Pod.")),
                "ports": list("Ports of a container that is added, as in a Pod.".into(), schema::open("One port, as in a Pod.")),
                "resources": schema::open("CPU and memory of a container that is added, as in a Pod."),
                "securityContext": schema::open("Security context; each field given replaces that of the operator."),
                "livenessProbe": schema::open("Probe of a container that is added, as in a Pod."),
                "readinessProbe": schema::open("Probe of a container that is added, as in a Pod."),
                "startupProbe": schema::open("Probe of a container that is added, as in a Pod.")
            }
    });
    schema::named_list(8, &container)
}
