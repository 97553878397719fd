//! What the kubelet of a worker does with one Pod, from its binding to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Pod, Secret, Volume};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use rand::Rng;
use serde_json::{Value, json};

use super::NAMESPACE;
use super::machines::{Machines, SHUTDOWN};
use super::server::{File, Server};

/// From the binding of a Pod to its server, in milliseconds: as in the simulated world.
const STARTS: std::ops::RangeInclusive<u64> = 300..=1200;
/// From the end of a server to the end of its Pod's object.
const GOES: Duration = Duration::from_millis(500);
/// A process whose Pod object is gone lives on for so long.
const ORPHANED: Duration = Duration::from_secs(3);
/// From SIGTERM to SIGKILL at least.
const LAST_NET: Duration = Duration::from_secs(2);
/// A server of an image that crashes runs for so long.
const CRASHES: Duration = Duration::from_secs(1);

/// A Pod on a worker, as its kubelet knows it.
pub(crate) struct Guest {
    pub worker: String,
    pub server: Option<Server>,
    starts: Instant,
    /// It has ended, and its kubelet has said so.
    ended: bool,
    /// The worker lost its power: its kubelet knows of the server no more than that it has ended.
    pub lost: bool,
    /// When its time is over, after it was told to go.
    until: Option<Instant>,
    asked_to_end: Option<Instant>,
    gone_at: Option<Instant>,
    orphaned: Option<Instant>,
}

impl Guest {
    /// In its hook for so long at most; then SIGTERM, and then SIGKILL.
    fn ends(&mut self, pod: &Pod, within: Duration) {
        let until = *self.until.get_or_insert_with(|| Instant::now() + within);
        let Some(server) = &mut self.server else { return };
        let over = Instant::now() >= until;
        if self.asked_to_end.is_none() && (server.hold(pod) || over) {
            server.signal("TERM");
            self.asked_to_end = Some(Instant::now());
        }
        if over && self.asked_to_end.is_some_and(|at| at.elapsed() > LAST_NET) {
            server.kill();
        }
    }
}

impl Machines {
    /// One look of its kubelet at a Pod. `files`: it brings what the volumes hold now.
    pub(super) async fn kubelet(&mut self, pod: &Pod, files: bool) {
        let (Some(uid), Some(worker)) = (pod.uid(), pod.spec.as_ref().and_then(|s| s.node_name.clone()))
        else {
            return;
        };
        let machine = &self.workers[&worker];
        if machine.away.is_some() {
            return;
        }
        let shuts_down = machine.shutdown.is_some();
        let starts = Instant::now() + Duration::from_millis(self.rng.random_range(STARTS));
        let guest = self.guests.entry(uid.clone()).or_insert_with(|| Guest::new(worker, starts));
        if guest.server.as_mut().is_some_and(Server::ended) {
            self.tell_end(pod, &uid, shuts_down).await;
            return;
        }
        let deleted = pod.metadata.deletion_timestamp.is_some();
        if deleted && guest.server.is_none() {
            let at = *guest.gone_at.get_or_insert_with(|| Instant::now() + GOES);
            if Instant::now() >= at {
                self.guests.remove(&uid);
                self.api.remove::<Pod>(NAMESPACE, &pod.name_any());
            }
        } else if deleted {
            let grace = u64::try_from(pod.metadata.deletion_grace_period_seconds.unwrap_or(30)).unwrap_or(0);
            guest.ends(pod, Duration::from_secs(grace));
        } else if shuts_down && guest.server.is_some() {
            guest.ends(pod, SHUTDOWN);
        } else if shuts_down && !guest.ended {
            self.tell_end(pod, &uid, true).await;
        } else if guest.server.is_none() && !guest.ended && Instant::now() >= guest.starts {
            self.start(pod, &uid).await;
        } else if let Some(server) = &mut guest.server {
            if image(pod).contains("crashing") && server.started.elapsed() > CRASHES {
                server.kill();
            }
            if files && let Some(files) = self.files(pod) {
                self.guests[&uid].server.as_ref().unwrap().bring(&files);
            }
        }
    }

    async fn start(&mut self, pod: &Pod, uid: &str) {
        if image(pod).contains("missing") {
            let waiting =
                json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
            self.patch(pod, status("Pending", &waiting), true).await;
            return;
        }
        // Its volumes are not there yet.
        let Some(files) = self.files(pod) else { return };
        let version = image(pod).split_once(':').and_then(|(_, tag)| tag.parse().ok());
        let version = version.unwrap_or(self.version);
        let program = self.programs.get(&version).unwrap_or_else(|| panic!("no server of version {version}"));
        let ip = self.addresses.take();
        let server = Server::start(program, pod, &files, ip);
        let mut body = status("Running", &json!({ "running": { "startedAt": server.since.to_string() } }));
        body["status"]["podIP"] = json!(ip);
        body["status"]["podIPs"] = json!([{ "ip": ip }]);
        self.guests.get_mut(uid).unwrap().server = Some(server);
        self.patch(pod, body, true).await;
    }

