//! Reads certificates: the Secret that the spec names, and the one that the operator has given to the nodes.
//!
//! Asked for only when no slot owner is missing (a dead primary waits for no API server); a failure to read leaves what is
//! remembered, so that certificates never keep anything else from being done.

use std::collections::BTreeMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::build::certificate::{self, Stock};
use crate::build::{labels, tls};
use crate::context::Ctx;
use crate::error::Result;
use crate::hints::{Hints, lock};
use crate::model::{
    Certificates, ClientAuth, ClusterKey, Desired, Fingerprint, Given, Moment, Pod, PodName, Tls, Trust,
};
use crate::valkey;

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

    /// Makes the wire anew when what it is made of has changed.
    fn connect(&mut self) {
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

/// What a running cluster is, whatever the spec asks: TLS is decided when its first Pods are made, since nodes that speak it and
/// nodes that do not can neither copy from each other nor serve the same clients. With a sentence, when the spec asks otherwise.
pub fn as_it_is(desired: Desired, pods: &BTreeMap<PodName, Pod>) -> (Desired, Option<String>) {
    let mut desired = desired;
    let wanted = desired.template.tls.is_some();
    let Some(encrypted) = pods.values().map(|p| p.encrypted).reduce(|a, b| a || b).filter(|e| *e != wanted)
    else {
        return (desired, None);
    };
    let instead = "create another ValkeyCluster and move the clients there";
    let (tls, message) = if encrypted {
        (
            Some(Tls { secret: None, client_auth: ClientAuth::Optional }),
            format!(
                "spec.networking.tls cannot be taken from a running cluster, which goes on with TLS: write it again, or {instead}"
            ),
        )
    } else {
        (
            None,
            format!(
                "spec.networking.tls cannot be given to a running cluster, which goes on in plain text: remove it, or {instead}"
            ),
        )
    };
    desired.template.tls = tls;
    (desired, Some(message))
}

/// Makes sure that it is known how to speak to the nodes; reads only when nothing is remembered.
pub async fn prepare(ctx: &Ctx, desired: &Desired, now: Moment, hints: &Mutex<Hints>) -> Result<()> {
    if desired.template.tls.is_none() {
        lock(hints).secured.wire = Wire::Plain;
        return Ok(());
    }
    if !matches!(lock(hints).secured.wire, Wire::Tls(_)) {
        read_given(ctx, desired, hints).await?;
        read_source(ctx, desired, now, hints).await?;
        lock(hints).secured.connect();
    }
    Ok(())
}

/// Reads again what may have changed.
pub async fn refresh(ctx: &Ctx, desired: &Desired, now: Moment, hints: &Mutex<Hints>) {
    if desired.template.tls.is_none() {
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
    lock(hints).secured.connect();
}

/// What the planner may know; none of a cluster without TLS.
pub fn certificates(desired: &Desired, hints: &Mutex<Hints>) -> Option<Certificates> {
    desired.template.tls.is_some().then(|| lock(hints).secured.shown())
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
