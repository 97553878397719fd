//! Decides the order in which a sandbox comes to life. Every step makes what is missing and leaves what is there, so
//! that `up` can be repeated at any time, after a crash too.
//!
//! May do everything that the modules that it calls may do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use super::address::{MOST_WORKERS, Worker};
use super::image::Archive;
use super::instance::{Instance, Machine, Shape};
use super::{
    addons, cgroup, cluster, control, golang, images, kubeconfig, load, machine, network, packages, pki,
    relay, sysctl, worker,
};
use crate::cache::Cache;
use crate::debs::valkey_roots;
use crate::progress::Progress;

/// The names under which the one program of Kubernetes is called.
const COMPONENTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// What a person may ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpOptions {
    /// How many workers; `None` = as many as there are, or three.
    pub workers: Option<u8>,
    /// In how many zones; `None` = as before, or none.
    pub zones: Option<u8>,
}

/// Makes the sandbox whole: from nothing, from what a crash left, or with more workers than before.
///
/// # Errors
/// If any step fails: the error says which, why, and where to look further. What is up already stays up.
pub(super) fn up(instance: &Instance, options: UpOptions, progress: &Progress) -> Result<Shape> {
    packages::ensure(progress)?;
    let _lock = instance.lock()?;
    let cache = Cache::open()?;
    let shape = decide(instance, options)?;
    let kube = kubernetes(&cache, progress)?;
    sysctl::save(instance)?;
    instance.set_shape(&shape)?;
    link_components(instance, &kube)?;
    pki::ensure(instance, shape.workers)?;
    kubeconfig::write_all(instance, shape.workers, shape.port)?;
    let step = progress.step("network");
    network::ensure(instance, shape.workers)?;
    step.done(format_args!("{} workers", shape.workers));
    let started = start(instance, &shape)?;
    let workers: Vec<Worker> = Worker::first(shape.workers).collect();
    std::thread::scope(|scope| {
        let api = scope.spawn(|| wait_for_api(instance, progress));
        // Kubelets wait for the API server and for these images.
        let fixed =
            images::fixed(&cache, progress).and_then(|fixed| supply(instance, &workers, &fixed, progress));
        api.join().unwrap_or_else(|_| bail!("the thread that waits for the API server died"))?;
        fixed
    })?;
    std::thread::scope(|scope| {
        let own = scope.spawn(|| supply(instance, &workers, &images::own(&cache, progress)?, progress));
        finish(instance, &shape, &started, progress)?;
        let own = own.join().unwrap_or_else(|_| bail!("the thread that builds the operator died"));
        own.context(
            "Kubernetes is up, but without this repository's programs: `cargo sandbox load` tries again",
        )
    })?;
    Ok(shape)
}

/// The program of Kubernetes. Valkey's packages are fetched meanwhile: one takes the processor, the other the line.
fn kubernetes(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    std::thread::scope(|scope| {
        let fetched = scope.spawn(|| valkey_roots(cache, progress));
        let kube = golang::build(&golang::KUBERNETES, cache, progress)?;
        fetched.join().unwrap_or_else(|_| bail!("the thread that fetches Valkey died"))?;
        Ok(kube)
    })
}

/// The shape that the options and what is there already lead to.
fn decide(instance: &Instance, options: UpOptions) -> Result<Shape> {
    let before = instance.shape()?;
    let workers = options.workers.or(before.as_ref().map(|shape| shape.workers)).unwrap_or(3);
    let zones = options.zones.or(before.as_ref().map(|shape| shape.zones)).unwrap_or(0);
    if !(1..=MOST_WORKERS).contains(&workers) {
        bail!("a sandbox has 1 to {MOST_WORKERS} workers, not {workers}");
    }
    if let Some(before) = &before
        && workers < before.workers
    {
        bail!(
            "the sandbox has {} workers and cannot shrink to {workers}: `sandbox down` first, or `sandbox kill` some",
            before.workers
        );
    }
    let port = match before {
        Some(before) => before.port,
        None => relay::free_port()?,
    };
    Ok(Shape { workers, zones, port })
}

