//! Taking by the owner of the free map: an inheritance is cut out of free memory, word by word,
//! before any caller can allocate.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Pfn};

use super::group::{chunk_log2, level_of, mask};
use super::{FreeMap, LEVELS, STEP};

impl FreeMap {
    /// Takes exactly `block`, as [`FreeMap::take_at`] does, while nothing else uses the free map:
    /// with plain loads and stores.
    pub(crate) fn carve(&self, block: Block) -> bool {
        let (level, k) = level_of(block.order());
        let at = (block.pfn().get() >> chunk_log2(level)) as u32 & 63;
        self.carve_bits(level, block.pfn().get() >> (chunk_log2(level) + STEP), mask(at, k))
    }

    /// Takes exactly the frames `first + i` for each set bit `i`, all or none, while nothing else
    /// uses the free map.
    pub(crate) fn carve_word(&self, first: Pfn, frames: u64) -> bool {
        self.carve_bits(0, first.get() >> STEP, frames)
    }

    fn carve_bits(&self, level: usize, n: u64, wanted: u64) -> bool {
        let Some(word) = self.word(level, level, n) else { return false };
        let bits = word.load(Relaxed);
        if bits & wanted == wanted {
            word.store(bits & !wanted, Relaxed);
            if bits == wanted {
                self.summarize(level, n, false);
            }
            return true;
        }
        // Part of it free here means that no larger chunk holds it.
        let up = level + 1;
        if bits != 0 || up >= LEVELS || !self.carve_bits(up, n >> STEP, 1 << (n & 63)) {
            return false;
        }
        if wanted != !0 {
            word.store(!wanted, Relaxed);
            self.summarize(level, n, true);
        }
        true
    }

    /// Says in the summaries above whether word `n` of `level` has anything, while nothing else uses the free map.
    fn summarize(&self, level: usize, n: u64, some: bool) {
        let mut n = n;
        for up in level + 1..LEVELS {
            let Some(word) = self.word(level, up, n >> STEP) else { return };
            let (before, bit) = (word.load(Relaxed), 1 << (n & 63));
            let after = if some { before | bit } else { before & !bit };
            word.store(after, Relaxed);
            if (before == 0) == (after == 0) {
                return;
            }
            n >>= STEP;
        }
    }
}
