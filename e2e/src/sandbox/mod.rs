//! The sandbox: a real Kubernetes of several workers on one Linux machine, without a container engine.
//!
//! * `address`, `instance`: where everything is and how it is called; `pki`, `kubeconfig`: who is who
//! * `packages`, `golang`, `image`, `images`, `load`: what has to be there, and how it gets to the workers
//! * `network`, `cgroup`, `machine`, `init`, `procfs`: a machine is a set of namespaces with a first process
//! * `control`, `worker`, `relay`, `kubectl`, `addons`, `cluster`: the Kubernetes on these machines
//! * `up`, `down`, `fault`, `status`, `logs`: what a person does with it
//!
//! [`Sandbox`] is all of that for programs. Its functions block unless they are `async`.

pub mod address;
pub mod image;
pub mod images;
pub mod init;
pub mod instance;
pub mod logs;
pub mod status;

mod addons;
mod cgroup;
mod cluster;
mod control;
mod down;
mod fault;
mod golang;
mod kubeconfig;
mod kubectl;
mod load;
mod machine;
mod network;
mod packages;
mod pki;
mod procfs;
mod relay;
mod sysctl;
mod up;
mod wait;
mod worker;

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

pub use self::address::Worker;
pub use self::fault::{Container, Running};
use self::instance::{Instance, Machine, Shape};
pub use self::status::Status;
pub use self::up::UpOptions;
pub use self::wait::{wait_for, wait_shown};
use crate::cache::Cache;
use crate::command::output;
use crate::progress::Progress;

/// The name of the sandbox when none is given.
pub const DEFAULT_NAME: &str = "default";
/// No kubectl command of a program takes longer; one that watches is started by hand.
const KUBECTL: Duration = Duration::from_mins(5);
/// A pod that listens answers at once.
const CONNECT: Duration = Duration::from_secs(5);

/// A sandbox that is up.
#[derive(Debug, Clone)]
pub struct Sandbox {
    instance: Instance,
    shape: Shape,
}

impl Sandbox {
    /// Brings the sandbox of this name up, or makes the one that is there whole.
    ///
    /// # Errors
    /// If a step fails: the error says which and where to look.
    pub fn up(name: &str, options: UpOptions, progress: &Progress) -> Result<Self> {
        let instance = Instance::named(name)?;
        let shape = up::up(&instance, options, progress)?;
        Ok(Self { instance, shape })
    }

