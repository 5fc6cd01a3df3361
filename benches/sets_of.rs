//! The sets that the rows of `tracker` compare.

#![expect(clippy::inline_always, reason = "nothing but the call that is measured")]

use std::collections::BTreeSet;

use heirloom_kho::Block;
use heirloom_kho::tree::FolioRange;
use rangemap::RangeSet;
use roaring::RoaringTreemap;

use crate::World;
use crate::frames_of::Reach;

/// A set of single frames.
pub trait Frames: Sync {
    /// As the rows call it.
    const NAME: &'static str;
    /// An empty set.
    fn new() -> Self;
    /// Puts a frame in, which was not there.
    fn preserve(&self, frame: Block);
    /// Takes a frame out, which was there.
    fn unpreserve(&self, frame: Block);
    /// All frames, one by one, folded by exclusive or: no peer can know the result of a range
    /// without a look at each key.
    fn walk(&self) -> u64;
}

/// heirloom's tracker is part of its memory, whose checks are paid for, too.
impl Frames for World {
    const NAME: &'static str = "heirloom";

    fn new() -> Self {
        crate::world(1024 * crate::GIB)
    }

    #[inline(always)]
    fn preserve(&self, frame: Block) {
        // SAFETY: allocated by this bench, and told to nothing else.
        unsafe { World::preserve(self, frame) }.expect("allocated");
    }

    #[inline(always)]
    fn unpreserve(&self, frame: Block) {
        // SAFETY: allocated by this bench, and told to nothing else.
        unsafe { World::unpreserve(self, frame) }.expect("preserved");
    }

    fn walk(&self) -> u64 {
        let mut folded = 0;
        self.preserved().for_each(|block| folded ^= block.pfn().get());
        folded
    }
}

/// The sum of a world's preserved frames, taken by rows of adjacent ones.
pub fn walk_rows(memory: &World) -> u64 {
    let mut sum = 0;
    memory.preserved().for_each_range(|row: FolioRange| sum += row.count());
    sum
}

macro_rules! set {
    ($peer:ident, $inner:ty, $names:expr, $what:literal, $new:expr,
     |$set:ident, $key:ident| $insert:expr, $remove:expr, $walk:expr) => {
        #[doc = $what]
        #[derive(Debug)]
        pub struct $peer<R>(R);

        impl<R: Reach<$inner>> Frames for $peer<R> {
            const NAME: &'static str = if R::SUFFIX { $names.1 } else { $names.0 };

            fn new() -> Self {
                Self(R::new($new))
            }

            #[inline(always)]
            fn preserve(&self, frame: Block) {
                let $key = frame.pfn().get();
                self.0.with(|$set| $insert);
            }

            #[inline(always)]
            fn unpreserve(&self, frame: Block) {
                let $key = frame.pfn().get();
                self.0.with(|$set| $remove);
            }

            fn walk(&self) -> u64 {
                self.0.with(|$set| $walk)
            }
        }
    };
}

set!(
    Roaring,
    RoaringTreemap,
    ("roaring", "roaring, locked"),
    "`roaring`'s map of bitmaps.",
    RoaringTreemap::new(),
    |set, key| set.insert(key),
    set.remove(key),
    set.iter().fold(0, |a, key| a ^ key)
);
set!(
    BTree,
    BTreeSet<u64>,
    ("BTreeSet", "BTreeSet, locked"),
    "The standard library's sorted set.",
    BTreeSet::new(),
    |set, key| set.insert(key),
    set.remove(&key),
    set.iter().fold(0, |a, key| a ^ key)
);
set!(
    Hash,
    hashbrown::HashSet<u64>,
    ("hashbrown", "hashbrown, locked"),
    "`hashbrown`'s hash set with its own hasher.",
    hashbrown::HashSet::new(),
    |set, key| set.insert(key),
    set.remove(&key),
    set.iter().fold(0, |a, key| a ^ key)
);
set!(
    Ranges,
    RangeSet<u64>,
    ("rangemap", "rangemap, locked"),
    "`rangemap`'s set of ranges.",
    RangeSet::new(),
    |set, key| set.insert(key..key + 1),
    set.remove(key..key + 1),
    set.iter().cloned().flatten().fold(0, |a, key| a ^ key)
);
