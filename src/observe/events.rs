//! Why a Pod does not start, when Kubernetes says so only in an Event (a memory limit too small to start with, a missing volume).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;

use crate::context::Ctx;
use crate::model::{Moment, Phase, Pod, PodName, Trouble};

/// A Pod that has not started after this many milliseconds is looked at more closely.
const SLOW_START_MS: i64 = 10_000;

/// Gives Pods that do not start, and do not say why, their newest Warning event. A failed read says nothing.
pub(super) async fn explain(ctx: &Ctx, namespace: &str, now: Moment, pods: &mut BTreeMap<PodName, Pod>) {
    let slow = |p: &Pod| {
        p.phase == Phase::Pending
            && !p.terminating
            && p.trouble.is_none()
            && now.since(p.created) > SLOW_START_MS
    };
    for pod in pods.values_mut().filter(|p| slow(p)) {
        pod.trouble = newest_warning(ctx, namespace, pod).await.or_else(|| {
            Some(Trouble {
                reason: "SlowStart".to_owned(),
                message: "it has not started after 10 s".to_owned(),
            })
        });
    }
}

async fn newest_warning(ctx: &Ctx, namespace: &str, pod: &Pod) -> Option<Trouble> {
    let api: Api<Event> = Api::namespaced(ctx.clients.api.clone(), namespace);
    let about = format!("involvedObject.uid={},type=Warning", pod.uid);
    let events = match api.list(&ListParams::default().fields(&about)).await {
        Ok(list) => list.items,
        Err(error) => {
            tracing::debug!(%error, pod = %pod.name, "events cannot be read");
            return None;
        }
    };
    let time = |e: &Event| e.last_timestamp.as_ref().map(|t| t.0).or(e.event_time.as_ref().map(|t| t.0));
    let newest = events.into_iter().max_by_key(time)?;
    Some(Trouble { reason: newest.reason.unwrap_or_default(), message: newest.message.unwrap_or_default() })
}
