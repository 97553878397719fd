//! Users of the processes and the passwords in the Secret. A process that takes none of the operator's passwords is lost to it.

use valkey_cluster_operator::build::credentials::{OPERATOR_USER, REPLICATION_USER};
use valkey_cluster_operator::model::settings::JOBS_SINCE;
use valkey_cluster_operator::model::users::{
    Accounts, Passwords, Shown, User, described, passwords, refused, remembered, text,
};
use valkey_cluster_operator::model::{Moment, NodeId};
use valkey_cluster_operator::plan::users;

use super::observe::Applied;
use super::valkey::Node;
use super::world::World;

/// What the Secret holds: passwords are numbered.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Vault {
    now: u64,
    former: Option<u64>,
    /// How often new ones were asked for, and for which request they were made.
    pub asked: u64,
    made: u64,
}

fn digest(user: &str, number: u64) -> String {
    format!("{user}{number}")
}

impl Vault {
    /// What the operator knows of it.
    pub(crate) fn accounts(&self) -> Accounts {
        Accounts {
            operator: digest("operator", self.now),
            former: self.former.is_some(),
            replication: digest("replication", self.now),
            exporter: digest("exporter", self.now),
            exporter_since: Moment(0),
            renew: (self.asked != self.made && self.former.is_none()).then(|| "asked for".to_owned()),
        }
    }

    pub(crate) fn renew(&mut self) {
        if self.asked != self.made && self.former.is_none() {
            (self.former, self.now, self.made) = (Some(self.now), self.now + 1, self.asked);
        }
    }

    pub(crate) fn settle(&mut self) {
        self.former = None;
    }

    /// Whether the operator can log in to a process with these users.
    pub(crate) fn opens(&self, shown: &Shown) -> bool {
        let keys = [Some(self.now), self.former].into_iter().flatten();
        let known: Vec<String> = keys.map(|n| digest("operator", n)).collect();
        shown.get(OPERATOR_USER).is_some_and(|line| passwords(line).any(|p| known.iter().any(|k| k == p)))
    }
}

impl Node {
    /// Whether it lets a replica with this password copy it.
    pub(crate) fn takes(&self, password: &str) -> bool {
        self.users.get(REPLICATION_USER).is_some_and(|line| passwords(line).any(|p| p == password))
    }

    /// The operator turns the replication user on, with the rights that the version has.
    pub(crate) fn admit(&mut self) {
        self.admitted = true;
        let line = self.users.get(REPLICATION_USER).cloned().unwrap_or_default();
        let digests: Vec<&str> = passwords(&line).collect();
        let rules = users::system_rules(REPLICATION_USER, true, self.version >= JOBS_SINCE, &digests);
        self.users.insert(REPLICATION_USER.to_owned(), described(&rules).expect("plain rules"));
    }
}

impl World {
    /// Whoever logs in with a password that is not a secret: a person's user, with rules that servers take or do not take.
    pub(crate) fn user(&mut self, name: &str, rule: Option<&str>) {
        let desired = &mut self.resource.desired;
        match rule {
            Some(rule) => {
                let rules = vec![rule.to_owned()];
                let user = User { enabled: true, passwords: Passwords::Any, rules };
                desired.users.insert(name.to_owned(), user);
            }
            None => drop(desired.users.remove(name)),
        }
    }

    pub(crate) fn set_user(
        &mut self,
        on: &NodeId,
        user: &str,
        rules: &[String],
        applied: &mut Applied,
    ) -> Result<(), String> {
        let key = (on.clone(), remembered(user));
        if rules.iter().any(|r| r == "+nonsense") {
            applied.insert(key, (text(rules), refused("unknown command")));
            return Err("unknown command".to_owned());
        }
        let line = described(rules).expect("lives use plain rules");
        applied.insert(key, (text(rules), line.clone()));
        self.valkey.get_mut(on).users.insert(user.to_owned(), line);
        Ok(())
    }

    /// A process that nobody can log in to any more.
    pub(crate) fn locked_out(&self) -> Option<String> {
        let with_pods: Vec<&NodeId> = self.kube.pods.values().filter_map(|o| o.process.as_ref()).collect();
        let mut ours = self.valkey.nodes.values().filter(|n| with_pods.contains(&&n.id));
        ours.find(|n| !self.vault.opens(&n.users))
            .map(|n| format!("{} takes no password of the operator", n.id))
    }

    /// A node whose users are not those of the spec, or that takes or uses a password that is no more.
    pub(crate) fn users_unfinished(&self, node: &Node) -> Option<String> {
        let accounts = self.vault.accounts();
        let only = |user: &str, password: &String| {
            node.users.get(user).is_some_and(|line| passwords(line).eq([password.as_str()]))
        };
        if accounts.former || !only(OPERATOR_USER, &accounts.operator) {
            return Some(format!("{} takes a former password", node.id));
        }
        if node.primary_password != accounts.replication || !only(REPLICATION_USER, &accounts.replication) {
            return Some(format!("{} replicates with a former password", node.id));
        }
        let names = |users: &Shown| -> Vec<String> {
            users.keys().filter(|n| !n.starts_with('_') && *n != "default").cloned().collect()
        };
        let wanted = &self.resource.desired.users;
        let refused =
            |name: &String| wanted.get(name).is_some_and(|u| u.rules.iter().any(|r| r == "+nonsense"));
        let lacks = wanted.keys().find(|n| !node.users.contains_key(*n) && !refused(n));
        let more = names(&node.users).into_iter().find(|n| !wanted.contains_key(n));
        lacks.cloned().or(more).map(|name| format!("{} has not the users of the spec: {name}", node.id))
    }
}