    /// Its server has ended, or never started: its kubelet says so.
    async fn tell_end(&mut self, pod: &Pod, uid: &str, shuts_down: bool) {
        let guest = self.guests.get_mut(uid).unwrap();
        guest.ended = true;
        let mut body = match guest.server.take() {
            Some(mut server) => {
                let end = json!({ "terminated": {
                    "exitCode": server.code(), "reason": "Error", "message": server.last_words(),
                    "startedAt": server.since.to_string(), "finishedAt": Timestamp::now().to_string() } });
                self.addresses.free(server.ip);
                status("Failed", &end)
            }
            None => status("Failed", &json!({ "terminated": { "exitCode": 137, "reason": "Error" } })),
        };
        if guest.lost {
            // A kubelet that has just started tells neither when nor where.
            body = status("Failed", &json!({ "terminated": { "exitCode": 137, "reason": "Unknown" } }));
            (body["status"]["podIP"], body["status"]["podIPs"]) = (Value::Null, Value::Null);
        }
        if shuts_down {
            body["status"]["conditions"] =
                json!([{ "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet" }]);
        }
        self.patch(pod, body, true).await;
    }

    /// Processes whose Pods are gone: their kubelets end them, if they are there.
    pub(super) fn orphans(&mut self, known: &BTreeSet<String>) {
        let workers = &self.workers;
        let mut free = Vec::new();
        self.guests.retain(|uid, guest| {
            if known.contains(uid) || workers[&guest.worker].away.is_some() {
                return true;
            }
            let Some(server) = &mut guest.server else { return false };
            if server.ended() {
                free.push(server.ip);
                return false;
            }
            if guest.orphaned.get_or_insert_with(Instant::now).elapsed() > ORPHANED {
                server.kill();
            }
            true
        });
        for ip in free {
            self.addresses.free(ip);
        }
    }

    /// What the volumes of a Pod hold now; none while one of them is not there.
    fn files(&self, pod: &Pod) -> Option<Vec<File>> {
        let spec = pod.spec.as_ref()?;
        let mounts = spec.containers.first()?.volume_mounts.as_ref()?;
        let mut all = Vec::new();
        for mount in mounts {
            let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name)?;
            let data = self.volume(volume)?;
            all.extend(data.into_iter().map(|(name, bytes)| (format!("{}/{name}", mount.mount_path), bytes)));
        }
        Some(all)
    }

    fn volume(&self, volume: &Volume) -> Option<Vec<(String, Vec<u8>)>> {
        let (data, items) = if let Some(source) = &volume.config_map {
            let found: ConfigMap = self.api.find(NAMESPACE, &source.name)?;
            let data: BTreeMap<String, Vec<u8>> =
                found.data?.into_iter().map(|(k, text)| (k, text.into_bytes())).collect();
            (data, &source.items)
        } else {
            let source = volume.secret.as_ref()?;
            let found: Secret = self.api.find(NAMESPACE, source.secret_name.as_ref()?)?;
            (found.data?.into_iter().map(|(k, bytes)| (k, bytes.0)).collect(), &source.items)
        };
        let chosen = |items: &Vec<KeyToPath>| {
            items.iter().map(|item| Some((item.path.clone(), data.get(&item.key)?.clone()))).collect()
        };
        items.as_ref().map_or_else(|| Some(data.clone().into_iter().collect()), chosen)
    }
}

impl Guest {
    fn new(worker: String, starts: Instant) -> Self {
        Self {
            worker,
            server: None,
            starts,
            ended: false,
            lost: false,
            until: None,
            asked_to_end: None,
            gone_at: None,
            orphaned: None,
        }
    }
}

fn image(pod: &Pod) -> &str {
    let container = pod.spec.as_ref().and_then(|s| s.containers.first());
    container.and_then(|c| c.image.as_deref()).unwrap_or_default()
}

fn status(phase: &str, state: &Value) -> Value {
    json!({ "status": { "phase": phase, "containerStatuses": [{
        "name": "server", "image": "", "imageID": "", "ready": phase == "Running", "restartCount": 0,
        "state": state }] } })
}
