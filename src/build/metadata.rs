//! Labels and annotations that a person wants on pods and on the Service. Pure.
//!
//! They are changed live. What was given is noted in one annotation, so that what is not wanted any more can be taken away, and a
//! look at that annotation tells whether there is anything to do.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::labels::GIVEN;
use crate::model::Metadata;

/// The note of what was given: sorted, empty when nothing was.
pub fn note(given: &Metadata) -> String {
    if given.labels.is_empty() && given.annotations.is_empty() {
        return String::new();
    }
    json!({ "annotations": given.annotations, "labels": given.labels }).to_string()
}

/// What such a note says; nothing, when somebody has altered it.
pub fn noted(note: &str) -> Metadata {
    let all: Value = serde_json::from_str(note).unwrap_or_default();
    let map =
        |key: &str| serde_json::from_value(all.get(key).cloned().unwrap_or_default()).unwrap_or_default();
    Metadata { labels: map("labels"), annotations: map("annotations") }
}

/// Adds what is wanted to the metadata of an object; what is there already stays.
pub(super) fn add(to: &mut ObjectMeta, given: &Metadata) {
    let into = |map: &mut Option<BTreeMap<String, String>>, more: &BTreeMap<String, String>| {
        for (key, value) in more {
            map.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        }
    };
    into(&mut to.labels, &given.labels);
    into(&mut to.annotations, &given.annotations);
    let note = note(given);
    if !note.is_empty() {
        to.annotations.get_or_insert_default().insert(GIVEN.to_owned(), note);
    }
}

/// The merge patch of a live object that carries `before` and shall carry `wanted`.
pub fn patch(before: &Metadata, wanted: &Metadata) -> Value {
    let change = |before: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        let gone = before.keys().map(|k| (k.clone(), Value::Null));
        let set = wanted.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
        gone.chain(set).collect::<Map<String, Value>>()
    };
    let mut annotations = change(&before.annotations, &wanted.annotations);
    let note = note(wanted);
    annotations.insert(GIVEN.to_owned(), if note.is_empty() { Value::Null } else { Value::from(note) });
    json!({ "labels": change(&before.labels, &wanted.labels), "annotations": annotations })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Metadata {
        let map = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Metadata { labels: map(labels), annotations: map(annotations) }
    }

    #[test]
    fn a_note_tells_what_was_given() {
        let given = of(&[("team", "a")], &[("b", "\"quoted\"")]);
        assert_eq!(noted(&note(&given)), given);
        assert_eq!(note(&Metadata::default()), "");
        assert_eq!(noted("altered"), Metadata::default());
    }

    #[test]
    fn what_is_not_wanted_any_more_is_taken_away() {
        let (before, wanted) =
            (of(&[("old", "1"), ("kept", "1")], &[]), of(&[("kept", "2")], &[("new", "3")]));
        let patch = patch(&before, &wanted);
        assert_eq!(patch["labels"], json!({ "old": null, "kept": "2" }));
        assert_eq!(patch["annotations"]["new"], "3");
        assert_eq!(noted(patch["annotations"][GIVEN].as_str().unwrap()), wanted);
    }

    #[test]
    fn ours_are_not_overwritten() {
        let mut meta =
            ObjectMeta { labels: Some([("a".to_owned(), "ours".to_owned())].into()), ..Default::default() };
        add(&mut meta, &of(&[("a", "theirs"), ("b", "1")], &[]));
        assert_eq!(
            meta.labels.unwrap(),
            [("a", "ours"), ("b", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }
}
