//! Reads: the stores that watches fill, and every Valkey node for itself, in parallel and bounded time.
//!
//! What cannot be seen is recorded, never raised: one silent node must not stop work on the others.

pub mod brief;
pub mod certificates;
mod events;
pub mod kube;
mod matching;
pub mod passwords;
pub mod valkey;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::kube::{Api, ResourceExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod as KubePod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::api::{ValkeyCluster, ValkeyClusterStatus, status::HandOverState};
use crate::build::{self, Credentials, labels};
use crate::context::Ctx;
use crate::error::Result;
use crate::hints::Hints;
use crate::model::peers::distinct;
use crate::model::snapshot::serving;
use crate::model::users::Applied;
use crate::model::{
    Desired, Moment, NodeId, NodeReport, Object, Past, Phase, Pod, PodName, PodUid, Request, Sampling, Seen,
    Shard, Shards, Snapshot, View, Worker, WorkerName, settings,
};
use crate::mutex::lock;
use crate::plan::away::AWAY_MS;
use crate::valkey::{Access, Tls};
use crate::watch::wakes::owner;
use brief::{Around, Asking};
use valkey::{Bounds, Probe};

/// For so many milliseconds after a slot owner was lost a pass is about nothing else.
const URGENT_MS: i64 = 5_000;

/// Ids that a person may vouch for at one time.
const MOST_VOUCHED: usize = 100;

/// The facts of one pass over one cluster.
pub async fn observe(
    ctx: &Ctx,
    cr: &ValkeyCluster,
    desired: Desired,
    hints: &std::sync::Mutex<Hints>,
) -> Result<Snapshot> {
    let now = ctx.clock.now();
    let key = desired.key.clone();
    let credentials = passwords::credentials(ctx, &desired, hints).await?;
    // Of one moment: a Pod that the watch shows in between would be missing and its name be somebody else's.
    let here = ctx.pods_in(&key.namespace);
    let mut pods = ours(ctx, &key.uid, &here);
    certificates::prepare(ctx, &desired, &pods, now, hints).await?;
    let (past, access) = {
        let h = lock(hints);
        let past = Past { slow: ctx.links.slow(&key), ..h.past.clone() };
        (past, h.access())
    };
    let nodes = nodes(ctx, (&desired, now), &pods, (cr, hints), access.as_ref()).await;
    certificates::heard(&pods, &nodes, hints);
    // A dead primary does not wait for the API server: what only that one knows is looked up in the next pass.
    let urgent =
        an_owner_is_missing(&nodes) && past.headless.is_none_or(|since| now.since(since) < URGENT_MS);
    if !urgent {
        events::explain(ctx, &key.namespace, now, &mut pods).await;
        certificates::refresh(ctx, &desired, &pods, now, hints).await;
    }
    let certificates = certificates::certificates(&desired, &pods, hints);
    let desired = certificates::as_it_is(desired, &pods, hints);
    let (accounts, passwords) = passwords::look(ctx, &desired, hints, urgent).await;
    let Noted { formed, whole, latest, applied, mut taken } = noted(ctx, cr, &desired, hints);
    taken.extend(here.iter().map(|pod| PodName::new(pod.name_any())).filter(|n| !pods.contains_key(n)));
    let (drifted, foreign) = if urgent {
        Default::default()
    } else {
        drifted(ctx, &desired, credentials.is_some(), serving(&pods)).await?
    };
    let mut snapshot = Snapshot {
        now,
        revision: build::revision(&desired),
        formed,
        whole,
        served: served(&latest),
        shape: latest.shape.as_deref().and_then(|text| text.parse().ok()),
        drifted,
        foreign,
        credentials_known: credentials.is_some(),
        certificates,
        accounts,
        passwords,
        pods,
        taken,
        workers: workers(ctx, &desired),
        nodes,
        ghosts: BTreeMap::new(),
        low_timeout_budget: low_timeout_budget(ctx, &desired, whole),
        applied,
        request: request(cr, &latest),
        vouched: vouched(cr),
        past,
        desired,
    };
    snapshot.ghosts = ghosts(ctx, &snapshot, access.as_ref()).await;
    // What is seen now is what the next look remembers.
    lock(hints).past.see(&snapshot);
    Ok(snapshot)
}

/// The Pods of this cluster, and which of them their workers are about to end.
fn ours(ctx: &Ctx, uid: &str, here: &[Arc<KubePod>]) -> BTreeMap<PodName, Pod> {
    let ours = here.iter().filter(|pod| owner(&***pod).is_some_and(|o| o.uid == *uid));
    let mut pods = ours.filter_map(|p| kube::pod(p)).map(|p| (p.name.clone(), p)).collect();
    kube::disrupt(&mut pods, ctx.workers().iter().map(|n| &**n));
    pods
}

/// What earlier passes noted, in the status or in this process.
struct Noted {
    formed: bool,
    whole: bool,
    latest: ValkeyClusterStatus,
    applied: Applied,
    taken: BTreeSet<PodName>,
}

fn noted(ctx: &Ctx, cr: &ValkeyCluster, desired: &Desired, hints: &std::sync::Mutex<Hints>) -> Noted {
    let status = cr.status.clone().unwrap_or_default();
    let h = lock(hints);
    let latest = h.status.clone().unwrap_or_else(|| status.clone());
    Noted {
        formed: h.formed || status.formed || latest.formed || formed_mark(ctx, desired),
        whole: !latest.topology.is_empty() || !status.topology.is_empty(),
        latest,
        applied: lock(&h.applied).clone(),
        taken: h.taken.clone(),
    }
}

/// A cluster that is whole gives the budget of hasty nodes back.
fn low_timeout_budget(ctx: &Ctx, desired: &Desired, whole: bool) -> usize {
    let uid = &desired.key.uid;
    if whole {
        ctx.hints.slow(uid);
        return 0;
    }
    ctx.hints.fast(uid, desired.members())
}

fn workers(ctx: &Ctx, desired: &Desired) -> BTreeMap<WorkerName, Worker> {
    let all = ctx.workers();
    let seen = all.iter().map(|n| kube::worker(n, &desired.template));
    seen.map(|w| (w.name.clone(), w)).collect()
}

/// Somebody lists slots under an id that does not answer: this pass is about nothing else.
fn an_owner_is_missing(nodes: &BTreeMap<PodUid, Seen<NodeReport>>) -> bool {
    let reports = || nodes.values().filter_map(Seen::now);
    let there: BTreeSet<&NodeId> = reports().map(|n| &n.id).collect();
    distinct(reports()).flat_map(|n| n.peers.iter()).any(|(id, p)| !p.slots.is_empty() && !there.contains(id))
}

/// The hand-over that the annotation asks for, with what the status has noted of this very request.
fn request(cr: &ValkeyCluster, status: &ValkeyClusterStatus) -> Option<Request> {
    let wanted = cr.annotations().get(labels::HAND_OVER)?.trim().to_owned();
    let noted = status.hand_over.as_ref().filter(|h| h.request == wanted);
    let done = noted.is_some_and(|h| h.state == HandOverState::Done);
    let from = noted.and_then(|h| h.from.clone()).map(PodName::new);
    Some(Request { wanted, from, done })
}

/// The ids that the annotation vouches for. A person writes them one by one: what is more than anybody would is left out.
fn vouched(cr: &ValkeyCluster) -> BTreeSet<NodeId> {
    let text = cr.annotations().get(labels::GONE).map(String::as_str).unwrap_or_default();
    let ids = text.split([',', ' ']).map(str::trim).filter(|id| !id.is_empty()).take(MOST_VOUCHED);
    ids.map(|id| NodeId::new(id.to_ascii_lowercase())).collect()
}

/// The shards that have slots, as recorded last.
fn served(status: &ValkeyClusterStatus) -> BTreeSet<Shard> {
    let with_slots = status.topology.iter().filter(|t| !t.slots.is_empty());
    with_slots.filter_map(|t| u16::try_from(t.shard).ok()).map(Shard).collect()
}

/// The mirror of the latch on the Secret, for a status that was lost.
fn formed_mark(ctx: &Ctx, desired: &Desired) -> bool {
    let name = labels::secret_name(&desired.key.name);
    ctx.secret_meta(&desired.key.namespace, &name).is_some_and(|s| {
        s.annotations().get(labels::CLUSTER_UID) == Some(&desired.key.uid)
            && s.annotations().get(labels::FORMED).is_some_and(|v| v == "true")
    })
}

/// Objects that are missing or differ from what is wanted, and who else holds their names.
async fn drifted(
    ctx: &Ctx,
    desired: &Desired,
    credentials_known: bool,
    serving: usize,
) -> Result<(BTreeSet<Object>, Option<String>)> {
    let (namespace, name) = (&desired.key.namespace, labels::common_name(&desired.key.name));
    let (mut out, mut foreign) = (BTreeSet::new(), None);
    match ctx.service(namespace, &name) {
        Some(live) if !build::drifted(&build::service(desired), live.as_ref()) => {}
        Some(_) => drop(out.insert(Object::Service)),
        None => {
            foreign = foreign.or(holder::<Service>(ctx, desired, &name).await?);
            out.insert(Object::Service);
        }
    }
    match ctx.config_map(namespace, &name) {
        Some(live) if !build::drifted(&build::config_map(desired), live.as_ref()) => {}
        Some(_) => drop(out.insert(Object::ConfigMap)),
        None => {
            foreign = foreign.or(holder::<ConfigMap>(ctx, desired, &name).await?);
            out.insert(Object::ConfigMap);
        }
    }
    match ctx.policy(namespace, &name) {
        Some(live) if !build::drifted(&build::policy(desired), live.as_ref()) => {}
        Some(_) => drop(out.insert(Object::Policy)),
        None => {
            foreign = foreign.or(holder::<NetworkPolicy>(ctx, desired, &name).await?);
            out.insert(Object::Policy);
        }
    }
    let secret = ctx.secret_meta(namespace, &labels::secret_name(&desired.key.name));
    let ours = secret.is_some_and(|s| s.annotations().get(labels::CLUSTER_UID) == Some(&desired.key.uid));
    if !ours || !credentials_known {
        out.insert(Object::Secret);
    }
    if budget_differs(ctx, desired, serving, &mut foreign).await? {
        out.insert(Object::Budget);
    }
    Ok((out, foreign))
}

/// Whether the `PodDisruptionBudget` is not as it should be; one that is not wanted should not be.
async fn budget_differs(
    ctx: &Ctx,
    desired: &Desired,
    serving: usize,
    foreign: &mut Option<String>,
) -> Result<bool> {
    let (namespace, name) = (&desired.key.namespace, labels::common_name(&desired.key.name));
    match (desired.budget, ctx.budget(namespace, &name)) {
        (true, Some(live)) => Ok(build::drifted(&build::budget(desired, serving), live.as_ref())),
        (true, None) => {
            if foreign.is_none() {
                *foreign = holder::<PodDisruptionBudget>(ctx, desired, &name).await?;
            }
            Ok(true)
        }
        (false, live) => Ok(live.is_some_and(|l| l.metadata.deletion_timestamp.is_none())),
    }
}

/// Another manager's object under a name of ours. Our stores hold only what carries our label, so what is missing there
/// is looked up once.
async fn holder<K>(ctx: &Ctx, desired: &Desired, name: &str) -> Result<Option<String>>
where
    K: ::kube::Resource<Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(ctx.clients.api.clone(), &desired.key.namespace);
    let Some(live) = api.get_metadata_opt(name).await? else { return Ok(None) };
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let managed_by = live.labels().get(labels::MANAGED_BY);
    let other_manager = managed_by.filter(|m| *m != labels::OPERATOR).map(|m| format!("is managed by {m}"));
    let owners = live.owner_references();
    let owner = owners.iter().find(|o| o.controller == Some(true) && o.uid != desired.key.uid);
    let other_owner = owner.map(|o| format!("belongs to {} {}", o.kind, o.name));
    Ok(other_manager.or(other_owner).map(|who| {
        format!("{kind} {name} {who}: nothing is touched; remove what the other manager made, or choose another name")
    }))
}

