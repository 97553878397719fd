//! What the operator itself counts as failed, by the metrics of its Pods: a planned change goes without.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use valkey_cluster_operator::build::install::HTTP_PORT;

use super::exporter::scrape;
use super::operator;
use super::stage::Stage;

/// Steps and passes that have failed: how many, by Pod and series.
pub(super) struct Failures(BTreeMap<String, u64>);

impl Failures {
    /// Those until now.
    ///
    /// # Errors
    /// If a Pod of the operator does not show its metrics.
    pub(super) async fn so_far(stage: &Stage) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(stage.client.clone(), operator::NAMESPACE);
        let way = stage.reach().access(operator::NAMESPACE).connector;
        let mut all = BTreeMap::new();
        for pod in pods.list(&ListParams::default().labels(operator::SELECTOR)).await? {
            let name = pod.name_any();
            let ip = pod.status.and_then(|s| s.pod_ip).with_context(|| format!("{name} has no address"))?;
            let text = scrape(&way, SocketAddr::new(ip.parse()?, u16::try_from(HTTP_PORT)?))
                .await
                .with_context(|| name.clone())?;
            let failed = text.lines().filter_map(failed);
            all.extend(failed.map(|(series, count)| (format!("{name} {series}"), count)));
        }
        Ok(Self(all))
    }

    /// None came since, but for those whose series holds these words: they are a way of this change.
    ///
    /// # Errors
    /// Which did.
    pub(super) async fn none_since(&self, stage: &Stage, what: &str, but_for: Option<&str>) -> Result<()> {
        let now = Self::so_far(stage).await?.0;
        let before = |series: &String| self.0.get(series).copied().unwrap_or_default();
        let new = now.iter().map(|(series, count)| (series, count.saturating_sub(before(series))));
        let (known, others): (Vec<_>, Vec<_>) = new
            .filter(|(_, count)| *count > 0)
            .partition(|(series, _)| but_for.is_some_and(|words| series.contains(words)));
        let sum = |all: &[(&String, u64)]| all.iter().map(|(_, count)| count).sum::<u64>();
        let known = but_for.map(|words| format!(", {} of {words}", sum(&known))).unwrap_or_default();
        stage.say(format_args!("{what}: {} failed commands of the operator{known}", sum(&others)));
        if let Err(why) = stage.own_operator("counts what fails in all clusters together").await {
            stage.leave_out(&format!("{what}: that no command of the operator fails"), &why);
            return Ok(());
        }
        ensure!(others.is_empty(), "{what}: the operator counts as failed {others:?}");
        Ok(())
    }
}

/// Of one line of metrics: the series and its count, if it counts failures. A standby that does not act fails at nothing.
fn failed(line: &str) -> Option<(&str, u64)> {
    let (series, count) = line.rsplit_once(' ')?;
    let step = series.starts_with("valkey_operator_steps_total{") && series.contains(r#"outcome="failed""#);
    let pass = series.starts_with("valkey_operator_reconcile_errors_total{")
        && !series.contains(r#"reason="not_leading""#);
    (step || pass).then_some((series, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::failed;

    #[test]
    fn steps_and_passes_that_failed_are_counted_and_nothing_else() {
        let step =
            |outcome: &str| format!(r#"valkey_operator_steps_total{{outcome="{outcome}",step="Meet"}} 3"#);
        let pass = |reason: &str| format!(r#"valkey_operator_reconcile_errors_total{{reason="{reason}"}} 2"#);
        let counts = [step("failed"), step("done"), step("stale"), pass("valkey"), pass("not_leading")]
            .map(|line| failed(&line).map(|(_, count)| count));
        assert_eq!(counts, [Some(3), None, None, Some(2), None]);
        assert_eq!(failed("# TYPE valkey_operator_steps_total counter"), None);
    }
}
