//! Users of the cluster: their part of the spec, what of it admission refuses, and what it asks of the servers. Pure.
//!
//! Names and meanings are those of the group's other operator. Each word goes to the servers as an argument of its own, so
//! that no value can add a second command or user.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::model::users::{Passwords, User};

/// Most users of one cluster. With the other bounds it keeps the cost of the rules within what the API server allows.
const MOST_USERS: usize = 64;
/// Most words in one list.
const MOST_WORDS: usize = 64;
/// Longest name of a user.
const LONGEST_NAME: usize = 64;
/// Longest word of a rule.
const LONGEST_WORD: usize = 256;
/// Longest `permissions`.
const LONGEST_TEXT: usize = 2048;

/// A user of the cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// Its name.
    pub name: String,
    /// It may log in.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Any password will do.
    #[serde(default)]
    pub nopass: bool,
    /// No password will do.
    #[serde(default)]
    pub resetpass: bool,
    /// Rules in the words of `ACL SETUSER`, after all others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub permissions: String,
    /// Commands.
    #[serde(default)]
    pub commands: CommandsSpec,
    /// Keys.
    #[serde(default)]
    pub keys: KeysSpec,
    /// Channels.
    #[serde(default)]
    pub channels: ChannelsSpec,
    /// Where its passwords are.
    #[serde(default)]
    pub password_secret: PasswordSecretSpec,
}

/// Commands, subcommands and categories.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CommandsSpec {
    /// Given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Taken away again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// Patterns of keys.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeysSpec {
    /// To read and to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_write: Vec<String>,
    /// To read alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
    /// To write alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write_only: Vec<String>,
}

/// Patterns of channels.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ChannelsSpec {
    /// The patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
}

/// A Secret with passwords.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct PasswordSecretSpec {
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The keys in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

impl UserSpec {
    /// The Secret that its passwords are in, when it needs some.
    pub(super) fn secret(&self, cluster: &str) -> Option<String> {
        match user(cluster, self).ok()?.passwords {
            Passwords::In { secret, .. } => Some(secret),
            Passwords::None | Passwords::Any => None,
        }
    }
}

fn yes() -> bool {
    true
}

fn words(description: &str, pattern: &str) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_WORDS,
        "x-kubernetes-list-type": "atomic",
        "description": description,
        "items": {"type": "string", "minLength": 1, "maxLength": LONGEST_WORD, "pattern": pattern}
    })
}

/// A command, a subcommand or a category.
const COMMAND: &str = r"^@?[A-Za-z0-9_.-]+(\|[A-Za-z0-9_.:-]+)?$";
/// One word.
const WORD: &str = r"^[^\s\x00-\x1f\x7f]+$";
/// What the key of a Secret may be.
const KEY: &str = r"^[-._a-zA-Z0-9]+$";

/// The list of users.
pub(super) fn list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MOST_USERS,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {
            "type": "object",
            "description": "One user.",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "description": "Name of the user: letters, digits and . _ @ + : -; those that begin with '_' are the operator's own. The user default is who logs in without a name; leave it out to keep it open to all, or give it enabled false."},
                "enabled": {"type": "boolean", "default": true, "description": "Default true. With false the user cannot log in; connections that are open stay."},
                "nopass": {"type": "boolean", "default": false, "description": "With true any password is accepted. Default false."},
                "resetpass": {"type": "boolean", "default": false, "description": "With true the user has no password and cannot log in. Default false."},
                "permissions": {"type": "string", "maxLength": LONGEST_TEXT, "description": "Further rules as ACL SETUSER takes them, separated by spaces, such as +@read ~app:* (no passwords). They come after all others."},
                "commands": {
                    "type": "object", "description": "Commands that the user may run: those allowed without those denied. Default none.",
                    "properties": {
                        "allow": words("Commands (get), subcommands (config|get) and categories (@read) that are allowed.", COMMAND),
                        "deny": words("Commands, subcommands and categories that are taken away again.", COMMAND)
                    }
                },
                "keys": {
                    "type": "object", "description": "Keys that the user may touch, as patterns such as app:*. Default none.",
                    "properties": {
                        "readWrite": words("Keys to read and to write.", WORD),
                        "readOnly": words("Keys to read alone.", WORD),
                        "writeOnly": words("Keys to write alone.", WORD)
                    }
                },
                "channels": {
                    "type": "object", "description": "Channels of publish and subscribe. Default none.",
                    "properties": {"patterns": words("Patterns such as news:*.", WORD)}
                },
                "passwordSecret": {
                    "type": "object", "description": "Where the passwords are. Each key of the Secret is one password, so that two can be valid while clients change over. A change of the Secret is applied within seconds.",
                    "properties": {
                        "name": {"type": "string", "maxLength": 253, "description": "Name of the Secret, in the namespace of the cluster. Default <cluster>-users."},
                        "keys": words("Keys in the Secret, each a password, or # and the SHA-256 of one in 64 hexadecimal digits. Default: the name of the user.", KEY)
                    }
                }
            }
        }
    })
}

