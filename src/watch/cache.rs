//! Decides what is known of one kind of object, and what a watch event changed about it. Touches one in-memory store.
//!
//! kube's own reflector keeps such a store as well, but its ways to learn of changes lose some that matter here: a shared
//! stream never tells of deletions, a generation predicate swallows them, and objects that vanished while a watch was down
//! are dropped without a word. This one compares old and new, also after a new list, and it fills one store from several
//! watches (one a namespace) without the list of one wiping out the others' objects.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt};

/// What happened to one object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It is there, new or changed.
    Set {
        /// As it was known before; `None` when it was not.
        old: Option<Arc<K>>,
        /// As it is now.
        new: Arc<K>,
    },
    /// It is gone; as it was last.
    Gone(Arc<K>),
}

/// The objects that one watch covers: one namespace, or everything.
pub type Scope = Option<String>;

/// A watch of a scope, as `kube::runtime::watcher` gives it.
pub type Watch<K> = (Scope, BoxStream<'static, watcher::Result<Event<K>>>);

/// Namespace (empty when cluster-scoped) and name.
type Place = (String, String);

/// Fills one store from the watches of one or more scopes.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    reader: Store<K>,
    scopes: Vec<ScopeState<K>>,
    /// What the scopes that were listed first hold, until every scope was listed.
    waiting: Option<BTreeMap<Place, K>>,
}

struct ScopeState<K> {
    namespace: Scope,
    listed: bool,
    listing: BTreeMap<Place, K>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static> Cache<K> {
    /// An empty cache over these scopes.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let (reader, writer) = store();
        let state = |namespace| ScopeState { namespace, listed: false, listing: BTreeMap::new() };
        Self {
            writer,
            reader,
            scopes: scopes.into_iter().map(state).collect(),
            waiting: Some(BTreeMap::new()),
        }
    }

    /// The store, ready once every scope was listed.
    pub fn reader(&self) -> Store<K> {
        self.reader.clone()
    }

    /// Follows the watches for ever, and tells what each event changed. One watch for each scope, in the same order.
    pub async fn follow(mut self, watches: Vec<Watch<K>>, mut tell: impl FnMut(Change<K>)) {
        let tagged = watches
            .into_iter()
            .enumerate()
            .map(|(at, (_, watch))| watch.map(move |event| (at, event)).boxed());
        let mut events: SelectAll<_> = tagged.collect();
        let mut told = String::new();
        while let Some((at, event)) = events.next().await {
            match event {
                Ok(event) => {
                    told.clear();
                    self.take(at, event).into_iter().for_each(&mut tell);
                }
                Err(error) => {
                    let (text, kind) = (error.to_string(), K::kind(&()));
                    // A server that is away refuses every few seconds: said once, until something works again.
                    if told == text {
                        tracing::debug!(%kind, error = text, "the watch failed again");
                    } else {
                        tracing::warn!(%kind, error = text, "the watch failed and is tried again; what is known grows old");
                        told = text;
                    }
                }
            }
        }
    }

    /// Takes in one event of the scope with this index.
    fn take(&mut self, at: usize, event: Event<K>) -> Vec<Change<K>> {
        let Some(scope) = self.scopes.get_mut(at) else { return Vec::new() };
        match event {
            Event::Init => scope.listing.clear(),
            Event::InitApply(object) => {
                scope.listing.insert(place(&object), object);
            }
            Event::InitDone => {
                scope.listed = true;
                let listing = std::mem::take(&mut scope.listing);
                let namespace = scope.namespace.clone();
                return self.listed(namespace.as_deref(), listing);
            }
            Event::Apply(object) => match &mut self.waiting {
                Some(waiting) => drop(waiting.insert(place(&object), object)),
                None => return self.set(object),
            },
            Event::Delete(object) => match &mut self.waiting {
                Some(waiting) => drop(waiting.remove(&place(&object))),
                None => return self.gone(object),
            },
        }
        Vec::new()
    }

