//! A Kubernetes API server inside the test process: objects of any kind, list, watch, patches, preconditions, the status
//! subresource, faults. It speaks through `kube::Client` without a socket, so a whole controller runs on virtual time.
//!
//! What it does not do: validation, defaults, admission, field ownership, garbage collection, controllers, kubelets.
//! A test plays those parts with [`ApiServer::put`], [`ApiServer::remove`] and [`ApiServer::fault`].

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use kube::core::{Selector, SelectorExt};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::objects::{Change, Key, Manner, Objects, Part, Refusal};
use super::select::{fields, selector};

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a request is about, for faults and for the log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// `pods`, `pods/status`, `leases` ...
    pub resource: String,
    /// Empty when cluster-scoped or over all namespaces.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
    /// Only the metadata is asked for.
    pub metadata_only: bool,
}

/// What a fault does to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A refusal by the server.
    Refuse(u16, &'static str),
    /// No answer, ever.
    Silence,
    /// An answer that comes late.
    Delay(Duration),
    /// The connection breaks before the server has seen the request.
    Break,
    /// The server carries it out, and the connection breaks before the answer.
    BreakAfter,
}

type FaultFn = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct World {
    objects: Mutex<Objects>,
    version: watch::Sender<u64>,
    /// Watches of an older era end.
    era: watch::Sender<u64>,
    /// Watches from before this version get 410.
    compacted: Mutex<u64>,
}

/// A way to the world that faults can shut, and the requests that came through it.
#[derive(Default)]
struct Door {
    calls: Mutex<Vec<Call>>,
    fault: Mutex<Option<FaultFn>>,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub struct ApiServer {
    world: Arc<World>,
    door: Arc<Door>,
}

impl Default for ApiServer {
    fn default() -> Self {
        let world = World {
            objects: Mutex::default(),
            version: watch::channel(0).0,
            era: watch::channel(0).0,
            compacted: Mutex::default(),
        };
        Self { world: Arc::new(world), door: Arc::default() }
    }
}

impl ApiServer {
    /// The same objects, with faults and a log of requests of its own: another process's way to the server.
    pub fn second_door(&self) -> Self {
        Self { world: Arc::clone(&self.world), door: Arc::default() }
    }

