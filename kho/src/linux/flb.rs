//! States that files share, which the live update orchestrator lists.
//!
//! ```text
//!  FLBs                 pages u64, count u64, then entries
//!  FLB, 64 bytes        name[48], data u64, count u64
//! ```

use zerocopy::native_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bytes::{load, preserved, words};
use super::text::Text;
use crate::addr::PhysAddr;
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::Pages;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredFlbs {
    pages: U64,
    count: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredFlb {
    name: [u8; 48],
    data: U64,
    count: U64,
}

const _: () = assert!(size_of::<StoredFlb>() == 64);

/// A state that files share for as long as any of them is preserved (Linux: file-lifecycle-bound).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flb {
    /// Where its entry is.
    pub at: PhysAddr,
    /// Its name.
    pub name: Text<48>,
    /// What its owner wants back.
    pub data: u64,
    /// How many preserved files share it.
    pub count: u64,
}

/// The states that files share, from [`Luo::flbs`](super::Luo::flbs). An item is an error if that entry is not sound;
/// others follow.
#[derive(Debug)]
pub struct Flbs<'p, P> {
    pages: &'p P,
    bytes: u64,
    next: PhysAddr,
    left: u64,
}

impl<'p, P: Pages> Flbs<'p, P> {
    /// Reads the head of the list at `at`, which the word that `from` names leads to; none at address 0.
    ///
    /// # Errors
    /// [`Error::Table`]: the list is not in memory, not preserved, or has more entries than its pages hold.
    pub(super) fn read(
        pages: &'p P,
        at: PhysAddr,
        from: (Table, PhysAddr, usize),
    ) -> Result<Self, Error> {
        const HEAD: usize = size_of::<StoredFlbs>();
        if at.get() == 0 {
            return Ok(Self { pages, bytes: 0, next: at, left: 0 });
        }
        let stored: StoredFlbs = load(words(pages, at, HEAD, from)?);
        let fail = |offset, fault: Fault| fault.in_table(Table::Flbs, at, offset);
        let (found, count) = (stored.pages.get(), stored.count.get());
        let bytes = found.checked_mul(usize_to_u64(pages.page_size().bytes()));
        let outside = Fault::OutsideMemory { addr: at };
        let bytes = bytes.filter(|bytes| *bytes > 0).ok_or(fail(0, outside))?;
        preserved(pages, at, bytes, (Table::Flbs, at, 0))?;
        let limit = (bytes - usize_to_u64(HEAD)) / usize_to_u64(size_of::<StoredFlb>());
        if count > limit {
            return Err(fail(8, Fault::TooMany { found: count, limit }));
        }
        Ok(Self { pages, bytes, next: PhysAddr::new(at.get() + usize_to_u64(HEAD)), left: count })
    }
}

impl<P> Flbs<'_, P> {
    /// Returns the number of bytes of the list's pages.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<P: Pages> Iterator for Flbs<'_, P> {
    type Item = Result<Flb, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        const SIZE: usize = size_of::<StoredFlb>();
        self.left = self.left.checked_sub(1)?;
        let at = self.next;
        self.next = PhysAddr::new(at.get() + usize_to_u64(SIZE));
        let stored: StoredFlb = load(self.pages.words(at, SIZE)?);
        let (data, count) = (stored.data.get(), stored.count.get());
        let name = Text::read(stored.name, (Table::Flbs, at, 0));
        Some(name.map(|name| Flb { at, name, data, count }))
    }
}
