//! `CLUSTER SLOT-STATS SLOTSRANGE` (8.0 and newer): a line for each slot of the node's shard. Only the numbers of the slots are of
//! interest here: it is the shortest way in which a primary says what it owns.

use crate::model::{SLOTS, SlotRange, Slots};
use crate::valkey::error::WireError;
use crate::valkey::reply::Reply;

/// Reads the answer.
pub fn slots_of_stats(reply: &Reply) -> Result<Slots, WireError> {
    let Reply::List(items) = reply else {
        return Err(WireError::Protocol("CLUSTER SLOT-STATS is no list".to_owned()));
    };
    let ranges: Result<Vec<SlotRange>, WireError> = items.iter().map(slot).collect();
    Ok(Slots::from_ranges(ranges?))
}

fn slot(item: &Reply) -> Result<SlotRange, WireError> {
    let number = match item {
        Reply::List(parts) => parts.first().map(Reply::int),
        _ => None,
    };
    let number = number.and_then(Result::ok).and_then(|n| u16::try_from(n).ok()).filter(|n| *n < SLOTS);
    let slot = number.ok_or_else(|| WireError::Protocol("CLUSTER SLOT-STATS names no slot".to_owned()))?;
    Ok(SlotRange { first: slot, last: slot })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn slots_are_read_whatever_is_said_of_them() {
        let stats = |n| Reply::List(vec![Reply::Int(n), Reply::Map(BTreeMap::new())]);
        let read = slots_of_stats(&Reply::List(vec![stats(3), stats(4), stats(9)])).unwrap();
        assert_eq!(read.to_string(), "3-4 9");
        assert_eq!(slots_of_stats(&Reply::List(Vec::new())).unwrap(), Slots::none());
    }

    #[test]
    fn what_is_no_slot_is_refused() {
        for bad in [
            Reply::Nil,
            Reply::List(vec![Reply::Nil]),
            Reply::List(vec![Reply::List(vec![Reply::Int(16384)])]),
        ] {
            assert!(slots_of_stats(&bad).is_err(), "{bad:?}");
        }
    }
}