fn link_components(instance: &Instance, kube: &Path) -> Result<()> {
    let bin = instance.path("bin");
    fs::create_dir_all(&bin)?;
    for name in COMPONENTS {
        let link = bin.join(name);
        if fs::read_link(&link).ok().as_deref() == Some(kube) {
            continue;
        }
        let half = bin.join(".half");
        // Left behind by a crash between the two next lines.
        let _ = fs::remove_file(&half);
        symlink(kube, &half)?;
        fs::rename(&half, &link)?;
    }
    Ok(())
}

/// Workers, and since when each runs if it was started just now.
type Started = Vec<(Worker, Option<Timestamp>)>;

/// Starts every machine that does not run, and the relay.
fn start(instance: &Instance, shape: &Shape) -> Result<Started> {
    if !machine::is_running(instance, Machine::Control) {
        match fs::remove_file(instance.api_ready()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        control::prepare(instance)?;
        machine::start(instance, Machine::Control, &control::description(instance))?;
    }
    relay::ensure(instance, shape)?;
    Worker::first(shape.workers).map(|worker| Ok((worker, start_worker(instance, worker)?))).collect()
}

/// Starts a worker's machine unless it runs, and plugs its cable in; says since when it runs if it did not before.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start_worker(instance: &Instance, worker: Worker) -> Result<Option<Timestamp>> {
    network::set_cable(instance, worker, true)?;
    if machine::is_running(instance, Machine::Worker(worker)) {
        return Ok(None);
    }
    cgroup::ensure(instance, worker)?;
    worker::prepare(instance, worker)?;
    let now = Timestamp::now();
    machine::start(instance, Machine::Worker(worker), &worker::description(instance, worker))?;
    Ok(Some(now))
}

fn wait_for_api(instance: &Instance, progress: &Progress) -> Result<()> {
    let step = progress.step("API server");
    cluster::wait_api(instance, &step)
        .map_err(|error| super::logs::with_tail(instance, &error, "ctl-kube-apiserver"))?;
    super::instance::write(&instance.api_ready(), b"")?;
    step.done("ready");
    Ok(())
}

fn supply(instance: &Instance, workers: &[Worker], archives: &[Archive], progress: &Progress) -> Result<()> {
    let step = progress.step("images");
    step.note("importing");
    let count = load::load(instance, workers, archives)?;
    step.done(format_args!("{} images, {count} imports", archives.len()));
    Ok(())
}

fn finish(
    instance: &Instance,
    shape: &Shape,
    workers: &[(Worker, Option<Timestamp>)],
    progress: &Progress,
) -> Result<()> {
    let step = progress.step("workers");
    cluster::wait_workers(instance, workers, &step)
        .map_err(|error| super::logs::with_tail(instance, &error, &late_worker(instance, workers)))?;
    cluster::set_zones(instance, shape)?;
    step.done(format_args!("{} Ready", workers.len()));
    let step = progress.step("name service");
    cluster::wait_default_account(instance, &step)
        .map_err(|error| super::logs::with_tail(instance, &error, "ctl-kube-controller-manager"))?;
    addons::apply(instance)?;
    cluster::wait_dns(instance, shape.workers, &step).context(
        "see `sandbox kubectl -n kube-system get pods` and `sandbox kubectl -n kube-system get events`",
    )?;
    step.done("");
    Ok(())
}

/// The log of the first kubelet that is not Ready.
fn late_worker(instance: &Instance, workers: &[(Worker, Option<Timestamp>)]) -> String {
    let states = cluster::block_on(cluster::states(instance)).unwrap_or_default();
    let ready = |worker: &Worker| states.get(&worker.to_string()).is_some_and(|state| state.why.is_none());
    let late = workers.iter().find(|(worker, _)| !ready(worker));
    late.map_or_else(|| "w1-kubelet".to_owned(), |(worker, _)| format!("{worker}-kubelet"))
}
