//! Somebody's own Kubernetes (kind, k3d, a real one), reached through a kubeconfig and nothing else.
//!
//! * here: which cluster is meant, its client, its kubectl
//! * `forward`: connections to nodes, through the API server
//! * `ledger`: the write ledger as a Pod, for figures that no detour blurs
//! * `pull`: what a person can do about an image that no worker can pull

mod forward;
mod ledger;
mod pull;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub use self::ledger::LedgerPod;
pub use self::pull::Pull;
use crate::cache::Cache;
use crate::command::succeeds;
use crate::progress::Progress;
use crate::resp::Access;
use crate::sandbox::{self, images};

/// A real cluster may be on the other side of the world.
const CONNECT: Duration = Duration::from_secs(15);
/// What the detour through the API server may add to an answer: a TLS handshake and two upgrades, then one way more.
const SLACK: Duration = Duration::from_secs(3);
/// The oldest minor version of Kubernetes 1 that the operator supports.
const MINOR: u32 = 29;
/// A program that only says its version.
const SHORT: Duration = Duration::from_secs(20);

/// Which cluster, and what runs there.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Use this cluster instead of the sandbox: a context of your kubeconfig (KUBECONFIG, or --kubeconfig).
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Use the cluster of this kubeconfig instead of the sandbox.
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// The operator's image there: an operator that is there already is replaced by it. Without this option what is
    /// there is used as it is, and where there is none, the image of manifests/install.yaml.
    #[arg(long, value_name = "IMAGE")]
    pub operator_image: Option<String>,
    /// The write ledger's image there [default: localhost/valkey-ledger:dev].
    #[arg(long, value_name = "IMAGE")]
    pub ledger_image: Option<String>,
}

impl Options {
    /// Whether another cluster than the sandbox is meant.
    ///
    /// # Errors
    /// If an image is given for no cluster.
    pub fn names_a_cluster(&self) -> Result<bool> {
        let named = self.context.is_some() || self.kubeconfig.is_some();
        let image = self.operator_image.is_some() || self.ledger_image.is_some();
        ensure!(
            named || !image,
            "--operator-image and --ledger-image are for a cluster of yours: name it with --context or --kubeconfig \
             (the sandbox runs what is built here)"
        );
        Ok(named)
    }
}

/// A cluster of somebody's.
#[derive(Clone)]
pub struct Stranger {
    options: Options,
    context: String,
    client: Client,
    kubectl: Vec<PathBuf>,
}

impl Stranger {
    /// The cluster that is meant, if its API server answers.
    ///
    /// # Errors
    /// Which part of the kubeconfig is wrong, or what the API server says.
    pub async fn open(options: Options, progress: &Progress) -> Result<Self> {
        let kubeconfig = match &options.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)
                .with_context(|| format!("{} is no kubeconfig: name one with --kubeconfig", path.display()))?,
            None => Kubeconfig::read().context(
                "there is no kubeconfig: name one with --kubeconfig, or set KUBECONFIG, or write ~/.kube/config",
            )?,
        };
        let context = chosen(&kubeconfig, options.context.as_deref())?;
        let choice = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &choice).await?;
        config.connect_timeout = Some(CONNECT);
        let client = Client::try_from(config)?;
        let answer = tokio::time::timeout(CONNECT, client.apiserver_version()).await;
        let version = answer
            .with_context(|| format!("no answer within {} s", CONNECT.as_secs()))
            .and_then(|told| Ok(told?))
            .with_context(|| format!("the API server of the context {context} cannot be reached"))?;
        let minor = version.minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        ensure!(
            version.major != "1" || minor >= MINOR,
            "the context {context} is Kubernetes {}: the operator needs 1.{MINOR} or newer",
            version.git_version
        );
        progress
            .line(format_args!("the cluster of the context {context}: Kubernetes {}", version.git_version));
        let kubectl = tokio::task::block_in_place(|| kubectl_program(progress))?;
        Ok(Self { options, context, client, kubectl })
    }

    /// As whoever the kubeconfig names.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The name of its context.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The ledger's image.
    pub fn ledger_image(&self) -> &str {
        self.options.ledger_image.as_deref().unwrap_or(images::LEDGER)
    }

    /// kubectl with this kubeconfig and context, to be given arguments and run.
    pub fn kubectl_command(&self) -> Command {
        let mut words = self.kubectl.iter();
        let mut command = Command::new(words.next().map_or_else(|| "kubectl".into(), PathBuf::clone));
        command.args(words);
        if let Some(path) = &self.options.kubeconfig {
            command.arg("--kubeconfig").arg(path);
        }
        command.arg("--context").arg(&self.context);
        command
    }

    /// What a person writes for it.
    pub fn kubectl_words(&self) -> String {
        let path = self.options.kubeconfig.as_ref().map(|path| format!(" --kubeconfig {}", path.display()));
        format!("kubectl{} --context {}", path.unwrap_or_default(), self.context)
    }

    /// How nodes whose Pods are in this namespace are reached from here.
    pub fn access(&self, namespace: &str) -> Access {
        Access::through(forward::connector(self.client.clone(), namespace)).with_slack(SLACK)
    }
}

/// The context that is meant, which must be there.
fn chosen(kubeconfig: &Kubeconfig, asked: Option<&str>) -> Result<String> {
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let Some(name) = asked.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty()) else {
        bail!("the kubeconfig has no current context: name one with --context, of {}", known.join(", "));
    };
    ensure!(
        known.contains(&name),
        "the kubeconfig has no context {name:?}; it has: {}",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    );
    Ok(name.to_owned())
}

/// The person's own kubectl, or the one of the sandbox.
fn kubectl_program(progress: &Progress) -> Result<Vec<PathBuf>> {
    if succeeds(Command::new("kubectl").args(["version", "--client"]), SHORT) {
        return Ok(vec!["kubectl".into()]);
    }
    let kubernetes = sandbox::kubernetes_program(&Cache::open()?, progress)
        .context("there is no kubectl on the PATH, and the sandbox's own cannot be had")?;
    Ok(vec![kubernetes, "kubectl".into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(current: &str) -> Kubeconfig {
        let context =
            |name: &str| serde_json::json!({ "name": name, "context": { "cluster": "c", "user": "u" } });
        let text =
            serde_json::json!({ "current-context": current, "contexts": [context("kind-a"), context("b")] });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_context_that_is_meant_must_be_there() {
        assert_eq!(chosen(&config("b"), None).unwrap(), "b");
        assert_eq!(chosen(&config("b"), Some("kind-a")).unwrap(), "kind-a");
        assert!(chosen(&config(""), None).unwrap_err().to_string().contains("of kind-a, b"));
        assert!(chosen(&config("b"), Some("c")).unwrap_err().to_string().contains("it has: kind-a, b"));
    }

    #[test]
    fn images_need_a_cluster_that_is_named() {
        let image = || Some("registry/x:1".to_owned());
        let lost = Options { operator_image: image(), ..Options::default() };
        assert!(lost.names_a_cluster().unwrap_err().to_string().contains("--context"));
        let named =
            Options { context: Some("kind-a".to_owned()), ledger_image: image(), ..Options::default() };
        assert!(named.names_a_cluster().unwrap());
        assert!(!Options::default().names_a_cluster().unwrap());
    }
}
