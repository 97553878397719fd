//! Decides what CLUSTER NODES says: one node's view of all nodes. Pure.

use crate::resp::Endpoint;

/// One node's view, as it answered CLUSTER NODES.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// One line for each node that it knows, itself included.
    pub lines: Vec<ViewLine>,
}

/// One line of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewLine {
    /// The node's id.
    pub id: String,
    /// Where it announces to be; `None` if the viewer has lost the address.
    pub place: Option<Endpoint>,
    /// The line is about the viewer itself.
    pub myself: bool,
    /// It is a primary (with slots or without).
    pub primary: bool,
    /// The id of its primary, for a replica.
    pub replica_of: Option<String>,
    /// What is wrong with it in the viewer's eyes: `fail?`, `fail`, `handshake`, `noaddr`.
    pub trouble: Vec<String>,
    /// Its config epoch (for a replica, its primary's).
    pub epoch: u64,
    /// The bus link to it is up.
    pub linked: bool,
    /// Its slots, as ranges, both ends inclusive.
    pub slots: Vec<(u16, u16)>,
    /// Slots on their way, as printed: `[7->-id]`. Only in the viewer's own line.
    pub open: Vec<String>,
}

impl View {
    /// Reads the answer of CLUSTER NODES.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let lines =
            lines.map(|line| ViewLine::read(line).ok_or_else(|| format!("CLUSTER NODES line {line:?}")));
        Ok(Self { lines: lines.collect::<Result<_, _>>()? })
    }

    /// The viewer's own line.
    pub fn myself(&self) -> Option<&ViewLine> {
        self.lines.iter().find(|line| line.myself)
    }

    /// The line about this node.
    pub fn of(&self, id: &str) -> Option<&ViewLine> {
        self.lines.iter().find(|line| line.id == id)
    }
}

impl ViewLine {
    /// `id ip:port@bus[,hostname[,key=value…]] flags primary ping pong epoch link slot…`
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (id, place, flags, primary) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (_, _, epoch, bus) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let flags: Vec<_> = flags.split(',').collect();
        let bad = ["fail?", "fail", "handshake", "noaddr"];
        let (mut slots, mut open) = (Vec::new(), Vec::new());
        for word in words {
            if word.starts_with('[') {
                open.push(word.to_owned());
            } else {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                slots.push((first.parse().ok()?, last.parse().ok()?));
            }
        }
        slots.sort_unstable();
        let place = place.split(['@', ',']).next()?;
        Some(Self {
            id: id.to_owned(),
            place: Endpoint::read(place, "").filter(|place| !place.host.is_empty() && place.port != 0),
            myself: flags.contains(&"myself"),
            primary: flags.contains(&"master"),
            replica_of: (primary != "-").then(|| primary.to_owned()),
            trouble: flags.iter().filter(|flag| bad.contains(flag)).map(ToString::to_string).collect(),
            epoch: epoch.parse().ok()?,
            linked: bus == "connected",
            slots,
            open,
        })
    }

    /// How many slots it owns.
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|(first, last)| usize::from(last.saturating_sub(*first)) + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a 3+3 cluster of 9.1.2 in which the third primary was killed, with one slot on its way.
    const TEXT: &str = "\
9e0f86d4 127.0.1.1:7000@17000,,shard-id=aa myself,master - 0 0 1 connected 0-5459 5460 [5460->-77a1]
77a1 127.0.1.2:7000@17000,host-2 master - 0 1700000000 2 connected 5461-10922
c3 127.0.1.3:7000@17000 master,fail? - 1700000001 1700000000 3 disconnected 10923-16383
d4 127.0.1.4:7000@17000 slave,nofailover 9e0f86d4 0 1700000000 1 connected
e5 :0@0 slave,noaddr,fail 77a1 0 0 2 disconnected
";

    #[test]
    fn lines_are_read_with_flags_slots_and_open_slots() {
        let view = View::read(TEXT).unwrap();
        let me = view.myself().unwrap();
        assert_eq!((me.slot_count(), me.open.len(), me.primary), (5461, 1, true));
        assert_eq!(view.of("77a1").unwrap().place.as_ref().unwrap().to_string(), "127.0.1.2:7000");
        let c3 = view.of("c3").unwrap();
        assert_eq!((c3.trouble.as_slice(), c3.linked, c3.epoch), (["fail?".to_owned()].as_slice(), false, 3));
        let d4 = view.of("d4").unwrap();
        assert_eq!((d4.replica_of.as_deref(), d4.trouble.len()), (Some("9e0f86d4"), 0));
        assert_eq!((view.of("e5").unwrap().place.clone(), view.of("e5").unwrap().trouble.len()), (None, 2));
    }

    #[test]
    fn what_is_no_view_is_refused() {
        assert!(View::read("ERR This instance has cluster support disabled").is_err());
        assert!(View::read("id 1.1.1.1:1@2 master - 0 0 1 connected 5-x").is_err());
        assert_eq!(View::read("\n").unwrap(), View::default());
    }
}
