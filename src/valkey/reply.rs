//! An answer, independent of the client library and of the protocol version (RESP2 or RESP3).

use std::collections::BTreeMap;

use super::error::WireError;

/// What a node answered. Errors are not among them: they are [`WireError`]s.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Nothing (`ACL GETUSER` of a user that does not exist).
    Nil,
    /// A whole number; booleans are 1 and 0.
    Int(i64),
    /// A text; floating point numbers are written out.
    Text(String),
    /// Bytes that are no text: names of keys can be anything.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Reply>),
    /// A map (RESP3).
    Map(BTreeMap<String, Reply>),
}

impl Reply {
    /// The text of it.
    pub fn text(&self) -> Result<&str, WireError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(other.unexpected("a text")),
        }
    }

    /// What was sent, byte by byte.
    pub fn bytes(&self) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Bytes(bytes) => Ok(bytes.clone()),
            other => Err(other.unexpected("bytes")),
        }
    }

    /// The number in it, also when it was sent as text.
    pub fn int(&self) -> Result<i64, WireError> {
        match self {
            Self::Int(n) => Ok(*n),
            Self::Text(text) => text.parse().map_err(|_| self.unexpected("a number")),
            Self::Nil | Self::Bytes(_) | Self::List(_) | Self::Map(_) => Err(self.unexpected("a number")),
        }
    }

    /// `OK` and nothing else.
    pub fn ok(&self) -> Result<(), WireError> {
        match self {
            Self::Text(text) if text == "OK" => Ok(()),
            other => Err(other.unexpected("OK")),
        }
    }

    /// Names and values, whether sent as a map (RESP3) or as a flat list (RESP2).
    pub fn fields(&self) -> Result<BTreeMap<String, Reply>, WireError> {
        match self {
            Self::Map(map) => Ok(map.clone()),
            Self::List(items) => items
                .chunks(2)
                .map(|pair| match pair {
                    [Self::Text(name), value] => Ok((name.clone(), value.clone())),
                    _ => Err(self.unexpected("names and values")),
                })
                .collect(),
            Self::Nil | Self::Int(_) | Self::Text(_) | Self::Bytes(_) => {
                Err(self.unexpected("names and values"))
            }
        }
    }

    /// Names and values that are all texts or numbers, as `CONFIG GET` answers.
    pub fn texts(&self) -> Result<BTreeMap<String, String>, WireError> {
        let one = |(name, value): (String, Reply)| match value {
            Self::Text(text) => Ok((name, text)),
            Self::Int(n) => Ok((name, n.to_string())),
            Self::Nil | Self::Bytes(_) | Self::List(_) | Self::Map(_) => Err(value.unexpected("a text")),
        };
        self.fields()?.into_iter().map(one).collect()
    }

    fn unexpected(&self, wanted: &str) -> WireError {
        let got = match self {
            Self::Nil => "nothing".to_owned(),
            Self::Int(n) => format!("the number {n}"),
            // An answer can be long, and it can hold secrets (`ACL GETUSER`): its beginning is enough.
            Self::Text(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
            Self::Bytes(bytes) => format!("{} bytes that are no text", bytes.len()),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Map(map) => format!("a map of {}", map.len()),
        };
        WireError::Protocol(format!("{wanted} was expected and {got} came"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Reply {
        Reply::Text(t.to_owned())
    }

    #[test]
    fn a_flat_list_and_a_map_are_the_same_fields() {
        let flat = Reply::List(vec![text("maxmemory"), text("0"), text("save"), text("")]);
        let map = Reply::Map(BTreeMap::from([("maxmemory".into(), text("0")), ("save".into(), text(""))]));
        assert_eq!(flat.texts().unwrap(), map.texts().unwrap());
        assert_eq!(flat.texts().unwrap()["maxmemory"], "0");
    }

    #[test]
    fn the_wrong_kind_of_answer_says_what_came() {
        let odd = Reply::List(vec![text("a"), text("b"), text("c")]);
        assert_eq!(
            odd.fields().unwrap_err().to_string(),
            "the answer is not understood: names and values was expected and a list of 3 came"
        );
        assert!(Reply::Nil.text().is_err());
        assert!(text("QUEUED").ok().is_err());
        assert_eq!(text("12").int().unwrap(), 12);
        assert!(text("twelve").int().is_err());
    }
}
