//! Reads certificates: the Secret that the spec names, and the one that the operator has given to the nodes.
//!
//! Asked for only when no slot owner is missing (a dead primary waits for no API server); a failure to read leaves what is
//! remembered, so that certificates never keep anything else from being done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::build::certificate::{self, Stock};
use crate::build::{labels, tls};
use crate::context::Ctx;
use crate::error::Result;
use crate::hints::Hints;
use crate::model::{
    Certificates, ClusterKey, Desired, Fingerprint, Given, Mode, Moment, NodeReport, Phase, Pod, PodName,
    PodUid, Seen, Trust,
};
use crate::mutex::lock;
use crate::valkey::{self, Ways};

/// A certificate whose Secret stays the same is looked at again after this many milliseconds: it may expire, or begin to be valid.
const AGAIN_MS: i64 = 60_000;

/// How nodes are spoken to.
#[derive(Clone, Debug, Default)]
pub enum Wire {
    /// Not known yet: then they are not spoken to at all, and never in plain text instead.
    #[default]
    Unknown,
    /// The cluster is one without TLS.
    Plain,
    /// By TLS.
    Tls(valkey::Tls),
}

/// What is remembered of a cluster's certificates.
#[derive(Debug, Default)]
pub struct Secured {
    /// How nodes are spoken to.
    pub wire: Wire,
    /// Which are spoken to otherwise.
    pub ways: Ways,
    /// Where members were heard that can speak TLS: aside, or at the usual port.
    aside: BTreeMap<PodUid, bool>,
    source: Option<Source>,
    /// The nodes' Secret.
    given: Option<Read>,
    /// What the wire was made of.
    made_of: Option<(Option<Given>, Option<Trust>)>,
}

#[derive(Debug)]
struct Source {
    at: Moment,
    name: String,
    /// None when it is not there.
    version: Option<String>,
    held: std::result::Result<(Stock, Trust), String>,
}

/// The nodes' Secret as it was read.
#[derive(Debug)]
struct Read {
    /// None when it is gone.
    version: Option<String>,
    /// None when it belongs to an earlier cluster of this name.
    given: Option<Given>,
    stock: Stock,
    altered: Option<String>,
}

impl Secured {
    /// Everything at hand.
    pub fn stock(&self) -> Stock {
        let mut all = self.given.as_ref().map(|r| r.stock.clone()).unwrap_or_default();
        if let Some((stock, _)) = self.source.as_ref().and_then(|s| s.held.as_ref().ok()) {
            all.extend(stock);
        }
        all
    }

    /// The version of the nodes' Secret that was read last; none when there was none.
    pub fn version(&self) -> Option<&str> {
        self.given.as_ref()?.version.as_deref()
    }

    /// The nodes' Secret was written, or read.
    pub fn see(&mut self, secret: &Secret, key: &ClusterKey) {
        let ours = secret.annotations().get(labels::CLUSTER_UID) == Some(&key.uid);
        let version = secret.resource_version();
        self.given = Some(match tls::given(secret) {
            Ok((stock, given)) => Read { version, given: ours.then_some(given), stock, altered: None },
            // What it held before is still what the nodes have.
            Err(why) => {
                let before = self.given.take();
                let (given, stock) = before.map(|b| (b.given, b.stock)).unwrap_or_default();
                Read { version, given, stock, altered: ours.then_some(why) }
            }
        });
    }

    /// What the planner may know.
    fn shown(&self) -> Certificates {
        let given = self.given.as_ref().and_then(|r| r.given.clone());
        let altered = self.given.as_ref().and_then(|r| r.altered.clone());
        let source = self.source.as_ref().map(|s| s.held.as_ref().map(|(_, trust)| trust.clone()));
        let wanted = match (altered, source, &given) {
            (Some(why), ..) => Err(why),
            (None, Some(held), _) => held.map_err(Clone::clone),
            // The spec names none any more, and the nodes go on with what they have.
            (None, None, Some(given)) => Ok(given.now.clone()),
            (None, None, None) => Err("no Secret with certificates is named".to_owned()),
        };
        let expires = given.as_ref().and_then(|g| self.stock().expires(&g.now));
        let missing = given.is_some() && self.version().is_none();
        Certificates { wanted, given, missing, expires }
    }

