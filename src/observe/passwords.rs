//! Reads passwords: those of the system users, and those that the users of the spec name. Touches the Secrets of these names
//! and no others, and reads one again only when a watch has told of another version of it.
//!
//! Passwords of the spec are turned into what servers keep, SHA-256, before anybody else sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::build::{self, Credentials, credentials::digest, labels};
use crate::context::Ctx;
use crate::error::Result;
use crate::hints::Hints;
use crate::model::users::{Accounts, Digest, Passwords};
use crate::model::{Desired, Moment};
use crate::mutex::lock;

/// The passwords of each user that has some, or what is missing.
type OfUsers = BTreeMap<String, Result<Vec<Digest>, String>>;

/// A Secret that users of the spec name, as it was read last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    version: Option<String>,
    digests: BTreeMap<String, Result<Digest, &'static str>>,
}

/// The passwords of the system users: from memory, else from the Secret, if it is this cluster's.
pub(super) async fn credentials(
    ctx: &Ctx,
    desired: &Desired,
    hints: &Mutex<Hints>,
) -> Result<Option<Credentials>> {
    if let Some(known) = lock(hints).credentials.clone() {
        return Ok(Some(known));
    }
    let Some(secret) = read(ctx, desired).await? else { return Ok(None) };
    let found = Credentials::from_secret(&secret).map_err(|e| anyhow::anyhow!("{e}"))?;
    lock(hints).secret_is(secret, found.clone());
    Ok(Some(found))
}

async fn read(ctx: &Ctx, desired: &Desired) -> kube::Result<Option<Secret>> {
    let api: Api<Secret> = Api::namespaced(ctx.clients.api.clone(), &desired.key.namespace);
    let found = api.get_opt(&labels::secret_name(&desired.key.name)).await?;
    Ok(found.filter(|s| s.annotations().get(labels::CLUSTER_UID) == Some(&desired.key.uid)))
}

/// What servers may know of the system users, and the passwords of the users of the spec; with `urgent` from memory alone.
pub(super) async fn look(
    ctx: &Ctx,
    desired: &Desired,
    hints: &Mutex<Hints>,
    urgent: bool,
) -> (Option<Accounts>, OfUsers) {
    if !urgent {
        refresh(ctx, desired, hints).await;
    }
    (accounts(desired, hints), of_users(ctx, desired, hints, urgent).await)
}

/// Reads the Secret again when a watch has shown another version of it. What cannot be read stays as it is known.
async fn refresh(ctx: &Ctx, desired: &Desired, hints: &Mutex<Hints>) {
    let meta = ctx.secret_meta(&desired.key.namespace, &labels::secret_name(&desired.key.name));
    let known = lock(hints).secret.as_ref().and_then(|s| s.metadata.resource_version.clone());
    let Some(meta) = meta.filter(|m| m.metadata.resource_version != known) else { return };
    if meta.annotations().get(labels::CLUSTER_UID) != Some(&desired.key.uid) {
        return;
    }
    match read(ctx, desired).await {
        Ok(Some(secret)) => match Credentials::from_secret(&secret) {
            Ok(found) => lock(hints).secret_is(secret, found),
            Err(why) => tracing::warn!(%why, "the passwords of the system users"),
        },
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the passwords of the system users could not be read again"),
    }
}

/// What servers may know of the system users, and whether their Secret is to be written anew.
fn accounts(desired: &Desired, hints: &Mutex<Hints>) -> Option<Accounts> {
    let h = lock(hints);
    let (known, secret) = (h.credentials.as_ref()?, h.secret.as_ref()?);
    let note = |key: &str| secret.annotations().get(key);
    let asked = desired.rotation.as_ref().is_some_and(|r| note(labels::ROTATED) != Some(r));
    // What a person adds beside ours stays.
    let live = |key: &String| secret.data.as_ref().and_then(|data| data.get(key));
    let differs = known.data(build::objects::is_open(desired)).iter().any(|(k, v)| live(k) != Some(v));
    let renew = if !known.lacks.is_empty() {
        let list: Vec<&str> = known.lacks.iter().copied().collect();
        Some(format!("the Secret lacks a password for {}", list.join(" and ")))
    } else if known.former.is_some() {
        // One after another: a third password would be one that nobody remembers.
        None
    } else if asked {
        Some(format!("the annotation {} asks for new passwords", labels::ROTATE))
    } else {
        differs.then(|| "the files for the servers differ from the spec".to_owned())
    };
    let since = note(labels::EXPORTER_SINCE).and_then(|t| t.parse().ok()).map_or(Moment(0), Moment);
    known
        .lacks
        .is_empty()
        .then(|| Accounts {
            operator: digest(known.operator.as_bytes()),
            former: known.former.is_some(),
            replication: digest(known.replication.as_bytes()),
            exporter: digest(known.exporter.as_bytes()),
            exporter_since: since,
            renew: renew.clone(),
        })
        .or_else(|| renew.map(|why| Accounts { renew: Some(why), ..Accounts::default() }))
}

