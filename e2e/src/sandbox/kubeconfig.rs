//! Decides what a kubeconfig of the sandbox says. Pure but for [`write_all`], which writes them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::address::{API, Worker};
use super::instance::{Instance, write};
use super::pki::{Identity, identity};

/// The contents of a kubeconfig that points to `server` and to certificates in files.
pub(super) fn by_files(name: &str, server: &str, authority: &Path, identity: &Identity) -> Value {
    let cluster = json!({ "server": server, "certificate-authority": authority });
    let user = json!({ "client-certificate": identity.certificate, "client-key": identity.key });
    whole(name, &cluster, &user)
}

/// As [`by_files`], with the certificates inside: it may be copied anywhere.
pub(super) fn by_value(name: &str, server: &str, authority: &[u8], certificate: &[u8], key: &[u8]) -> Value {
    let cluster = json!({ "server": server, "certificate-authority-data": base64(authority) });
    let user = json!({ "client-certificate-data": base64(certificate), "client-key-data": base64(key) });
    whole(name, &cluster, &user)
}

fn whole(name: &str, cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    })
}

/// Standard base64 with padding, as kubeconfigs carry certificates.
fn base64(bytes: &[u8]) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap_or(Value::Null)
}

/// Where the kubeconfig of a component is.
pub(super) fn of(instance: &Instance, who: &str) -> std::path::PathBuf {
    instance.path(format!("kubeconfigs/{who}"))
}

/// Writes the kubeconfigs of all components and the person's own.
///
/// # Errors
/// If a certificate cannot be read, or the file system refuses.
pub(super) fn write_all(instance: &Instance, workers: u8, port: u16) -> Result<()> {
    let authority = identity(instance, "ca").certificate;
    let inside = format!("https://{API}");
    let components = ["admin", "controller-manager", "scheduler", "proxy"].map(str::to_owned);
    for who in components.into_iter().chain(Worker::first(workers).map(|worker| worker.to_string())) {
        let config = by_files("sandbox", &inside, &authority, &identity(instance, &who));
        write(&of(instance, &who), &serde_json::to_vec_pretty(&config)?)?;
    }
    let admin = identity(instance, "admin");
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let name = format!("valkey-sandbox-{}", instance.name());
    let outside = format!("https://127.0.0.1:{port}");
    let config =
        by_value(&name, &outside, &read(&authority)?, &read(&admin.certificate)?, &read(&admin.key)?);
    write(&instance.kubeconfig(), &serde_json::to_vec_pretty(&config)?)?;
    fs::set_permissions(instance.kubeconfig(), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_that_may_be_carried_away_names_no_file() {
        let config = by_value("s", "https://127.0.0.1:1", b"ca", b"crt", b"key");
        let read: kube::config::Kubeconfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("s"));
        assert_eq!(config["clusters"][0]["cluster"]["certificate-authority-data"], "Y2E=");
        assert!(!config.to_string().contains('\\') && !config.to_string().contains("client-key\""));
    }

    #[test]
    fn components_point_to_their_files() {
        let who = Identity { certificate: "/pki/w1.crt".into(), key: "/pki/w1.key".into() };
        let config = by_files("s", "https://10.200.0.1:6443", Path::new("/pki/ca.crt"), &who);
        assert_eq!(config["users"][0]["user"]["client-key"], "/pki/w1.key");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.200.0.1:6443");
    }
}
