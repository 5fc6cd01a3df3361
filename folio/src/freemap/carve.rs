//! Taking by the owner of the columns: an inheritance is cut out of free memory, word by word,
//! before any caller can allocate.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Pfn};

use super::group::{mask, place, unit_log2};
use super::{COLUMNS, Columns, STEP};

impl Columns {
    /// Takes exactly `block`, as [`Columns::take_at`] does, while nothing else uses the columns:
    /// with plain loads and stores.
    pub(crate) fn carve(&self, block: Block) -> bool {
        let (t, k) = place(block.order());
        let at = (block.pfn().get() >> unit_log2(t)) as u32 & 63;
        self.carve_bits(t, block.pfn().get() >> (unit_log2(t) + STEP), mask(at, k))
    }

    /// Takes exactly the frames `first + i` for each set bit `i`, all or none, while nothing else
    /// uses the columns.
    pub(crate) fn carve_word(&self, first: Pfn, frames: u64) -> bool {
        self.carve_bits(0, first.get() >> STEP, frames)
    }

    fn carve_bits(&self, t: usize, n: u64, wanted: u64) -> bool {
        let Some(word) = self.word(t, t, n) else { return false };
        let bits = word.load(Relaxed);
        if bits & wanted == wanted {
            word.store(bits & !wanted, Relaxed);
            if bits == wanted {
                self.say(t, n, false);
            }
            return true;
        }
        // Part of it free here means that no larger unit holds it.
        let up = t + 1;
        if bits != 0 || up >= COLUMNS || !self.carve_bits(up, n >> STEP, 1 << (n & 63)) {
            return false;
        }
        if wanted != !0 {
            word.store(!wanted, Relaxed);
            self.say(t, n, true);
        }
        true
    }

    /// Says in the rows above whether word `n` of column `t` has anything, while nothing else uses
    /// the columns.
    fn say(&self, t: usize, n: u64, some: bool) {
        let mut n = n;
        for up in t + 1..COLUMNS {
            let Some(word) = self.word(t, up, n >> STEP) else { return };
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