    fn listed(&mut self, namespace: Option<&str>, listing: BTreeMap<Place, K>) -> Vec<Change<K>> {
        let Some(waiting) = &mut self.waiting else { return self.relisted(namespace, listing) };
        waiting.retain(|place, _| namespace.is_some_and(|n| n != place.0));
        waiting.extend(listing);
        if !self.scopes.iter().all(|scope| scope.listed) {
            return Vec::new();
        }
        self.writer.apply_watcher_event(&Event::Init);
        for object in self.waiting.take().unwrap_or_default().into_values() {
            self.writer.apply_watcher_event(&Event::InitApply(object));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
        self.reader.state().into_iter().map(|new| Change::Set { old: None, new }).collect()
    }

    fn relisted(&mut self, namespace: Option<&str>, listing: BTreeMap<Place, K>) -> Vec<Change<K>> {
        let missing = self.reader.state_filter(|object| {
            let (of, name) = place(object);
            namespace.is_none_or(|n| n == of) && !listing.contains_key(&(of, name))
        });
        let mut changes = Vec::new();
        for object in missing {
            changes.extend(self.gone(K::clone(&object)));
        }
        for object in listing.into_values() {
            changes.extend(self.set(object));
        }
        changes
    }

    fn set(&mut self, object: K) -> Vec<Change<K>> {
        let at = ObjectRef::from_obj(&object);
        let mut old = self.reader.get(&at);
        if old.as_ref().is_some_and(|old| {
            old.uid() == object.uid() && old.resource_version() == object.resource_version()
        }) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        // A namesake: the deletion of the one before was missed.
        if let Some(before) = old.take_if(|old| old.uid() != object.uid()) {
            changes.push(Change::Gone(before));
        }
        self.writer.apply_watcher_event(&Event::Apply(object));
        changes.extend(self.reader.get(&at).map(|new| Change::Set { old, new }));
        changes
    }

    fn gone(&mut self, object: K) -> Vec<Change<K>> {
        let known = self.reader.get(&ObjectRef::from_obj(&object)).is_some();
        let last = Arc::new(object.clone());
        self.writer.apply_watcher_event(&Event::Delete(object));
        if known { vec![Change::Gone(last)] } else { Vec::new() }
    }
}

fn place<K: Resource>(object: &K) -> Place {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(namespace: &str, name: &str, uid: &str, version: u32) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                uid: Some(uid.into()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    fn text(changes: Vec<Change<ConfigMap>>) -> Vec<String> {
        let uid = |o: &ConfigMap| format!("{}:{}", o.name_any(), o.uid().unwrap());
        let one = |change| match change {
            Change::Set { old: None, new } => format!("new {}", uid(&new)),
            Change::Set { old: Some(old), new } => {
                format!(
                    "{} {}->{}",
                    uid(&new),
                    old.resource_version().unwrap(),
                    new.resource_version().unwrap()
                )
            }
            Change::Gone(last) => format!("gone {}", uid(&last)),
        };
        let mut lines: Vec<_> = changes.into_iter().map(one).collect();
        lines.sort();
        lines
    }

    fn list(cache: &mut Cache<ConfigMap>, at: usize, objects: &[ConfigMap]) -> Vec<String> {
        cache.take(at, Event::Init);
        for object in objects {
            cache.take(at, Event::InitApply(object.clone()));
        }
        text(cache.take(at, Event::InitDone))
    }

    #[test]
    fn what_vanished_while_the_watch_was_down_is_told() {
        let mut cache = Cache::new([None]);
        let first = [object("n", "a", "1", 1), object("n", "b", "2", 2), object("n", "c", "3", 3)];
        assert_eq!(list(&mut cache, 0, &first), ["new a:1", "new b:2", "new c:3"]);
        let second = [object("n", "a", "1", 1), object("n", "b", "2", 8), object("n", "c", "9", 9)];
        assert_eq!(list(&mut cache, 0, &second), ["b:2 2->8", "gone c:3", "new c:9"], "a did not change");
        assert_eq!(list(&mut cache, 0, &second[..1]), ["gone b:2", "gone c:9"]);
        assert_eq!(cache.reader().len(), 1);
    }

    #[test]
    fn one_namespace_listed_anew_leaves_the_others_alone() {
        let mut cache = Cache::new([Some("n".into()), Some("m".into())]);
        assert!(list(&mut cache, 0, &[object("n", "a", "1", 1)]).is_empty(), "the other was not listed yet");
        assert!(cache.take(0, Event::Apply(object("n", "late", "2", 2))).is_empty());
        assert!(cache.take(0, Event::Delete(object("n", "a", "1", 3))).is_empty());
        assert_eq!(list(&mut cache, 1, &[object("m", "x", "4", 4)]), ["new late:2", "new x:4"]);
        assert_eq!(list(&mut cache, 0, &[]), ["gone late:2"]);
        assert_eq!(cache.reader().len(), 1);
    }

    #[test]
    fn changes_deletions_and_repeats() {
        let mut cache = Cache::new([None]);
        list(&mut cache, 0, &[object("n", "a", "1", 1)]);
        assert_eq!(text(cache.take(0, Event::Apply(object("n", "a", "1", 2)))), ["a:1 1->2"]);
        assert!(cache.take(0, Event::Apply(object("n", "a", "1", 2))).is_empty(), "seen already");
        assert_eq!(text(cache.take(0, Event::Delete(object("n", "a", "1", 3)))), ["gone a:1"]);
        assert!(cache.take(0, Event::Delete(object("n", "a", "1", 3))).is_empty(), "gone already");
    }

    #[tokio::test]
    async fn the_store_is_ready_only_when_every_scope_was_listed() {
        let mut cache = Cache::<ConfigMap>::new([Some("n".into()), Some("m".into())]);
        let reader = cache.reader();
        list(&mut cache, 1, &[]);
        let soon = std::time::Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, reader.wait_until_ready()).await.is_err());
        list(&mut cache, 0, &[]);
        assert!(tokio::time::timeout(soon, reader.wait_until_ready()).await.is_ok());
    }
}
