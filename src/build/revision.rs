//! The revision of a pod: a hash of everything in it that cannot be changed while it lives.
//!
//! Pure, and over the spec alone: an operator with another template of its own makes no running pod outdated, and neither do
//! two spellings of one amount. A golden test pins the hashes: a change of them replaces every pod of every user.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::quantity;
use crate::model::{Desired, Exporter, Revision, Scheduling, settings};

/// Digits of the hash that are kept: 48 bits, far more than a cluster ever has revisions.
const DIGITS: usize = 12;

/// What a pod is made of, as far as it is fixed when it is created.
#[derive(Serialize)]
struct Fixed<'a> {
    image: &'a str,
    image_pull_secrets: Vec<&'a str>,
    limits: BTreeMap<&'a str, String>,
    requests: BTreeMap<&'a str, String>,
    pod_security_context: Value,
    termination_grace_period_seconds: i64,
    config: BTreeMap<&'a str, &'a str>,
    restarted_at: Option<&'a str>,
    /// Only whether: certificates and what is asked of clients change live.
    tls: Option<bool>,
    /// Left out of the text where nothing is asked for, as everything that is empty.
    scheduling: BTreeMap<&'a str, Value>,
    exporter: BTreeMap<&'a str, Value>,
    containers: Value,
}

/// The revision that pods of this spec have.
pub fn revision(desired: &Desired) -> Revision {
    let template = &desired.template;
    let mut secrets: Vec<&str> = template.image_pull_secrets.iter().map(|s| s.name.as_str()).collect();
    secrets.sort_unstable();
    secrets.dedup();
    let fixed = Fixed {
        image: &template.image,
        image_pull_secrets: secrets,
        limits: amounts(template.resources.limits.as_ref()),
        requests: amounts(template.resources.requests.as_ref()),
        pod_security_context: serde_json::to_value(&template.pod_security_context).unwrap_or_default(),
        termination_grace_period_seconds: template.termination_grace_period_seconds,
        config: at_start(&desired.config).collect(),
        restarted_at: template.restarted_at.as_deref(),
        tls: template.tls.as_ref().map(|_| true),
        scheduling: scheduling(&template.scheduling),
        exporter: template.exporter.as_ref().map(exporter).unwrap_or_default(),
        containers: serde_json::to_value(&template.containers).unwrap_or_default(),
    };
    let mut text = String::new();
    canonical(&serde_json::to_value(&fixed).unwrap_or_default(), &mut text);
    Revision::new(hex(&Sha256::digest(text.as_bytes())).get(..DIGITS).unwrap_or_default())
}

fn scheduling(given: &Scheduling) -> BTreeMap<&str, Value> {
    let value = |v: serde_json::Result<Value>| v.unwrap_or_default();
    let all = [
        ("nodeSelector", value(serde_json::to_value(&given.node_selector))),
        ("tolerations", value(serde_json::to_value(&given.tolerations))),
        ("affinity", value(serde_json::to_value(&given.affinity))),
        ("topologySpreadConstraints", value(serde_json::to_value(&given.topology_spread_constraints))),
        ("priorityClassName", value(serde_json::to_value(&given.priority_class_name))),
    ];
    all.into_iter().filter(|(_, v)| !is_empty(v)).collect()
}

fn exporter(given: &Exporter) -> BTreeMap<&str, Value> {
    let value = |v: serde_json::Result<Value>| v.unwrap_or_default();
    BTreeMap::from([
        ("image", Value::from(given.image.as_str())),
        ("args", Value::from(given.args.clone())),
        ("limits", value(serde_json::to_value(amounts(given.resources.limits.as_ref())))),
        ("requests", value(serde_json::to_value(amounts(given.resources.requests.as_ref())))),
        ("securityContext", value(serde_json::to_value(&given.security_context))),
    ])
}

/// The settings that a running server does not change.
pub fn at_start(config: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    config.iter().filter(|(key, _)| !settings::is_live(key)).map(|(k, v)| (k.as_str(), v.as_str()))
}

/// Lower case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 0xf)]).collect()
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amounts(given: Option<&Amounts>) -> BTreeMap<&str, String> {
    let number = |text: &str| quantity::milli(text).map_or_else(|| text.to_owned(), |m| format!("{m}m"));
    given.into_iter().flatten().map(|(name, amount)| (name.as_str(), number(&amount.0))).collect()
}

/// Text of a value with sorted keys, without what is empty: the hash must not depend on how a map is kept.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().filter(|(_, v)| !is_empty(v)).collect();
            out.push('{');
            for (key, value) in sorted {
                out.push_str(key);
                out.push('=');
                canonical(value, out);
                out.push(';');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
