//! A preserved memfd: where its bytes are.
//!
//! ```text
//!  memfd, 48 bytes   pos u64, size u64, seals u32, flags u32, folios u64, area descriptor (16)
//!  area              as many entries as folios, 16 bytes each: pfn:52 | flags:12, index u64
//! ```
//!
//! Entries stand in the order of the file. `index` counts pages of the file. How large a folio is,
//! its entry does not say: it is the block of the tree that starts there.

use zerocopy::native_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::bytes::{load, words};
use super::stop::Stop;
use crate::addr::{Block, Pfn, PhysAddr};
use crate::area::{AreaDescriptor, AreaInfo, AreaPart};
use crate::compat::{Compat, Format, VMALLOC};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{low_u16, u16_to_u32, u32_to_u64, u64_to_usize, usize_to_u64};
use crate::page_size::PageSize;
use crate::pages::Pages;
use crate::sync::Ordering::Relaxed;

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Stored {
    pos: U64,
    size: U64,
    seals: U32,
    flags: U32,
    folios: U64,
    area: AreaDescriptor,
}

const SIZE: usize = size_of::<Stored>();
const AREA_AT: u64 = usize_to_u64(core::mem::offset_of!(Stored, area));
const _: () = assert!(SIZE == 48 && AREA_AT == 32);

pub(super) static FORMAT: Format =
    Format { text: Memfd::COMPATIBLE, name: "memfd", version: 2, parts: &[VMALLOC] };

impl Stored {
    /// Returns a file of so many bytes that all read as zeroes.
    pub(super) fn of_size(size: u64) -> Self {
        Self { size: size.into(), ..Self::new_zeroed() }
    }

    pub(super) fn describe(&mut self, pos: u64, seals: u32, flags: u32) {
        (self.pos, self.seals, self.flags) = (pos.into(), seals.into(), flags.into());
    }

    /// Says where the entries of so many folios are.
    pub(super) fn keep(&mut self, folios: u64, area: Option<AreaInfo>) {
        self.folios = folios.into();
        self.area = area.map_or(AreaDescriptor::new_zeroed(), AreaInfo::descriptor);
    }

    /// Returns what it says at `at`, of a file whose folios are not looked at.
    pub(super) fn values(&self, at: PhysAddr) -> Memfd {
        Memfd {
            at,
            compat: Compat::of(&FORMAT),
            pos: self.pos.get(),
            size: self.size.get(),
            seals: self.seals.get(),
            flags: self.flags.get(),
            folios: self.folios.get(),
            area: None,
            page_size: PageSize::BUILD,
        }
    }
}

/// Bytes of an entry.
pub(super) const ENTRY: u64 = 16;
const PFN_BITS: u32 = 52;
const DIRTY: u64 = 1;
const UP_TO_DATE: u64 = 2;
pub(super) const FLAGS: u16 = low_u16(DIRTY | UP_TO_DATE);
/// `F_SEAL_SEAL` to `F_SEAL_EXEC`.
const SEALS: u32 = 0x3f;
/// The largest size and position that a file can have.
const LARGEST: u64 = i64::MAX.unsigned_abs();

/// What was left of a memfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memfd {
    /// Where it stands.
    pub at: PhysAddr,
    /// What its file says that it is.
    pub compat: Compat,
    /// The file position, in bytes.
    pub pos: u64,
    /// The file's size in bytes.
    pub size: u64,
    /// Its seals, as `F_ADD_SEALS` has them.
    pub seals: u32,
    /// Its flags.
    pub flags: u32,
    /// How many folios it has.
    pub folios: u64,
    /// The area with their entries; `None` if there are none.
    pub area: Option<AreaInfo>,
    /// What its pages are: of the kernel that left it.
    pub page_size: PageSize,
}

/// A folio of a memfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemfdFolio {
    /// The preserved block.
    pub block: Block,
    /// The page of the file that it starts with.
    pub index: u64,
    /// Its entry's flags, all twelve bits.
    pub flags: u16,
}

/// Returns whether a file of this kind is a memfd, whatever its version: `memfd` alone, or with
/// more behind it that does not go on with the word.
pub(crate) fn is_one(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"memfd");
    rest.is_some_and(|rest| rest.first().is_none_or(|byte| !byte.is_ascii_alphanumeric()))
}

impl MemfdFolio {
    /// Returns whether it was written since it was last written back, which for a memfd is never.
    pub const fn is_dirty(&self) -> bool {
        u32_to_u64(u16_to_u32(self.flags)) & DIRTY != 0
    }