/// CEL: a name, and whether it is somebody else's.
pub(super) const NAMES: (&str, &str) = (
    "self.all(u, u.name.matches('^[A-Za-z0-9.@+:-][A-Za-z0-9_.@+:-]*$'))",
    "users: a name consists of letters, digits and . _ @ + : - and does not begin with '_': those are the operator's own users",
);
/// CEL: no password in plain sight.
pub(super) const PERMISSIONS: (&str, &str) = (
    r"self.all(u, !has(u.permissions) || !u.permissions.matches('(^|\\s)[><#!]|[\\x00-\\x1f\\x7f]'))",
    "users: permissions are one line of rules without passwords (>…, <…, #…, !…); put passwords into a Secret and name it in passwordSecret",
);

/// What the users ask of the servers.
///
/// # Errors
/// A sentence, for an object that was stored before a rule existed.
pub(super) fn wanted(cluster: &str, given: &[UserSpec]) -> Result<BTreeMap<String, User>, String> {
    given.iter().map(|u| Ok((u.name.clone(), user(cluster, u)?))).collect()
}

fn user(cluster: &str, u: &UserSpec) -> Result<User, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".@+:-_".contains(c);
    if u.name.is_empty() || u.name.starts_with('_') || !u.name.chars().all(fits) {
        return Err(format!("spec.users: {:?} is no name for a user: {}", u.name, NAMES.1));
    }
    let mut rules = vec!["resetchannels".to_owned()];
    let mut add = |prefix: &str, words: &[String]| rules.extend(words.iter().map(|w| format!("{prefix}{w}")));
    add("~", &u.keys.read_write);
    add("%R~", &u.keys.read_only);
    add("%W~", &u.keys.write_only);
    add("&", &u.channels.patterns);
    add("+", &u.commands.allow);
    add("-", &u.commands.deny);
    if let Some(odd) = rules.iter().find(|w| w.chars().any(|c| c.is_whitespace() || c.is_control())) {
        return Err(format!("spec.users: {} has {odd:?}, which is more than one word: correct it", u.name));
    }
    let secret = |w: &&str| w.starts_with(['>', '<', '#', '!']);
    if u.permissions.split_whitespace().any(|w| secret(&w)) || u.permissions.chars().any(char::is_control) {
        return Err(format!("spec.users: of {}: {}", u.name, PERMISSIONS.1));
    }
    rules.extend(u.permissions.split_whitespace().map(str::to_owned));
    let passwords = match (u.enabled && !u.resetpass, u.nopass) {
        (false, _) => Passwords::None,
        (true, true) => Passwords::Any,
        (true, false) => passwords(cluster, u),
    };
    Ok(User { enabled: u.enabled, passwords, rules })
}

fn passwords(cluster: &str, u: &UserSpec) -> Passwords {
    let PasswordSecretSpec { name, keys } = &u.password_secret;
    let secret = if name.is_empty() { format!("{cluster}-users") } else { name.clone() };
    let keys = if keys.is_empty() { vec![u.name.clone()] } else { keys.clone() };
    Passwords::In { secret, keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> UserSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fields_become_rules_in_a_fixed_order() {
        let u = spec(serde_json::json!({
            "name": "app", "permissions": "+ping -@dangerous",
            "commands": {"allow": ["@read", "config|get"], "deny": ["keys"]},
            "keys": {"readWrite": ["a:*"], "readOnly": ["b:*"], "writeOnly": ["c:*"]},
            "channels": {"patterns": ["n:*"]}, "passwordSecret": {"keys": ["old", "new"]}
        }));
        let wanted = wanted("c", &[u]).unwrap();
        assert_eq!(
            wanted["app"].rules.join(" "),
            "resetchannels ~a:* %R~b:* %W~c:* &n:* +@read +config|get -keys +ping -@dangerous"
        );
        let keys = vec!["old".to_owned(), "new".to_owned()];
        assert_eq!(wanted["app"].passwords, Passwords::In { secret: "c-users".into(), keys });
    }

    #[test]
    fn who_needs_no_password_needs_no_secret() {
        let of = |v: serde_json::Value| user("c", &spec(v)).unwrap().passwords;
        assert_eq!(of(serde_json::json!({"name": "a", "enabled": false})), Passwords::None);
        assert_eq!(of(serde_json::json!({"name": "a", "resetpass": true, "nopass": true})), Passwords::None);
        assert_eq!(of(serde_json::json!({"name": "a", "nopass": true})), Passwords::Any);
        let own = Passwords::In { secret: "c-users".into(), keys: vec!["a".into()] };
        assert_eq!(of(serde_json::json!({"name": "a"})), own);
    }

    #[test]
    fn nothing_can_be_smuggled_in() {
        for (value, says) in [
            (serde_json::json!({"name": "_operator"}), "no name for a user"),
            (serde_json::json!({"name": "a b"}), "no name for a user"),
            (serde_json::json!({"name": "a\nuser b"}), "no name for a user"),
            (serde_json::json!({"name": "a", "keys": {"readOnly": ["x +@all"]}}), "more than one word"),
            (serde_json::json!({"name": "a", "commands": {"allow": ["get\n+set"]}}), "more than one word"),
            (serde_json::json!({"name": "a", "permissions": "+get >plain"}), "without passwords"),
            (serde_json::json!({"name": "a", "permissions": "+get\nuser b on"}), "without passwords"),
        ] {
            let error = user("c", &spec(value)).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