    /// A client whose default namespace is `namespace`.
    pub fn client(&self, namespace: &str) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.serve(request).await }
        });
        Client::new(service, namespace)
    }

    /// Creates or replaces `object` with its status, as the server's own parts (kubelet, scheduler) would.
    pub fn put<K>(&self, object: &K) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let key = key_of(object);
        let value = serde_json::to_value(object).unwrap();
        let written = self.change(|objects| {
            if objects.all.contains_key(&key) {
                let mut main = value.clone();
                main["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                objects.replace(&key, Part::Main, main).unwrap();
            } else {
                objects.create(key.clone(), value.clone()).unwrap();
            }
            match value.get("status") {
                Some(status) => {
                    objects.patch(&key, Part::Status, Manner::Merge, &json!({ "status": status }))
                }
                None => objects.get(&key),
            }
        });
        serde_json::from_value(written.unwrap()).unwrap()
    }

    /// The object as it is now.
    pub fn find<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let object = self.objects().get(&key::<K>(namespace, name)).ok()?;
        Some(serde_json::from_value(object).unwrap())
    }

    /// Every object of a kind, in order of namespace and name.
    pub fn all<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let of = key::<K>("", "");
        let objects = self.objects();
        let of_kind =
            objects.all.iter().filter(|(k, _)| k.group_version == of.group_version && k.plural == of.plural);
        of_kind.map(|(_, object)| serde_json::from_value(object.clone()).unwrap()).collect()
    }

    /// Removes at once, whatever finalizers and grace periods say: the kubelet's or garbage collector's last word.
    pub fn remove<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        self.change(|objects| objects.remove(&key::<K>(namespace, name)));
    }

    /// What happens to each request from now on.
    pub fn fault(&self, fault: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        *self.door.fault.lock().unwrap() = Some(Box::new(fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        *self.door.fault.lock().unwrap() = None;
    }

    /// Ends every watch; a new one resumes where its client says.
    pub fn cut_watches(&self) {
        self.world.era.send_modify(|era| *era += 1);
    }

    /// Ends every watch and forgets the history, so that clients have to list again.
    pub fn compact(&self) {
        *self.world.compacted.lock().unwrap() = self.objects().version;
        self.cut_watches();
    }

    /// From now on objects are made and deleted when they are.
    pub fn keep_time(&self) {
        self.objects().timed = true;
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<Call> {
        self.door.calls.lock().unwrap().clone()
    }

    /// The requests so far that could change something, as `verb resource namespace/name`.
    pub fn writes(&self) -> Vec<String> {
        let writes = self.calls().into_iter().filter(|c| !matches!(c.verb, "get" | "list" | "watch"));
        writes.map(|c| format!("{} {} {}/{}", c.verb, c.resource, c.namespace, c.name)).collect()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.world.objects.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.objects();
        let result = change(&mut objects);
        self.world.version.send_replace(objects.version);
        result
    }

    async fn serve(&self, request: Request<Body>) -> Result<Reply, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let metadata_only = parts
            .headers
            .get("accept")
            .is_some_and(|v| v.to_str().unwrap_or_default().contains("PartialObject"));
        let query = parts.uri.query().unwrap_or_default();
        let mut target = Target::of(&parts.method, parts.uri.path(), query);
        target.call.metadata_only = metadata_only;
        self.door.calls.lock().unwrap().push(target.call.clone());
        // Racers interleave between one's read and write.
        tokio::task::yield_now().await;
        let fault = self.door.fault.lock().unwrap().as_mut().and_then(|fault| fault(&target.call));
        let broken = || {
            std::io::Error::new(
                std::io::ErrorKind::ConnectionReset,
                "the connection broke (a fault of the test)",
            )
        };
        match fault {
            Some(Fault::Refuse(code, reason)) => {
                return Ok(refusal(&Refusal(
                    code,
                    reason,
                    format!("refused by a fault of the test: {reason}"),
                )));
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Break) => return Err(broken()),
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::BreakAfter) | None => {}
        }
        if target.call.verb == "watch" {
            return Ok(self.watch(target));
        }
        let content_type =
            parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let answer = self.answer(&target, &content_type, &body);
        if matches!(fault, Some(Fault::BreakAfter)) {
            return Err(broken());
        }
        Ok(match answer {
            Ok(object) => reply(
                if target.call.verb == "create" { 201 } else { 200 },
                &only_metadata(object, target.call.metadata_only),
            ),
            Err(why) => refusal(&why),
        })
    }

    fn answer(&self, target: &Target, content_type: &str, body: &[u8]) -> Result<Value, Refusal> {
        let parse = || -> Result<Value, Refusal> {
            if body.is_empty() {
                Ok(json!({}))
            } else {
                serde_json::from_slice(body).map_err(|e| Refusal(400, "BadRequest", e.to_string()))
            }
        };
        match target.call.verb {
            "get" => self.objects().get(&target.key),
            "list" => Ok(self.list(target)),
            "create" if target.call.resource == "pods/eviction" => {
                let options = parse()?["deleteOptions"].clone();
                self.change(|objects| objects.delete(&target.key, &options))
            }
            "create" => self.change(|objects| objects.create(target.key.clone(), parse()?)),
            "update" => self.change(|objects| objects.replace(&target.key, target.part, parse()?)),
            "patch" => {
                let manner = match content_type {
                    "application/merge-patch+json" => Manner::Merge,
                    // The lists with keys are the same for both.
                    "application/apply-patch+yaml" | "application/strategic-merge-patch+json" => {
                        Manner::Apply
                    }
                    other => return Err(Refusal(415, "UnsupportedMediaType", other.to_owned())),
                };
                self.change(|objects| objects.patch(&target.key, target.part, manner, &parse()?))
            }
            "delete" => self.change(|objects| objects.delete(&target.key, &parse()?)),
            _ => Err(Refusal(405, "MethodNotAllowed", target.call.verb.to_owned())),
        }
    }

    fn list(&self, target: &Target) -> Value {
        let objects = self.objects();
        let items: Vec<&Value> = objects
            .all
            .iter()
            .filter(|(key, object)| target.covers(key, object))
            .map(|(_, object)| object)
            .collect();
        json!({
            "kind": "List", "apiVersion": target.key.group_version,
            "metadata": { "resourceVersion": objects.version.to_string() }, "items": items,
        })
    }

    fn watch(&self, target: Target) -> Reply {
        if target.from < *self.world.compacted.lock().unwrap() {
            // The real server, too, says this inside a stream that began well.
            let status = status(&Refusal(410, "Expired", "too old resource version".to_owned()));
            return reply(200, &json!({ "type": "ERROR", "object": status }));
        }
        // Subscribed before the first look, so that nothing falls between.
        let state =
            (self.clone(), target.from, target, self.world.version.subscribe(), self.world.era.subscribe());
        let lines = stream::unfold(state, |(server, from, target, mut version, mut era)| async move {
            loop {
                version.mark_unchanged();
                if let Some((line, at)) = server.next_event(&target, from) {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
                    return Some((frame, (server, at, target, version, era)));
                }
                tokio::select! {
                    _ = era.changed() => return None,
                    _ = version.changed() => {}
                }
            }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    }

    /// The first event for `target` after version `from`, and its version.
    fn next_event(&self, target: &Target, from: u64) -> Option<(String, u64)> {
        let objects = self.objects();
        let start = objects.history.partition_point(|change| change.version <= from);
        objects.history[start..].iter().find_map(|change| Some((target.event(change)?, change.version)))
    }
}

/// A request's address, taken apart.
struct Target {
    call: Call,
    key: Key,
    part: Part,
    labels: Selector,
    /// Paths within an object (`/metadata/name`), and what is to be there.
    fields: Vec<(String, String)>,
    from: u64,
}

impl Target {
    fn of(method: &Method, path: &str, query: &str) -> Self {
        let mut parts = path.trim_matches('/').split('/');
        let group_version = match parts.next() {
            Some("api") => parts.next().unwrap_or_default().to_owned(),
            _ => format!("{}/{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default()),
        };
        let rest: Vec<&str> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, plural, rest @ ..] if !["status", "finalize"].contains(plural) => {
                (*namespace, [&[*plural], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let (plural, name) =
            (rest.first().copied().unwrap_or_default(), rest.get(1).copied().unwrap_or_default());
        let sub = rest.get(2).copied();
        let asked = |wanted: &str| {
            let pairs = form_urlencoded::parse(query.as_bytes());
            pairs.into_iter().find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
        };
        let verb = match (method.as_str(), name) {
            ("GET", "") if asked("watch").as_deref() == Some("true") => "watch",
            ("GET", "") => "list",
            ("GET", _) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            _ => "other",
        };
        let resource = sub.map_or_else(|| plural.to_owned(), |sub| format!("{plural}/{sub}"));
        let part = if sub == Some("status") { Part::Status } else { Part::Main };
        Self {
            call: Call {
                verb,
                resource,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                metadata_only: false,
            },
            key: Key {
                group_version,
                plural: plural.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            part,
            labels: asked("labelSelector").map_or_else(Selector::default, |text| selector(&text)),
            fields: fields(&asked("fieldSelector").unwrap_or_default()),
            from: asked("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0),
        }
    }

    fn covers(&self, key: &Key, object: &Value) -> bool {
        let labels = serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
        key.group_version == self.key.group_version
            && key.plural == self.key.plural
            && (self.key.namespace.is_empty() || key.namespace == self.key.namespace)
            && self.fields.iter().all(|(path, wanted)| object.pointer(path).is_some_and(|v| v == wanted))
            && self.labels.matches(&labels)
    }

    /// The change as a watch with this selection sees it.
    fn event(&self, change: &Change) -> Option<String> {
        let covered = |object: &Option<Value>| object.as_ref().is_some_and(|o| self.covers(&change.key, o));
        let kind = match (covered(&change.before), covered(&change.after)) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(format!(
            "{}\n",
            json!({ "type": kind, "object": only_metadata(change.last.clone(), self.call.metadata_only) })
        ))
    }
}

fn key<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Key {
    Key {
        group_version: K::api_version(&()).into_owned(),
        plural: K::plural(&()).into_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    key::<K>(&object.namespace().unwrap_or_default(), &object.name_any())
}

fn only_metadata(object: Value, wanted: bool) -> Value {
    let strip = |object: &Value| json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] });
    match (wanted, object["items"].as_array()) {
        (false, _) => object,
        (true, None) => strip(&object),
        (true, Some(items)) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"], "items": items.iter().map(strip).collect::<Vec<_>>(),
        }),
    }
}

fn reply(code: u16, body: &Value) -> Reply {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(body.to_string()))));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn refusal(why: &Refusal) -> Reply {
    reply(why.0, &status(why))
}

fn status(Refusal(code, reason, message): &Refusal) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "code": code, "message": message,
    })
}