/// Asks every running Pod's node. Of two Pods at one address the younger has it.
async fn nodes(
    ctx: &Ctx,
    (desired, now): (&Desired, Moment),
    pods: &BTreeMap<PodName, Pod>,
    (cr, hints): (&ValkeyCluster, &std::sync::Mutex<Hints>),
    access: Option<&Access>,
) -> BTreeMap<PodUid, Seen<NodeReport>> {
    let Some(access) = access else { return BTreeMap::new() };
    let mut at: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    for pod in pods.values().filter(|p| p.phase == Phase::Running) {
        if let Some(ip) = pod.ip {
            let holder = at.entry(ip).or_insert(pod);
            if pod.created > holder.created {
                *holder = pod;
            }
        }
    }
    let Noted { whole, latest, .. } = noted(ctx, cr, desired, hints);
    // Taken out meanwhile: a pass that is given up forgets it.
    let (past, mut looks, kept) = {
        let mut h = lock(hints);
        (h.past.clone(), std::mem::take(&mut h.looks), h.kept.clone())
    };
    let port = ctx.ports.client;
    let probe = |(ip, p): (&IpAddr, &&Pod)| Probe {
        uid: p.uid.clone(),
        addr: SocketAddr::new(*ip, port),
        silent: past.silent.contains_key(&p.uid),
    };
    let probes: Vec<Probe> = at.iter().map(probe).collect();
    let asking = Asking {
        settings: &settings::asked(desired, pods.values()),
        access,
        connector: ctx.connector.as_ref(),
        kept: &kept,
        bounds: Bounds::default(),
        // While a cluster forms everybody is asked for everything.
        sampling: Sampling { above: if whole { ctx.sampling.above } else { usize::MAX }, ..ctx.sampling },
        memory: served(&latest).len() != usize::from(desired.shards),
    };
    let long = past.silent.keys().filter(|uid| past.silent_for(uid, now) >= AWAY_MS);
    let around = Around {
        now,
        shards: &Shards::new(pods.values(), desired.copies()),
        long_silent: &long.cloned().collect(),
    };
    let mut seen = brief::observe(&probes, &mut looks, &around, &asking).await;
    lock(hints).looks = looks;
    for pod in at.values() {
        if let Some(seen) = seen.get_mut(&pod.uid) {
            seen.only_of(&pod.name);
        }
    }
    seen
}

