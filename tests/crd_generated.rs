//! The generated CRD is current, keeps the API conventions, and refuses what it should with a sentence.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeSet, fs, path::Path};

use kube::core::cel::Validator;
use serde_json::Value;
use valkey_cluster_operator::api;

const CRD: &str = "crds/valkeyclusters.valkey.io.yaml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn crd() -> Value {
    serde_json::to_value(api::crd()).unwrap()
}

fn schema() -> Value {
    crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn documents(path: &Path) -> (String, Vec<Value>) {
    let text = fs::read_to_string(path).unwrap();
    let documents = serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (text, documents)
}

fn refusals(object: &Value) -> Vec<String> {
    match Validator::new().validate_with_defaults(&schema(), object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|e| e.message).collect(),
    }
}

#[test]
fn the_printed_definition_is_current() {
    let path = root().join(CRD);
    let generated = serde_saphyr::to_string(&api::crd()).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let printed = fs::read_to_string(&path).unwrap_or_default();
    assert!(printed == generated, "{CRD} is out of date: run `UPDATE=1 cargo test --test crd_generated`");
}

/// The limit of the annotation that client-side apply keeps a copy in.
#[test]
fn the_definition_fits_client_side_apply() {
    let size = serde_json::to_string(&api::crd()).unwrap().len();
    assert!(size < 256 * 1024, "{size} bytes: kubectl apply without --server-side could not store its copy");
}

#[test]
fn every_rule_has_an_accepted_and_a_refused_example() {
    let dir = root().join("tests/golden/admission");
    let mut rules: BTreeSet<String> = api::rules::all().into_iter().map(|r| r.id).collect();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(rules.remove(&id), "{id} is no rule, or has two examples");
        let (text, documents) = documents(&path);
        let sentence = text.lines().next().unwrap().strip_prefix("# refused with: ").unwrap();
        let [accepted, refused] = documents.as_slice() else { panic!("{id}: two documents") };
        assert_eq!(refusals(accepted), Vec::<String>::new(), "{id}");
        let said = refusals(refused);
        assert_eq!(said.len(), 1, "{id}: one refusal, not {said:?}");
        assert!(said[0].contains(sentence), "{id}: {said:?} does not say {sentence:?}");
    }
    assert!(rules.is_empty(), "rules without examples: {rules:?}");
}

#[test]
fn the_samples_are_accepted_and_can_be_built() {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root().join("manifests/samples")).unwrap() {
        let path = entry.unwrap().path();
        // A sample may bring what it needs, such as certificates of cert-manager.
        for document in documents(&path).1.into_iter().filter(|d| d["kind"] == "ValkeyCluster") {
            assert_eq!(refusals(&document), Vec::<String>::new(), "{}", path.display());
            let mut cr: api::ValkeyCluster = serde_json::from_value(document).unwrap();
            names.insert(cr.metadata.name.clone().unwrap());
            cr.metadata.namespace = Some("default".into());
            cr.metadata.uid = Some("uid".into());
            api::desired(&cr).unwrap();
        }
    }
    assert!(names.contains("valkeycluster-sample"), "{names:?}");
}

#[test]
fn numbers_have_bounds() {
    let spec = &schema()["properties"]["spec"]["properties"];
    let bounds =
        |field: &str| (spec[field]["minimum"].as_f64().unwrap(), spec[field]["maximum"].as_f64().unwrap());
    assert_eq!(bounds("shards"), (1.0, 1000.0));
    assert_eq!(bounds("replicas"), (0.0, 5.0));
    assert_eq!(bounds("terminationGracePeriodSeconds"), (1.0, 86400.0));
    assert_eq!(schema()["properties"]["spec"]["required"], serde_json::json!(["shards"]));
}

#[test]
fn defaults_are_visible_to_everybody() {
    let spec = &schema()["properties"]["spec"]["properties"];
    for (field, value) in [
        ("replicas", serde_json::json!(0)),
        ("image", serde_json::json!(api::DEFAULT_IMAGE)),
        ("terminationGracePeriodSeconds", serde_json::json!(api::DEFAULT_GRACE_SECONDS)),
        ("paused", serde_json::json!(false)),
    ] {
        assert_eq!(spec[field]["default"], value, "{field}");
    }
    let image = spec["image"]["description"].as_str().unwrap();
    assert!(image.contains(api::DEFAULT_IMAGE), "kubectl explain names the default: {image}");
}

#[test]
fn columns_are_those_of_the_design() {
    let columns = crd()["spec"]["versions"][0]["additionalPrinterColumns"].clone();
    let named = |priority: i64| -> Vec<String> {
        let columns = columns.as_array().unwrap().iter();
        let of = columns.filter(|c| c["priority"].as_i64().unwrap_or(0) == priority);
        of.map(|c| c["name"].as_str().unwrap().to_uppercase()).collect()
    };
    assert_eq!(named(0), ["STATE", "REASON", "READYSHARDS", "OPERATION", "PROGRESS", "AGE"]);
    assert_eq!(named(1), ["SHARDS", "REPLICAS", "PODS", "IMAGE"]);
}

/// Kubernetes API conventions: every field described, no floats, no unsigned, camelCase names, lists that can be merged.
#[test]
fn the_schema_keeps_the_conventions() {
    let mut faults = Vec::new();
    walk("", &schema(), &mut faults);
    assert!(faults.is_empty(), "{faults:#?}");
}

fn walk(path: &str, node: &Value, faults: &mut Vec<String>) {
    let mut fault = |what: &str| faults.push(format!("{path}: {what}"));
    if node["type"] == "number" || matches!(node["format"].as_str(), Some("float" | "double")) {
        fault("a float");
    }
    if node["format"].as_str().is_some_and(|f| f.starts_with('u')) {
        fault("an unsigned number");
    }
    if node["description"].as_str().is_none_or(|d| d.trim().is_empty()) {
        fault("no description");
    }
    let ours = !path.contains("podSecurityContext");
    if ours && node["type"] == "array" && node["x-kubernetes-list-type"].is_null() {
        fault("a list that server-side apply can only replace as a whole without saying so");
    }
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        if !name.chars().next().is_some_and(|c| c.is_ascii_lowercase()) || name.contains(['_', '-']) {
            faults.push(format!("{path}.{name}: not camelCase"));
        }
        walk(&format!("{path}.{name}"), property, faults);
    }
    for (key, name) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node[key].is_object() && (ours || key == "items" && node[key]["type"] == "object") {
            // Scalars inside a list are described by the list.
            if node[key]["type"] == "string" && key == "items" {
                continue;
            }
            walk(&format!("{path}{name}"), &node[key], faults);
        }
    }
}
