//! Decides how stories get at a Kubernetes and at the nodes in it: the sandbox, or a cluster of somebody's.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};

use super::cluster::{Cluster, connector};
use super::stage::Skipped;
use crate::command::{checked, output};
use crate::ledger::{Ledger, LedgerHandle, LedgerReport, Options, client_lanes};
use crate::resp::Access;
use crate::sandbox::Sandbox;
use crate::stranger::{LedgerPod, Stranger};

/// No kubectl command of a story takes longer.
const KUBECTL: Duration = Duration::from_mins(5);

/// The ways into a Kubernetes.
pub trait Reach: Send + Sync {
    /// Its kubectl, as administrator, to be given arguments and run.
    fn kubectl_command(&self) -> Command;
    /// What a person writes for it.
    fn kubectl_words(&self) -> String;
    /// How this process reaches nodes whose Pods are in a namespace; without a login.
    fn access(&self, namespace: &str) -> Access;
    /// Starts a write ledger on these nodes of a cluster, as near to them as this Kubernetes allows. A write counts when so many
    /// replicas have it, too; a library's lanes, which confirm nothing, write only where that is none.
    fn ledger<'a>(
        &'a self,
        cluster: &'a Cluster,
        nodes: &'a [SocketAddr],
        copies: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Writes>>>;
    /// The sandbox, with its powers that no API has.
    fn sandbox(&self) -> Option<&Sandbox>;

    /// Runs its kubectl and returns what it prints.
    ///
    /// # Errors
    /// If it fails or takes longer than five minutes.
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args(arguments);
        let output = output(&mut command, KUBECTL, None)?;
        checked(&command, &output)
    }
}

/// A running write ledger, wherever it runs.
pub trait Writes {
    /// Names this moment in the report.
    fn mark(&self, name: &str);
    /// Waits until every plain lane writes again.
    fn flowing(&self) -> LocalBoxFuture<'_, Result<()>>;
    /// Ends it.
    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<LedgerReport>>;
}

/// From inside the sandbox's network.
impl Reach for Sandbox {
    fn kubectl_command(&self) -> Command {
        Self::kubectl_command(self)
    }

    fn kubectl_words(&self) -> String {
        match self.instance().name() {
            crate::sandbox::DEFAULT_NAME => "cargo sandbox kubectl".to_owned(),
            name => format!("cargo sandbox --name {name} kubectl"),
        }
    }

    fn access(&self, _: &str) -> Access {
        Access::through(connector(self))
    }

    fn ledger<'a>(
        &'a self,
        cluster: &'a Cluster,
        nodes: &'a [SocketAddr],
        copies: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Writes>>> {
        async move {
            let mut options = Options::new(nodes.iter().map(ToString::to_string).collect());
            options.access = cluster.open_access();
            options.client_lanes = client_lanes(copies);
            options.copies = copies;
            Ok(Box::new(Ledger::start(options).await?) as Box<dyn Writes>)
        }
        .boxed()
    }

    fn sandbox(&self) -> Option<&Sandbox> {
        Some(self)
    }
}

/// Through a kubeconfig alone.
impl Reach for Stranger {
    fn kubectl_command(&self) -> Command {
        Self::kubectl_command(self)
    }

    fn kubectl_words(&self) -> String {
        Self::kubectl_words(self)
    }

    fn access(&self, namespace: &str) -> Access {
        Self::access(self, namespace)
    }

    fn ledger<'a>(
        &'a self,
        cluster: &'a Cluster,
        nodes: &'a [SocketAddr],
        copies: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Writes>>> {
        async move {
            if cluster.pki.is_some() || cluster.login.user.is_some() {
                let why = "needs the sandbox: the ledger in a Pod speaks plain text and does not log in";
                bail!(Skipped(why.to_owned()));
            }
            Ok(Box::new(LedgerPod::start(self, &cluster.namespace, nodes, copies).await?) as Box<dyn Writes>)
        }
        .boxed()
    }

    fn sandbox(&self) -> Option<&Sandbox> {
        None
    }
}

impl Writes for LedgerHandle {
    fn mark(&self, name: &str) {
        Self::mark(self, name);
    }

    fn flowing(&self) -> LocalBoxFuture<'_, Result<()>> {
        self.wait_flowing().boxed_local()
    }

    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<LedgerReport>> {
        Self::stop(*self).boxed_local()
    }
}

impl Writes for LedgerPod {
    fn mark(&self, name: &str) {
        Self::mark(self, name);
    }

    fn flowing(&self) -> LocalBoxFuture<'_, Result<()>> {
        self.wait_flowing().boxed_local()
    }

    fn stop(self: Box<Self>) -> LocalBoxFuture<'static, Result<LedgerReport>> {
        Self::stop(*self).boxed_local()
    }
}

/// Any of them, shared by all that a story has at hand.
pub type Way = Arc<dyn Reach>;
