//! The object store of the API server inside tests: versions, preconditions, finalizers, history. Touches memory only.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::patch;

/// Where an object lives: `group/version` (`v1`, `apps/v1`), plural, namespace (empty: cluster-scoped), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub group_version: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
}

/// A refusal: HTTP code, reason, sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub u16, pub &'static str, pub String);

type Answer = Result<Value, Refusal>;

/// What changed, for watches.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    pub version: u64,
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// The object as it was last, with the version of its deletion.
    pub last: Value,
}

#[derive(Default)]
pub struct Objects {
    pub all: BTreeMap<Key, Value>,
    pub history: Vec<Change>,
    pub version: u64,
    /// Objects are made and deleted now, and not on a day of the tests.
    pub timed: bool,
    uids: u64,
}

/// The part of an object that a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status alone.
    Status,
}

/// How a patch is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Merge,
    Apply,
}

impl Objects {
    pub fn get(&self, key: &Key) -> Answer {
        self.all
            .get(key)
            .cloned()
            .ok_or_else(|| Refusal(404, "NotFound", format!("{} \"{}\" not found", key.plural, key.name)))
    }

    pub fn create(&mut self, mut key: Key, mut object: Value) -> Answer {
        let meta = &mut object["metadata"];
        if meta["name"].is_null() {
            let prefix = meta["generateName"].as_str().unwrap_or_default().to_owned();
            meta["name"] = json!(format!("{prefix}{:05}", self.uids));
        }
        meta["name"].as_str().unwrap_or_default().clone_into(&mut key.name);
        if self.all.contains_key(&key) {
            return Err(Refusal(
                409,
                "AlreadyExists",
                format!("{} \"{}\" already exists", key.plural, key.name),
            ));
        }
        self.uids += 1;
        let meta = &mut object["metadata"];
        if !key.namespace.is_empty() {
            meta["namespace"] = json!(key.namespace);
        }
        // A test may choose the UID and the age; the real server would not let it.
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.uids));
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(moment(self.timed, "2026-01-01T00:00:00Z"));
        }
        meta["generation"] = json!(1);
        meta.as_object_mut().unwrap().remove("resourceVersion");
        Ok(self.write(key, object))
    }

    pub fn replace(&mut self, key: &Key, part: Part, mut object: Value) -> Answer {
        let old = self.get(key)?;
        preconditions(&old, &object["metadata"], key, part)?;
        let meta = object["metadata"].as_object_mut().unwrap();
        for field in ["uid", "creationTimestamp", "generation", "namespace", "deletionTimestamp"] {
            match old["metadata"].get(field) {
                Some(value) => meta.insert(field.into(), value.clone()),
                None => meta.remove(field),
            };
        }
        Ok(self.change(key, part, &old, object))
    }

    pub fn patch(&mut self, key: &Key, part: Part, manner: Manner, patch: &Value) -> Answer {
        let old = match (self.get(key), manner, part) {
            (Err(_), Manner::Apply, Part::Main) => return self.create(key.clone(), patch.clone()),
            (old, _, _) => old?,
        };
        preconditions(&old, &patch["metadata"], key, part)?;
        let mut body = patch.clone();
        if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
                meta.remove(field);
            }
        }
        let mut object = old.clone();
        match manner {
            Manner::Merge => patch::merge(&mut object, &body),
            Manner::Apply => patch::apply(&mut object, &body),
        }
        Ok(self.change(key, part, &old, object))
    }

    /// Marks or removes. `options` are Kubernetes' `DeleteOptions`.
    pub fn delete(&mut self, key: &Key, options: &Value) -> Answer {
        let mut object = self.get(key)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err(Refusal(
                    409,
                    "Conflict",
                    format!("the {field} in the precondition does not match"),
                ));
            }
        }
        let grace = options["gracePeriodSeconds"].as_i64().or_else(|| {
            (key.plural == "pods")
                .then(|| object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30))
        });
        // A Pod that was bound to a worker stays until its kubelet has ended it; an unbound one goes at once.
        let held = key.plural == "pods" && grace != Some(0) && object["spec"]["nodeName"].is_string();
        if !held && finalizers(&object).is_empty() {
            return Ok(self.remove(key));
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(moment(self.timed, "2026-01-01T00:01:00Z"));
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace.unwrap_or(0));
            bump_generation(&mut object);
            return Ok(self.write(key.clone(), object));
        }
        Ok(object)
    }

    /// Takes it away whatever it says: the kubelet's or the garbage collector's last word.
    pub fn remove(&mut self, key: &Key) -> Value {
        let before = self.all.remove(key);
        self.version += 1;
        let mut last = before.clone().unwrap_or_default();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let change =
            Change { key: key.clone(), version: self.version, before, after: None, last: last.clone() };
        self.history.push(change);
        last
    }

    fn change(&mut self, key: &Key, part: Part, old: &Value, mut object: Value) -> Value {
        match part {
            Part::Main => {
                if key_has_status(old, &object) {
                    object["status"] = old["status"].clone();
                }
                if object["spec"] != old["spec"] {
                    bump_generation(&mut object);
                }
            }
            Part::Status => {
                let status = object["status"].take();
                object = old.clone();
                object["status"] = status;
            }
        }
        // Like the real server: a write that changes nothing makes no version and no event.
        if object == *old {
            return object;
        }
        if !object["metadata"]["deletionTimestamp"].is_null()
            && finalizers(&object).is_empty()
            && key.plural != "pods"
        {
            return self.remove(key);
        }
        self.write(key.clone(), object)
    }

    fn write(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.all.insert(key.clone(), object.clone());
        let (after, last) = (Some(object.clone()), object.clone());
        self.history.push(Change { key, version: self.version, before, after, last });
        object
    }
}

/// What the real server checks of the metadata in a body (tried on 1.34): a wrong resourceVersion is 409; a wrong uid is 422,
/// except in the status of a custom resource, where it is ignored.
fn preconditions(old: &Value, meta: &Value, key: &Key, part: Part) -> Result<(), Refusal> {
    let differs = |field: &str| !meta[field].is_null() && meta[field] != old["metadata"][field];
    if differs("resourceVersion") {
        return Err(Refusal(
            409,
            "Conflict",
            format!("{} \"{}\": the object has been modified", key.plural, key.name),
        ));
    }
    let custom = key.group_version.contains('.') && !key.group_version.contains(".k8s.io");
    if differs("uid") && !(custom && part == Part::Status) {
        return Err(Refusal(
            422,
            "Invalid",
            format!("{} \"{}\": metadata.uid: field is immutable", key.plural, key.name),
        ));
    }
    Ok(())
}

fn moment(timed: bool, otherwise: &str) -> String {
    if timed { k8s_openapi::jiff::Timestamp::now().to_string() } else { otherwise.to_owned() }
}

fn key_has_status(old: &Value, new: &Value) -> bool {
    !old["status"].is_null() || !new["status"].is_null()
}

fn bump_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = json!(generation + 1);
}

fn finalizers(object: &Value) -> &[Value] {
    object["metadata"]["finalizers"].as_array().map_or(&[], Vec::as_slice)
}