    /// Makes the wire anew when what it is made of has changed. Where no certificate can be used and nobody has any, there is plain
    /// text, or there is nothing yet.
    fn connect(&mut self, pods: &BTreeMap<PodName, Pod>) {
        let given = self.given.as_ref().and_then(|r| r.given.clone());
        let trust = self.source.as_ref().and_then(|s| s.held.as_ref().ok()).map(|(_, trust)| trust.clone());
        let made_of = Some((given, trust));
        if self.made_of == made_of && matches!(self.wire, Wire::Tls(_)) {
            return;
        }
        let Some((given, trust)) = &made_of else { return };
        let own = given.as_ref().map(|g| &g.now.leaf).or(trust.as_ref().map(|t| &t.leaf));
        self.wire = match own.and_then(|own| client(&self.stock(), own)) {
            Some(tls) => Wire::Tls(tls),
            None if are_bare(pods) => Wire::Plain,
            None => Wire::Unknown,
        };
        self.made_of = made_of;
    }
}

/// The operator's side of a connection to nodes that have what is in stock.
pub fn client(stock: &Stock, own: &Fingerprint) -> Option<valkey::Tls> {
    let authorities: Vec<_> = stock.authorities.values().map(|a| a.der.clone()).collect();
    let leaves: Vec<_> = stock.leaves.values().filter_map(|l| l.chain.first().cloned()).collect();
    let names: Vec<String> = stock.leaves.values().flat_map(|l| l.names.clone()).collect();
    let leaf = stock.leaves.get(own)?;
    match valkey::Tls::new(&authorities, &leaves, &names, (&leaf.chain, &leaf.key)) {
        Ok(tls) => Some(tls),
        Err(why) => {
            tracing::warn!(why, "certificates that were checked cannot be used");
            None
        }
    }
}

/// What is asked for now: a cluster that runs in plain text goes on so, and is repaired so, until the certificate that its spec names can
/// be used. No member is made that could not be told from one with a good certificate.
pub fn as_it_is(desired: Desired, pods: &BTreeMap<PodName, Pod>, hints: &Mutex<Hints>) -> Desired {
    let mut desired = desired;
    if are_bare(pods) && lock(hints).secured.source.as_ref().is_none_or(|s| s.held.is_err()) {
        desired.template.tls = None;
    }
    desired
}

/// It has Pods, and none of them was made with certificates.
fn are_bare(pods: &BTreeMap<PodName, Pod>) -> bool {
    !pods.is_empty() && pods.values().all(|p| !p.encrypted)
}

/// Some of it speaks TLS, or is to.
fn concerned(desired: &Desired, pods: &BTreeMap<PodName, Pod>) -> bool {
    desired.template.tls.is_some() || pods.values().any(|p| p.encrypted)
}

/// Who is spoken to otherwise than by TLS at the usual port. A Pod without certificates can speak nothing but plain text: that is what the API server
/// says of it, so that nobody on the way can make the operator show its password to a Pod that has some.
fn ways(desired: &Desired, pods: &BTreeMap<PodName, Pod>, aside: &BTreeMap<PodUid, bool>) -> Ways {
    let on_the_way = desired.template.tls.is_none() || pods.values().any(|p| !p.encrypted);
    let running = || pods.values().filter(|p| p.phase == Phase::Running);
    let can: BTreeSet<IpAddr> = running().filter(|p| p.encrypted).filter_map(|p| p.ip).collect();
    let bare = running().filter(|p| !p.encrypted).filter_map(|p| p.ip).filter(|ip| !can.contains(ip));
    let first = |p: &Pod| match aside.get(&p.uid) {
        // One that was heard at the usual port, and that nobody switches, is not looked for elsewhere.
        Some(false) if !on_the_way => None,
        heard => Some(on_the_way || heard == Some(&true)),
    };
    Ways {
        bare: bare.collect(),
        aside: running().filter(|p| p.encrypted).filter_map(|p| Some((p.ip?, first(p)?))).collect(),
    }
}

