//! Decides how the sandbox's own kubectl is run: the one that was built with its Kubernetes, beside its API server.

use std::process::Command;

use super::instance::{Instance, Machine};
use super::{kubeconfig, network};

/// kubectl as administrator, inside the control plane's network.
pub(super) fn command(instance: &Instance) -> Command {
    let mut command = network::inside(instance, Machine::Control, instance.path("bin/kubectl"));
    command.env("KUBECONFIG", kubeconfig::of(instance, "admin"));
    command
}
