//! Decides where one RESP2 reply ends and what it says. Pure: bytes in, reply out.
//!
//! Strict and bounded: anything that is not RESP2, or larger than the limits, is an error and never a guess, because
//! a judge that guesses is worth nothing.

/// The largest bulk string taken, in bytes. A CLUSTER NODES answer of 1,500 nodes is about 190 kB.
const MAX_BULK: usize = 16 << 20;
/// The most elements taken in one array: CLUSTER SLOTS cannot have more rows than there are slots.
const MAX_ITEMS: usize = 16_384 * 4;
/// The deepest nesting taken: CLUSTER SLOTS has four levels.
const MAX_DEPTH: usize = 8;
/// The longest line (type byte, length, simple string or error) taken, in bytes.
const MAX_LINE: usize = 64 << 10;

/// One reply of a server, RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-MOVED 1 127.0.0.1:7000`, without the dash.
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$3 foo`
    Bulk(Vec<u8>),
    /// `$-1` or `*-1`
    Nil,
    /// `*2 …`
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a simple or bulk string; `None` for everything else and for bytes that are not UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            Self::Error(_) | Self::Integer(_) | Self::Nil | Self::Array(_) => None,
        }
    }

    /// The number of an integer reply, or of a string that is one (a counter is read back as a string).
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            other => other.text()?.parse().ok(),
        }
    }

    /// The elements of an array.
    pub fn items(&self) -> Option<&[Reply]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The sentence of an error reply.
    pub fn error(&self) -> Option<&str> {
        if let Self::Error(text) = self { Some(text) } else { None }
    }
}

/// Reads one reply from the front of `bytes`: the reply and how many bytes it took, or `None` if more must arrive.
///
/// # Errors
/// What the bytes are instead of RESP2, or which limit they exceed.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    Ok(cursor.reply(0)?.map(|reply| (reply, cursor.at)))
}

/// Writes one command as RESP2: an array of bulk strings.
pub fn encode<A: AsRef<str>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("a reply nested deeper than {MAX_DEPTH} levels"));
        }
        let Some(line) = self.line()? else { return Ok(None) };
        let Some((kind, rest)) = line.split_at_checked(1) else { return Err("an empty line".to_owned()) };
        match kind {
            "+" => Ok(Some(Reply::Simple(rest.to_owned()))),
            "-" => Ok(Some(Reply::Error(rest.to_owned()))),
            ":" => {
                rest.parse().map(|n| Some(Reply::Integer(n))).map_err(|_| format!("{rest:?} as an integer"))
            }
            "$" => match length(rest, MAX_BULK)? {
                None => Ok(Some(Reply::Nil)),
                Some(length) => self.bulk(length),
            },
            "*" => match length(rest, MAX_ITEMS)? {
                None => Ok(Some(Reply::Nil)),
                Some(length) => self.array(length, depth),
            },
            _ => Err(format!("the type byte {kind:?}, which is not RESP2")),
        }
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return if rest.len() > MAX_LINE {
                Err(format!("a line longer than {MAX_LINE} bytes"))
            } else {
                Ok(None)
            };
        };
        if end > MAX_LINE {
            return Err(format!("a line longer than {MAX_LINE} bytes"));
        }
        let line = rest.get(..end).unwrap_or_default();
        let text = std::str::from_utf8(line).map_err(|_| "a line that is not UTF-8".to_owned())?;
        self.at += end + 2;
        Ok(Some(text.to_owned()))
    }

    fn bulk(&mut self, length: usize) -> Result<Option<Reply>, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (Some(body), Some(end)) = (rest.get(..length), rest.get(length..length + 2)) else {
            return Ok(None);
        };
        if end != b"\r\n" {
            return Err("a bulk string that does not end where its length says".to_owned());
        }
        self.at += length + 2;
        Ok(Some(Reply::Bulk(body.to_vec())))
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Option<Reply>, String> {
        let mut items = Vec::new();
        for _ in 0..length {
            match self.reply(depth + 1)? {
                Some(item) => items.push(item),
                None => return Ok(None),
            }
        }
        Ok(Some(Reply::Array(items)))
    }
}

fn length(text: &str, limit: usize) -> Result<Option<usize>, String> {
    if text == "-1" {
        return Ok(None);
    }
    match text.parse::<usize>() {
        Ok(length) if length <= limit => Ok(Some(length)),
        Ok(length) => Err(format!("a length of {length}, more than the {limit} taken")),
        Err(_) => Err(format!("{text:?} as a length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Reply {
        let (reply, used) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(used, text.len());
        reply
    }

    #[test]
    fn every_kind_is_read() {
        assert_eq!(whole("+OK\r\n"), Reply::Simple("OK".into()));
        assert_eq!(whole("-MOVED 1 a:1\r\n").error(), Some("MOVED 1 a:1"));
        assert_eq!(whole(":-7\r\n"), Reply::Integer(-7));
        assert_eq!(whole("$3\r\na\r\n\r\n"), Reply::Bulk(b"a\r\n".to_vec()));
        assert_eq!(whole("$-1\r\n"), Reply::Nil);
        assert_eq!(whole("*-1\r\n"), Reply::Nil);
        let nested = Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![]), Reply::Bulk(vec![])]);
        assert_eq!(whole("*3\r\n:1\r\n*0\r\n$0\r\n\r\n"), nested);
    }

    #[test]
    fn a_reply_in_pieces_waits_at_every_cut_and_leaves_what_follows() {
        let text = b"*2\r\n$5\r\nhello\r\n:12\r\n+next\r\n";
        let reply_end = text.len() - "+next\r\n".len();
        for cut in 0..reply_end {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(parse(text).unwrap().unwrap().1, reply_end);
    }

    #[test]
    fn what_is_not_resp2_or_too_large_is_refused() {
        for bad in [
            "\r\n",
            "?1\r\n",
            ":x\r\n",
            "$-2\r\n",
            "$99999999999\r\n",
            "*65537\r\n",
            "$1\r\nabc\r\n",
            "_\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse("*1\r\n".repeat(MAX_DEPTH + 2).as_bytes()).is_err());
        assert!(parse(&vec![b'+'; MAX_LINE + 1]).is_err());
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&["GET", "kä"], &mut out);
        assert_eq!(out, "*2\r\n$3\r\nGET\r\n$3\r\nkä\r\n".as_bytes());
    }
}
