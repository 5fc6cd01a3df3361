//! What a kernel keeps: how a successor names it, claims it, and knows that it is whole.

use crate::world::Owned as _;
use heirloom::arena::Arena;
use heirloom::folio::{Block, DirectMap, Folio, Kind, PAGE_SIZE, PhysAddr, Run};
use heirloom::kho::{Handle, Parts};
use heirloom::restore::{Error, PreservedArea, Records};

use super::caches::preserving;
use super::ground::Kernel;
use super::step;

/// An entry of the lists of records: the list's seed, the entry's number, and its complement.
pub(crate) type Entry = [u64; 3];

/// What a thing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Sort {
    Folio,
    Run,
    /// `index`: 1 if it is preserved from birth.
    Buffer,
    /// `index`: of which [cache](super::caches::spec).
    Object,
    Area,
    /// `bytes`: how many entries.
    Records,
    /// Published bytes; `index`: under which name.
    Root,
    /// A name for a folio, which is a thing of its own; `index`: which name.
    Subtree,
}

impl Sort {
    pub(crate) const ALL: [Self; 8] = [
        Self::Folio,
        Self::Run,
        Self::Buffer,
        Self::Object,
        Self::Area,
        Self::Records,
        Self::Root,
        Self::Subtree,
    ];
}

/// A thing, as it is written down for a successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Thing {
    pub(crate) sort: Sort,
    pub(crate) index: u8,
    handle: [u8; 16],
    /// Bytes that its owner asked for.
    pub(crate) bytes: u64,
    /// What its content is made of; `None`: not written yet.
    pub(crate) seed: Option<u64>,
}

