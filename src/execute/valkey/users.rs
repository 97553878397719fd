//! Users of a node: set, removed, and what it logs in to its primary with.

use std::collections::BTreeMap;

use super::{Done, Hitch, Target, ValkeyExecutor, refused};
use crate::build::credentials::REPLICATION_USER;
use crate::model::users::{self, refused as not_taken, remembered, text};
use crate::mutex::lock;
use crate::valkey::commands;
use crate::valkey::error::WireError;

impl ValkeyExecutor {
    /// Sets all rules or none, and remembers what the server then shows; rules that it does not take are remembered, too, so that
    /// they are not tried again and again.
    pub(super) async fn set_user(&self, on: &Target, user: &str, rules: &[String]) -> Done {
        let node = self.identified(on).await?;
        let words: Vec<&str> = rules.iter().map(String::as_str).collect();
        match commands::acl_setuser(node.as_ref(), user, &words).await {
            Ok(()) => {}
            Err(WireError::Server(why)) => {
                self.remember(on, user, rules, not_taken(&why));
                return Err(Hitch::Failed(format!("the server does not take the user {user}: {why}")));
            }
            Err(other) => return Err(refused(on, &other)),
        }
        let mut shown = commands::acl_list(node.as_ref()).await.map_err(|e| refused(on, &e))?;
        let Some(line) = shown.remove(user) else {
            return Err(Hitch::Failed(format!("{} says OK, and has no user {user}", on.pod)));
        };
        if user == REPLICATION_USER && rules.iter().any(|r| r == "on") && !users::is_on(&line) {
            return Err(Hitch::Failed(format!("{} says OK, and its user {user} is still off", on.pod)));
        }
        self.remember(on, user, rules, line);
        Ok(())
    }

    pub(super) async fn remove_user(&self, on: &Target, user: &str) -> Done {
        let node = self.identified(on).await?;
        commands::acl_deluser(node.as_ref(), user).await.map_err(|e| refused(on, &e))
    }

    /// Takes effect when the link to the primary is opened the next time.
    pub(super) async fn log_in(&self, on: &Target) -> Done {
        let Some(password) = &self.replication else {
            return Err(Hitch::Stale("the password of replication is not known".to_owned()));
        };
        let node = self.identified(on).await?;
        let settings = BTreeMap::from([("primaryauth".to_owned(), password.clone())]);
        commands::config_set(node.as_ref(), &settings).await.map_err(|e| refused(on, &e))
    }

    fn remember(&self, on: &Target, user: &str, rules: &[String], shown: String) {
        let mut applied = lock(&self.applied);
        applied.insert((on.node.clone(), remembered(user)), (text(rules), shown));
    }
}
