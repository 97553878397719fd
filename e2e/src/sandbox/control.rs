//! Decides how the control plane is run: the flags of its four programs. Pure but for [`prepare`], which writes the
//! audit policy.

use anyhow::Result;
use serde_json::json;

use super::address::{API, CONTROL, PODS, SERVICES};
use super::instance::{Instance, Machine, write};
use super::kubeconfig;
use super::machine::{Description, Service};
use super::pki::{identity, service_accounts};

/// Where etcd listens, inside the control plane's own namespace.
const ETCD: &str = "http://127.0.0.1:2379";

/// Every request, once, when it is answered: who, what, which object, which result; no bodies.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
        "rules": [{ "level": "Metadata" }],
    })
}

/// Writes the files that the control plane reads.
///
/// # Errors
/// If the file system refuses.
pub(super) fn prepare(instance: &Instance) -> Result<()> {
    write(&instance.path("audit-policy.json"), &serde_json::to_vec_pretty(&audit_policy())?)
}

/// What the control plane's machine runs.
pub(super) fn description(instance: &Instance) -> Description {
    let service = |name: &str, when, flags: Vec<String>| {
        let mut command = vec![instance.path(format!("bin/{name}")).display().to_string()];
        command.extend(flags);
        Service { name: name.to_owned(), command, log: instance.log(Machine::Control, name), when }
    };
    let ready = || vec![instance.api_ready()];
    let services = vec![
        service("etcd", Vec::new(), etcd(instance)),
        service("kube-apiserver", Vec::new(), api_server(instance)),
        service("kube-controller-manager", ready(), controller_manager(instance)),
        service("kube-scheduler", ready(), scheduler(instance)),
    ];
    Description { empty: Vec::new(), binds: Vec::new(), stale: Vec::new(), services }
}

fn etcd(instance: &Instance) -> Vec<String> {
    vec![
        format!("--data-dir={}", instance.path("etcd").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(instance: &Instance) -> Vec<String> {
    let pki = |name: &str| identity(instance, name);
    let file = |path: &std::path::Path| path.display().to_string();
    let (own, kubelet, front) = (pki("apiserver"), pki("kubelet-client"), pki("front-proxy"));
    let tokens = service_accounts(instance);
    let mut flags = vec![
        format!("--etcd-servers={ETCD}"),
        format!("--advertise-address={CONTROL}"),
        format!("--secure-port={}", API.port()),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--tls-cert-file={}", file(&own.certificate)),
        format!("--tls-private-key-file={}", file(&own.key)),
        format!("--client-ca-file={}", file(&pki("ca").certificate)),
        format!("--service-account-key-file={}", file(&tokens.certificate)),
        format!("--service-account-signing-key-file={}", file(&tokens.key)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--kubelet-client-certificate={}", file(&kubelet.certificate)),
        format!("--kubelet-client-key={}", file(&kubelet.key)),
        // Names of workers are known to no name service: logs and exec go to their addresses.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ];
    flags.extend([
        format!("--audit-policy-file={}", file(&instance.path("audit-policy.json"))),
        format!("--audit-log-path={}", file(&instance.audit_log())),
        // Megabytes: stories read the log from the beginning, so it is not cut at the default of 100.
        "--audit-log-maxsize=4096".to_owned(),
    ]);
    flags.extend([
        format!("--requestheader-client-ca-file={}", file(&pki("front-proxy-ca").certificate)),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", file(&front.certificate)),
        format!("--proxy-client-key-file={}", file(&front.key)),
        // No kube-proxy runs beside the API server: it finds the pods of extension API servers by itself.
        "--enable-aggregator-routing=true".to_owned(),
    ]);
    flags
}

fn controller_manager(instance: &Instance) -> Vec<String> {
    let authority = identity(instance, "ca");
    vec![
        format!("--kubeconfig={}", kubeconfig::of(instance, "controller-manager").display()),
        "--leader-elect=false".to_owned(),
        format!("--root-ca-file={}", authority.certificate.display()),
        format!("--service-account-private-key-file={}", service_accounts(instance).key.display()),
        format!("--cluster-signing-cert-file={}", authority.certificate.display()),
        format!("--cluster-signing-key-file={}", authority.key.display()),
        "--use-service-account-credentials".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        format!("--cluster-cidr={PODS}"),
        // Autoscalers look every 15 s by default.
        "--horizontal-pod-autoscaler-sync-period=5s".to_owned(),
        // The default of 20 makes hundreds of tests wait for each other.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        // It would make its default directory, outside the sandbox's own.
        format!("--flex-volume-plugin-dir={}", instance.path("volume-plugins").display()),
    ]
}

fn scheduler(instance: &Instance) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig::of(instance, "scheduler").display()),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}