/// The passwords of the users of the spec, or a sentence that says what is missing. With `urgent` from memory alone: a user
/// whose Secret is not known then is left out.
async fn of_users(ctx: &Ctx, desired: &Desired, hints: &Mutex<Hints>, urgent: bool) -> OfUsers {
    let named = desired.users.values().filter_map(|u| match &u.passwords {
        Passwords::In { secret, .. } => Some(secret.as_str()),
        Passwords::None | Passwords::Any => None,
    });
    let mut troubles = BTreeMap::new();
    for name in named.collect::<BTreeSet<_>>() {
        if !urgent && let Err(why) = read_named(ctx, desired, hints, name).await {
            troubles.insert(name.to_owned(), why);
        }
    }
    let known = lock(hints).secrets.clone();
    let mut all = BTreeMap::new();
    for (user, wish) in &desired.users {
        let Passwords::In { secret, keys } = &wish.passwords else { continue };
        let found = match (troubles.get(secret), known.get(secret)) {
            (Some(why), _) => {
                Err(format!("spec.users: {user} has no password: {why} (the user stays as it was)"))
            }
            (None, Some(known)) => digests(user, secret, keys, known),
            (None, None) => continue,
        };
        all.insert(user.clone(), found);
    }
    all
}

/// Reads the Secret of this name when it is another one than is known.
async fn read_named(ctx: &Ctx, desired: &Desired, hints: &Mutex<Hints>, name: &str) -> Result<(), String> {
    let namespace = &desired.key.namespace;
    let Some(meta) = ctx.secret_meta(namespace, name) else {
        lock(hints).secrets.remove(name);
        return Err(format!("there is no Secret {name} in the namespace {namespace}; create it"));
    };
    if lock(hints).secrets.get(name).is_some_and(|k| k.version == meta.metadata.resource_version) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.clients.api.clone(), namespace);
    let secret = match api.get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(format!("the Secret {name} is gone; create it")),
        // As it is known, if it is.
        Err(_) if lock(hints).secrets.contains_key(name) => return Ok(()),
        Err(error) => return Err(format!("the Secret {name} cannot be read: {error}")),
    };
    let digests = secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), kept(&bytes.0))).collect();
    let version = secret.metadata.resource_version;
    lock(hints).secrets.insert(name.to_owned(), Known { version, digests });
    Ok(())
}

/// A password as servers keep it: its SHA-256, which may be given in its place after a `#`.
fn kept(bytes: &[u8]) -> Result<Digest, &'static str> {
    let given = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix('#'));
    match given {
        _ if bytes.is_empty() => Err("is empty"),
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(hex.to_ascii_lowercase())
        }
        _ => Ok(digest(bytes)),
    }
}

fn digests(user: &str, secret: &str, keys: &[String], known: &Known) -> Result<Vec<Digest>, String> {
    let one = |key: &String| {
        let found = known.digests.get(key).cloned().unwrap_or(Err("is missing"));
        found.map_err(|what| {
            format!(
                "spec.users: {user} has no password: the key {key} of the Secret {secret} {what}; add it \
                 (the user stays as it was)"
            )
        })
    };
    keys.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hashed_unless_it_is_given_as_a_hash() {
        let hash = "30C952FAB122C3F9759F02A6D95C3758B246B4FEE239957B2D4FEE46E26170C4";
        assert_eq!(kept(b"pw"), Ok(hash.to_ascii_lowercase()));
        assert_eq!(kept(format!("#{hash}").as_bytes()), Ok(hash.to_ascii_lowercase()));
        assert_ne!(kept(b"#short"), Ok("short".to_owned()));
        assert!(kept(b"").is_err());
    }

    #[test]
    fn a_missing_key_is_named() {
        let known = Known { version: None, digests: BTreeMap::from([("a".into(), Ok("1".into()))]) };
        let keys = ["a".to_owned(), "b".to_owned()];
        let error = digests("app", "c-users", &keys, &known).unwrap_err();
        assert!(error.contains("the key b of the Secret c-users is missing"), "{error}");
        assert_eq!(digests("app", "c-users", &keys[..1], &known), Ok(vec!["1".to_owned()]));
    }
}
