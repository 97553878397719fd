//! Decides how the write ledger runs as a Pod: beside the nodes, so that its figures are those of a client in the cluster.
//!
//! Creates and deletes its own Pod, talks to its standard input, and reads its report from its log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::Api;
use kube::api::{AttachParams, DeleteParams, LogParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

use super::{Pull, Stranger};
use crate::command::tail;
use crate::ledger::{LedgerReport, client_lanes};

const CONTAINER: &str = "ledger";
/// Scheduled, pulled and started; a registry may be slow.
const STARTED: Duration = Duration::from_mins(3);
/// The ledger itself gives up after 30 s without a flowing lane, and says which.
const FLOWING: Duration = Duration::from_secs(45);
/// The read-back takes ten seconds at most.
const ENDED: Duration = Duration::from_mins(1);
/// A ledger that nobody ends any more ends by itself, in seconds: longer than any story.
const DEADLINE: i64 = 3600;
const TICK: Duration = Duration::from_millis(100);
/// The ledger's exit codes of a run that has a report: within its own limits, and beyond one of them.
const REPORTED: [i32; 2] = [0, 3];
/// Lines of a ledger that could not run.
const SHOWN: usize = 8;

/// A ledger that runs as a Pod.
pub struct LedgerPod {
    pods: Api<Pod>,
    name: String,
    image: String,
    commands: mpsc::UnboundedSender<String>,
    said: Mutex<mpsc::UnboundedReceiver<String>>,
    asked: AtomicUsize,
}

impl LedgerPod {
    /// Starts it in this namespace on these nodes; a write counts when so many replicas have it, too.
    ///
    /// # Errors
    /// If the Pod does not run in time: the error says why, and what to do about an image that cannot be pulled.
    pub async fn start(
        stranger: &Stranger,
        namespace: &str,
        nodes: &[SocketAddr],
        copies: u16,
    ) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(stranger.client(), namespace);
        let name = format!("ledger-{:08x}", rand::random::<u32>());
        pods.create(&PostParams::default(), &pod(&name, stranger.ledger_image(), nodes, copies)?).await?;
        let (commands, written) = mpsc::unbounded_channel();
        let (lines, said) = mpsc::unbounded_channel();
        let image = stranger.ledger_image().to_owned();
        let this = Self { pods, name, image, commands, said: Mutex::new(said), asked: AtomicUsize::new(0) };
        let listening = async {
            this.running(stranger).await?;
            this.attach(written, lines).await
        };
        if let Err(error) = listening.await {
            this.remove().await;
            return Err(error);
        }
        Ok(this)
    }

    async fn running(&self, stranger: &Stranger) -> Result<()> {
        let began = Instant::now();
        loop {
            let pod = self.pods.get(&self.name).await?;
            if let Some(pull) = Pull::of(&pod) {
                bail!(pull.sentence(stranger.context(), "--ledger-image"));
            }
            let status = pod.status.unwrap_or_default();
            match status.phase.as_deref() {
                Some("Running") => return Ok(()),
                Some("Succeeded" | "Failed") => {
                    bail!("the ledger ended at once: {}", self.last_words().await)
                }
                phase => ensure!(
                    began.elapsed() < STARTED,
                    "the Pod {} of the ledger is {} after {} s: {}",
                    self.name,
                    phase.unwrap_or("unknown"),
                    STARTED.as_secs(),
                    serde_json::to_string(&status.conditions)?
                ),
            }
            sleep(TICK).await;
        }
    }

    async fn attach(
        &self,
        mut written: mpsc::UnboundedReceiver<String>,
        lines: mpsc::UnboundedSender<String>,
    ) -> Result<()> {
        let how = AttachParams::default().container(CONTAINER).stdin(true).stdout(true).stderr(true);
        let mut attached = self.pods.attach(&self.name, &how).await.context("attach to the ledger's Pod")?;
        let mut stdin = attached.stdin().context("no standard input")?;
        let (stdout, stderr) = (attached.stdout(), attached.stderr());
        // The report is read from the log; what is not taken here would hold up the rest.
        tokio::spawn(listen(stdout.context("no standard output")?, None));
        tokio::spawn(listen(stderr.context("no standard error")?, Some(lines)));
        tokio::spawn(async move {
            while let Some(command) = written.recv().await {
                if say(&mut stdin, &command).await.is_err() {
                    break;
                }
            }
            drop(attached);
        });
        Ok(())
    }

    /// Names this moment in the report.
    pub fn mark(&self, name: &str) {
        self.tell(format!("mark {name}"));
    }

    /// Waits until every plain lane has had a write acknowledged that was sent after this call.
    ///
    /// # Errors
    /// Which lanes do not flow, or that the ledger cannot be heard any more.
    pub async fn wait_flowing(&self) -> Result<()> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock().await;
        self.tell(format!("flowing {number}"));
        let (yes, no) = (format!("flowing {number}"), format!("not flowing {number}: "));
        let answer = async {
            while let Some(line) = said.recv().await {
                if line == yes {
                    return Ok(());
                }
                if let Some(why) = line.strip_prefix(&no) {
                    bail!(why.to_owned());
                }
                ensure!(
                    !line.starts_with("unknown command"),
                    "the ledger's image {} is older than this program: build it again and give it to the workers",
                    self.image
                );
            }
            bail!("the ledger's Pod cannot be heard any more; it said: {}", self.last_words().await)
        };
        timeout(FLOWING, answer)
            .await
            .with_context(|| format!("the ledger's Pod gave no answer within {} s", FLOWING.as_secs()))?
    }

    /// Ends it, and reads its report.
    ///
    /// # Errors
    /// If it does not end, could not run to its end, or its log holds no report.
    pub async fn stop(self) -> Result<LedgerReport> {
        self.tell("stop".to_owned());
        let told = self.report().await;
        self.remove().await;
        told
    }

    async fn report(&self) -> Result<LedgerReport> {
        let ended = timeout(ENDED, self.ended())
            .await
            .with_context(|| format!("the ledger's Pod did not end within {} s", ENDED.as_secs()))??;
        let log = self.log().await?;
        ensure!(
            REPORTED.contains(&ended.exit_code),
            "the ledger ended with {}: {}",
            ended.exit_code,
            tail(&log, SHOWN).join("; ")
        );
        let line = log.lines().rev().find(|line| line.starts_with('{'));
        let line =
            line.with_context(|| format!("no report in the ledger's log: {}", tail(&log, SHOWN).join("; ")))?;
        serde_json::from_str(line).context("the report in the ledger's log")
    }

    async fn ended(&self) -> Result<ContainerStateTerminated> {
        loop {
            let status = self.pods.get(&self.name).await?.status.unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default();
            let ended = containers.into_iter().find_map(|container| container.state?.terminated);
            if let Some(ended) = ended {
                return Ok(ended);
            }
            sleep(TICK).await;
        }
    }

    fn tell(&self, command: String) {
        // If nobody writes any more, the next answer that is waited for says so.
        let _ = self.commands.send(command);
    }

    async fn log(&self) -> Result<String> {
        let how = LogParams { container: Some(CONTAINER.to_owned()), ..LogParams::default() };
        self.pods.logs(&self.name, &how).await.context("the ledger's log")
    }

    async fn last_words(&self) -> String {
        match self.log().await {
            Ok(log) => tail(&log, SHOWN).join("; "),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Its namespace goes soon after: what is left of it does no harm.
    async fn remove(&self) {
        let _ = self.pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await;
    }
}

/// A Pod that the strictest Pod Security admits.
fn pod(name: &str, image: &str, nodes: &[SocketAddr], copies: u16) -> Result<Pod> {
    let seeds: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let security = json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] } });
    let numbers = [format!("--client-lanes={}", client_lanes(copies)), format!("--copies={copies}")];
    let [lanes, copies] = &numbers;
    let args = ["--seeds", &seeds.join(","), lanes, copies, "--stdin", "--json", "-"];
    let container = json!({ "name": CONTAINER, "image": image, "imagePullPolicy": "IfNotPresent",
        "args": args, "stdin": true, "securityContext": security });
    let spec = json!({ "restartPolicy": "Never", "activeDeadlineSeconds": DEADLINE, "containers": [container],
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 1,
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } } });
    let labels = json!({ "app.kubernetes.io/name": "valkey-ledger" });
    Ok(serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))?)
}

async fn say(stdin: &mut (impl AsyncWrite + Unpin), command: &str) -> std::io::Result<()> {
    stdin.write_all(format!("{command}\n").as_bytes()).await?;
    stdin.flush().await
}

async fn listen(stream: impl AsyncRead + Unpin, lines: Option<mpsc::UnboundedSender<String>>) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        if let Some(lines) = &lines {
            // Whoever no longer listens no longer asks.
            let _ = lines.send(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_writes_to_all_nodes_and_may_do_nothing_else() {
        let nodes = ["10.1.0.1:6379", "10.1.0.2:6379"].map(|node| node.parse().unwrap());
        let pod = pod("ledger-1", "localhost/valkey-ledger:dev", &nodes, 0).unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.automount_service_account_token, Some(false));
        let args = spec.containers[0].args.clone().unwrap();
        let lanes = format!("--client-lanes={}", client_lanes(0));
        let seeds = "10.1.0.1:6379,10.1.0.2:6379";
        assert_eq!(args, ["--seeds", seeds, &lanes, "--copies=0", "--stdin", "--json", "-"]);
    }
}
