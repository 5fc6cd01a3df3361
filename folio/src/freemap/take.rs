//! Taking blocks out of the free map: any of an order, or an exact one.

use heirloom_kho::sync::{Acquire, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

use super::group::{Group, STEP, groups, lowest, mask, place, unit, unit_log2};
use super::{COLUMNS, Columns, Hints};

/// Words that a search for a group looks at before it breaks a larger unit.
const PROBES: usize = 8;

impl Columns {
    /// Takes a free block of `order` (at most [`Order::MAX_FOLIO`]).
    pub(crate) fn take(&self, order: Order, hints: &mut Hints) -> Option<Block> {
        self.take_group(order, 1, hints)?.blocks(order).next()
    }

    /// Takes one free block of `order` (at most [`Order::MAX_FOLIO`]), and up to `most` if they
    /// lie in the same word.
    pub(crate) fn take_group(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        let (t, k) = place(order);
        let few = if k == 0 { usize::MAX } else { PROBES };
        let (n, starts) = match self.take_bits((t, k), most, few, hints) {
            Some(found) => found,
            None => match self.split(t, k, most, hints) {
                Some(found) => found,
                None => self.sweep((t, k), most, hints)?,
            },
        };
        Group::new(order, n, starts)
    }

    /// Takes all free frames of a word of which some are in use.
    pub(crate) fn take_word(&self, hints: &mut Hints) -> Option<Group> {
        let start = hints.0[0];
        for (mut from, until) in [(start, u64::MAX), (0, start)] {
            while let Some(n) = self.next(0, 0, from)
                && n < until
            {
                // Acquire pairs with the Release in `give_to` that gave these frames.
                let bits = self.word(0, 0, n)?.swap(0, Acquire);
                self.emptied(0, n);
                if bits != 0 {
                    hints.0[0] = n;
                    return Group::new(Order::ZERO, n, bits);
                }
                from = n + 1;
            }
        }
        None
    }

    /// Breaks a unit of the next column into a word of column `t`, and keeps up to `most` groups
    /// of `2^k` of its units: the word's number, and the bits that the groups start with.
    fn split(&self, t: usize, k: u32, most: usize, hints: &mut Hints) -> Option<(u64, u64)> {
        let up = t + 1;
        if up >= COLUMNS {
            return None;
        }
        let unit = self.take(unit(up), hints)?;
        let n = unit.pfn().get() >> unit_log2(up);
        let starts = lowest(groups(!0, k), most);
        let rest = !starts.wrapping_mul(mask(0, k));
        if rest != 0 {
            self.put_rest(t, n, rest);
        }
        hints.0[t] = n;
        Some((n, starts))
    }

    /// Gives the units of a word that is wholly ours, but for those kept.
    pub(super) fn put_rest(&self, t: usize, n: u64, rest: u64) {
        let given = self.give_bits(t, n, rest);
        debug_assert!(given.is_ok(), "a taken unit has no free part");
    }

    /// Takes exactly `block`; `false` if some frame of it is not free, and nothing changed.
    pub(crate) fn take_at(&self, block: Block) -> bool {
        let (t, k) = place(block.order());
        let n = block.pfn().get() >> (unit_log2(t) + STEP);
        let at = (block.pfn().get() >> unit_log2(t)) as u32 & 63;
        self.take_bits_at(t, n, mask(at, k))
    }

    fn take_bits_at(&self, t: usize, n: u64, wanted: u64) -> bool {
        let Some(word) = self.word(t, t, n) else { return false };
        let mut bits = word.load(Relaxed);
        while bits & wanted == wanted {
            // Acquire pairs with the Release in `give_to` that gave these units.
            match word.compare_exchange_weak(bits, bits & !wanted, Acquire, Relaxed) {
                Ok(_) => {
                    if bits == wanted {
                        self.emptied(t, n);
                    }
                    return true;
                }
                Err(now) => bits = now,
            }
        }
        // Part of it free here means that no larger unit holds it.
        let up = t + 1;
        if bits != 0 || up >= COLUMNS || !self.take_bits_at(up, n >> STEP, 1 << (n & 63)) {
            return false;
        }
        if wanted != !0 {
            self.put_rest(t, n, !wanted);
        }
        true
    }

    /// Takes `units` neighbouring units of the last column: for runs above the largest folio.
    pub(crate) fn take_units(&self, units: u64) -> Option<Pfn> {
        let t = COLUMNS - 1;
        let (words, first) = self.row(t, t);
        let is_free = |u: u64| {
            let word = words.get(((u >> STEP) - first) as usize);
            word.is_some_and(|w| w.load(Relaxed) >> (u & 63) & 1 == 1)
        };
        let (mut start, end) = (first << STEP, (first + words.len() as u64) << STEP);
        'search: while start + units <= end {
            for i in (0..units).rev() {
                if !is_free(start + i) {
                    start += i + 1;
                    continue 'search;
                }
            }
            for i in 0..units {
                let u = start + i;
                if !self.take_bits_at(t, u >> STEP, 1 << (u & 63)) {
                    for u in start..u {
                        self.put_rest(t, u >> STEP, 1 << (u & 63));
                    }
                    start += i + 1;
                    continue 'search;
                }
            }
            return Some(Pfn::new(start << unit_log2(t)));
        }
        None
    }
}
