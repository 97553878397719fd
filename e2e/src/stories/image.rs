//! The operator's image is the same whoever makes it: its digest depends on the sources and the compiler alone.

use anyhow::{Result, ensure};
use futures::FutureExt;

use super::stage::Stage;
use super::{Story, Suite};
use crate::progress::Progress;
use crate::sandbox::images;

pub(super) const STORY: Story = Story {
    name: "image",
    about: "the operator's image made twice has the same digest",
    run: |stage| run(stage).boxed_local(),
};

async fn run(stage: &Stage) -> Result<()> {
    stage.sandbox("is about the image that is made here")?;
    let (full, progress) = (stage.suite == Suite::Full, stage.progress.clone());
    let (first, second) = tokio::task::spawn_blocking(move || twice(full, &progress)).await??;
    ensure!(first == second, "two images of the same sources: {first} and {second}");
    stage.say(format_args!(
        "{}: {first}",
        if full { "two builds from nothing" } else { "one build, two images" }
    ));
    Ok(())
}

/// In the full suite of a build from nothing in a directory of its own, which takes many minutes; otherwise of the same build.
fn twice(full: bool, progress: &Progress) -> Result<(String, String)> {
    let elsewhere = std::env::temp_dir().join(format!("operator-again-{}", std::process::id()));
    let first = images::operator_digest(None, progress)?;
    let second = images::operator_digest(full.then_some(elsewhere.as_path()), progress);
    if full {
        std::fs::remove_dir_all(&elsewhere)?;
    }
    Ok((first, second?))
}