/// Asks at the addresses of ids that no Pod accounts for: what answers there is alive.
async fn ghosts(ctx: &Ctx, s: &Snapshot, access: Option<&Access>) -> BTreeMap<NodeId, Seen<NodeReport>> {
    let Some(access) = access else { return BTreeMap::new() };
    let view = View::new(s);
    let (mut addresses, mut known) = (BTreeMap::new(), BTreeMap::new());
    for id in view.unaccounted() {
        let Some(ip) = view.lists().address(id) else { continue };
        // Where a Pod's node was asked in vain a moment ago, asking again would cost the pass another time-out.
        let asked = view.at(ip).iter().find(|m| matches!(m.seen, Seen::Silent(_)));
        match asked {
            Some(m) => drop(known.insert((*id).clone(), m.seen.clone())),
            None => drop(addresses.insert((*id).clone(), SocketAddr::new(ip, ctx.ports.client))),
        }
    }
    let mut seen =
        valkey::observe_ghosts(&addresses, access, ctx.connector.as_ref(), &Bounds::default()).await;
    seen.extend(known);
    seen
}

/// The operator's own access to the nodes of a cluster.
pub fn access(credentials: &Credentials, tls: Option<Tls>) -> Access {
    Access {
        username: Some(build::credentials::OPERATOR_USER.to_owned()),
        password: Some(credentials.operator.clone()),
        tls,
        former: credentials.former.clone(),
        ..Access::default()
    }
}
