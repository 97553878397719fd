//! The ground of every story: a Kubernetes with the operator on it. On the sandbox, both are made from this source tree.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client};

use super::operator;
use super::reach::Way;
use crate::progress::Progress;
use crate::sandbox::{Sandbox, UpOptions};
use crate::stranger::{Options, Stranger};

/// Where stories are told.
#[derive(Clone, Debug)]
pub enum Target {
    /// On the sandbox of this name.
    Sandbox(String),
    /// On a cluster of somebody's.
    Stranger(Options),
}

/// A Kubernetes with the operator on it.
pub(super) struct Ground {
    pub(super) reach: Way,
    /// As administrator.
    pub(super) client: Client,
    /// There was no operator before.
    pub(super) installed: bool,
}

/// Brings up and installs what is missing or old; notes how long each phase took.
///
/// # Errors
/// What did not work, and where to look.
pub(super) async fn ground(
    target: &Target,
    progress: &Progress,
    times: &mut Vec<(&'static str, Duration)>,
) -> Result<Ground> {
    match target {
        Target::Sandbox(name) => on_sandbox(name, progress, times).await,
        Target::Stranger(options) => on_stranger(options.clone(), progress, times).await,
    }
}

async fn on_stranger(
    options: Options,
    progress: &Progress,
    times: &mut Vec<(&'static str, Duration)>,
) -> Result<Ground> {
    let began = Instant::now();
    let stranger = Stranger::open(options, progress).await?;
    let step = progress.step("operator");
    let installed = operator::install_on(&stranger, progress).await?;
    step.done("Ready");
    times.push(("operator there and Ready", began.elapsed()));
    Ok(Ground { client: stranger.client(), reach: Arc::new(stranger), installed })
}

async fn on_sandbox(
    name: &str,
    progress: &Progress,
    times: &mut Vec<(&'static str, Duration)>,
) -> Result<Ground> {
    let began = Instant::now();
    let sandbox = tokio::task::block_in_place(|| {
        Sandbox::up(name, UpOptions { workers: None, zones: None }, progress)
    })?;
    times.push(("sandbox up, images loaded", began.elapsed()));
    let built = progress.finished().into_iter().find(|(step, _)| step.starts_with("build operator"));
    if let Some((_, took)) = built {
        times.push(("  of that: operator and ledger built", took));
    }
    let began = Instant::now();
    let client = sandbox.client().await?;
    let step = progress.step("operator");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), operator::NAMESPACE);
    let old = deployments.get_opt(operator::DEPLOYMENT).await?.is_some();
    operator::install(&sandbox, &client).await?;
    // Its Pods may still run what was loaded before.
    if old {
        operator::restart(&sandbox, &client).await?;
    }
    step.done("Ready");
    times.push(("operator installed and Ready", began.elapsed()));
    Ok(Ground { reach: Arc::new(sandbox), client, installed: !old })
}
