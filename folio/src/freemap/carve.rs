//! Taking by the owner of the free map: an inheritance is cut out of free memory, word by word,
//! before any caller can allocate.

use heirloom_kho::sync::Relaxed;
use heirloom_kho::{Block, Pfn};

use super::FreeMap;
use super::units::{ChunkId, Level, WordId};

impl FreeMap {
    /// Takes exactly `block`, as [`FreeMap::take_at`] does, while nothing else uses the free map:
    /// with plain loads and stores.
    pub(crate) fn carve(&self, block: Block) -> bool {
        let (level, width) = Level::of(block.order());
        let first = ChunkId::of(block.pfn(), level);
        self.carve_bits(level, first.word(), width.mask(first.at()))
    }

    /// Takes exactly the frames `first + i` for each set bit `i`, all or none, while nothing else
    /// uses the free map.
    pub(crate) fn carve_word(&self, first: Pfn, frames: u64) -> bool {
        self.carve_bits(Level::FIRST, ChunkId::of(first, Level::FIRST).word(), frames)
    }

    fn carve_bits(&self, level: Level, n: WordId, wanted: u64) -> bool {
        let Some(word) = self.word(level, n) else { return false };
        let bits = word.load(Relaxed);
        if bits & wanted == wanted {
            word.store(bits & !wanted, Relaxed);
            if bits == wanted {
                self.summarize(level, n, false);
            }
            return true;
        }
        // Part of it free here means that no larger chunk holds it.
        let ((above, bit), up) = (n.above(), level.up());
        if bits != 0 || !up.is_some_and(|up| self.carve_bits(up, above, bit)) {
            return false;
        }
        if wanted != !0 {
            word.store(!wanted, Relaxed);
            self.summarize(level, n, true);
            if self.misses_bits() {
                self.say_given(level, n);
            }
        }
        true
    }

    /// Says in the summaries above whether word `n` of `level` has anything, while nothing else uses the free map.
    fn summarize(&self, level: Level, n: WordId, some: bool) {
        let mut n = n;
        for up in level.lowest().above() {
            let (above, bit) = n.above();
            let Some(word) = self.word_at(level, up, above) else { return };
            let before = word.load(Relaxed);
            let after = if some { before | bit } else { before & !bit };
            word.store(after, Relaxed);
            if (before == 0) == (after == 0) {
                return;
            }
            n = above;
        }
    }
}
