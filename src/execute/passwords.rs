//! The effects on the Secret of the system users: made once, renewed on request, settled when every server knows the new passwords.
//!
//! Each writes what it has just read, bound to that version, so that two of them cannot make two passwords.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};

use super::Executor;
use crate::build::{self, Credentials, labels};
use crate::model::Outcome;
use crate::mutex::lock;

impl Executor<'_> {
    /// Creates the Secret, or takes over one that an earlier cluster of this name has left.
    pub(super) async fn secret(&self) -> kube::Result<Outcome> {
        let known = lock(self.hints).credentials.clone();
        let mut credentials = known.unwrap_or_else(|| Credentials::new(password(), password(), password()));
        let mut wanted = self.secret_with(&credentials);
        let api = self.secrets();
        let written = match api.create(&PostParams::default(), &wanted).await {
            Ok(written) => written,
            Err(kube::Error::Api(s)) if s.is_already_exists() => {
                let live = api.get(&wanted.name_any()).await?;
                if live.annotations().get(labels::CLUSTER_UID) == Some(&self.s.desired.key.uid) {
                    return Ok(Outcome::Stale("the Secret exists".to_owned()));
                }
                // Pods of the former cluster of this name may still hold on until they are released.
                if let Ok(former) = Credentials::from_secret(&live) {
                    credentials.operator = former.operator;
                    credentials.former = former.former;
                    wanted = self.secret_with(&credentials);
                }
                wanted.metadata.resource_version = live.resource_version();
                let params = PatchParams::apply(labels::OPERATOR).force();
                api.patch(&wanted.name_any(), &params, &Patch::Apply(&wanted)).await?
            }
            Err(error) => return Err(error),
        };
        lock(self.hints).secret_is(written, credentials);
        Ok(Outcome::Done)
    }

    /// Makes the passwords that are missing, or all when that is asked for, and writes what the servers read at their start.
    pub(super) async fn renew(&self) -> kube::Result<Outcome> {
        let (live, known) = match self.live().await? {
            Ok(found) => found,
            Err(why) => return Ok(Outcome::Stale(why)),
        };
        let asked = self.s.desired.rotation.as_ref();
        let rotated = live.annotations().get(labels::ROTATED);
        let everybody = asked.is_some() && asked != rotated && known.former.is_none();
        let exporters = everybody || known.lacks.contains(build::credentials::EXPORTER_USER);
        let mut wanted = self.keeping(&live);
        if everybody && let Some(asked) = asked {
            wanted.annotations_mut().insert(labels::ROTATED.to_owned(), asked.clone());
        }
        if exporters {
            let now = self.s.now.0.to_string();
            wanted.annotations_mut().insert(labels::EXPORTER_SINCE.to_owned(), now);
        }
        self.write(wanted, known.renewed(everybody, password)).await
    }

    /// Forgets the operator's former password.
    pub(super) async fn settle(&self) -> kube::Result<Outcome> {
        match self.live().await? {
            Ok((_, known)) if known.former.is_none() => Ok(Outcome::Done),
            Ok((live, known)) => self.write(self.keeping(&live), known.settled()).await,
            Err(why) => Ok(Outcome::Stale(why)),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.ctx.clients.api.clone(), &self.s.desired.key.namespace)
    }

    /// The Secret as it is, if it is this cluster's.
    async fn live(&self) -> kube::Result<Result<(Secret, Credentials), String>> {
        let key = &self.s.desired.key;
        let live = self.secrets().get_opt(&labels::secret_name(&key.name)).await?;
        let Some(live) = live.filter(|l| l.annotations().get(labels::CLUSTER_UID) == Some(&key.uid)) else {
            return Ok(Err("the Secret of the system users is gone".to_owned()));
        };
        Ok(Credentials::from_secret(&live).map(|known| (live, known)))
    }

    /// The metadata of the Secret to write, bound to the version that was read.
    fn keeping(&self, live: &Secret) -> Secret {
        let mut wanted = self.secret_with(&Credentials::default());
        for key in [labels::ROTATED, labels::EXPORTER_SINCE, labels::FORMED] {
            if let Some(value) = live.annotations().get(key) {
                wanted.annotations_mut().insert(key.to_owned(), value.clone());
            }
        }
        wanted.metadata.resource_version = live.resource_version();
        wanted
    }

    async fn write(&self, mut wanted: Secret, credentials: Credentials) -> kube::Result<Outcome> {
        wanted.data = self.secret_with(&credentials).data;
        let params = PatchParams::apply(labels::OPERATOR).force();
        match self.secrets().patch(&wanted.name_any(), &params, &Patch::Apply(&wanted)).await {
            Ok(written) => {
                lock(self.hints).secret_is(written, credentials);
                Ok(Outcome::Done)
            }
            Err(kube::Error::Api(s)) if s.is_conflict() => {
                Ok(Outcome::Stale("the Secret of the system users has just changed".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn secret_with(&self, credentials: &Credentials) -> Secret {
        let mut wanted = build::secret(&self.s.desired, credentials);
        if self.s.formed {
            wanted.annotations_mut().insert(labels::FORMED.to_owned(), "true".to_owned());
        }
        wanted
    }
}

/// 32 letters and digits (190 bits) from the operating system's generator.
fn password() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}