/// Where each was heard, for the next look.
pub fn heard(
    pods: &BTreeMap<PodName, Pod>,
    nodes: &BTreeMap<PodUid, Seen<NodeReport>>,
    hints: &Mutex<Hints>,
) {
    let aside = &mut lock(hints).secured.aside;
    aside.retain(|uid, _| nodes.contains_key(uid));
    for pod in pods.values().filter(|p| p.encrypted) {
        if let Some(node) = nodes.get(&pod.uid).and_then(Seen::now) {
            aside.insert(pod.uid.clone(), Mode::of(node) != Some(Mode::Tls));
        }
    }
}

/// Makes sure that it is known how to speak to the nodes; reads only when nothing is remembered.
pub async fn prepare(
    ctx: &Ctx,
    desired: &Desired,
    pods: &BTreeMap<PodName, Pod>,
    now: Moment,
    hints: &Mutex<Hints>,
) -> Result<()> {
    if !concerned(desired, pods) {
        let secured = &mut lock(hints).secured;
        (secured.wire, secured.ways) = (Wire::Plain, Ways::default());
        return Ok(());
    }
    if !matches!(lock(hints).secured.wire, Wire::Tls(_)) {
        read_given(ctx, desired, hints).await?;
        read_source(ctx, desired, now, hints).await?;
        lock(hints).secured.connect(pods);
    }
    let secured = &mut lock(hints).secured;
    secured.ways = ways(desired, pods, &secured.aside);
    Ok(())
}

/// Reads again what may have changed.
pub async fn refresh(
    ctx: &Ctx,
    desired: &Desired,
    pods: &BTreeMap<PodName, Pod>,
    now: Moment,
    hints: &Mutex<Hints>,
) {
    if !concerned(desired, pods) {
        return;
    }
    let name = labels::certificates_name(&desired.key.name);
    let shown = ctx.secret_meta(&desired.key.namespace, &name).and_then(|s| s.resource_version());
    let known = lock(hints).secured.version().map(str::to_owned);
    let given = if shown == known { Ok(()) } else { read_given(ctx, desired, hints).await };
    let source = read_source(ctx, desired, now, hints).await;
    for error in [given, source].into_iter().filter_map(std::result::Result::err) {
        tracing::warn!(cluster = desired.key.name, %error, "certificates could not be read again");
    }
    lock(hints).secured.connect(pods);
}

/// What the planner may know; none of a cluster without TLS.
pub fn certificates(
    desired: &Desired,
    pods: &BTreeMap<PodName, Pod>,
    hints: &Mutex<Hints>,
) -> Option<Certificates> {
    concerned(desired, pods).then(|| lock(hints).secured.shown())
}

async fn read_given(ctx: &Ctx, desired: &Desired, hints: &Mutex<Hints>) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(ctx.clients.api.clone(), &desired.key.namespace);
    let live = api.get_opt(&labels::certificates_name(&desired.key.name)).await?;
    let mut h = lock(hints);
    match live {
        Some(secret) => h.secured.see(&secret, &desired.key),
        // What it held is still what the nodes have.
        None => {
            if let Some(read) = &mut h.secured.given {
                read.version = None;
            }
        }
    }
    Ok(())
}

