//! Users of the servers: the rules that `ACL SETUSER` is given, and the line that `ACL LIST` shows of them.
//!
//! A server puts every user down in one manner (measured on Valkey 8.0.1, 8.1.1 and 9.1.2), so that for plain rules the line is
//! known beforehand. For others it is remembered what the server showed right after it had taken them.

use std::collections::BTreeMap;

use super::ids::{Moment, NodeId};

/// SHA-256 of a password in hexadecimal digits, as the servers keep it.
pub type Digest = String;

/// A user of `spec.users`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// It may log in.
    pub enabled: bool,
    /// With what it logs in.
    pub passwords: Passwords,
    /// Keys, channels and commands, in the words of `ACL SETUSER`.
    pub rules: Vec<String>,
}

/// With what a user logs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passwords {
    /// With nothing: it cannot.
    None,
    /// With anything.
    Any,
    /// With each of the passwords under these keys of a Secret.
    In {
        /// Name of the Secret, in the namespace of the cluster.
        secret: String,
        /// The keys in it.
        keys: Vec<String>,
    },
}

/// The passwords of the system users, as far as their servers may know them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accounts {
    /// The operator's own.
    pub operator: Digest,
    /// The operator knows an earlier one, too, that servers may still ask for.
    pub former: bool,
    /// That of replication.
    pub replication: Digest,
    /// That of the exporters.
    pub exporter: Digest,
    /// Exporters in Pods that are older than this log in with an earlier one.
    pub exporter_since: Moment,
    /// Why the Secret is to be written anew: what a person asked for, or what is missing in it.
    pub renew: Option<String>,
}

/// What one server shows of its users, by name: what `ACL LIST` has after the name.
pub type Shown = BTreeMap<String, String>;

/// What a server has answered to `ACL SETUSER`, in place of a line.
const REFUSED: &str = "refused: ";

/// Under which name the rules that were set are remembered, beside the settings.
pub fn remembered(user: &str) -> String {
    format!("user {user}")
}

/// The rules of a user, in the words of `ACL SETUSER`, and the line that a server then shows, where that is known beforehand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The words.
    pub words: Vec<String>,
    line: Option<String>,
}

impl Rules {
    /// The rules of these words.
    pub fn new(words: Vec<String>) -> Self {
        Self { line: described(&words), words }
    }
}

/// How the rules are remembered: one text.
pub fn text(rules: &[String]) -> String {
    rules.join(" ")
}

/// What is remembered of rules that a server does not take.
pub fn refused(why: &str) -> String {
    format!("{REFUSED}{why}")
}

/// Settings and users that were set and read back: `(node, key) → (text set, text the server then showed)`.
pub type Applied = BTreeMap<(NodeId, String), (String, String)>;

/// Why the server did not take these very rules.
pub fn refusal<'a>(node: &NodeId, user: &str, rules: &Rules, applied: &'a Applied) -> Option<&'a str> {
    let (set, answer) = applied.get(&(node.clone(), remembered(user)))?;
    if *set == text(&rules.words) { answer.strip_prefix(REFUSED) } else { None }
}

/// Whether the server shows the user as these rules make it.
pub fn holds(node: &NodeId, user: &str, shown: Option<&String>, rules: &Rules, applied: &Applied) -> bool {
    let Some(shown) = shown else { return false };
    if rules.line.as_ref().is_some_and(|line| shown == line || plain(shown).eq(line.split(' '))) {
        return true;
    }
    let last = applied.get(&(node.clone(), remembered(user)));
    last.is_some_and(|(set, read_back)| *set == text(&rules.words) && read_back == shown)
}

/// The passwords that a line shows, in the order in which the server keeps them.
pub fn passwords(shown: &str) -> impl Iterator<Item = &str> {
    shown.split_whitespace().filter_map(|w| w.strip_prefix('#'))
}

