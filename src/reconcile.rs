//! The pipeline: observe → plan → execute → report. One pass over one cluster; nothing of it is remembered but hints.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::api::{self, ValkeyCluster};
use crate::context::Ctx;
use crate::ending;
use crate::error::{Error, Result};
use crate::execute::execute;
use crate::hints::Hints;
use crate::model::{Code, Desired, Done, Outcome, Plan, Stage, Step, Waiting};
use crate::mutex::lock;
use crate::observe::observe;
use crate::plan::plan;
use crate::publish;
use crate::report::report;
use crate::standby;
use crate::telemetry::metrics::Part;
use crate::watch::wakes::key_of;

/// One pass.
pub async fn reconcile(cr: Arc<ValkeyCluster>, ctx: Arc<Ctx>) -> Result<Action> {
    let uid = cr.uid().ok_or(Error::Incomplete("metadata.uid"))?;
    let hints = ctx.hints.of(&uid);
    if let Some(rest) = rest(&cr, &ctx, &hints) {
        return Ok(Action::requeue(rest));
    }
    ending::tell_pods(&ctx, &cr, &hints).await?;
    let desired = match api::desired(&cr) {
        Ok(desired) => Desired { deleting: desired.deleting || lock(&hints).ending, ..desired },
        Err(sentence) => return publish::refused(&ctx, &cr, &sentence).await,
    };
    lock(&hints).see_generation(desired.generation);

    let began = Instant::now();
    let snapshot = observe(&ctx, &cr, desired, &hints).await?;
    publish::keep_links(&ctx, &snapshot, &hints);
    publish::count_moves(&ctx, &snapshot, &hints);
    let observed = Instant::now();
    let mut plan = plan(&snapshot, &lock(&hints).attempts);
    let standing = ctx.leadership.standing();
    let held = standby::restrict(&mut plan, standing, &lock(&hints).past, snapshot.now);
    let repeats = publish::log(&plan, &hints);
    let planned = Instant::now();
    let done = execute(&ctx, &snapshot, &plan, &hints).await;
    ctx.metrics.part_took(Part::Observe, observed - began);
    ctx.metrics.part_took(Part::Plan, planned - observed);
    ctx.metrics.part_took(Part::Execute, planned.elapsed());

    let previous = lock(&hints).status.clone().or_else(|| cr.status.clone());
    let report = report(&snapshot, &plan, &done, previous.as_ref());
    publish::publish(&ctx, &cr, &plan, &done, report, previous, &hints).await?;
    Ok(Action::requeue(standby::pause(standing, held, look_again(&plan, &done, repeats))))
}

/// For how long a process that does not lead leaves this cluster alone.
fn rest(cr: &ValkeyCluster, ctx: &Ctx, hints: &Mutex<Hints>) -> Option<Duration> {
    let (began, losses) = (Instant::now(), key_of(cr).map_or(0, |key| ctx.links.losses(&key)));
    let mut h = lock(hints);
    let missing = h.past.headless.is_some() || h.looked.is_some_and(|(_, before)| before != losses);
    let rest = standby::rest(ctx.leadership.standing(), h.looked.map(|(at, _)| began - at), missing);
    if rest.is_none() {
        h.looked = Some((began, losses));
    }
    rest
}

/// How soon to look again. Watches and links wake the pass at once; this is for what they cannot see.
fn look_again(plan: &Plan, done: &[Done], repeats: u32) -> Duration {
    let acted = done.iter().any(|d| {
        d.outcome == Outcome::Done
            && !matches!(
                d.proposal.step,
                Step::SetGate { .. }
                    | Step::SetRole { .. }
                    | Step::SetApart { .. }
                    | Step::SetMetadata { .. }
                    | Step::Migrate { .. }
            )
    });
    let soonest = plan.waiting.iter().map(patience).min();
    match (acted, soonest) {
        (true, _) => Duration::from_millis(20),
        (false, Some(wait)) => (wait * (1 << (repeats / PATIENT).min(8))).min(SLOWEST),
        (false, None) if !done.is_empty() => Duration::from_millis(500),
        (false, None) if plan.blocked.iter().any(|b| b.code != Code::Paused) => Duration::from_secs(2),
        (false, None) => settled(),
    }
}

/// After this many passes in a row that waited for the same things, the pause between them is doubled.
const PATIENT: u32 = 50;

/// The longest pause of a pass that waits for something.
const SLOWEST: Duration = Duration::from_secs(2);

/// Valkey's own progress is only seen by asking; Pods wake the pass by themselves.
fn patience(w: &Waiting) -> Duration {
    Duration::from_millis(match w.stage {
        Stage::Electing => 30,
        Stage::HandingOver | Stage::MovingSlots | Stage::DroppingKeys => 50,
        Stage::JoiningNodes | Stage::Agreeing | Stage::AssigningSlots | Stage::SwitchingTls => 100,
        Stage::Syncing | Stage::RemovingPods => 200,
        Stage::AddingPods => 250,
        Stage::LoadingCertificates => 500,
    })
}

/// The safety net of a settled cluster, spread so that many clusters do not look at one moment.
fn settled() -> Duration {
    Duration::from_millis(rand::random_range(20_000..40_000))
}
