//! Every field of the spec does something: on the objects, on the Pods, or on the plan. One that changes nothing is not in the CRD.
//!
//! The schema is walked, not a list: a new field is met here on the day that it is added. Values come from the types; what a type
//! cannot tell stands in [`SAMPLES`], and what a field needs beside it in [`BESIDE`].
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod large;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use valkey_cluster_operator::api::{self, ValkeyCluster};
use valkey_cluster_operator::build::{self, Credentials, PodPlan};
use valkey_cluster_operator::model::{Attempts, Demands, Desired, PodName, Shape, Shard, Snapshot};
use valkey_cluster_operator::plan::plan;

/// Two values that are valid and differ, where the type alone does not give them.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("image", r#""registry.example/valkey:9.0""#, r#""registry.example/valkey:9.1""#),
    ("config", r#"{"maxmemory-policy": "allkeys-lru"}"#, r#"{"maxmemory-policy": "noeviction"}"#),
    ("resources.limits", r#"{"memory": "64Mi"}"#, r#"{"memory": "128Mi"}"#),
    ("resources.requests", r#"{"memory": "64Mi"}"#, r#"{"memory": "48Mi"}"#),
    ("maxDisruptedShards", "2", r#""70%""#),
    (
        "scheduling.affinity",
        r#"{"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}}"#,
        "{}",
    ),
    (
        "scheduling.topologySpreadConstraints",
        r#"[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]"#,
        r#"[{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]"#,
    ),
    (
        "containers",
        r#"[{"name": "server", "env": [{"name": "A", "value": "1"}]}]"#,
        r#"[{"name": "server", "imagePullPolicy": "Always"}]"#,
    ),
    (
        "networking.tls",
        r#"{"certificates": {"server": {"secretName": "a"}}}"#,
        r#"{"certificates": {"server": {"secretName": "a"}}, "clientAuth": "Required"}"#,
    ),
    ("networking.allowedClients", r#"[{"podSelector": {}}]"#, r#"[{"ipBlock": {"cidr": "10.0.0.0/8"}}]"#),
    ("users", r#"[{"name": "a", "nopass": true}]"#, r#"[{"name": "b", "nopass": true}]"#),
    ("exporter.securityContext", r#"{"runAsUser": 1}"#, r#"{"runAsUser": 2}"#),
];

/// Fields that show in no plan of the worlds here, and what shows them instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("scheduling.node.spread.primaries.mode", "the plan cases `balance` and `place`"),
    ("scheduling.zone.spread.primaries.mode", "the plan cases `balance` and `place`"),
];

/// What has to stand beside a field for it to mean anything.
const BESIDE: &[(&str, &str)] = &[("exporter.", r#"{"exporter": {"enabled": true}}"#)];

/// A field of the schema.
struct Field {
    path: String,
    /// The steps to it; `[]` is the only item of a list.
    steps: Vec<String>,
    schema: Value,
    required: bool,
}

fn spec_schema() -> Value {
    let crd = serde_json::to_value(api::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The fields that have no fields of their own, in the order of the schema.
fn leaves(schema: &Value, steps: &[String], required: bool, out: &mut Vec<Field>) {
    let path = steps.join(".").replace(".[]", "[]");
    let known = SAMPLES.iter().any(|(sample, ..)| *sample == path);
    if let Some(properties) = schema["properties"].as_object().filter(|_| !known) {
        for (name, property) in properties {
            let needed = schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
            let steps: Vec<String> = steps.iter().cloned().chain([name.clone()]).collect();
            leaves(property, &steps, needed, out);
        }
    } else if schema["items"]["properties"].is_object() && !known {
        let steps: Vec<String> = steps.iter().cloned().chain(["[]".to_owned()]).collect();
        leaves(&schema["items"], &steps, true, out);
    } else {
        out.push(Field { path, steps: steps.to_vec(), schema: schema.clone(), required });
    }
}

/// Values of this type that differ.
fn values(field: &Field) -> Vec<Value> {
    if let Some((_, a, b)) = SAMPLES.iter().find(|(path, ..)| *path == field.path) {
        return [a, b].iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    }
    of_type(&field.schema)
}

fn of_type(schema: &Value) -> Vec<Value> {
    if let Some(all) = schema["enum"].as_array() {
        return all.clone();
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return vec![json!(1), json!(2)];
    }
    match schema["type"].as_str() {
        Some("boolean") => vec![json!(true), json!(false)],
        Some("integer") => vec![json!(2), json!(3)],
        Some("string") => vec![json!("abc"), json!("abd")],
        Some("array") => of_type(&schema["items"]).into_iter().map(|item| json!([item])).collect(),
        Some("object") => {
            of_type(&schema["additionalProperties"]).into_iter().map(|v| json!({"a": v})).collect()
        }
        _ => Vec::new(),
    }
}

/// The smallest valid value: what is required, and nothing else.
fn smallest(schema: &Value) -> Value {
    if !schema["properties"].is_object() {
        return of_type(schema).into_iter().next().unwrap_or(Value::Null);
    }
    let names = schema["required"].as_array().cloned().unwrap_or_default();
    let value = |name: &Value| {
        let name = name.as_str().unwrap();
        (name.to_owned(), smallest(&schema["properties"][name]))
    };
    Value::Object(names.iter().map(value).collect::<Map<_, _>>())
}

/// A spec in which everything on the way to the field is there, and the field has this value.
fn spec_with(field: &Field, value: Option<&Value>) -> Value {
    let mut spec = json!({"shards": 3, "replicas": 1});
    for (_, beside) in BESIDE.iter().filter(|(prefix, _)| field.path.starts_with(prefix)) {
        merge(&mut spec, serde_json::from_str(beside).unwrap());
    }
    let (mut at, mut schema) = (&mut spec, spec_schema());
    for (i, step) in field.steps.iter().enumerate() {
        let last = i + 1 == field.steps.len();
        if step == "[]" {
            schema = schema["items"].clone();
            if !at.is_array() {
                *at = json!([smallest(&schema)]);
            }
            at = &mut at[0];
            continue;
        }
        schema = schema["properties"][step].clone();
        if last {
            match value {
                Some(value) => at[step] = value.clone(),
                None => drop(at.as_object_mut().unwrap().remove(step)),
            }
            break;
        }
        if at[step].is_null() {
            at[step] = if schema["type"] == "array" { Value::Null } else { json!({}) };
        }
        at = &mut at[step];
    }
    spec
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// Everything that a spec has an effect on.
fn effects(spec: &Value) -> Result<String, String> {
    let metadata = json!({"name": "c", "namespace": "ns", "uid": "u"});
    let object = json!({"apiVersion": "valkey.io/v1alpha1", "kind": "ValkeyCluster", "metadata": metadata, "spec": spec});
    let cr: ValkeyCluster = serde_json::from_value(object).map_err(|e| e.to_string())?;
    let d = api::desired(&cr)?;
    let revision = build::revision(&d);
    let pod = PodPlan {
        name: PodName::new("valkey-c-0-0"),
        shard: Shard(0),
        index: 0,
        worker: Some("w1".into()),
        worker_hostname: Some("w1".to_owned()),
        demands: Demands::default(),
        not_on_hostnames: Vec::new(),
        failures: 0,
    };
    let mut out = format!("{revision}\n");
    let objects = [
        serde_json::to_value(build::service(&d)),
        serde_json::to_value(build::config_map(&d)),
        serde_json::to_value(build::secret(&d, &Credentials::new("a", "b", "c"))),
        serde_json::to_value(d.budget.then(|| build::budget(&d, 6))),
        serde_json::to_value(build::policy(&d)),
        serde_json::to_value(build::pod(&d, &revision, &pod)),
    ];
    for object in objects {
        let _ = writeln!(out, "{}", object.unwrap());
    }
    for world in worlds(&d) {
        let _ = writeln!(out, "{}", plan(&world, &Attempts::default()));
    }
    Ok(out)
}

/// A cluster as the usual spec asks, one whose members are all of another revision, and one that has fewer shards.
fn worlds(desired: &Desired) -> [Snapshot; 3] {
    let as_is = || Snapshot { desired: desired.clone(), revision: "now".into(), ..large::settled(3, 1) };
    let spread_for = Shape { shards: 3, revision: "now".into() };
    let other = Snapshot { revision: "other".into(), shape: Some(spread_for), ..as_is() };
    let fewer = Snapshot { desired: desired.clone(), revision: "now".into(), ..large::settled(2, 1) };
    [as_is(), other, fewer]
}

#[test]
fn every_field_of_the_spec_does_something() {
    let refused: Vec<&str> = api::rules::REFUSED_FIELDS.iter().map(|(name, ..)| *name).collect();
    let mut fields = Vec::new();
    leaves(&spec_schema(), &[], false, &mut fields);
    let elsewhere = |f: &Field| ELSEWHERE.iter().any(|(path, _)| *path == f.path);
    assert_eq!(fields.iter().filter(|f| elsewhere(f)).count(), ELSEWHERE.len(), "the list names fields");
    fields.retain(|f| !refused.contains(&f.steps[0].as_str()) && !elsewhere(f));
    assert!(fields.len() > 30, "the schema was walked: {} fields", fields.len());
    let mut idle = Vec::new();
    for field in &fields {
        let values = values(field);
        let absent = (!field.required).then(|| spec_with(field, None));
        let specs = absent.into_iter().chain(values.iter().map(|v| spec_with(field, Some(v))));
        let told: Vec<Result<String, String>> = specs.map(|spec| effects(&spec)).collect();
        let valid: Vec<&String> = told.iter().filter_map(|t| t.as_ref().ok()).collect();
        if valid.len() < 2 {
            idle.push(format!(
                "{}: no two valid values are known; add some to SAMPLES: {:?}",
                field.path,
                told.iter().filter_map(|t| t.as_ref().err()).collect::<Vec<_>>()
            ));
        } else if valid.iter().all(|t| *t == valid[0]) {
            idle.push(format!("{} changes nothing: {values:?}", field.path));
        }
    }
    println!("{} fields of the spec were changed", fields.len());
    assert!(idle.is_empty(), "{} of {} fields:\n{}", idle.len(), fields.len(), idle.join("\n"));
}
