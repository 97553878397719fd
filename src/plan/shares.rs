//! Who gives which slots to whom: the fewest slots that make the shards even, in as few pieces as that allows.
//!
//! Arithmetic only. Given what each shard owns, the sizes wanted differ by one at the most; who has more keeps the larger size,
//! so that nothing moves for the sake of a remainder. Every slot goes to its final owner at once.

use std::collections::BTreeMap;

use crate::model::{SLOTS, Shard, SlotRange, Slots};

/// Slots that go from one shard to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The owner.
    pub from: Shard,
    /// Whose they will be.
    pub to: Shard,
    /// The slots.
    pub slots: Slots,
}

/// The moves after which the shards below `wanted` own everything evenly and the others nothing. Owners that are not listed own
/// nothing. None when no shard is wanted.
pub fn moves(owners: &BTreeMap<Shard, Slots>, wanted: u16) -> Vec<Move> {
    if wanted == 0 {
        return Vec::new();
    }
    let sizes = sizes(owners, wanted);
    if owners.iter().all(|(shard, slots)| slots.len() <= sizes.get(shard).copied().unwrap_or(0)) {
        return Vec::new();
    }
    let mut book = Book::new(owners, &sizes);
    book.neighbours();
    book.rest();
    book.moves()
}

/// How many slots each wanted shard has in the end.
fn sizes(owners: &BTreeMap<Shard, Slots>, wanted: u16) -> BTreeMap<Shard, u16> {
    let total: u16 = owners.values().map(Slots::len).sum();
    let have = |shard: &Shard| owners.get(shard).map_or(0, Slots::len);
    let mut order: Vec<Shard> = (0..wanted).map(Shard).collect();
    order.sort_by_cached_key(|s| (std::cmp::Reverse(have(s)), *s));
    let larger = usize::from(total % wanted);
    order.into_iter().enumerate().map(|(i, s)| (s, total / wanted + u16::from(i < larger))).collect()
}

/// Slot by slot: who has it now, who gets it, and how much is still to be given and taken.
struct Book<'a> {
    owner: Vec<Option<Shard>>,
    /// What each had at the beginning.
    ranges: &'a BTreeMap<Shard, Slots>,
    gets: BTreeMap<(Shard, Shard), Vec<SlotRange>>,
    surplus: BTreeMap<Shard, u16>,
    missing: BTreeMap<Shard, u16>,
}

impl<'a> Book<'a> {
    fn new(owners: &'a BTreeMap<Shard, Slots>, sizes: &BTreeMap<Shard, u16>) -> Self {
        let mut owner = vec![None; usize::from(SLOTS)];
        for (shard, slots) in owners {
            for r in slots.ranges() {
                for at in owner.iter_mut().take(usize::from(r.last) + 1).skip(usize::from(r.first)) {
                    *at = Some(*shard);
                }
            }
        }
        let size = |s: &Shard| sizes.get(s).copied().unwrap_or(0);
        let have = |s: &Shard| owners.get(s).map_or(0, Slots::len);
        let surplus = owners.keys().map(|s| (*s, have(s).saturating_sub(size(s)))).filter(|(_, n)| *n > 0);
        let missing = sizes.keys().map(|s| (*s, size(s).saturating_sub(have(s)))).filter(|(_, n)| *n > 0);
        Self {
            surplus: surplus.collect(),
            missing: missing.collect(),
            gets: BTreeMap::new(),
            ranges: owners,
            owner,
        }
    }

    /// Gives one slot, if its owner has too many and the shard too few.
    fn give(&mut self, slot: u16, to: Shard) -> bool {
        let Some(at) = self.owner.get_mut(usize::from(slot)) else { return false };
        let Some(from) = *at else { return false };
        let (Some(left), Some(open)) = (self.surplus.get_mut(&from), self.missing.get_mut(&to)) else {
            return false;
        };
        if *left == 0 || *open == 0 {
            return false;
        }
        (*left, *open) = (*left - 1, *open - 1);
        *at = Some(to);
        self.gets.entry((from, to)).or_default().push(SlotRange { first: slot, last: slot });
        true
    }

    /// A shard first takes what lies next to what it has: ranges grow instead of becoming more.
    fn neighbours(&mut self) {
        for to in self.missing.keys().copied().collect::<Vec<_>>() {
            for slot in self.of(to) {
                self.grow(to, (slot + 1)..SLOTS);
            }
            for slot in self.of(to).into_iter().rev() {
                self.grow(to, (0..slot).rev());
            }
        }
    }

    /// Slot after slot, as long as each is given.
    fn grow(&mut self, to: Shard, slots: impl Iterator<Item = u16>) {
        for slot in slots {
            if self.owner.get(usize::from(slot)) == Some(&Some(to)) || !self.give(slot, to) {
                return;
            }
        }
    }

    /// The slots of a shard, in their order.
    fn of(&self, shard: Shard) -> Vec<u16> {
        let mine = self.ranges.get(&shard).map(Slots::ranges).unwrap_or_default();
        let given = self.gets.iter().filter(|((_, to), _)| *to == shard).flat_map(|(_, ranges)| ranges);
        let all = Slots::from_ranges(mine.iter().chain(given).copied());
        let still = |slot: &u16| self.owner.get(usize::from(*slot)) == Some(&Some(shard));
        all.iter().filter(still).collect()
    }

    /// What is left goes from the upper end of who has too many to the first that has too few.
    fn rest(&mut self) {
        let mut takers: Vec<Shard> = self.missing.keys().rev().copied().collect();
        for from in self.surplus.keys().copied().collect::<Vec<_>>() {
            for slot in self.of(from).into_iter().rev() {
                while takers.last().is_some_and(|to| self.missing.get(to) == Some(&0)) {
                    takers.pop();
                }
                let Some(to) = takers.last().copied() else { return };
                if self.surplus.get(&from) == Some(&0) {
                    break;
                }
                self.give(slot, to);
            }
        }
    }

    fn moves(self) -> Vec<Move> {
        let one = |((from, to), ranges)| Move { from, to, slots: Slots::from_ranges(ranges) };
        self.gets.into_iter().map(one).collect()
    }
}
