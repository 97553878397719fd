//! Whether a live object still is what is wanted. Pure.

use serde::Serialize;
use serde_json::Value;

/// Whether some field that is wanted differs in the live object. What the API server fills in, and labels,
/// annotations or fields that others add, do not count. Lists are compared entry by entry.
pub fn drifted<K: Serialize>(wanted: &K, live: &K) -> bool {
    match (serde_json::to_value(wanted), serde_json::to_value(live)) {
        (Ok(wanted), Ok(live)) => !within(&wanted, &live),
        // What cannot be written as JSON cannot have come from the API server either.
        (Err(_), _) | (_, Err(_)) => true,
    }
}

fn within(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| within(value, live.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(w, l)| within(w, l))
        }
        (Value::Null, _) => true,
        // The API server drops empty maps and lists.
        (Value::Object(map), Value::Null) => map.is_empty(),
        (Value::Array(items), Value::Null) => items.is_empty(),
        _ => wanted == live,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_wanted_counts() {
        let wanted = json!({"a": 1, "labels": {"x": "1"}, "list": [{"name": "p"}], "none": {}});
        let live = |v: Value| drifted(&wanted, &v);
        let same = json!({"a": 1, "labels": {"x": "1", "other": "2"}, "list": [{"name": "p", "protocol": "TCP"}], "more": 3});
        assert!(!live(same));
        assert!(live(json!({"a": 2, "labels": {"x": "1"}, "list": [{"name": "p"}]})), "a value");
        assert!(live(json!({"a": 1, "labels": {}, "list": [{"name": "p"}]})), "a label gone");
        assert!(live(json!({"a": 1, "labels": {"x": "1"}, "list": []})), "an entry gone");
        assert!(
            live(json!({"a": 1, "labels": {"x": "1"}, "list": [{"name": "p"}, {"name": "q"}]})),
            "an entry more"
        );
    }
}