/// A word of the content that only `seed` gives.
pub(crate) fn word(seed: u64, i: usize) -> u64 {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (i as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 29
}

/// The content of a published root.
pub(crate) fn root_bytes(seed: u64, bytes: u64) -> Vec<u8> {
    (0..bytes as usize).map(|i| word(seed, i / 8).to_le_bytes()[i % 8]).collect()
}

/// The name of a root or a subtree: each thread has its own.
pub(crate) fn name(sort: Sort, id: u32) -> String {
    match sort {
        Sort::Subtree => format!("tree{id}"),
        _ => format!("root{id}"),
    }
}

impl Thing {
    pub(crate) fn new(sort: Sort, index: u8, handle: Handle, bytes: u64) -> Self {
        Self { sort, index, handle: handle.into(), bytes, seed: None }
    }

    /// What is found by its name and not by a handle.
    pub(crate) const fn named(sort: Sort, index: u8, bytes: u64, seed: u64) -> Self {
        Self { sort, index, handle: [0; 16], bytes, seed: Some(seed) }
    }

    /// What stands for whatever is in a cache.
    pub(crate) const fn in_cache(cache: u8) -> Self {
        Self::named(Sort::Object, cache, 0, 0)
    }

    pub(crate) fn folio(block: Block) -> Self {
        let handle = Handle::new(Parts::Folio(block)).expect("every folio has a handle");
        Self::new(Sort::Folio, 0, handle, block.order().bytes())
    }

    pub(crate) const fn stamped(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    pub(crate) const fn sized(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::from(self.handle)
    }

    pub(crate) fn handle_words(&self) -> [u64; 2] {
        let (a, b) = self.handle.split_at(8);
        [a, b].map(|half| u64::from_le_bytes(half.try_into().expect("eight bytes")))
    }

    pub(crate) fn from_words(
        sort: Sort,
        index: u8,
        [a, b]: [u64; 2],
        bytes: u64,
        seed: Option<u64>,
    ) -> Self {
        let mut handle = [0; 16];
        handle[..8].copy_from_slice(&a.to_le_bytes());
        handle[8..].copy_from_slice(&b.to_le_bytes());
        Self { sort, index, handle, bytes, seed }
    }

    pub(crate) fn parts(&self) -> Parts {
        self.handle().parts().expect("handles are written down as the library made them")
    }

    /// Its block, if it is a folio.
    pub(crate) fn block(&self) -> Block {
        let Parts::Folio(block) = self.parts() else { panic!("no folio: {self:?}") };
        block
    }

    /// Whether it is a small buffer or an object: in a slab.
    pub(crate) fn small(&self) -> bool {
        matches!(self.sort, Sort::Buffer | Sort::Object)
            && matches!(self.parts(), Parts::Object { .. })
    }

    /// Whether it is preserved from birth, as long as it is not freed.
    pub(crate) const fn born(&self) -> bool {
        match self.sort {
            Sort::Buffer => self.index == 1,
            Sort::Object => preserving(self.index),
            _ => false,
        }
    }

    /// Where its bytes are, if they are in one place: not an area's or a list's.
    pub(crate) fn addr(&self) -> Option<PhysAddr> {
        match self.sort {
            Sort::Root | Sort::Subtree => None,
            _ => match self.parts() {
                Parts::Folio(block) => Some(block.addr()),
                Parts::Run(run) => Some(run.addr()),
                Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => Some(addr),
                _ => None,
            },
        }
    }

    /// Whether a plain free frees it once it is claimed.
    pub(crate) const fn is_held(&self) -> bool {
        matches!(self.sort, Sort::Buffer | Sort::Object)
    }

    /// Whether it is in a cache all of whose objects are preserved.
    pub(crate) fn is_kept_by_its_cache(&self) -> bool {
        self.small() && self.born()
    }

    /// Finds an object that is in use, as its cache was resumed, or else claims it.
    pub(crate) fn claim_or_find(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        match self.sort {
            Sort::Object if kernel.find(self.handle()).is_ok() => Ok(()),
            _ => self.claim(kernel),
        }
    }

    /// Claims it as the predecessor's: what is not a name. It is preserved as before.
    pub(crate) fn claim(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let handle = self.handle();
        match self.sort {
            Sort::Folio => drop(kernel.claim_folio(handle)?.into_raw()),
            Sort::Run => drop(kernel.claim_run(handle)?.into_raw()),
            Sort::Buffer | Sort::Object => drop(kernel.restore(handle)?),
            Sort::Area => drop(kernel.claim_area(handle)?.into_raw()),
            Sort::Records => drop(kernel.claim_records::<Entry>(handle)?),
            Sort::Root | Sort::Subtree => unreachable!("names are looked up"),
        }
        Ok(())
    }

    /// Whether it is claimed without a cache that has to be there.
    pub(crate) fn claim_needs_nothing(&self) -> bool {
        !self.small() && !matches!(self.sort, Sort::Root | Sort::Subtree)
    }

    /// Writes its content.
    pub(crate) fn stamp(&self, kernel: &Kernel<'_>, seed: u64) {
        let _quiet = step::Pause::new();
        if self.sort == Sort::Area {
            for (block, seed) in self.blocks(kernel).into_iter().zip(seed..) {
                stamp(kernel, block.addr(), block.order().bytes(), seed);
            }
        } else if let Some(addr) = self.addr() {
            stamp(kernel, addr, self.bytes, seed);
        }
    }

    /// Whether its content is there, as far as it was written.
    pub(crate) fn is_whole(&self, kernel: &Kernel<'_>) -> bool {
        let _quiet = step::Pause::new();
        let Some(seed) = self.seed else { return true };
        match self.sort {
            Sort::Area => {
                let mut blocks = self.blocks(kernel).into_iter().zip(seed..);
                blocks.all(|(block, seed)| {
                    is_stamped(kernel, block.addr(), block.order().bytes(), seed)
                })
            }
            Sort::Records => {
                let mut found = Vec::new();
                let read = self.records(kernel).for_each(|entry| found.push(entry));
                let written = (0..self.bytes).map(|i| [seed, i, !i]);
                read.is_ok() && found.into_iter().eq(written)
            }
            _ => self.addr().is_none_or(|addr| is_stamped(kernel, addr, self.bytes, seed)),
        }
    }

    /// The blocks of an area that is ours.
    pub(crate) fn blocks(&self, kernel: &Kernel<'_>) -> Vec<Block> {
        let Parts::Area(info) = self.parts() else { panic!("no area: {self:?}") };
        let mut blocks = Vec::new();
        // SAFETY: the area is ours, and the value is let go without unpreserving it.
        let area = unsafe { PreservedArea::from_raw(kernel.memory(), info) };
        area.for_each(|block| blocks.push(block)).expect("an area that is ours is whole");
        area.into_raw();
        blocks
    }

    /// The list of records, which is ours.
    pub(crate) fn records<'k, 'a>(&self, kernel: &'k Kernel<'a>) -> Records<'k, &'a Arena, Entry> {
        let Parts::Records { first, .. } = self.parts() else { panic!("no list: {self:?}") };
        // SAFETY: the list is ours, and this is the one value for it.
        unsafe { Records::from_raw(kernel.memory(), first) }.expect("a list that is ours is whole")
    }

    /// Makes it survive; what is preserved by its making is refused.
    pub(crate) fn preserve(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        match self.parts() {
            Parts::Folio(block) => Ok(kernel.memory().keep(block)?),
            Parts::Run(run) => Ok(kernel.memory().keep_run(run, Kind::Run)?),
            Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                // SAFETY: in use, and nothing frees it meanwhile.
                let handle = unsafe { kernel.preserve(kernel.memory().machine().ptr(addr)) }?;
                assert_eq!(handle, self.handle(), "a handle stays the same: {self:?}");
                Ok(())
            }
            other => panic!("preserved by its making: {other:?}"),
        }
    }

    /// Lets it go.
    pub(crate) fn unpreserve(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        match self.parts() {
            Parts::Folio(block) => Ok(kernel.memory().let_go(block)?),
            Parts::Run(run) => Ok(kernel.memory().let_go_run(run, Kind::Run)?),
            Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { kernel.unpreserve(kernel.memory().machine().ptr(addr)) }
            }
            other => panic!("let go as a whole: {other:?}"),
        }
    }

    /// Frees it: what is not preserved, or from birth.
    pub(crate) fn free(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let memory = kernel.memory();
        // SAFETY: the thing is ours, and ends here.
        unsafe {
            match self.parts() {
                Parts::Folio(block) => Ok(memory.free(block, Kind::Folio)?),
                Parts::Run(run) => Ok(memory.free_run(run, Kind::Run)?),
                Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
                    kernel.free(memory.machine().ptr(addr))
                }
                other => panic!("freed as a whole: {other:?}"),
            }
        }
    }

    /// Gives it back in whatever way it takes; `singly`: it is preserved, and no plain free frees it.
    pub(crate) fn release(&self, kernel: &Kernel<'_>, singly: bool) -> Result<(), Error> {
        match self.sort {
            Sort::Root | Sort::Subtree => Ok(()),
            Sort::Area => {
                let Parts::Area(info) = self.parts() else { panic!("no area: {self:?}") };
                // SAFETY: the area is ours, and ends here.
                let area = unsafe { PreservedArea::from_raw(kernel.memory(), info) };
                area.unpreserve(|block| {
                    // SAFETY: the area's block, which is ours since it was let go.
                    drop(unsafe { Folio::from_raw(kernel.memory(), block) });
                })
                .map_err(|(_, error)| error)
            }
            Sort::Records => self.records(kernel).free().map_err(|(_, error)| error),
            _ => {
                if singly {
                    self.unpreserve(kernel)?;
                }
                self.free(kernel)
            }
        }
    }

    /// The frames or bytes that are its alone, for a look whether two things share any.
    pub(crate) fn extents(&self, kernel: &Kernel<'_>) -> Vec<(u64, u64)> {
        match self.sort {
            Sort::Area => {
                let blocks = self.blocks(kernel).into_iter();
                blocks.map(|block| (block.addr().get(), block.order().bytes())).collect()
            }
            Sort::Records => {
                let Parts::Records { first, .. } = self.parts() else { panic!("{self:?}") };
                vec![(first.get(), PAGE_SIZE as u64)]
            }
            Sort::Root | Sort::Subtree => Vec::new(),
            _ => {
                let bytes = match self.parts() {
                    Parts::Folio(block) => block.order().bytes(),
                    Parts::Run(run) => run.bytes(),
                    Parts::Buffer { bytes, .. } | Parts::Object { bytes, .. } => bytes,
                    other => panic!("{other:?}"),
                };
                self.addr().map(|addr| (addr.get(), bytes)).into_iter().collect()
            }
        }
    }

    /// The frames of a run or of a large buffer.
    pub(crate) fn frames(&self) -> u64 {
        match self.sort {
            Sort::Root | Sort::Subtree => 0,
            _ => match self.parts() {
                Parts::Run(run) => run.frames(),
                Parts::Buffer { addr, bytes } => Run::covering(addr, bytes).map_or(0, Run::frames),
                Parts::Folio(block) => block.order().frames(),
                Parts::Area(info) => u64::from(info.pages()),
                _ => 0,
            },
        }
    }
}

/// Writes a stamp at an address whose bytes are the caller's.
fn stamp(kernel: &Kernel<'_>, addr: PhysAddr, bytes: u64, seed: u64) {
    let start = kernel.memory().machine().ptr(addr);
    let bytes = bytes as usize;
    for i in 0..bytes / 8 {
        // SAFETY: within the bytes that the caller owns.
        unsafe { start.add(i * 8).cast::<u64>().write_unaligned(word(seed, i)) };
    }
    for i in bytes / 8 * 8..bytes {
        // SAFETY: as above.
        unsafe { start.add(i).write(word(seed, i / 8).to_le_bytes()[i % 8]) };
    }
}

fn is_stamped(kernel: &Kernel<'_>, addr: PhysAddr, bytes: u64, seed: u64) -> bool {
    let start = kernel.memory().machine().ptr(addr);
    let bytes = bytes as usize;
    // SAFETY: within the bytes that the caller owns.
    (0..bytes / 8)
        .all(|i| unsafe { start.add(i * 8).cast::<u64>().read_unaligned() } == word(seed, i))
        && (bytes / 8 * 8..bytes)
            // SAFETY: as above.
            .all(|i| unsafe { start.add(i).read() } == word(seed, i / 8).to_le_bytes()[i % 8])
}
