//! What a life ends in, said in the same words of both worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use valkey_cluster_operator::build::labels;
use valkey_cluster_operator::model::{NodeId, NodeReport, Role};
use valkey_cluster_operator::observe::kube as read;

use crate::sim::script::{Action, Script};
use crate::sim::world::World;

/// One member.
struct Member {
    shard: u16,
    worker: String,
    ready: bool,
    role_label: bool,
    /// None: no process that answers.
    node: Option<Node>,
}

struct Node {
    id: NodeId,
    version: String,
    slots: u16,
    /// In sync with the node of this id.
    copies: Option<NodeId>,
    leads: bool,
    lists: BTreeSet<NodeId>,
    settings: BTreeMap<String, String>,
    users: BTreeSet<String>,
}

/// The settings that are looked at: those of the script, and those that the operator changes for a while.
pub(crate) fn settings_of(script: &Script) -> Vec<String> {
    let named = script.events.iter().filter_map(|(_, action)| match action {
        Action::Config(key, _) => Some(key.clone()),
        _ => None,
    });
    let own = ["cluster-node-timeout", "cluster-replica-no-failover"].map(str::to_owned);
    let all: BTreeSet<String> = named.chain(own).collect();
    all.into_iter().collect()
}

/// The end in the simulated world.
pub(crate) fn simulated(script: &Script, world: &World) -> String {
    let asked = settings_of(script);
    let node = |o: &crate::sim::kubernetes::PodObject| {
        let n = world.process(&o.pod.name)?;
        let settings = asked.iter().filter_map(|k| Some((k.clone(), n.config.get(k)?.clone()))).collect();
        Some(Node {
            id: n.id.clone(),
            version: n.version.to_string(),
            slots: n.slots.len(),
            copies: n.of.clone().filter(|of| n.repl.up && n.repl.partner.as_ref() == Some(of)),
            leads: n.leads(),
            lists: n.view.keys().cloned().collect(),
            settings,
            users: n.users.keys().cloned().collect(),
        })
    };
    let member = |o: &crate::sim::kubernetes::PodObject| Member {
        shard: o.pod.shard.0,
        worker: o.pod.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
        ready: o.pod.gate == Some(true),
        role_label: o.pod.leads,
        node: node(o),
    };
    told(script, &world.kube.pods.values().map(member).collect::<Vec<_>>())
}

/// The end of real processes, by what their own Pods and they themselves say.
pub(crate) fn real(script: &Script, pods: &[Pod], reports: &BTreeMap<String, NodeReport>) -> String {
    let node = |n: &NodeReport| Node {
        id: n.id.clone(),
        version: n.version.to_string(),
        slots: n.slots().len(),
        copies: match &n.role {
            Role::Replica { of, link } if link.in_sync() => Some(of.clone()),
            _ => None,
        },
        leads: !n.slots().is_empty(),
        lists: n.peers.keys().cloned().collect(),
        settings: n.config.clone(),
        users: n.users.iter().flat_map(|users| users.keys().cloned()).collect(),
    };
    let member = |p: &Pod| {
        let pod = read::pod(p)?;
        Some(Member {
            shard: pod.shard.0,
            worker: pod.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
            ready: pod.gate == Some(true),
            role_label: p.labels().get(labels::ROLE).is_some_and(|r| r == labels::PRIMARY),
            node: reports.get(&p.uid()?).map(node),
        })
    };
    told(script, &pods.iter().filter_map(member).collect::<Vec<_>>())
}

fn told(script: &Script, members: &[Member]) -> String {
    let mut out = String::new();
    let shards: BTreeSet<u16> = members.iter().map(|m| m.shard).collect();
    for shard in shards {
        let all: Vec<&Member> = members.iter().filter(|m| m.shard == shard).collect();
        out.push_str(&of_shard(shard, &all, script.start.strict));
    }
    let nodes: Vec<&Node> = members.iter().filter_map(|m| m.node.as_ref()).collect();
    // Which shard has the one slot more depends on the order of what happened.
    let mut slots: Vec<u16> = nodes.iter().map(|n| n.slots).filter(|n| *n > 0).collect();
    slots.sort_unstable();
    let _ = writeln!(out, "slots: {slots:?}");
    let ids: BTreeSet<&NodeId> = nodes.iter().map(|n| &n.id).collect();
    let knows_all = |n: &&&Node| n.lists.iter().chain([&n.id]).collect::<BTreeSet<_>>() == ids;
    let _ = writeln!(
        out,
        "{} of {} nodes know all others and nobody else",
        nodes.iter().filter(knows_all).count(),
        nodes.len()
    );
    for key in settings_of(script) {
        let values: BTreeSet<&str> =
            nodes.iter().map(|n| n.settings.get(&key).map_or("?", String::as_str)).collect();
        let _ = writeln!(out, "{key}: {values:?}");
    }
    let given = |name: &&String| !name.starts_with('_') && *name != "default";
    let users: BTreeSet<Vec<&String>> =
        nodes.iter().map(|n| n.users.iter().filter(given).collect()).collect();
    let _ = writeln!(out, "users: {users:?}");
    let versions: BTreeSet<&String> = nodes.iter().map(|n| &n.version).collect();
    let _ = writeln!(out, "versions: {versions:?}");
    out
}

fn of_shard(shard: u16, members: &[&Member], strict: bool) -> String {
    let leads = |m: &&&Member| m.node.as_ref().is_some_and(|n| n.leads);
    let leader = members.iter().find(leads).and_then(|m| m.node.as_ref());
    let copies = |m: &&&Member| {
        m.node.as_ref().and_then(|n| n.copies.as_ref()).is_some_and(|of| leader.is_some_and(|l| l.id == *of))
    };
    let right = |m: &&&Member| m.role_label == m.node.as_ref().is_some_and(|n| n.leads);
    let workers: BTreeSet<&String> = members.iter().map(|m| &m.worker).collect();
    let apart = if strict { format!(", on {} workers", workers.len()) } else { String::new() };
    format!(
        "shard {shard}: {} Pods, {} ready, {} labelled right, {} leads, {} in sync{apart}\n",
        members.len(),
        members.iter().filter(|m| m.ready).count(),
        members.iter().filter(right).count(),
        members.iter().filter(leads).count(),
        members.iter().filter(copies).count(),
    )
}
