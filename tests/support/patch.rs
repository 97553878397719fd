//! How a patch changes an object. Touches nothing.

use serde_json::{Map, Value};

/// RFC 7396.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Server-side apply without field ownership: maps are merged, lists with a known key are merged by it, other lists are
/// replaced. What a manager no longer applies stays (the real server would remove it).
pub fn apply(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match target.get_mut(key) {
                    // Of a Secret or a `ConfigMap`: one manager has all of it, and what it leaves out goes.
                    Some(old) if key == "data" => *old = value.clone(),
                    Some(Value::Array(list)) if list_key(key).is_some() && value.is_array() => {
                        apply_list(list, value.as_array().unwrap(), list_key(key).unwrap());
                    }
                    Some(old) => apply(old, value),
                    None => {
                        target.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// The merge keys of the lists that an operator applies in parts.
fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "ownerReferences" => Some("uid"),
        "containers" | "initContainers" | "volumes" => Some("name"),
        _ => None,
    }
}

fn apply_list(list: &mut Vec<Value>, patch: &[Value], key: &str) {
    for item in patch {
        match list.iter_mut().find(|old| old[key] == item[key]) {
            Some(old) => apply(old, item),
            None => list.push(item.clone()),
        }
    }
}

#[test]
fn patches() {
    use serde_json::json;
    let mut object = json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [1, 2]});
    merge(&mut object, &json!({"a": null, "b": {"d": 4}, "l": [3]}));
    assert_eq!(object, json!({"b": {"c": 2, "d": 4}, "l": [3]}));

    let mut object = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X", "status": "True"}]}});
    apply(
        &mut object,
        &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New"}]}}),
    );
    let want = json!([{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}, {"type": "New"}]);
    assert_eq!(object["status"]["conditions"], want);
}
