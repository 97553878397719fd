//! Decides what a person sees of a sandbox's state.
//!
//! May read it.

use std::collections::BTreeMap;
use std::fmt;

use tabled::builder::Builder;
use tabled::settings::Style;

use super::address::Worker;
use super::cluster::NodeState;
use super::instance::{Instance, Machine, Shape};
use super::{cluster, load, machine, network, relay};

/// A sandbox at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    name: String,
    kubeconfig: String,
    shape: Shape,
    control: Part,
    relay: Part,
    workers: Vec<WorkerStatus>,
    images: Vec<String>,
}

#[derive(Debug, Clone)]
struct WorkerStatus {
    worker: Worker,
    machine: &'static str,
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Ready,
    Running,
    Down,
}

impl Status {
    /// Whether everything is as `up` left it.
    pub fn is_whole(&self) -> bool {
        self.control == Part::Ready
            && self.relay != Part::Down
            && self.workers.iter().all(|worker| worker.machine == "up" && worker.why.is_none())
    }
}

/// Looks at everything once.
pub fn status(instance: &Instance, shape: &Shape) -> Status {
    let control = match (machine::is_running(instance, Machine::Control), cluster::is_ready(instance)) {
        (true, true) => Part::Ready,
        (true, false) => Part::Running,
        (false, _) => Part::Down,
    };
    let states = if control == Part::Ready {
        cluster::block_on(cluster::states(instance)).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    let workers: Vec<WorkerStatus> =
        Worker::first(shape.workers).map(|worker| worker_status(instance, worker, &states)).collect();
    let images = Worker::first(1).flat_map(|worker| load::known(instance, worker).into_keys()).collect();
    let relay = if relay::is_running(instance) { Part::Running } else { Part::Down };
    let kubeconfig = instance.kubeconfig().display().to_string();
    Status {
        name: instance.name().to_owned(),
        kubeconfig,
        shape: shape.clone(),
        control,
        relay,
        workers,
        images,
    }
}

fn worker_status(instance: &Instance, worker: Worker, states: &BTreeMap<String, NodeState>) -> WorkerStatus {
    let running = machine::is_running(instance, Machine::Worker(worker));
    let machine = match (running, network::is_plugged(instance, worker)) {
        (true, true) => "up",
        (true, false) => "cut",
        (false, _) => "lost",
    };
    let why = match states.get(&worker.to_string()) {
        Some(state) => state.why.clone(),
        None => Some("unknown to Kubernetes".to_owned()),
    };
    WorkerStatus { worker, machine, why }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |part| match part {
            Part::Ready => "ready",
            Part::Running => "running",
            Part::Down => "down",
        };
        writeln!(f, "sandbox {}: API server {}, relay {}", self.name, word(self.control), word(self.relay))?;
        writeln!(f, "kubeconfig {} (https://127.0.0.1:{})", self.kubeconfig, self.shape.port)?;
        let mut table = Builder::default();
        table.push_record(["WORKER", "ADDRESS", "MACHINE", "KUBERNETES", "ZONE"]);
        for WorkerStatus { worker, machine, why } in &self.workers {
            let zone = if self.shape.zones > 0 { worker.zone(self.shape.zones) } else { "-".to_owned() };
            let ready = why.as_ref().map_or_else(|| "Ready".to_owned(), |why| format!("not Ready: {why}"));
            let machine = (*machine).to_owned();
            table.push_record([worker.to_string(), worker.address().to_string(), machine, ready, zone]);
        }
        writeln!(f, "{}", table.build().with(Style::blank()))?;
        write!(f, "images: {}", self.images.join(" "))
    }
}
