//! What each event of a script is on real processes.

use std::collections::BTreeSet;

use kube::ResourceExt;
use valkey_cluster_operator::model::NodeId;
use valkey_cluster_operator::mutex::lock;
use valkey_cluster_operator::observe::kube as read;

use super::life::World;
use crate::sim::script::{Action, Who};

impl World {
    /// Lets it happen.
    pub(crate) async fn happen(&mut self, action: &Action) -> Result<(), String> {
        self.note(action);
        self.person.edit(action).await;
        match action {
            Action::Kill(who) => {
                let pod = self.find(who).await?;
                self.machines.kill(&pod.uid().into_iter().collect());
            }
            Action::KillShard(_) | Action::KillPrimaries(_) | Action::KillAll => {
                self.kill_all(action).await?;
            }
            Action::Delete(who) | Action::ForceDelete(who) => {
                let pod = self.find(who).await?;
                self.person.delete(&pod, matches!(action, Action::ForceDelete(_))).await;
            }
            Action::Cordon(w) => self.open(*w, false),
            Action::Uncordon(w) => self.open(*w, true),
            Action::Capacity(w, n) => {
                if let Some(machine) = self.machines.workers.get_mut(&worker(*w)) {
                    machine.room = *n;
                }
            }
            Action::Cut(w) => self.machines.silence(&worker(*w), false),
            Action::Heal(w) => self.machines.heal(&worker(*w)),
            Action::Power(w) => self.machines.silence(&worker(*w), true),
            Action::Boot(w) => self.machines.boot(&worker(*w)),
            Action::Shutdown(w) => self.machines.shut_down(&worker(*w)),
            Action::Fence(w) => {
                if let Some(machine) = self.machines.workers.get_mut(&worker(*w)) {
                    machine.fenced = true;
                }
            }
            Action::Vouch => self.vouch().await,
            Action::Operators(n) => self.operate(*n),
            Action::Crash(n) => lock(&self.mischief).crash_after = Some(*n),
            Action::Refuse(n) => lock(&self.mischief).refuse += n,
            Action::Lose(n) => lock(&self.mischief).lose += n,
            Action::Slow(n) => lock(&self.mischief).slow += n,
            Action::Rotate => self.person.rotate().await,
            Action::Certificate(leaf, authorities) => self.person.certify(leaf, authorities).await,
            Action::Drift => self.person.drift().await,
            Action::Shards(_)
            | Action::Replicas(_)
            | Action::Image(_)
            | Action::Config(..)
            | Action::Paused(_)
            | Action::Purge(_)
            | Action::Disrupted(_)
            | Action::User(..) => {}
            Action::Hide(w) => self.hide(*w, true),
            Action::Show(w) => self.hide(*w, false),
            Action::Api(back) => {
                lock(&self.mischief).api_away = !back;
                self.api.cut_watches();
            }
            Action::Stale(..) | Action::StalePods(..) | Action::Stranger => {
                return Err(format!("{action}: cannot be done to real processes"));
            }
        }
        Ok(())
    }

    /// All of these at one moment.
    async fn kill_all(&mut self, action: &Action) -> Result<(), String> {
        let mut doomed = BTreeSet::new();
        if let Action::KillPrimaries(n) = action {
            for shard in 0..*n {
                doomed.extend(self.find(&Who::Primary(shard)).await?.uid());
            }
        } else {
            let wanted = |shard| !matches!(action, Action::KillShard(s) if *s != shard);
            let pods = self.pods();
            let members = pods.iter().filter_map(read::pod);
            doomed.extend(members.filter(|p| wanted(p.shard.0)).map(|p| p.uid.to_string()));
        }
        self.machines.kill(&doomed);
        Ok(())
    }

    /// Cordoned or open again.
    fn open(&mut self, w: u16, open: bool) {
        if let Some(machine) = self.machines.workers.get_mut(&worker(w)) {
            machine.cordoned = !open;
        }
    }

    /// Whether the operators can reach it.
    fn hide(&mut self, w: u16, hidden: bool) {
        if let Some(machine) = self.machines.workers.get_mut(&worker(w)) {
            machine.hidden = hidden;
        }
    }

    /// All that somebody who lives lists, and that do not run.
    async fn vouch(&mut self) {
        let nodes = self.nodes().await;
        let live: BTreeSet<&NodeId> = nodes.values().map(|n| &n.id).collect();
        let listed: BTreeSet<&NodeId> = nodes.values().flat_map(|n| n.peers.keys()).collect();
        let dead: Vec<String> = listed.difference(&live).map(ToString::to_string).collect();
        self.person.vouch(&dead.join(",")).await;
    }
}

fn worker(n: u16) -> String {
    format!("w{n}")
}
