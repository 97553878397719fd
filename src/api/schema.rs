//! Pieces of the schema that several parts of the spec have in common.

use schemars::{Schema, json_schema};

/// A list that is replaced as a whole.
pub(super) fn list(most: u32, item: &Schema) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": most,
        "x-kubernetes-list-type": "atomic",
        "items": item
    })
}

/// A list whose entries are known by their names, so that several managers can each own some of them.
pub(super) fn named_list(most: u32, item: &Schema) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": most,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": item
    })
}

/// An object with fields that Kubernetes defines and that are read elsewhere.
pub(super) fn open(description: &str) -> Schema {
    json_schema!({
        "type": "object",
        "description": description,
        "x-kubernetes-preserve-unknown-fields": true
    })
}

/// The same where the field itself is described.
pub(super) fn open_field() -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
