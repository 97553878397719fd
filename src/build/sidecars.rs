//! Containers beside `server`: the exporter and those that a person adds, and what a person may change of ours. Pure.
//!
//! They are native sidecars: the kubelet starts them again when they end, although the pod never starts `server` again,
//! and ends them after it, so that they are there while a pod that was told to go serves on.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, SecretKeySelector, SecurityContext,
};
use serde_json::Value;

use super::{config::CLIENT_PORT, labels::secret_name, pod::SERVER};
use crate::model::{Desired, Exporter};

/// Name of the exporter's container.
pub const EXPORTER: &str = "metrics-exporter";
/// Where it is scraped.
pub const METRICS_PORT: i32 = 9121;
/// The user that it reads as, and the key of its password in the Secret.
pub const EXPORTER_USER: &str = "_exporter";

/// The native sidecars of a pod, in the order in which they start.
pub(super) fn sidecars(desired: &Desired) -> Vec<Container> {
    let template = &desired.template;
    let given = |name: &str| template.containers.iter().find(|c| c.name == name);
    let ours = template.exporter.as_ref().map(|e| patched(exporter(desired, e), given(EXPORTER)));
    let theirs = template.containers.iter().filter(|c| ![SERVER, EXPORTER].contains(&c.name.as_str()));
    let always = |c: Container| Container { restart_policy: Some("Always".to_owned()), ..c };
    ours.into_iter().chain(theirs.cloned()).map(always).collect()
}

fn exporter(desired: &Desired, wanted: &Exporter) -> Container {
    let value = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let password = SecretKeySelector {
        name: secret_name(&desired.key.name),
        key: EXPORTER_USER.to_owned(),
        // Without it the exporter says that it may not read; a pod that does not start would be worse.
        optional: Some(true),
    };
    let ours = SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    };
    let tls = desired.template.tls.is_some();
    let scheme = if tls { "rediss" } else { "redis" };
    // It speaks to the server of its own Pod, whose certificate is for other names.
    let trust = tls.then(|| value("REDIS_EXPORTER_SKIP_TLS_VERIFICATION", "true"));
    let env = vec![
        value("REDIS_ADDR", &format!("{scheme}://127.0.0.1:{CLIENT_PORT}")),
        value("REDIS_USER", EXPORTER_USER),
        EnvVar {
            name: "REDIS_PASSWORD".to_owned(),
            value: None,
            value_from: Some(EnvVarSource { secret_key_ref: Some(password), ..EnvVarSource::default() }),
        },
    ];
    Container {
        name: EXPORTER.to_owned(),
        image: Some(wanted.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: (!wanted.args.is_empty()).then(|| wanted.args.clone()),
        env: Some(env.into_iter().chain(trust).collect()),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: METRICS_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(wanted.resources.clone()),
        security_context: Some(secured(ours, wanted.security_context.as_ref())),
        ..Container::default()
    }
}

/// One of our containers with what a person may change: variables, where images come from, and the security context field by
/// field. Admission refuses the rest.
pub(super) fn patched(ours: Container, given: Option<&Container>) -> Container {
    let Some(given) = given else { return ours };
    let mut env = ours.env.unwrap_or_default();
    for more in given.env.iter().flatten() {
        env.retain(|e| e.name != more.name);
        env.push(more.clone());
    }
    let mut env_from = ours.env_from.unwrap_or_default();
    env_from.extend(given.env_from.iter().flatten().cloned());
    Container {
        env: (!env.is_empty()).then_some(env),
        env_from: (!env_from.is_empty()).then_some(env_from),
        image_pull_policy: given.image_pull_policy.clone().or(ours.image_pull_policy),
        security_context: Some(secured(
            ours.security_context.unwrap_or_default(),
            given.security_context.as_ref(),
        )),
        ..ours
    }
}

/// Each field that is given replaces ours.
fn secured(ours: SecurityContext, given: Option<&SecurityContext>) -> SecurityContext {
    let (Ok(Value::Object(mut all)), Some(Ok(Value::Object(more)))) =
        (serde_json::to_value(&ours), given.map(serde_json::to_value))
    else {
        return ours;
    };
    all.extend(more.into_iter().filter(|(_, v)| !v.is_null()));
    serde_json::from_value(Value::Object(all)).unwrap_or(ours)
}