    /// The sandbox of this name as it is.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(name: &str) -> Result<Self> {
        packages::need_root()?;
        let instance = Instance::named(name)?;
        let shape = instance
            .shape()?
            .with_context(|| format!("there is no sandbox `{name}`: run `cargo sandbox up`"))?;
        Ok(Self { instance, shape })
    }

    /// Ends the sandbox of this name without a trace; says whether there was anything to end.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn down(name: &str, progress: &Progress) -> Result<bool> {
        packages::need_root()?;
        down::down(&Instance::named(name)?, progress)
    }

    /// What the kernel knows of the sandbox of this name, as short phrases: after `down`, nothing.
    ///
    /// # Errors
    /// If the name is none.
    pub fn traces(name: &str) -> Result<Vec<String>> {
        Ok(down::leftovers(&Instance::named(name)?))
    }

    /// Where it keeps its things.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How many workers and zones it has, and its port.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its workers.
    pub fn workers(&self) -> impl Iterator<Item = Worker> + Clone + use<> {
        Worker::first(self.shape.workers)
    }

    /// A client as administrator, over the relay on 127.0.0.1: no retries, no time-out on answers.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        cluster::client(&self.instance).await
    }

    /// The kubeconfig for any program on this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.instance.kubeconfig()
    }

    /// The API server's audit log: one JSON event a line, each request once, when it was answered.
    pub fn audit_log_path(&self) -> PathBuf {
        self.instance.audit_log()
    }

    /// Runs kubectl as administrator and returns what it prints.
    ///
    /// # Errors
    /// If it fails or takes longer than five minutes.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(arguments);
        let output = output(&mut command, KUBECTL, None)?;
        crate::command::checked(&command, &output)
    }

    /// kubectl as administrator, to be given arguments and run.
    pub fn kubectl_command(&self) -> Command {
        kubectl::command(&self.instance)
    }

    /// A command that runs in the control plane's network, whence every pod and worker can be reached by address.
    /// Files and process numbers are the host's; `down` ends what still runs there.
    pub fn command_in_control(&self, program: impl AsRef<OsStr>) -> Command {
        network::inside(&self.instance, Machine::Control, program)
    }

    /// A command that runs in a worker's network.
    pub fn command_in_worker(&self, worker: Worker, program: impl AsRef<OsStr>) -> Command {
        network::inside(&self.instance, Machine::Worker(worker), program)
    }

    /// Opens a connection to a pod or worker from inside the sandbox; the stream can be used anywhere.
    ///
    /// # Errors
    /// If the address does not answer within five seconds.
    pub async fn connect(&self, address: SocketAddr) -> Result<tokio::net::TcpStream> {
        let instance = self.instance.clone();
        let stream =
            tokio::task::spawn_blocking(move || relay::connect(&instance, address, CONNECT)).await??;
        stream.set_nonblocking(true)?;
        Ok(tokio::net::TcpStream::from_std(stream)?)
    }

    /// Makes the next pod of this worker get this address, if it is free.
    ///
    /// # Errors
    /// If the worker's allocator cannot be told.
    pub fn give_next(&self, worker: Worker, address: Ipv4Addr) -> Result<()> {
        fault::give_next(&self.instance, worker, address)
    }

    /// Builds the operator and the ledger and gives every running worker the images that it lacks; says how many
    /// imports that took.
    ///
    /// # Errors
    /// If a program does not compile or an import fails.
    pub fn load_images(&self, progress: &Progress) -> Result<usize> {
        let _lock = self.instance.lock()?;
        let cache = Cache::open()?;
        let mut archives = images::fixed(&cache, progress)?;
        archives.extend(images::own(&cache, progress)?);
        let running = |worker: &Worker| machine::is_running(&self.instance, Machine::Worker(*worker));
        let workers: Vec<Worker> = self.workers().filter(running).collect();
        let step = progress.step("import into the workers");
        let count = load::load(&self.instance, &workers, &archives)?;
        step.done(format_args!("{count} imports"));
        Ok(count)
    }

    /// Installs the metrics server, with which `kubectl top` and autoscalers work; it stays. Its first figures come after about
    /// half a minute.
    ///
    /// # Errors
    /// If it cannot be built, a worker cannot take its image, or the API server refuses it.
    pub fn install_metrics(&self, progress: &Progress) -> Result<()> {
        let _lock = self.instance.lock()?;
        let archive = images::metrics(&Cache::open()?, progress)?;
        let running = |worker: &Worker| machine::is_running(&self.instance, Machine::Worker(*worker));
        let workers: Vec<Worker> = self.workers().filter(running).collect();
        load::load(&self.instance, &workers, &[archive])?;
        addons::apply_metrics(&self.instance)
    }

    /// Pulls a worker's cable: its pods live on, and nobody hears of them.
    ///
    /// # Errors
    /// If there is no such worker.
    pub fn cut(&self, worker: Worker) -> Result<()> {
        network::set_cable(&self.instance, self.known(worker)?, false)
    }

    /// Plugs a worker's cable in again.
    ///
    /// # Errors
    /// If there is no such worker.
    pub fn heal(&self, worker: Worker) -> Result<()> {
        network::set_cable(&self.instance, self.known(worker)?, true)
    }

    /// Cuts a worker's power: it falls silent, and everything on it is gone.
    ///
    /// # Errors
    /// If there is no such worker, or a process outlives SIGKILL.
    pub fn kill(&self, worker: Worker) -> Result<()> {
        fault::kill(&self.instance, self.known(worker)?)
    }

    /// Gives a worker its power back and waits until it is Ready.
    ///
    /// # Errors
    /// If there is no such worker, or it is not Ready within two minutes.
    pub fn start(&self, worker: Worker, progress: &Progress) -> Result<()> {
        let worker = self.known(worker)?;
        let step = progress.step(&format!("worker {worker}"));
        fault::start(&self.instance, worker, &step)?;
        step.done("Ready");
        Ok(())
    }

    /// Sends a signal (`SIGKILL`, `SIGSTOP`, `SIGCONT`, …) to the first process of a container, as its worker's
    /// kernel would: no Kubernetes component knows of it beforehand.
    ///
    /// # Errors
    /// If the container does not run.
    pub async fn signal(&self, container: &Container<'_>, signal: Signal) -> Result<()> {
        self.signal_running(&self.find(container).await?, signal)
    }

    /// Finds a container, for signals at a moment when no API server may answer.
    ///
    /// # Errors
    /// If the container does not run.
    pub async fn find(&self, container: &Container<'_>) -> Result<Running> {
        fault::find(self.client().await?, container).await
    }

    /// [`Sandbox::signal`] to a container that was found before.
    ///
    /// # Errors
    /// If the container does not run any more.
    pub fn signal_running(&self, container: &Running, signal: Signal) -> Result<()> {
        fault::signal(container, signal)
    }

    /// Stops a component of the control plane (`kube-apiserver`, `etcd`, …) where it stands: it takes connections and
    /// answers nothing.
    ///
    /// # Errors
    /// If no such component runs.
    pub fn hang(&self, component: &str) -> Result<()> {
        fault::hang(&self.instance, component, true)
    }

    /// Lets a component go on that was stopped.
    ///
    /// # Errors
    /// If no such component runs.
    pub fn go_on(&self, component: &str) -> Result<()> {
        fault::hang(&self.instance, component, false)
    }

    /// Drops every packet from and to a pod: it lives on, its kubelet reports it, and no other pod hears of it.
    ///
    /// # Errors
    /// If there is no such worker.
    pub fn isolate(&self, worker: Worker, pod: IpAddr) -> Result<()> {
        fault::isolate(&self.instance, self.known(worker)?, (pod, None), true)
    }

    /// Lets the packets of a pod pass again.
    ///
    /// # Errors
    /// If it was not isolated.
    pub fn rejoin(&self, worker: Worker, pod: IpAddr) -> Result<()> {
        fault::isolate(&self.instance, self.known(worker)?, (pod, None), false)
    }

    /// Drops what a pod sends to this port of others, and what others send to it, or lets that pass again.
    ///
    /// # Errors
    /// If there is no such worker, or nothing to let pass.
    pub fn filter(&self, worker: Worker, pod: IpAddr, port: u16, drops: bool) -> Result<()> {
        fault::isolate(&self.instance, self.known(worker)?, (pod, Some(port)), drops)
    }

    /// The processor time that the containers of a Pod (by its UID) on a worker have used, in seconds, as the kernel
    /// counts it.
    ///
    /// # Errors
    /// If the Pod has no cgroup there.
    pub fn pod_cpu_seconds(&self, worker: Worker, uid: &str) -> Result<f64> {
        cgroup::pod_cpu_seconds(&self.instance, self.known(worker)?, uid)
    }

    /// What is up and what is not.
    pub fn status(&self) -> Status {
        status::status(&self.instance, &self.shape)
    }

    /// The log of a component: `etcd`, `kube-apiserver`, `w1-kubelet`, …
    pub fn log(&self, component: &str) -> Option<PathBuf> {
        logs::find(&self.instance, component)
    }

    fn known(&self, worker: Worker) -> Result<Worker> {
        if worker.number() > self.shape.workers {
            bail!("there is no worker {worker}: the sandbox has w1 to w{}", self.shape.workers);
        }
        Ok(worker)
    }
}

/// The program that holds all of Kubernetes (`kubectl` among it, as its first argument), built unless the cache has it.
///
/// # Errors
/// If Go is missing or the build fails.
pub fn kubernetes_program(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    golang::build(&golang::KUBERNETES, cache, progress)
}

/// Runs the relay of a sandbox for ever.
///
/// # Errors
/// If it cannot listen or enter the sandbox's network.
pub fn run_relay(name: &str) -> Result<()> {
    relay::run(&Instance::named(name)?)
}
