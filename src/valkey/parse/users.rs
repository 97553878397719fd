//! `ACL GETUSER` and `ACL LIST`: the users of a server.

use std::collections::BTreeSet;

use crate::model::users::{self, Shown};
use crate::valkey::error::WireError;
use crate::valkey::reply::Reply;

/// An ACL user as the server describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclUser {
    /// `on`, `nopass`, …
    pub flags: BTreeSet<String>,
    /// SHA-256 of each password, in hexadecimal digits.
    pub passwords: BTreeSet<String>,
    /// The command rules, as `-@all +ping`.
    pub commands: String,
}

impl AclUser {
    /// It may log in.
    pub fn is_on(&self) -> bool {
        self.flags.contains("on")
    }

    /// Reads the answer to `ACL GETUSER`: none for a user that does not exist.
    pub fn parse(reply: &Reply) -> Result<Option<Self>, WireError> {
        if *reply == Reply::Nil {
            return Ok(None);
        }
        let fields = reply.fields()?;
        let list = |name: &str| match fields.get(name) {
            Some(Reply::List(items)) => items.iter().map(|i| i.text().map(str::to_owned)).collect(),
            _ => Err(WireError::Protocol(format!("ACL GETUSER without {name}"))),
        };
        let commands = fields.get("commands").map_or(Ok(""), Reply::text)?.to_owned();
        Ok(Some(Self { flags: list("flags")?, passwords: list("passwords")?, commands }))
    }
}

/// Reads the answer to `ACL LIST`.
pub fn shown(reply: &Reply) -> Result<Shown, WireError> {
    let Reply::List(lines) = reply else {
        return Err(WireError::Protocol("ACL LIST is no list".to_owned()));
    };
    let lines: Vec<&str> = lines.iter().map(Reply::text).collect::<Result<_, _>>()?;
    Ok(users::listed(lines))
}
