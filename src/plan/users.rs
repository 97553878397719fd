//! Users: every node has those of the spec and the operator's own, with the passwords of now, and no others.
//!
//! Set live, one user at a time, by a command that either takes all rules or none, so that a user that cannot be set stays as it
//! was. A new password is added everywhere before anybody uses it, and an earlier one is taken away only when nobody does:
//! how far that has come is seen on the nodes, so that it goes on after any interruption.

use std::collections::{BTreeMap, BTreeSet};

use crate::build::credentials::{
    EXPORTER_USER, IMPORT_RIGHTS, OPERATOR_USER, REPLICATION_USER, SYSTEM_USERS, rights,
};
use crate::model::settings::JOBS_SINCE;
use crate::model::users::{
    Accounts, Digest, Passwords, Rules, Shown, User, described, holds, is_on, passwords, refusal,
};
use crate::model::{
    Blocked, Code, Member, NodeReport, Phase, Plan, Proposal, Seen, Stage, Step, View, Waiting, Why,
};

/// Who logs in without a name.
const DEFAULT_USER: &str = "default";
/// What the operator needs to look at users at all, for servers whose file an earlier operator has written.
const TO_LOOK: [&str; 2] = ["+acl|list", "+acl|deluser"];

pub(super) fn rule(v: &View<'_>) -> Plan {
    let mut plan = Plan { blocked: missing(v), ..Plan::default() };
    let (wishes, done, mut known) = (Wishes::new(v), through(v), BTreeMap::new());
    for (member, node) in v.answering().filter(|(_, n)| !n.loading) {
        match &node.users {
            Some(shown) => {
                own_users(v, member, node, shown, &done, &mut known, &mut plan);
                users_of_spec(&wishes, member, node, shown, &mut plan);
            }
            None => {
                set(member, OPERATOR_USER, TO_LOOK.map(str::to_owned).to_vec(), "may not look", &mut plan);
            }
        }
    }
    if let Some(accounts) = &v.s.accounts {
        rotation(v, accounts, &mut plan);
    }
    plan
}

/// Rules by what they are made of: nearly all nodes have the same.
type Known<'a> = BTreeMap<Own<'a>, Rules>;

fn own_users<'a>(
    v: &View<'a>,
    member: &Member<'a>,
    node: &'a NodeReport,
    shown: &'a Shown,
    through: &BTreeSet<&str>,
    known: &mut Known<'a>,
    plan: &mut Plan,
) {
    // While the Secret lacks one, nobody knows what to set.
    let Some(accounts) = v.s.accounts.as_ref().filter(|a| !a.operator.is_empty()) else { return };
    for user in SYSTEM_USERS {
        let own = own(accounts, node, shown, user, through.contains(user));
        let rules = known.entry(own).or_insert_with_key(Own::rules);
        if !holds(&node.id, user, shown.get(user), rules, &v.s.applied) {
            set(member, user, rules.words.clone(), "the operator's own user", plan);
        }
    }
}

fn users_of_spec(
    wishes: &Wishes<'_, '_>,
    member: &Member<'_>,
    node: &NodeReport,
    shown: &Shown,
    plan: &mut Plan,
) {
    for user in wishes.rules.keys() {
        match wishes.on(node, shown, user) {
            Wanted::Holds => {}
            Wanted::Set(rules) => set(member, user, rules, "as spec.users has it", plan),
            Wanted::Refused(message) => {
                plan.blocked.push(Blocked { code: Code::UserRefused, shard: None, message });
            }
        }
    }
    // Names with '_' are the operators', also those of another version.
    for user in shown.keys().filter(|u| !u.starts_with('_') && !wishes.rules.contains_key(u.as_str())) {
        if let Some(on) = member.target() {
            let step = Step::RemoveUser { on, user: user.clone() };
            plan.steps.push(Proposal::new(step, Why::Settings, "spec.users does not list it"));
        }
    }
}

fn set(member: &Member<'_>, user: &str, rules: Vec<String>, note: &str, plan: &mut Plan) {
    if let Some(on) = member.target() {
        let step = Step::SetUser { on, user: user.to_owned(), rules };
        plan.steps.push(Proposal::new(step, Why::Settings, note));
    }
}

/// The users of the spec, and who logs in without a name.
pub struct Wishes<'v, 'a> {
    v: &'v View<'a>,
    /// None while the passwords of a user are missing.
    rules: BTreeMap<&'v str, Option<Rules>>,
}

/// What is to be done about one user of the spec on one node.
enum Wanted {
    Holds,
    Set(Vec<String>),
    Refused(String),
}

impl<'v, 'a> Wishes<'v, 'a> {
    /// As the spec has them now.
    pub fn new(v: &'v View<'a>) -> Self {
        let users = v.s.desired.users.keys().map(String::as_str).chain([DEFAULT_USER]);
        Self { v, rules: users.map(|user| (user, rules(v, user).map(Rules::new))).collect() }
    }

