//! Decides how a worker is run: the settings of its containerd, kubelet and kube-proxy. Pure but for [`prepare`],
//! which writes them into the worker's directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use super::address::{DNS_SERVICE, PODS, Worker};
use super::images::PAUSE;
use super::instance::{Instance, Machine, write};
use super::kubeconfig;
use super::machine::{Description, Service};
use super::pki::identity;

/// Directories that kubelet, containerd and CNI insist on, each replaced by one of the worker's own.
const OWN: [(&str, &str); 4] = [
    ("kubelet", "/var/lib/kubelet"),
    ("cni-results", "/var/lib/cni"),
    ("container-logs", "/var/log/containers"),
    ("pod-logs", "/var/log/pods"),
];

/// The socket of a worker's containerd.
pub(super) fn socket(instance: &Instance, worker: Worker) -> PathBuf {
    instance.worker(worker).join("containerd.sock")
}

/// Writes the files that a worker's programs read.
///
/// # Errors
/// If the file system refuses.
pub(super) fn prepare(instance: &Instance, worker: Worker) -> Result<()> {
    let dir = instance.worker(worker);
    for (own, _) in OWN {
        fs::create_dir_all(dir.join(own))?;
    }
    write(&dir.join("containerd.toml"), containerd(instance, worker).as_bytes())?;
    write(&dir.join("cni/10-pods.conflist"), &serde_json::to_vec_pretty(&pod_network(&dir, worker))?)?;
    write(&dir.join("kubelet.json"), &serde_json::to_vec_pretty(&kubelet_settings(instance, worker))?)?;
    // Nobody resolves a name outside the sandbox: an image that is not there fails at once.
    write(&dir.join("resolv.conf"), b"")?;
    write(&dir.join("hosts"), format!("127.0.0.1 localhost\n{} {worker}\n", worker.address()).as_bytes())
}

/// What a worker's machine runs.
pub(super) fn description(instance: &Instance, worker: Worker) -> Description {
    let dir = instance.worker(worker);
    let mut binds: Vec<(PathBuf, PathBuf)> =
        OWN.map(|(own, path)| (dir.join(own), PathBuf::from(path))).into();
    binds.push((dir.join("resolv.conf"), "/etc/resolv.conf".into()));
    binds.push((dir.join("hosts"), "/etc/hosts".into()));
    let service = |name: &str, when, command| Service {
        name: name.to_owned(),
        command,
        log: instance.log(Machine::Worker(worker), name),
        when,
    };
    let services = vec![
        service(
            "containerd",
            Vec::new(),
            vec!["containerd".to_owned(), "-c".to_owned(), path(&dir, "containerd.toml")],
        ),
        service("kube-proxy", vec![instance.api_ready()], kube_proxy(instance, worker)),
        service(
            "kubelet",
            vec![instance.api_ready(), instance.images_ready(worker)],
            kubelet(instance, worker),
        ),
    ];
    // What lives in /run does not outlive a machine. The socket is in the worker's directory, where the host finds it.
    Description { empty: vec!["/run".into()], binds, stale: vec![socket(instance, worker)], services }
}

fn path(dir: &Path, below: &str) -> String {
    dir.join(below).display().to_string()
}

fn containerd(instance: &Instance, worker: Worker) -> String {
    let dir = instance.worker(worker);
    let (root, cni) = (path(&dir, "containerd"), path(&dir, "cni"));
    let socket = socket(instance, worker).display().to_string();
    let snapshotter = snapshotter(&dir);
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc fails to set a score below the one it was born with.
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#
    )
}

/// How containerd keeps file systems in `dir`: in layers, but copied where the directory is itself in layers, as in
/// a container.
pub(super) fn snapshotter(dir: &Path) -> &'static str {
    let layered = statfs(dir).is_ok_and(|found| found.filesystem_type() == OVERLAYFS_SUPER_MAGIC);
    if layered { "native" } else { "overlayfs" }
}

/// Every pod has a cable to its worker, which routes. Without a bridge, answers of a service's pod on the same
/// worker pass the worker's address translation too.
fn pod_network(dir: &Path, worker: Worker) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join("addresses"),
                    "ranges": [[{ "subnet": worker.pods() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn kubelet_settings(instance: &Instance, worker: Worker) -> Value {
    let dir = instance.worker(worker);
    let own = identity(instance, &worker.to_string());
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": identity(instance, "ca").certificate },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": own.certificate,
        "tlsPrivateKeyFile": own.key,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Path::new("/").join(instance.cgroup()).join(worker.to_string()),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{}", socket(instance, worker).display()),
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": dir.join("volume-plugins"),
        "resolvConf": dir.join("resolv.conf"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE],
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "10s",
        "maxPods": 250,
        // Requests per second; the defaults of 50 and 5 delay tests that start many pods at once.
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 100,
        "eventBurst": 200,
        "registryPullQPS": 100,
        "registryBurst": 200,
        "serializeImagePulls": false,
        // The disk is the machine's, and so are the images: neither is to be tidied up or to evict a pod.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": { "nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi" },
    })
}

fn kubelet(instance: &Instance, worker: Worker) -> Vec<String> {
    vec![
        path(&instance.path("bin"), "kubelet"),
        format!("--kubeconfig={}", kubeconfig::of(instance, &worker.to_string()).display()),
        format!("--config={}", path(&instance.worker(worker), "kubelet.json")),
        format!("--hostname-override={worker}"),
        format!("--node-ip={}", worker.address()),
    ]
}

fn kube_proxy(instance: &Instance, worker: Worker) -> Vec<String> {
    let mut flags = vec![
        path(&instance.path("bin"), "kube-proxy"),
        format!("--kubeconfig={}", kubeconfig::of(instance, "proxy").display()),
        format!("--hostname-override={worker}"),
        "--proxy-mode=iptables".to_owned(),
        format!("--cluster-cidr={PODS}"),
        "--iptables-min-sync-period=100ms".to_owned(),
    ];
    // These are the whole machine's settings: they cannot be changed from inside a namespace.
    let limits = ["max-per-core", "min", "tcp-timeout-established", "tcp-timeout-close-wait"];
    flags.extend(limits.map(|limit| format!("--conntrack-{limit}=0")));
    flags
}