async fn read_source(ctx: &Ctx, desired: &Desired, now: Moment, hints: &Mutex<Hints>) -> Result<()> {
    let Some(name) = desired.template.tls.as_ref().and_then(|t| t.secret.clone()) else {
        lock(hints).secured.source = None;
        return Ok(());
    };
    // The watch tells of it without its contents.
    let shown = ctx.secret_meta(&desired.key.namespace, &name).and_then(|s| s.resource_version());
    let fresh = |s: &Source| s.name == name && s.version == shown && now.since(s.at) < AGAIN_MS;
    if lock(hints).secured.source.as_ref().is_some_and(fresh) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.clients.api.clone(), &desired.key.namespace);
    let live = api.get_opt(&name).await?;
    let version = live.as_ref().and_then(ResourceExt::resource_version);
    let held = match live {
        Some(secret) => certificate::wanted(&secret, now),
        None => Err(format!(
            "there is no Secret {name} in this namespace: create it with ca.crt, tls.crt and tls.key, or correct spec.networking.tls"
        )),
    };
    lock(hints).secured.source = Some(Source { at: now, name, version, held });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Revision, Shard, Tls};

    fn pod(name: &str, ip: &str, encrypted: bool) -> (PodName, Pod) {
        let pod = Pod {
            ip: ip.parse().ok(),
            phase: Phase::Running,
            encrypted,
            ..Pod::new(PodName::new(name), PodUid::new(name), (Shard(0), 0), Revision::new("r"))
        };
        (pod.name.clone(), pod)
    }

    fn asks_for(tls: bool) -> Desired {
        let mut desired = Desired::default();
        desired.template.tls =
            tls.then_some(Tls { secret: None, client_auth: crate::model::ClientAuth::Optional });
        desired
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn plain_text_is_for_pods_that_were_made_without_certificates() {
        let pods = BTreeMap::from([
            pod("a", "10.0.0.1", false),
            pod("b", "10.0.0.2", true),
            // An address that has changed hands belongs to the one that can.
            pod("c", "10.0.0.2", false),
        ]);
        let found = ways(&asks_for(true), &pods, &BTreeMap::new());
        assert_eq!(found.bare, BTreeSet::from([ip("10.0.0.1")]));
        assert_eq!(found.aside, BTreeMap::from([(ip("10.0.0.2"), true)]));
    }

    #[test]
    fn a_settled_cluster_is_asked_at_one_port() {
        let pods = BTreeMap::from([
            pod("a", "10.0.0.1", true),
            pod("b", "10.0.0.2", true),
            pod("c", "10.0.0.3", true),
        ]);
        let heard = BTreeMap::from([(PodUid::new("a"), false), (PodUid::new("b"), true)]);
        let found = ways(&asks_for(true), &pods, &heard);
        // Of the third nothing is known: the operator has just started.
        assert_eq!(found.aside, BTreeMap::from([(ip("10.0.0.2"), true), (ip("10.0.0.3"), false)]));
        let found = ways(&asks_for(false), &pods, &heard);
        assert_eq!(found.aside.len(), 3, "they are being switched back");
    }

    #[test]
    fn a_cluster_in_plain_text_goes_on_so_until_its_certificate_can_be_used() {
        let pods = BTreeMap::from([pod("a", "10.0.0.1", false)]);
        let hints = Mutex::new(Hints::default());
        assert_eq!(as_it_is(asks_for(true), &pods, &hints).template.tls, None, "nothing is known of it yet");
        assert!(as_it_is(asks_for(true), &BTreeMap::new(), &hints).template.tls.is_some(), "a new one waits");
        let secured = &mut lock(&hints).secured;
        secured.connect(&pods);
        assert!(matches!(secured.wire, Wire::Plain), "its nodes are spoken to all the same");
        let encrypted = BTreeMap::from([pod("a", "10.0.0.1", true)]);
        for pods in [BTreeMap::new(), encrypted] {
            secured.connect(&pods);
            assert!(matches!(secured.wire, Wire::Unknown), "TLS is never taken back: {pods:?}");
        }
    }

    #[test]
    fn tls_is_never_taken_back() {
        let pods = BTreeMap::from([pod("a", "10.0.0.1", true)]);
        let hints = Mutex::new(Hints::default());
        assert!(as_it_is(asks_for(true), &pods, &hints).template.tls.is_some());
    }
}