    /// The node has every user that can be set.
    pub(super) fn complete(&self, node: &NodeReport) -> bool {
        let lacks = |shown, user: &str| matches!(self.on(node, shown, user), Wanted::Set(_));
        node.users.as_ref().is_some_and(|shown| !self.rules.keys().any(|user| lacks(shown, user)))
    }

    fn on(&self, node: &NodeReport, shown: &Shown, user: &str) -> Wanted {
        let line = shown.get(user);
        let Some(Some(rules)) = self.rules.get(user) else { return self.copied(node, line, user) };
        let applied = &self.v.s.applied;
        if holds(&node.id, user, line, rules, applied) {
            return Wanted::Holds;
        }
        match refusal(&node.id, user, rules, applied) {
            None => Wanted::Set(rules.words.clone()),
            Some(why) => match self.copied(node, line, user) {
                Wanted::Set(rules) => Wanted::Set(rules),
                Wanted::Holds | Wanted::Refused(_) => Wanted::Refused(format!(
                    "spec.users: Valkey {} does not take {user}: {why}; correct it (the user stays as it was)",
                    node.version
                )),
            },
        }
    }

    /// A user that cannot be set stays as it was, also on a node that has just come: it gets what the others have.
    fn copied(&self, node: &NodeReport, line: Option<&String>, user: &str) -> Wanted {
        let mut others = self.v.answering().filter(|(_, n)| n.id != node.id && n.admitted);
        match others.find_map(|(_, n)| n.users.as_ref()?.get(user)) {
            Some(theirs) if line.is_none() => Wanted::Set(
                ["reset"].into_iter().chain(theirs.split_whitespace()).map(str::to_owned).collect(),
            ),
            Some(_) | None => Wanted::Holds,
        }
    }
}

/// The rules of a user of the spec; none while its passwords are missing.
fn rules(v: &View<'_>, user: &str) -> Option<Vec<String>> {
    let Some(wish) = v.s.desired.users.get(user) else {
        return Some(["reset", "on", "nopass", "~*", "&*", "+@all"].map(str::to_owned).to_vec());
    };
    let digests: &[Digest] = match &wish.passwords {
        Passwords::None | Passwords::Any => &[],
        Passwords::In { .. } => v.s.passwords.get(user)?.as_ref().ok()?,
    };
    Some(of_spec(wish, digests))
}

/// The rules for a user with these passwords.
pub fn of_spec(wish: &User, digests: &[Digest]) -> Vec<String> {
    let mut rules = vec!["reset".to_owned(), if wish.enabled { "on" } else { "off" }.to_owned()];
    rules.extend((wish.passwords == Passwords::Any).then(|| "nopass".to_owned()));
    rules.extend(digests.iter().map(|d| format!("#{d}")));
    rules.extend(wish.rules.iter().cloned());
    rules
}

/// Users whose passwords cannot be found.
fn missing(v: &View<'_>) -> Vec<Blocked> {
    let told = v.s.passwords.values().filter_map(|p| p.as_ref().err());
    told.map(|message| Blocked { code: Code::UserRefused, shard: None, message: message.clone() }).collect()
}

/// What one of the operator's own users is made of.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Own<'a> {
    user: &'static str,
    on: bool,
    imports: bool,
    digests: Vec<&'a str>,
}

impl Own<'_> {
    fn rules(&self) -> Rules {
        Rules::new(system_rules(self.user, self.on, self.imports, &self.digests))
    }
}

/// One of the operator's own users as this node should have it: the password of now, and earlier ones while somebody uses them.
fn own<'a>(
    accounts: &'a Accounts,
    node: &NodeReport,
    shown: &'a Shown,
    user: &'static str,
    through: bool,
) -> Own<'a> {
    let (line, now) = (shown.get(user).map(String::as_str).unwrap_or_default(), of(accounts, user));
    let mut digests: Vec<&str> = if through { Vec::new() } else { passwords(line).collect() };
    if !digests.contains(&now.as_str()) {
        digests.push(now);
    }
    // Adoption turns the replication user on, and gives it the rights that this version has.
    let on = user != REPLICATION_USER || is_on(line);
    let imports = user == REPLICATION_USER && on && node.version >= JOBS_SINCE;
    Own { user, on, imports, digests }
}

/// The rules of one of the operator's own users.
pub fn system_rules(user: &str, on: bool, imports: bool, digests: &[&str]) -> Vec<String> {
    let mut rules = vec!["reset".to_owned(), if on { "on" } else { "off" }.to_owned()];
    rules.extend(digests.iter().map(|d| format!("#{d}")));
    rules.extend(rights(user).map(str::to_owned));
    rules.extend(IMPORT_RIGHTS.iter().filter(|_| imports).map(|r| (*r).to_owned()));
    rules
}