    /// Returns whether it has contents. One that has not reads as zeroes.
    pub const fn is_up_to_date(&self) -> bool {
        u32_to_u64(u16_to_u32(self.flags)) & UP_TO_DATE != 0
    }

    /// Returns what is wrong with its entry, which is at `at`, though its content can be read.
    pub(crate) fn faults(&self, at: PhysAddr, page: PageSize) -> impl Iterator<Item = Error> {
        let reserved = self.flags & !FLAGS;
        let reserved = (reserved != 0).then_some((0, Fault::Reserved { found: self.flags.into() }));
        // Linux keeps a folio in a file where it would lie in memory too: naturally aligned.
        let aligned = self.index.is_multiple_of(page.pages(self.block.order().frames()));
        let expected = "index that is a multiple of the folio's pages";
        let astray = (!aligned).then_some((8, Fault::Malformed { expected }));
        let faults = reserved.into_iter().chain(astray);
        faults.map(move |(offset, fault)| fault.in_table(Table::MemfdFolios, at, offset))
    }

    /// Returns its entry, as a kernel of this build's pages writes it.
    pub(super) fn words(&self) -> [u64; 2] {
        let number = self.block.pfn().get() & ((1 << PFN_BITS) - 1);
        [number | u64::from(self.flags) << PFN_BITS, self.index]
    }

    /// Returns the page of the file after its last.
    pub(super) const fn end(&self, page: PageSize) -> u64 {
        self.index.saturating_add(page.pages(self.block.order().frames()))
    }
}

/// A stretch of a memfd, in bytes; none reaches past the file's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Bytes that lie in memory, in a row.
    Data {
        /// Where in the file.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Where in memory.
        addr: PhysAddr,
    },
    /// Bytes that read as zeroes.
    Hole {
        /// Where in the file.
        offset: u64,
        /// How many.
        bytes: u64,
        /// The folio that is there and was never written, if there is one.
        block: Option<Block>,
    },
}

impl Memfd {
    /// The kind of file that this reads, where it says nothing of what it is built of.
    pub const COMPATIBLE: &str = "memfd-v2";
    /// Bytes of the structure.
    pub const SIZE: u64 = usize_to_u64(SIZE);

    /// Reads the memfd at `at`, an address that byte `from.2` of the table at `from.1` has; `compat` is what
    /// the file says that it is.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: not in memory or not preserved; more folios
    /// than the area holds, or than the file has pages. [`Error::Table`]: the area's descriptor is
    /// not sound.
    pub(super) fn read(
        pages: &impl Pages,
        compat: Compat,
        at: PhysAddr,
        from: (Table, PhysAddr, usize),
    ) -> Result<Self, Error> {
        let stored: Stored = load(words(pages, at, SIZE, from)?);
        let (size, folios) = (stored.size.get(), stored.folios.get());
        let page_size = pages.page_size();
        let page = usize_to_u64(page_size.bytes());
        let limit = size.div_ceil(page);
        if folios > limit {
            return Err(Fault::TooMany { found: folios, limit }.in_table(Table::Memfd, at, 24));
        }
        let mut area = None;
        if folios > 0 {
            let info = stored.area.info(PhysAddr::new(at.get() + AREA_AT), page_size)?;
            let limit = u64::from(info.pages()) * (page / ENTRY);
            if folios > limit {
                return Err(Fault::TooMany { found: folios, limit }.in_table(Table::Memfd, at, 24));
            }
            area = Some(info);
        } else if stored.area != AreaDescriptor::new_zeroed() {
            area = Some(stored.area.info(PhysAddr::new(at.get() + AREA_AT), page_size)?);
        }
        Ok(Self { compat, area, page_size, ..stored.values(at) })
    }

    /// Returns what is wrong with its values, though its content can be read.
    pub(crate) fn faults(&self) -> impl Iterator<Item = Error> {
        let large = |found| (found > LARGEST).then_some(Fault::TooMany { found, limit: LARGEST });
        let found = self.seals.into();
        let seals = (self.seals & !SEALS != 0).then_some(Fault::Reserved { found });
        let faults = [(0, large(self.pos)), (8, large(self.size)), (16, seals)];
        let at = self.at;
        let faults = faults.into_iter().filter_map(|(offset, fault)| Some((offset, fault?)));
        faults.map(move |(offset, fault)| fault.in_table(Table::Memfd, at, offset))
    }

    /// Returns the number of pages of the file, the last one whole.
    pub const fn pages(&self) -> u64 {
        self.size.div_ceil(usize_to_u64(self.page_size.bytes()))
    }

