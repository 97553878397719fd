//! Publishes what a pass has found: status, events, metrics, log. Writes only what has changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use crate::api::{ValkeyCluster, ValkeyClusterStatus};
use crate::build::labels;
use crate::context::Ctx;
use crate::error::Result;
use crate::hints::Hints;
use crate::lease::Standing;
use crate::model::step::Promotion;
use crate::model::{Done, Outcome, Phase, Plan, Snapshot, Step};
use crate::mutex::lock;
use crate::report::{EventNote, Report, refusal};
use crate::telemetry::ClusterGauges;

/// The object may have changed since it was read (most often by this operator itself): tries with a fresh version.
const STATUS_TRIES: usize = 3;

/// Publishes the report of a pass.
pub async fn publish(
    ctx: &Ctx,
    cr: &ValkeyCluster,
    plan: &Plan,
    done: &[Done],
    report: Report,
    previous: Option<ValkeyClusterStatus>,
    hints: &Mutex<Hints>,
) -> Result<()> {
    for d in done {
        let outcome = match &d.outcome {
            Outcome::Done => {
                count(ctx, cr, &d.proposal.step);
                "done"
            }
            Outcome::Stale(why) => {
                tracing::info!(step = %d.proposal.step, %why, "stale");
                "stale"
            }
            Outcome::Failed(error) => {
                tracing::warn!(step = %d.proposal.step, %error, "failed");
                "failed"
            }
        };
        ctx.metrics.step(d.proposal.step.kind(), &format!("{:?}", d.proposal.why), outcome);
    }
    if !speaks(ctx) {
        return Ok(());
    }
    ctx.metrics.show_cluster(&cr.namespace().unwrap_or_default(), &cr.name_any(), &gauges(plan, &report));
    if !ctx.leadership.valid_now() {
        return Ok(());
    }
    for note in &report.events {
        event(ctx, cr, note).await;
    }
    // Whether the record of dropped keys was written is not known then: the next look reads it, and this status would undo it.
    let unknown =
        |d: &Done| matches!((&d.proposal.step, &d.outcome), (Step::Purge { .. }, Outcome::Failed(_)));
    if done.iter().any(unknown) {
        return Ok(());
    }
    if previous.as_ref() == Some(&report.status) || status(ctx, cr, &report.status).await? {
        lock(hints).status = Some(report.status);
    }
    Ok(())
}

/// Whether this process tells of the clusters that it looks at. A sum over a leader and its standby would count everything twice.
fn speaks(ctx: &Ctx) -> bool {
    ctx.leadership.standing() != Standing::StandsBy
}

/// What a dashboard shows of deaths.
fn count(ctx: &Ctx, cr: &ValkeyCluster, step: &Step) {
    let (namespace, name) = (cr.namespace().unwrap_or_default(), cr.name_any());
    match step {
        Step::Promote { by: Promotion::Empty(_), .. } | Step::Restore { .. } => {
            ctx.metrics.shard_lost(&namespace, &name);
        }
        Step::Promote { .. } => ctx.metrics.failover_forced(&namespace, &name),
        Step::Purge { .. } => ctx.metrics.keys_purged(&namespace, &name),
        _ => {}
    }
}

fn gauges(plan: &Plan, report: &Report) -> ClusterGauges {
    let mut blocked = BTreeMap::new();
    for b in &plan.blocked {
        *blocked.entry(format!("{:?}", b.code)).or_default() += 1;
    }
    ClusterGauges {
        blocked,
        shards: report.gauges.shards.clone(),
        members: report.gauges.members.clone(),
        worker_spread: report.gauges.worker_spread,
        certificate_expires: report.gauges.certificate_expires,
    }
}

/// A spec that admission let through and that still cannot be planned for.
pub async fn refused(ctx: &Ctx, cr: &ValkeyCluster, sentence: &str) -> Result<Action> {
    let wanted = refusal(cr, sentence, ctx.clock.now());
    if cr.status.as_ref() != Some(&wanted) && ctx.leadership.valid_now() {
        status(ctx, cr, &wanted).await?;
    }
    Ok(Action::requeue(Duration::from_mins(1)))
}

/// Writes the status, bound to the object that was read: the UID in a status body is ignored by the API server, only the
/// resourceVersion is looked at (measured on 1.34.4), and a namesake must not inherit a latch. Says whether it was written.
async fn status(ctx: &Ctx, cr: &ValkeyCluster, wanted: &ValkeyClusterStatus) -> Result<bool> {
    let api: Api<ValkeyCluster> =
        Api::namespaced(ctx.clients.api.clone(), &cr.namespace().unwrap_or_default());
    let params = PatchParams::apply(labels::OPERATOR).force();
    let mut version = cr.resource_version();
    for _ in 0..STATUS_TRIES {
        let body = json!({
            "apiVersion": ValkeyCluster::api_version(&()),
            "kind": ValkeyCluster::kind(&()),
            "metadata": { "name": cr.name_any(), "resourceVersion": version },
            "status": wanted,
        });
        match api.patch_status(&cr.name_any(), &params, &Patch::Apply(&body)).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(s)) if s.is_not_found() => return Ok(false),
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                let live = api.get_metadata_opt(&cr.name_any()).await?;
                match live.filter(|l| l.uid() == cr.uid()) {
                    // What was found out about an older spec is not written over what a newer one has led to.
                    Some(l) if l.metadata.generation != cr.metadata.generation => return Ok(false),
                    Some(l) => version = l.resource_version(),
                    None => return Ok(false),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Somebody changes the object all the time: the next pass has another try.
    Ok(false)
}

/// Events are for people: one that cannot be written is not worth failing a pass.
async fn event(ctx: &Ctx, cr: &ValkeyCluster, note: &EventNote) {
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason.clone(),
        note: Some(note.note.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &cr.object_ref(&())).await {
        tracing::debug!(%error, reason = note.reason, "an event could not be written");
    }
}

/// Keeps a link to every running node, so that its death wakes the next pass at once.
pub fn keep_links(ctx: &Ctx, s: &Snapshot, hints: &Mutex<Hints>) {
    let Some(access) = lock(hints).access() else { return };
    let running = s.pods.values().filter(|p| p.phase == Phase::Running);
    let wanted: Vec<_> =
        running.filter_map(|p| Some((p.uid.clone(), SocketAddr::new(p.ip?, ctx.ports.client)))).collect();
    ctx.links.keep(&s.desired.key, &wanted, &access);
}

/// Counts what has moved since the look before.
pub fn count_moves(ctx: &Ctx, s: &Snapshot, hints: &Mutex<Hints>) {
    let moved = lock(hints).traffic.see(s);
    if speaks(ctx) {
        ctx.metrics.moved(&s.desired.key.namespace, &s.desired.key.name, &moved);
    }
}

/// The plan in its golden form, only when it differs from the last; what is merely awaited is for those who look closer.
/// Says how many passes in a row had this same plan.
pub fn log(plan: &Plan, hints: &Mutex<Hints>) -> u32 {
    let text = plan.to_string();
    let mut h = lock(hints);
    if h.plan == text {
        h.repeats = h.repeats.saturating_add(1);
    } else {
        h.repeats = 0;
        for line in text.lines() {
            if line.starts_with("waiting ") {
                tracing::debug!("{line}");
            } else {
                tracing::info!("{line}");
            }
        }
        h.plan = text;
    }
    h.repeats
}