/// The user may log in.
pub fn is_on(shown: &str) -> bool {
    shown.split_whitespace().next() == Some("on")
}

/// The line without words that every user has: 8.0 and 8.1 say that payloads are checked, 9.1 does not.
fn plain(shown: &str) -> impl Iterator<Item = &str> {
    shown.split_whitespace().filter(|w| *w != "sanitize-payload")
}

/// Reads what `ACL LIST` shows: `user NAME …` a line.
pub fn listed<'a>(lines: impl IntoIterator<Item = &'a str>) -> Shown {
    let read = |line: &'a str| line.strip_prefix("user ")?.split_once(' ');
    lines.into_iter().filter_map(read).map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

/// The line that a server shows of a user with these rules; none for rules whose line is not known beforehand
/// (selectors, databases, a rule that takes another back).
pub fn described(rules: &[String]) -> Option<String> {
    let mut user = Described::default();
    rules.iter().try_for_each(|rule| user.take(rule))?;
    Some(user.line())
}

/// A user while its rules are read.
#[derive(Default)]
struct Described {
    on: bool,
    nopass: bool,
    passwords: Vec<String>,
    keys: Patterns,
    channels: Patterns,
    all_commands: bool,
    commands: Vec<String>,
}

/// Patterns of keys or channels.
#[derive(Default)]
struct Patterns {
    all: bool,
    list: Vec<String>,
}

impl Patterns {
    fn all() -> Self {
        Self { all: true, list: Vec::new() }
    }

    /// A pattern beside all is refused by servers; one that is there already is merged in ways of theirs.
    fn add(&mut self, prefix: &str, pattern: &str) -> Option<()> {
        let twice = |known: &String| known.ends_with(pattern);
        if self.all || self.list.iter().any(twice) {
            return None;
        }
        self.list.push(format!("{prefix}{pattern}"));
        Some(())
    }
}

impl Described {
    fn take(&mut self, rule: &str) -> Option<()> {
        match rule.to_ascii_lowercase().as_str() {
            "reset" => *self = Self::default(),
            "on" => self.on = true,
            "off" => self.on = false,
            "nopass" => (self.nopass, self.passwords) = (true, Vec::new()),
            "resetpass" => (self.nopass, self.passwords) = (false, Vec::new()),
            "allkeys" | "~*" => self.keys = Patterns::all(),
            "resetkeys" => self.keys = Patterns::default(),
            "allchannels" | "&*" => self.channels = Patterns::all(),
            "resetchannels" => self.channels = Patterns::default(),
            "allcommands" | "+@all" => (self.all_commands, self.commands) = (true, Vec::new()),
            "nocommands" | "-@all" => (self.all_commands, self.commands) = (false, Vec::new()),
            lower => return self.more(rule, lower),
        }
        Some(())
    }

    fn more(&mut self, rule: &str, lower: &str) -> Option<()> {
        let key = ["~", "%R~", "%W~"].iter().find_map(|p| Some((*p, rule.strip_prefix(p)?)));
        if let Some((prefix, pattern)) = key {
            return self.keys.add(prefix, pattern);
        }
        if let Some(pattern) = rule.strip_prefix('&') {
            return self.channels.add("&", pattern);
        }
        if let Some(digest) = rule.strip_prefix('#') {
            self.nopass = false;
            if !self.passwords.iter().any(|p| p == digest) {
                self.passwords.push(digest.to_owned());
            }
            return Some(());
        }
        let name = lower.strip_prefix(['+', '-'])?;
        let container = |name: &str| name.split('|').next().unwrap_or_default().to_owned();
        let related = |known: &String| known.get(1..).is_some_and(|k| container(k) == container(name));
        let same = |known: &String| known.get(1..) == Some(name);
        let apart = |known: &String| known.contains('|') && name.contains('|') && !same(known);
        if self.commands.iter().any(|known| related(known) && !apart(known)) {
            return None;
        }
        self.commands.push(lower.to_owned());
        Some(())
    }

    fn line(&self) -> String {
        let mut words: Vec<String> = vec![if self.on { "on" } else { "off" }.to_owned()];
        words.extend(self.nopass.then(|| "nopass".to_owned()));
        words.extend(self.passwords.iter().map(|p| format!("#{p}")));
        words.extend(self.keys.all.then(|| "~*".to_owned()));
        words.extend(self.keys.list.iter().cloned());
        words.push(if self.channels.all { "&*" } else { "resetchannels" }.to_owned());
        words.extend(self.channels.list.iter().cloned());
        words.push(if self.all_commands { "+@all" } else { "-@all" }.to_owned());
        words.extend(self.commands.iter().cloned());
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Rules, and the line that 8.0.1 showed for them (8.1.1 the same, 9.1.2 without `sanitize-payload`).
    #[test]
    fn the_line_of_plain_rules_is_known() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let keyed = format!(
            "reset on #{a} #{b} ~k:* %R~r:* %W~w:* resetchannels &c:* +@read +set -get +CLIENT|setname -@dangerous"
        );
        let shown = format!(
            "on sanitize-payload #{a} #{b} ~k:* %R~r:* %W~w:* resetchannels &c:* -@all +@read +set -get +client|setname -@dangerous"
        );
        for (given, shown) in [
            (keyed.as_str(), shown.as_str()),
            ("reset off nopass allkeys allchannels allcommands", "off nopass sanitize-payload ~* &* +@all"),
            ("reset on nopass +@all resetchannels", "on nopass sanitize-payload resetchannels +@all"),
            ("reset on nopass ~* +@all -debug", "on nopass sanitize-payload ~* resetchannels +@all -debug"),
            (
                "reset on nopass +select|0 +config|get +config|set",
                "on nopass sanitize-payload resetchannels -@all +select|0 +config|get +config|set",
            ),
        ] {
            let shown: Vec<&str> = plain(shown).collect();
            assert_eq!(described(&rules(given)), Some(shown.join(" ")), "{given}");
        }
    }

    #[test]
    fn rules_that_a_server_merges_in_its_own_way_are_not_guessed_at() {
        for odd in [
            "reset on (+get ~x)",
            "reset on db=1",
            "reset on +get -get",
            "reset on +config +config|get",
            "reset on ~* ~a",
            "reset on %R~z %W~z",
        ] {
            assert_eq!(described(&rules(odd)), None, "{odd}");
        }
    }

    #[test]
    fn what_a_server_showed_after_it_was_told_is_remembered() {
        let (node, odd) = (NodeId::new("n"), Rules::new(rules("reset on (+get ~x)")));
        let line = "on resetchannels -@all (~x resetchannels -@all +get)".to_owned();
        let mut applied = Applied::new();
        assert!(!holds(&node, "u", Some(&line), &odd, &applied));
        applied.insert((node.clone(), remembered("u")), (text(&odd.words), line.clone()));
        assert!(holds(&node, "u", Some(&line), &odd, &applied));
        assert!(!holds(&node, "u", Some(&"off -@all".to_owned()), &odd, &applied));
        assert!(!holds(&node, "u", None, &odd, &applied));
        applied.insert((node.clone(), remembered("u")), (text(&odd.words), refused("ERR no")));
        assert_eq!(refusal(&node, "u", &odd, &applied), Some("ERR no"));
        assert_eq!(refusal(&node, "u", &Rules::new(rules("reset on")), &applied), None);
    }

    #[test]
    fn a_list_is_read() {
        let shown = listed(["user default on nopass ~* &* +@all", "user a off #1 #2 -@all", "nonsense"]);
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["a", "default"]);
        assert_eq!(passwords(&shown["a"]).collect::<Vec<_>>(), ["1", "2"]);
        assert!(is_on(&shown["default"]) && !is_on(&shown["a"]));
    }
}
