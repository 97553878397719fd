//! A brief look at real servers shows what a whole one does.

use std::collections::BTreeSet;

use super::*;
use crate::model::{Looks, Moment, Sampling, Shards};
use crate::observe::brief::{Around, Asking, observe};
use crate::valkey::Kept;

/// What must be the same: all but clocks, offsets and what changes by the moment.
fn essence(n: &NodeReport) -> NodeReport {
    let role = match &n.role {
        Role::Replica { of, link } => {
            Role::Replica { of: of.clone(), link: crate::model::Link { offset: 0, ..*link } }
        }
        primary @ Role::Primary { .. } => primary.clone(),
    };
    let peers = n.peers.iter().map(|(id, p)| (id.clone(), p.clone())).collect();
    NodeReport { role, peers, uptime_ms: 0, memory: None, ..n.clone() }
}

pub(super) async fn shows_what_a_whole_one_does(w: &World) {
    let uid = |i: usize| PodUid::new(i.to_string());
    let probes: Vec<Probe> = w
        .servers
        .iter()
        .enumerate()
        .map(|(i, s)| Probe { uid: uid(i), addr: s.addr(), silent: false })
        .collect();
    let (mut looks, kept) = (Looks::default(), Kept::default());
    let asking = Asking {
        settings: &["cluster-node-timeout".to_owned(), RETIRED.to_owned()],
        access: &w.executor.access,
        connector: w.executor.connector.as_ref(),
        kept: &kept,
        bounds: Bounds::default(),
        sampling: Sampling { above: 1, owners: 1, others: 0 },
        memory: true,
    };
    let around = Around { now: Moment(0), shards: &Shards::default(), long_silent: &BTreeSet::new() };
    let begun = Instant::now();
    loop {
        let seen = observe(&probes, &mut looks, &around, &asking).await;
        let brief: Vec<NodeReport> = seen.into_values().filter_map(|s| s.now().cloned()).collect();
        let whole = w.until("all answer", |n| n.len() == probes.len()).await;
        let inferred = brief.iter().filter(|n| n.peers.is_inferred()).count();
        let same = brief.iter().map(essence).eq(whole.iter().map(essence));
        if inferred + 1 == probes.len() && same {
            assert_eq!(kept.len(), probes.len());
            return;
        }
        // Gossip may still be on its way.
        assert!(begun.elapsed() < Duration::from_secs(20), "{inferred} inferred, {brief:#?} {whole:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
