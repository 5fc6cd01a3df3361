//! Taking blocks out of the free map: any of an order, or an exact one.

use heirloom_kho::sync::{Acquire, Relaxed};
use heirloom_kho::{Block, Order, Pfn};

use super::group::{Group, STEP, chunk_log2, chunk_order, groups, level_of, lowest, mask};
use super::{FreeMap, Hints, LEVELS};

/// Words that a search for a group looks at before it breaks a larger chunk.
const PROBES: usize = 8;

impl FreeMap {
    /// Takes a free block of `order` (at most [`Order::MAX_FOLIO`]).
    pub(crate) fn take(&self, order: Order, hints: &mut Hints) -> Option<Block> {
        self.take_group(order, 1, hints)?.blocks(order).next()
    }

    /// Takes one free block of `order` (at most [`Order::MAX_FOLIO`]), and up to `most` if they
    /// lie in the same word.
    pub(crate) fn take_group(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        let (level, k) = level_of(order);
        let few = if k == 0 { usize::MAX } else { PROBES };
        let (n, starts) = match self.take_bits((level, k), most, few, hints) {
            Some(found) => found,
            None => match self.split(level, k, most, hints) {
                Some(found) => found,
                None => self.sweep((level, k), most, hints)?,
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
                self.summarize_emptied(0, n);
                if bits != 0 {
                    hints.0[0] = n;
                    return Group::new(Order::ZERO, n, bits);
                }
                from = n + 1;
            }
        }
        None
    }

    /// Breaks a chunk of the next level into a word of `level`, and keeps up to `most` groups
    /// of `2^k` of its chunks: the word's number, and the bits that the groups start with.
    fn split(&self, level: usize, k: u32, most: usize, hints: &mut Hints) -> Option<(u64, u64)> {
        let up = level + 1;
        if up >= LEVELS {
            return None;
        }
        let chunk = self.take(chunk_order(up), hints)?;
        let n = chunk.pfn().get() >> chunk_log2(up);
        let starts = lowest(groups(!0, k), most);
        let rest = !starts.wrapping_mul(mask(0, k));
        if rest != 0 {
            self.give_rest(level, n, rest);
        }
        hints.0[level] = n;
        Some((n, starts))
    }

    /// Gives the chunks of a word that is wholly ours, but for those kept.
    pub(super) fn give_rest(&self, level: usize, n: u64, rest: u64) {
        let given = self.give_bits(level, n, rest);
        debug_assert!(given.is_ok(), "a taken chunk has no free part");
    }

    /// Takes exactly `block`; `false` if some frame of it is not free, and nothing changed.
    pub(crate) fn take_at(&self, block: Block) -> bool {
        let (level, k) = level_of(block.order());
        let n = block.pfn().get() >> (chunk_log2(level) + STEP);
        let at = (block.pfn().get() >> chunk_log2(level)) as u32 & 63;
        self.take_bits_at(level, n, mask(at, k))
    }

    fn take_bits_at(&self, level: usize, n: u64, wanted: u64) -> bool {
        let Some(word) = self.word(level, level, n) else { return false };
        let mut bits = word.load(Relaxed);
        while bits & wanted == wanted {
            // Acquire pairs with the Release in `give_to` that gave these chunks.
            match word.compare_exchange_weak(bits, bits & !wanted, Acquire, Relaxed) {
                Ok(_) => {
                    if bits == wanted {
                        self.summarize_emptied(level, n);
                    }
                    return true;
                }
                Err(now) => bits = now,
            }
        }
        // Part of it free here means that no larger chunk holds it.
        let up = level + 1;
        if bits != 0 || up >= LEVELS || !self.take_bits_at(up, n >> STEP, 1 << (n & 63)) {
            return false;
        }
        if wanted != !0 {
            self.give_rest(level, n, !wanted);
        }
        true
    }

    /// Takes `chunks` neighbouring chunks of the last level: for runs above the largest folio.
    pub(crate) fn take_chunks(&self, chunks: u64) -> Option<Pfn> {
        let level = LEVELS - 1;
        let (words, first) = self.bitmap(level, level);
        let is_free = |u: u64| {
            let word = words.get(((u >> STEP) - first) as usize);
            word.is_some_and(|w| w.load(Relaxed) >> (u & 63) & 1 == 1)
        };
        let (mut start, end) = (first << STEP, (first + words.len() as u64) << STEP);
        'search: while start + chunks <= end {
            for i in (0..chunks).rev() {
                if !is_free(start + i) {
                    start += i + 1;
                    continue 'search;
                }
            }
            for i in 0..chunks {
                let u = start + i;
                if !self.take_bits_at(level, u >> STEP, 1 << (u & 63)) {
                    for u in start..u {
                        self.give_rest(level, u >> STEP, 1 << (u & 63));
                    }
                    start += i + 1;
                    continue 'search;
                }
            }
            return Some(Pfn::new(start << chunk_log2(level)));
        }
        None
    }
}
