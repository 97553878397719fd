//! Decides what the command line and the environment mean. Touches the environment and the host's name.

#![allow(clippy::doc_markdown, reason = "these comments are what --help prints")]

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};

use clap::Parser;

use crate::telemetry::logs::{Format, Level};

/// Runs Valkey Cluster on Kubernetes: watches ValkeyClusters and keeps each as its spec says.
#[derive(Clone, Debug, Parser)]
#[command(name = "valkey-cluster-operator", version)]
pub struct Flags {
    /// Namespaces to look after, separated by commas; empty means all of them (which needs a ClusterRole).
    #[arg(long, env = "VALKEY_OPERATOR_NAMESPACES", default_value = "", value_parser = namespaces, hide_default_value = true)]
    pub namespaces: Namespaces,

    /// Form of a log line.
    #[arg(long, env = "VALKEY_OPERATOR_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: Format,

    /// What is logged: error, warn, info, debug or trace; or levels by target, as in info,kube=debug.
    #[arg(long, env = "VALKEY_OPERATOR_LOG_LEVEL", default_value = "info,kube=warn", value_parser = Level::parse)]
    pub log_level: Level,

    /// How many ValkeyClusters are looked after at the same moment.
    #[arg(long, env = "VALKEY_OPERATOR_CONCURRENCY", default_value = "32")]
    pub concurrency: NonZeroU16,

    /// Requests a second to the API server at most; watches and the lease do not count.
    #[arg(long, env = "VALKEY_OPERATOR_API_QPS", default_value = "50")]
    pub api_qps: NonZeroU32,

    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "VALKEY_OPERATOR_LISTEN", default_value = "[::]:8080")]
    pub listen: SocketAddr,

    /// Name of the Lease that decides which replica acts.
    #[arg(long, env = "VALKEY_OPERATOR_LEASE_NAME", default_value = "valkey-cluster-operator")]
    pub lease_name: String,

    /// Namespace of the Lease; default: the Pod's, or the kubeconfig's.
    #[arg(long, env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Name of this replica among the candidates; default: the host's name, which in a Pod is the Pod's.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,

    /// Act without a Lease. For development only: two such processes work against each other.
    #[arg(long, env = "VALKEY_OPERATOR_NO_LEASE")]
    pub no_lease: bool,
}

/// Where ValkeyClusters are looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Everywhere.
    All,
    /// In these, each named once, in order.
    Only(Vec<String>),
}

impl Flags {
    /// This replica's name among the candidates.
    ///
    /// # Errors
    /// When none was given and the host has no name.
    pub fn identity(&self) -> anyhow::Result<String> {
        if let Some(identity) = self.identity.as_ref().filter(|i| !i.is_empty()) {
            return Ok(identity.clone());
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match host.trim() {
            "" => anyhow::bail!("this host has no name: give this replica one with --identity"),
            host => Ok(host.to_owned()),
        }
    }
}

/// `a, b` → those two; nothing → all.
fn namespaces(text: &str) -> Result<Namespaces, String> {
    names(text).map(|names| if names.is_empty() { Namespaces::All } else { Namespaces::Only(names) })
}

/// Names of namespaces, separated by commas: each once, in order.
///
/// # Errors
/// Which cannot be one.
pub fn names(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> =
        text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    if let Some(bad) = names.iter().find(|name| !is_dns_label(name)) {
        return Err(format!(
            "{bad:?} cannot be a namespace: write names of small letters, digits and '-', separated by commas"
        ));
    }
    Ok(names)
}

/// A namespace's name is a DNS label (RFC 1123).
fn is_dns_label(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.chars().all(|c| alphanumeric(c) || c == '-')
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, String> {
        Flags::try_parse_from([&["valkey-cluster-operator"], args].concat()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_command_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults_look_after_everything() {
        let flags = parse(&[]).unwrap();
        assert_eq!(flags.namespaces, Namespaces::All);
        assert_eq!(flags.api_qps.get(), 50);
        assert!(!flags.identity().unwrap().is_empty());
    }

    #[test]
    fn namespaces_are_a_list() {
        let only = Namespaces::Only(vec!["a".into(), "b-1".into()]);
        assert_eq!(parse(&["--namespaces", "b-1, a,,a"]).unwrap().namespaces, only);
        let refusal = parse(&["--namespaces", "a;b"]).unwrap_err();
        assert!(refusal.contains("separated by commas"), "{refusal}");
    }

    #[test]
    fn zero_is_refused() {
        assert!(parse(&["--api-qps", "0"]).is_err());
        assert!(parse(&["--concurrency", "0"]).is_err());
        let refusal = parse(&["--log-level", "info,x=loud"]).unwrap_err();
        assert!(refusal.contains("levels by target"), "{refusal}");
    }
}