/// The operator's own users as whom nobody logs in with an earlier password any more.
fn through<'a>(v: &View<'_>) -> BTreeSet<&'a str> {
    let Some(accounts) = &v.s.accounts else { return BTreeSet::new() };
    let last = |user: &str| match user {
        REPLICATION_USER => v.answering().all(|(_, n)| shows(n, &accounts.replication)),
        EXPORTER_USER => v.all().all(|m| !m.pod.exporting || m.pod.created > accounts.exporter_since),
        _ => true,
    };
    let everywhere = |user: &str| v.answering().all(|(_, n)| accepts(n, user, of(accounts, user)));
    let all = SYSTEM_USERS.into_iter().filter(|_| everyone_answers(v));
    all.filter(|user| everywhere(user) && last(user)).collect()
}

fn of<'a>(accounts: &'a Accounts, user: &str) -> &'a Digest {
    match user {
        OPERATOR_USER => &accounts.operator,
        REPLICATION_USER => &accounts.replication,
        _ => &accounts.exporter,
    }
}

/// No server runs that does not answer, and none without a Pod, which nobody tells of a new password.
fn everyone_answers(v: &View<'_>) -> bool {
    v.s.ghosts.values().all(|g| g.now().is_none())
        && v.all().all(|m| m.pod.phase != Phase::Running || matches!(m.seen, Seen::Now(_)))
}

fn accepts(node: &NodeReport, user: &str, password: &Digest) -> bool {
    let line = node.users.as_ref().and_then(|u| u.get(user));
    line.is_some_and(|line| passwords(line).any(|p| p == password))
}

/// The node logs in to its primary with this password.
fn shows(node: &NodeReport, password: &Digest) -> bool {
    node.primary_password.as_ref().is_none_or(|p| p == password)
}

/// New passwords: made when asked for, used by replicas once every node takes them, and the operator's former one forgotten
/// once no node takes it.
fn rotation(v: &View<'_>, accounts: &Accounts, plan: &mut Plan) {
    if let Some(why) = &accounts.renew {
        plan.steps.push(Proposal::new(Step::Renew, Why::Settings, why.clone()));
    }
    if accounts.operator.is_empty() {
        return;
    }
    let replication = &accounts.replication;
    if everyone_answers(v) && v.answering().all(|(_, n)| accepts(n, REPLICATION_USER, replication)) {
        for (member, _) in v.answering().filter(|(_, n)| !shows(n, replication)) {
            if let Some(on) = member.target() {
                let note = "every node takes the new password of replication";
                plan.steps.push(Proposal::new(Step::LogIn { on }, Why::Settings, note));
            }
        }
    }
    if !accounts.former {
        return;
    }
    let only_now = |n: &NodeReport| {
        let line = n.users.as_ref().and_then(|u| u.get(OPERATOR_USER));
        line.is_some_and(|line| passwords(line).eq([accounts.operator.as_str()]))
    };
    // Who is not there may be there all the same: a watch lags behind, and the server starts with the files of before.
    let there = |shard| v.members(shard).iter().filter(|m| m.pod.phase == Phase::Running).count();
    let all_there = v.s.desired.shards().all(|shard| there(shard) >= v.s.desired.copies());
    if all_there && everyone_answers(v) && v.answering().all(|(_, n)| only_now(n)) {
        let note = "no node takes the operator's former password any more";
        plan.steps.push(Proposal::new(Step::Settle, Why::Settings, note));
    } else {
        let silent: BTreeSet<&str> = v
            .all()
            .filter(|m| m.pod.phase == Phase::Running && m.node().is_none())
            .map(|m| m.pod.name.as_str())
            .collect();
        if let Some(first) = silent.first() {
            let message = format!("new passwords wait for {first}, which does not answer");
            plan.waiting.push(Waiting { shard: None, stage: Stage::Agreeing, message });
        }
    }
}

/// What a server shows that has read its file and was told nothing since: for worlds without real servers.
pub fn of_file(accounts: &Accounts) -> Shown {
    let own = SYSTEM_USERS.map(|user| {
        let rules = system_rules(user, user != REPLICATION_USER, false, &[of(accounts, user)]);
        (user.to_owned(), described(&rules).unwrap_or_default())
    });
    own.into_iter().chain([(DEFAULT_USER.to_owned(), "on nopass ~* &* +@all".to_owned())]).collect()
}

/// How the users of the spec are, for the status.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Why some of them cannot be set.
    pub refused: BTreeSet<String>,
    /// Nodes that lack some of them.
    pub lacking: usize,
}

/// Whether the users of the spec are on every node that answers.
pub fn state(v: &View<'_>) -> State {
    let wishes = Wishes::new(v);
    let mut state = State { refused: missing(v).into_iter().map(|b| b.message).collect(), lacking: 0 };
    for (_, node) in v.answering() {
        let Some(shown) = &node.users else { continue };
        let mut lacks = false;
        for user in wishes.rules.keys() {
            match wishes.on(node, shown, user) {
                Wanted::Holds => {}
                Wanted::Set(_) => lacks = true,
                Wanted::Refused(why) => drop(state.refused.insert(why)),
            }
        }
        state.lacking += usize::from(lacks);
    }
    state
}
