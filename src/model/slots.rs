//! Sets of hash slots, kept as sorted ranges that never touch.

use std::fmt;
use std::str::FromStr;

/// How many hash slots a Valkey Cluster has (Valkey cluster specification: CRC16 mod 16384).
pub const SLOTS: u16 = 16384;

/// Slots `first..=last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot; never smaller than `first`.
    pub last: u16,
}

impl SlotRange {
    /// How many slots it holds.
    pub fn len(self) -> u16 {
        self.last - self.first + 1
    }

    /// A range holds at least one slot.
    pub fn is_empty(self) -> bool {
        false
    }
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Slots(Vec<SlotRange>);

impl Slots {
    /// The empty set.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// All 16384 slots.
    pub fn all() -> Self {
        Self(vec![SlotRange { first: 0, last: SLOTS - 1 }])
    }

    /// The set of these ranges, in any order, overlapping or not. Slots beyond 16383 do not exist and are left out.
    pub fn from_ranges(ranges: impl IntoIterator<Item = SlotRange>) -> Self {
        let mut sorted: Vec<SlotRange> = ranges
            .into_iter()
            .filter(|r| r.first <= r.last && r.first < SLOTS)
            .map(|r| SlotRange { first: r.first, last: r.last.min(SLOTS - 1) })
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<SlotRange> = Vec::with_capacity(sorted.len());
        for r in sorted {
            match merged.last_mut() {
                Some(last) if r.first <= last.last.saturating_add(1) => last.last = last.last.max(r.last),
                _ => merged.push(r),
            }
        }
        Self(merged)
    }

    /// The share of `shard` when all slots are spread evenly over `shards` (sizes differ by one at the most).
    pub fn share(shard: u16, shards: u16) -> Self {
        if shards == 0 || shard >= shards {
            return Self::none();
        }
        let cut = |i: u16| u32::from(SLOTS) * u32::from(i) / u32::from(shards);
        let (from, to) = (cut(shard), cut(shard + 1));
        match (u16::try_from(from), u16::try_from(to)) {
            (Ok(first), Ok(end)) if first < end => Self(vec![SlotRange { first, last: end - 1 }]),
            _ => Self::none(),
        }
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// The slots, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|r| r.first..=r.last)
    }

    /// How many slots there are.
    pub fn len(&self) -> u16 {
        self.0.iter().map(|r| r.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is every slot there is.
    pub fn is_all(&self) -> bool {
        self.len() == SLOTS
    }

    /// Whether `slot` is in the set.
    pub fn contains(&self, slot: u16) -> bool {
        let at = self.0.partition_point(|r| r.last < slot);
        self.0.get(at).is_some_and(|r| r.first <= slot)
    }

    /// Whether every slot of `self` is in `other`.
    pub fn is_subset(&self, other: &Slots) -> bool {
        // Ranges never touch: one of them that is covered is covered by a single one.
        self.0.iter().all(|r| {
            let at = other.0.partition_point(|o| o.last < r.first);
            other.0.get(at).is_some_and(|o| o.first <= r.first && r.last <= o.last)
        })
    }

    /// Whether a slot is in both.
    pub fn overlaps(&self, other: &Slots) -> bool {
        self.common(other).next().is_some()
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Slots) -> Slots {
        Self(self.common(other).collect())
    }

    /// The ranges that are in both, sorted: each set is walked once.
    fn common<'a>(&'a self, other: &'a Slots) -> impl Iterator<Item = SlotRange> + 'a {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        std::iter::from_fn(move || {
            loop {
                let (a, b) = (**left.peek()?, **right.peek()?);
                if a.last <= b.last {
                    left.next()
                } else {
                    right.next()
                };
                let both = SlotRange { first: a.first.max(b.first), last: a.last.min(b.last) };
                if both.first <= both.last {
                    return Some(both);
                }
            }
        })
    }

    /// What is in either.
    #[must_use]
    pub fn or(&self, other: &Slots) -> Slots {
        if other.is_subset(self) {
            return self.clone();
        }
        Self::from_ranges(self.0.iter().chain(&other.0).copied())
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Slots) -> Slots {
        let mut out = Vec::new();
        for r in &self.0 {
            let mut from = r.first;
            let at = other.0.partition_point(|cut| cut.last < r.first);
            for cut in other.0.iter().skip(at).take_while(|cut| cut.first <= r.last) {
                if cut.first > from {
                    out.push(SlotRange { first: from, last: cut.first - 1 });
                }
                from = cut.last.saturating_add(1);
            }
            if from <= r.last {
                out.push(SlotRange { first: from, last: r.last });
            }
        }
        Self(out)
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            if r.first == r.last {
                write!(f, "{space}{}", r.first)?;
            } else {
                write!(f, "{space}{}-{}", r.first, r.last)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Slots {
    type Err = String;

    /// Reads what [`fmt::Display`] writes: `0-5460 6000`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |t: &str| t.parse::<u16>().map_err(|_| format!("not a slot: {t:?}"));
        let range = |t: &str| match t.split_once('-') {
            Some((a, b)) => Ok(SlotRange { first: one(a)?, last: one(b)? }),
            None => one(t).map(|s| SlotRange { first: s, last: s }),
        };
        let ranges: Result<Vec<SlotRange>, String> = text.split_whitespace().map(range).collect();
        ranges.map(Self::from_ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_and_evenly() {
        for shards in [1, 2, 3, 7, 100, 1000] {
            let all: Vec<Slots> = (0..shards).map(|i| Slots::share(i, shards)).collect();
            assert_eq!(all.iter().fold(Slots::none(), |a, b| a.or(b)), Slots::all());
            assert_eq!(all.iter().map(Slots::len).sum::<u16>(), SLOTS);
            let (min, max) =
                (all.iter().map(Slots::len).min().unwrap(), all.iter().map(Slots::len).max().unwrap());
            assert!(max - min <= 1, "{shards}: {min}..{max}");
        }
        assert!(Slots::share(3, 3).is_empty());
    }

    #[test]
    fn set_operations_agree_with_a_plain_set() {
        let a: Slots = "0-9 20 30-40".parse().unwrap();
        let b: Slots = "5-22 40-50".parse().unwrap();
        let plain =
            |s: &Slots| (0..SLOTS).filter(|i| s.contains(*i)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(plain(&a.or(&b)), &plain(&a) | &plain(&b));
        assert_eq!(plain(&a.and(&b)), &plain(&a) & &plain(&b));
        assert_eq!(plain(&a.minus(&b)), &plain(&a) - &plain(&b));
        assert_eq!(a.minus(&b).to_string(), "0-4 30-39");
        assert!(a.and(&b).is_subset(&a));
        assert!(a.overlaps(&b) && !a.minus(&b).overlaps(&b));
        assert!(!a.is_subset(&b) && !a.is_subset(&Slots::none()) && Slots::none().is_subset(&a));
    }

    #[test]
    fn neighbours_merge_and_text_round_trips() {
        let s: Slots = "7 3-5 6 100-99 16383".parse().unwrap();
        assert_eq!(s.to_string(), "3-7 16383");
        assert!("x".parse::<Slots>().is_err());
    }
}
