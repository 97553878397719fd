//! The lines about users and their passwords.

use valkey_cluster_operator::model::users::{Passwords, User, described};
use valkey_cluster_operator::model::{Moment, NodeReport, Seen, Snapshot};
use valkey_cluster_operator::plan::users;

use super::NOW;

type Done = Result<(), String>;

/// A user of the spec that every node has; with `missing` one whose passwords cannot be found.
pub(super) fn user(s: &mut Snapshot, name: &str, words: &[&str]) {
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    if words == ["missing"] {
        let passwords = Passwords::In { secret: "c-users".into(), keys: vec![name.into()] };
        s.desired.users.insert(name.into(), User { enabled: true, passwords, rules: Vec::new() });
        s.passwords.insert(name.into(), Err(format!("{name} has no password")));
        return;
    }
    let wish = User { enabled: true, passwords: Passwords::Any, rules: words };
    let line = described(&users::of_spec(&wish, &[])).unwrap_or_default();
    s.desired.users.insert(name.into(), wish);
    for seen in s.nodes.values_mut() {
        if let Seen::Now(node) = seen {
            node.users.get_or_insert_default().insert(name.into(), line.clone());
        }
    }
}

pub(super) fn passwords(s: &mut Snapshot, word: &str) {
    let known = s.accounts.get_or_insert_default();
    match word {
        "former" => known.former = true,
        "asked" => known.renew = Some("somebody asks".into()),
        "exporters-since" => known.exporter_since = Moment(NOW),
        generation => *known = super::accounts(generation),
    }
}

/// What a node shows of its users: `lacks=app`, `has=eve`, `takes=old,new`, `login=new`, `users=hidden`.
pub(super) fn node_users(n: &mut NodeReport, key: &str, value: &str) -> Done {
    let (version, admitted) = (n.version, n.admitted);
    let shown = n.users.get_or_insert_default();
    match key {
        "lacks" => drop(shown.remove(value)),
        "has" => drop(shown.insert(value.into(), "on nopass resetchannels -@all".into())),
        "takes" => {
            let generations: Vec<&str> = value.split(',').collect();
            shown.extend(super::shown(&generations, version, admitted));
        }
        "login" => n.primary_password = Some(format!("replication-{value}")),
        "users" => n.users = None,
        _ => return Err(format!("unknown word {key:?}")),
    }
    Ok(())
}
