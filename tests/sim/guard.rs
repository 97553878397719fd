//! The executor's guards: what each step reads again, from the present world, before its effect.

use valkey_cluster_operator::model::step::Removable;
use valkey_cluster_operator::model::{Desired, NodeId, Phase, PodName, PodUid, Shard, Target};

use super::valkey::Node;
use super::world::World;

/// Nothing was done, because this is not true any more.
pub(crate) type Stale = String;

impl World {
    /// The process behind a target answers, with the id that was recorded.
    pub(crate) fn identity(&self, on: &Target) -> Result<&Node, Stale> {
        match self.valkey.listening(on.ip, None) {
            Some(node) if node.id == on.node && node.cluster == 0 => Ok(node),
            Some(_) => Err(format!("another node answers at the address of {}", on.pod)),
            None => Err(format!("{} does not answer", on.pod)),
        }
    }

    pub(crate) fn may_set_epoch(&self, on: &Target) -> Result<(), Stale> {
        let node = self.identity(on)?;
        let fresh = node.view.is_empty() && node.epoch == 0;
        fresh.then_some(()).ok_or_else(|| format!("{} knows others or has an epoch already", on.pod))
    }

    pub(crate) fn may_assign(&self, on: &Target) -> Result<(), Stale> {
        let node = self.identity(on)?;
        let empty = node.data.is_empty() && node.of.is_none();
        empty.then_some(()).ok_or_else(|| format!("{} holds keys or copies another node", on.pod))
    }

    /// A node that knows somebody is only introduced to one that knows nobody, or with which it shares a known node.
    pub(crate) fn may_meet(&self, on: &Target, with: &Target) -> Result<(), Stale> {
        let (a, b) = (self.identity(on)?, self.identity(with)?);
        let real = |n: &Node| {
            n.view.iter().filter(|(_, e)| !e.handshake).map(|(i, _)| i.clone()).collect::<Vec<_>>()
        };
        let (of_a, of_b) = (real(a), real(b));
        let share = of_a.iter().any(|i| *i == b.id || of_b.contains(i)) || of_b.contains(&a.id);
        (of_a.is_empty() || of_b.is_empty() || share)
            .then_some(())
            .ok_or_else(|| format!("{} and {} belong to different clusters", on.pod, with.pod))
    }

    pub(crate) fn may_replicate(&self, on: &Target, primary: &NodeId) -> Result<(), Stale> {
        let node = self.identity(on)?;
        if !node.slots.is_empty() {
            return Err(format!("{} owns slots", on.pod));
        }
        if !node.knows(primary) {
            return Err(format!("{} does not know {primary} yet", on.pod));
        }
        let present = node.of.as_ref().and_then(|p| node.view.get(p));
        if present.is_some_and(|e| !e.slots.is_empty()) && node.of.as_ref() != Some(primary) {
            return Err(format!("{} copies from a node that still owns slots", on.pod));
        }
        Ok(())
    }

    pub(crate) fn may_forget(&self, on: &Target, id: &NodeId) -> Result<(), Stale> {
        let node = self.identity(on)?;
        let owns = node.view.get(id).is_some_and(|e| !e.slots.is_empty());
        if (owns && self.resource.whole) || node.of.as_ref() == Some(id) {
            return Err(format!("{} lists {id} with slots or follows it", on.pod));
        }
        Ok(())
    }

    pub(crate) fn may_delete(
        &self,
        name: &PodName,
        uid: &PodUid,
        only_if: Removable,
        desired: &Desired,
    ) -> Result<(), Stale> {
        let object = self.kube.pods.get(name).filter(|o| o.pod.uid == *uid && !o.pod.terminating);
        let object = object.ok_or_else(|| format!("{name} is gone, or another Pod has the name"))?;
        let node = self.process(name).filter(|n| self.valkey.reach(&n.worker, None));
        let ok = match only_if {
            Removable::NotRunning => object.pod.phase != Phase::Running,
            Removable::Unused => {
                node.is_some_and(|n| n.view.is_empty() && n.slots.is_empty() && n.data.is_empty())
            }
            Removable::Retired => {
                let others = self.in_sync(object.pod.shard, Some(name));
                let left = others.iter().filter(|n| !self.valkey.nodes[*n].retiring()).count();
                node.is_some_and(|n| n.of.is_some() && n.retiring() && n.slots.is_empty())
                    && left >= usize::from(desired.replicas)
            }
        };
        ok.then_some(()).ok_or_else(|| format!("{name} is not {only_if:?} any more"))
    }

    /// The processes that hold all data of the shard's owner, its owner apart: the truth, not what is seen.
    pub(crate) fn in_sync(&self, shard: Shard, except: Option<&PodName>) -> Vec<NodeId> {
        let members = self.kube.pods.iter().filter(|(n, o)| o.pod.shard == shard && Some(*n) != except);
        let members: Vec<&Node> = members
            .filter(|(_, o)| !o.pod.terminating)
            .filter_map(|(_, o)| self.valkey.nodes.get(o.process.as_ref()?))
            .collect();
        let owner = self.kube.pods.values().filter(|o| o.pod.shard == shard);
        let mut owner =
            owner.filter_map(|o| self.valkey.nodes.get(o.process.as_ref()?)).filter(|n| n.leads());
        let Some(owner) = owner.next() else { return Vec::new() };
        let copies = members.iter().filter(|n| n.repl.up && n.repl.partner.as_ref() == Some(&owner.id));
        copies.map(|n| n.id.clone()).collect()
    }
}
