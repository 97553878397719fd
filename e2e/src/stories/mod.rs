//! Stories: what a user would do, on a real Kubernetes, judged by what a user would see. One story a file.
//!
//! A story has its own namespace, which is removed at its end. It fails with a sentence; what led there is in the operator's
//! log, whose tail is shown with it.

pub mod ci;
mod cluster;
mod count;
mod denied;
mod fuzz;
mod mend;
mod operator;
mod pki;
mod process;
mod reach;
mod setup;
mod stage;
mod traces;

mod aftermath;
mod alone;
mod bad_input;
mod big;
mod burn;
mod caught;
mod chaos;
mod control_plane;
mod crash;
mod create;
mod delete;
mod demo;
mod drain;
mod earlier;
mod evict;
mod exporter;
mod failures;
mod fill;
mod foreign;
mod formation;
mod full;
mod heal;
mod hpa;
mod image;
mod isolation;
mod kill_changes;
mod kill_operator;
mod kill_scaling;
mod leaderless;
mod live;
mod load;
mod many;
mod namespaced;
mod network;
mod operator_upgrade;
mod purge;
mod replicas;
mod rescale;
mod rights;
mod rotation;
mod scale;
mod secrets;
mod settled;
mod sick;
mod spread;
mod stranger;
mod taints;
mod takeover;
mod template;
mod tls;
mod tls_switch;
mod upgrade;
mod users;
mod watching;
mod worker;
mod worker_upgrade;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

pub use chaos::{Play, command as chaos};
pub use count::Count;
pub use demo::demo;
pub use reach::{Reach, Way, Writes};
pub use setup::Target;
pub use stage::{Skipped, Stage};

use crate::progress::Progress;

/// How much of everything: the `ci` suite runs each story once, the `full` suite as often as the figures need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Suite {
    /// Counts are exact, times are judged at ten times the figure.
    Ci,
    /// Repetitions as the figures need; medians are judged.
    Full,
}

/// One story.
pub struct Story {
    /// Its name, as given on the command line.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    run: fn(&Stage) -> LocalBoxFuture<'_, Result<()>>,
}

/// All stories in the order in which they run.
pub fn all() -> Vec<Story> {
    vec![
        formation::STORY,
        create::STORY,
        isolation::STORY,
        network::STORY,
        settled::STORY,
        heal::STORY,
        crash::STORY,
        sick::STORY,
        worker::STORY,
        control_plane::STORY,
        many::STORY,
        chaos::STORY,
        replicas::STORY,
        evict::STORY,
        upgrade::STORY,
        template::STORY,
        drain::STORY,
        taints::STORY,
        spread::STORY,
        worker_upgrade::STORY,
        scale::STORY,
        rescale::STORY,
        leaderless::STORY,
        full::STORY,
        big::STORY,
        hpa::STORY,
        purge::STORY,
        live::STORY,
        tls::STORY,
        tls_switch::STORY,
        users::STORY,
        exporter::STORY,
        rotation::STORY,
        bad_input::STORY,
        foreign::STORY,
        delete::STORY,
        takeover::STORY,
        operator_upgrade::STORY,
        alone::STORY,
        kill_operator::STORY,
        kill_scaling::STORY,
        kill_changes::STORY,
        stranger::STORY,
        image::STORY,
        namespaced::STORY,
        // After all others: it judges what they made the operator do.
        rights::STORY,
    ]
}

/// Whether these are names of stories.
///
/// # Errors
/// Which is not, and which there are.
pub(crate) fn known(names: &[String]) -> Result<()> {
    let stories = all();
    if let Some(wrong) = names.iter().find(|n| !stories.iter().any(|s| s.name == n.as_str())) {
        let known: Vec<&str> = stories.iter().map(|s| s.name).collect();
        bail!("there is no story {wrong:?}; there are: {}", known.join(", "));
    }
    Ok(())
}

/// What became of a story.
#[derive(Debug)]
pub enum Told {
    /// It showed what it is about.
    Passed,
    /// It did not.
    Failed(anyhow::Error),
    /// It cannot be told on this stage, for this reason.
    Skipped(String),
}

impl Told {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => match error.downcast_ref::<Skipped>() {
                Some(why) => Self::Skipped(why.to_string()),
                None => Self::Failed(error),
            },
        }
    }
}

/// The longest that one story may take: a bound, not an expectation.
const fn limit(suite: Suite) -> Duration {
    match suite {
        Suite::Ci => Duration::from_mins(15),
        // A story that loses a dozen workers in turn takes a minute for each.
        Suite::Full => Duration::from_mins(45),
    }
}

/// Runs the stories of these names (all, when none is given) and says what became of each.
///
/// # Errors
/// If a name is not that of a story, or the stage cannot be set.
pub async fn run(names: &[String], stage: &Stage, progress: &Progress) -> Result<Vec<(&'static str, Told)>> {
    known(names)?;
    let stories = all();
    let mut results = Vec::new();
    for story in stories.iter().filter(|s| names.is_empty() || names.iter().any(|n| n == s.name)) {
        progress.line(format_args!("story {}: {}", story.name, story.about));
        let began = Instant::now();
        let told = std::panic::AssertUnwindSafe((story.run)(stage)).catch_unwind();
        let limit = limit(stage.suite);
        let result = match tokio::time::timeout(limit, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(anyhow::anyhow!("the story panicked: see above")),
            Err(_) => Err(anyhow::anyhow!("the story did not end within {} s", limit.as_secs())),
        };
        let took = began.elapsed().as_secs_f64();
        let told = Told::from(result);
        match &told {
            Told::Passed => progress.line(format_args!("story {} ok ({took:.1} s)", story.name)),
            Told::Skipped(why) => progress.line(format_args!("story {} skipped: {why}", story.name)),
            Told::Failed(error) => {
                progress.line(format_args!("story {} FAILED ({took:.1} s): {error:#}", story.name));
                progress.line(stage.what_happened());
            }
        }
        let told = match (told, stage.clean().await) {
            (Told::Passed, Err(error)) => Told::Failed(error),
            (told, _) => told,
        };
        stage.told(story.name);
        results.push((story.name, told));
    }
    Ok(results)
}
