//! Ghosts: a primary whose Pod object is gone (deleted by force) and that still answers hands its role over.
//!
//! A deleted object is no dead process: it serves for a few seconds more, in its preStop hook for minutes (both measured).
//! While it answers, a planned hand-over loses nothing; to wait for its end would cost its clients a crash. Never by force:
//! it lives. Afterwards it is a replica until it ends, and is forgotten then. The same while the cluster forms.

use super::evidence::{Absent, How, absent};
use super::forget::short;
use super::heir::winners;
use crate::model::view::in_sync_with;
use crate::model::{
    Member, NodeReport, Plan, PodName, PodUid, Proposal, Stage, Step, Target, View, Waiting, Why,
};

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if !v.s.formed {
        return plan;
    }
    for gone in absent(v).iter().filter(|gone| gone.how == How::Alive) {
        let Some(node) = v.s.ghosts.get(gone.id).and_then(crate::model::Seen::now) else { continue };
        match hand_over(v, gone, node) {
            Some(proposal) => plan.steps.push(proposal),
            None => plan.waiting.push(Waiting {
                shard: gone.shard(),
                stage: Stage::HandingOver,
                message: format!(
                    "node {} serves slots {} without a Pod, until a replica can take over",
                    short(gone.id),
                    gone.slots
                ),
            }),
        }
    }
    plan
}

fn hand_over(v: &View<'_>, gone: &Absent<'_, '_>, node: &NodeReport) -> Option<Proposal> {
    let ready = |m: &&Member<'_>| m.stays() && in_sync_with(m, node);
    let ready: Vec<&Member<'_>> = gone.heirs.iter().copied().filter(ready).collect();
    let on = winners(v, ready, node).first()?.target()?;
    // What it is called in logs; it has neither a name nor a UID any more.
    let pod = PodName::new(format!("node-{}", short(gone.id)));
    let from = Target { pod, uid: PodUid::new(""), shard: on.shard, node: gone.id.clone(), ip: gone.at? };
    let step = Step::HandOver { on, from };
    Some(Proposal::new(step, Why::Repair, "the primary serves without a Pod and will end"))
}
