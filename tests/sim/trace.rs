//! The log of a life: what the world looks like, what was decided and why, what became of it.

use std::fmt::Write as _;

use valkey_cluster_operator::model::{Outcome, Phase};

use super::operator::Pass;
use super::world::World;

/// Lines, kept only when somebody will read them.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Trace {
    pub on: bool,
    pub text: String,
    last_state: String,
    last_pass: String,
}

impl Trace {
    pub(crate) fn on() -> Self {
        Self { on: true, ..Self::default() }
    }
}

impl World {
    /// Something that a person or the environment does.
    pub(crate) fn note(&mut self, what: &str) {
        if self.trace.on {
            let line = format!("{:>6} s  ** {what}\n", self.seconds());
            self.trace.text.push_str(&line);
        }
    }

    fn seconds(&self) -> String {
        format!("{}.{}", self.now / 10, self.now % 10)
    }

    /// Writes a pass down, when it says something new.
    pub(crate) fn note_pass(&mut self, number: usize, pass: &Pass) {
        if !self.trace.on {
            return;
        }
        let text = self.pass_text(number, pass);
        if text == self.trace.last_pass && pass.outcomes.is_empty() {
            return;
        }
        let state = self.state_text();
        let mut out = String::new();
        let _ = if state == self.trace.last_state {
            writeln!(out, "{:>6} s", self.seconds())
        } else {
            writeln!(out, "{:>6} s  {state}", self.seconds())
        };
        out.push_str(&text);
        self.trace.text.push_str(&out);
        (self.trace.last_state, self.trace.last_pass) = (state, text);
    }

    fn pass_text(&self, number: usize, pass: &Pass) -> String {
        let mut out = String::new();
        let who = if self.operators.len() > 1 { format!("[{}] ", number + 1) } else { String::new() };
        let old = if pass.fresh { "" } else { "(old facts) " };
        for (p, outcome) in &pass.outcomes {
            let _ = write!(out, "          {who}{old}{} | {:?}: {}", p.step, p.why, p.note);
            let _ = match outcome {
                Outcome::Done => writeln!(out),
                Outcome::Stale(why) => writeln!(out, " -> stale: {why}"),
                Outcome::Failed(why) => writeln!(out, " -> failed: {why}"),
            };
        }
        if pass.crashed {
            let _ = writeln!(out, "          {who}the operator dies");
        }
        for b in &pass.plan.blocked {
            let _ = writeln!(out, "          {who}blocked {:?} | {}", b.code, b.message);
        }
        for w in &pass.plan.waiting {
            let _ = writeln!(out, "          {who}waiting {:?} | {}", w.stage, w.message);
        }
        if pass.plan.quiet() && pass.plan.blocked.is_empty() {
            let _ = writeln!(out, "          {who}quiet");
        }
        out
    }

    /// One word a member: index@worker, and what it is.
    pub(crate) fn state_text(&self) -> String {
        let mut shards: std::collections::BTreeMap<u16, Vec<String>> = std::collections::BTreeMap::new();
        for object in self.kube.pods.values() {
            let pod = &object.pod;
            let worker = pod.worker.as_ref().map_or("?", |w| w.as_str());
            let mut word = format!("{}@{worker} ", pod.index);
            match pod.phase {
                Phase::Pending => word.push_str("pending"),
                Phase::Finished { .. } => word.push_str("ended"),
                Phase::Running => word.push_str(&self.node_text(&pod.name)),
            }
            if object.told_to_go() {
                word.push_str(" leaving");
            }
            shards.entry(pod.shard.0).or_default().push(word);
        }
        if shards.is_empty() {
            return "no Pods".to_owned();
        }
        let parts: Vec<String> = shards.into_iter().map(|(s, m)| format!("{s}: {}", m.join(", "))).collect();
        parts.join(" | ")
    }

    fn node_text(&self, name: &valkey_cluster_operator::model::PodName) -> String {
        let Some(node) = self.process(name) else { return "gone".to_owned() };
        let mut word = match &node.of {
            None if node.slots.is_empty() => "empty".to_owned(),
            None => format!("PRIMARY {}", node.slots),
            Some(_) if node.repl.up => "replica".to_owned(),
            Some(_) if node.repl.sync_until.is_some() => "syncing".to_owned(),
            Some(_) => "unlinked".to_owned(),
        };
        if !node.admitted {
            word.push_str(" fenced");
        }
        if node.retiring() {
            word.push_str(" retired");
        }
        let _ = write!(word, " {}", node.id);
        word
    }
}