    /// Calls `each` with every folio, in the order of the file. Entries that are not folios of the
    /// file are an error.
    ///
    /// # Errors
    /// The first error of `each`. [`Error::Table`]: the area is not sound, or not all of it is
    /// preserved. [`Error::Table`] with the entry and the reason: no block that starts there is
    /// preserved, the index does not come after the folio before it, or lies past the file's end.
    pub fn for_each_folio<E: From<Error>>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(MemfdFolio) -> Result<(), E>,
    ) -> Result<(), E> {
        self.entries(pages, |_, entry| each(entry?))
    }

    /// Calls `each` with every stretch of the file, from its start to its end.
    ///
    /// # Errors
    /// As for [`Memfd::for_each_folio`].
    pub fn for_each_part<E: From<Error>>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(Part) -> Result<(), E>,
    ) -> Result<(), E> {
        let page = usize_to_u64(self.page_size.bytes());
        let mut at = 0;
        self.for_each_folio(pages, |folio| {
            let MemfdFolio { block, index, .. } = folio;
            // The index is a page of the file, so this is at most its size, one page rounded up.
            let offset = index.saturating_mul(page);
            if offset > at {
                each(Part::Hole { offset: at, bytes: offset - at, block: None })?;
            }
            let end = self.size.min(folio.end(self.page_size).saturating_mul(page));
            let bytes = end - offset;
            at = end;
            each(if folio.is_up_to_date() {
                Part::Data { offset, bytes, addr: block.addr() }
            } else {
                Part::Hole { offset, bytes, block: Some(block) }
            })
        })?;
        if at < self.size {
            each(Part::Hole { offset: at, bytes: self.size - at, block: None })?;
        }
        Ok(())
    }

    /// Calls `each` with every entry and its address, or what is wrong with it or with the area.
    pub(crate) fn entries<E>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(PhysAddr, Result<MemfdFolio, Error>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(area) = self.area else { return Ok(()) };
        let (mut left, mut next) = (self.folios, 0);
        let walked = area.walk(pages, |part| {
            let AreaPart::Block(block) = part else { return Ok(()) };
            let count = left.min(block.order().bytes() / ENTRY);
            left -= count;
            // Entries are read a page at a time: an area's block may be as large as memory.
            let mut at = block.addr();
            let mut todo = count;
            while todo > 0 {
                let here = todo.min(usize_to_u64(self.page_size.bytes()) / ENTRY);
                let Some(words) = pages.words(at, u64_to_usize(here * ENTRY)) else {
                    let fault = Fault::OutsideMemory { addr: at };
                    let outside = fault.in_table(Table::MemfdFolios, at, 0);
                    return each(at, Err(outside)).map_err(Stop::Each);
                };
                for (entry, at) in
                    words.chunks_exact(2).zip((at.get()..).step_by(u64_to_usize(ENTRY)))
                {
                    let word = |i: usize| entry.get(i).map_or(0, |word| word.load(Relaxed));
                    let at = PhysAddr::new(at);
                    let folio = self.folio(pages, at, word(0), word(1), next);
                    if let Ok(folio) = folio {
                        next = folio.end(self.page_size);
                    }
                    each(at, folio).map_err(Stop::Each)?;
                }
                todo -= here;
                at = PhysAddr::new(at.get() + here * ENTRY);
            }
            Ok(())
        });
        match walked {
            Ok(()) => Ok(()),
            Err(Stop::Area(error)) => each(area.first(), Err(error)),
            Err(Stop::Each(error)) => Err(error),
        }
    }

    /// Returns the folio that the entry at `at` names; the first page that it may have is `next`.
    fn folio(
        &self,
        pages: &impl Pages,
        at: PhysAddr,
        word: u64,
        index: u64,
        next: u64,
    ) -> Result<MemfdFolio, Error> {
        let fail = |offset, fault: Fault| fault.in_table(Table::MemfdFolios, at, offset);
        // A number of pages, and the first frame of that page: no more than 56 bits.
        let number = word & ((1 << PFN_BITS) - 1);
        let pfn = Pfn::new(number << self.page_size.order().get());
        let block = pages.block_from(pfn);
        let missing = self.page_size.page_of(pfn);
        let block = block.ok_or(fail(0, Fault::NotPreserved { block: missing }))?;
        if index >= self.pages() {
            let limit = self.pages().saturating_sub(1);
            return Err(fail(8, Fault::TooMany { found: index, limit }));
        }
        if index < next {
            return Err(fail(8, Fault::Malformed { expected: "page behind the folio before" }));
        }
        Ok(MemfdFolio { block, index, flags: low_u16(word >> PFN_BITS) })
    }
}
