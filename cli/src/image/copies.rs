//! The image's memory as words, read when it is looked at.
//!
//! ```text
//!  file    ... | piece     | piece | ...
//!                \       \
//!  memory         [ page | page | page ]     a copy of each page that was looked at
//!                        [ page | page ]     of pages in a row that were looked at as one
//! ```
//!
//! A page is read once, so all that is said of it is of one instant, and files that no one can map
//! (`/proc/kcore`, `/proc/vmcore`) are read as any other. What it takes is as much memory as tables are
//! looked at, however large the image is. Only a long stretch, as a file's device tree or a sealed
//! table can be, is mapped, and not written, and that only of a file that this process unpacked: one
//! that another process makes shorter would end this one.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;

use heirloom_kho::PageSize;
use heirloom_kho::{Pfn, PhysAddr};
use rustix::mm::{MapFlags, ProtFlags};

/// Longer stretches are mapped, where they can be.
const LONG: usize = 1 << 20;
/// Bytes that stretches of several pages may take in copies, all together. Sound tables of several
/// pages share none; a broken handover can name stretches that do, in any number.
const COPIES: usize = 1 << 30;

/// What was looked at of an image.
#[derive(Debug)]
pub(super) struct Copies {
    page: PageSize,
    pages: RefCell<HashMap<u64, Page>>,
    /// By their first page: those that are longer come later.
    stretches: RefCell<HashMap<u64, Vec<Stretch>>>,
    /// Bytes that stretches can be copied of yet.
    room: RefCell<usize>,
    zeroes: Owned,
}

/// The words of a page; none if all are zero.
type Page = Option<Owned>;

/// Pages in a row.
#[derive(Debug)]
enum Stretch {
    Copied(Owned),
    Mapped(Mapped),
}

/// Words that stay where they are while the value is moved about.
#[derive(Debug)]
struct Owned(NonNull<[AtomicU64]>);

impl Owned {
    /// `bytes` as words; a number of them that is a multiple of a word's.
    fn of(bytes: &[u8]) -> Self {
        let words =
            bytes.as_chunks().0.iter().map(|word| AtomicU64::new(u64::from_ne_bytes(*word)));
        Self(NonNull::from(Box::leak(words.collect::<Box<[_]>>())))
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: leaked from a box in `of`, and freed where `self` is dropped.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `of`, and not freed before; what was read borrowed `self`.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Stretch {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Copied(owned) => owned.words(),
            Self::Mapped(mapped) => mapped.words(),
        }
    }
}

impl Copies {
    pub(super) fn new(page: PageSize) -> Self {
        Self {
            page,
            pages: RefCell::default(),
            stretches: RefCell::default(),
            room: RefCell::new(COPIES),
            zeroes: Owned::of(&vec![0; page.bytes()]),
        }
    }

    /// Returns the words of the page that begins with frame `pfn`. The first call for a page has `read` fill them.
    pub(super) fn page(
        &self,
        pfn: Pfn,
        read: impl FnOnce(PhysAddr, &mut [u8]) -> Option<()>,
    ) -> Option<&[AtomicU64]> {
        if !self.pages.borrow().contains_key(&pfn.get()) {
            let mut bytes = vec![0; self.page.bytes()];
            read(pfn.addr(), &mut bytes)?;
            let page = bytes.iter().any(|byte| *byte != 0).then(|| Owned::of(&bytes));
            self.pages.borrow_mut().insert(pfn.get(), page);
        }
        let pages = self.pages.borrow();
        let Some(page) = pages.get(&pfn.get())? else { return Some(self.zeroes.words()) };
        // SAFETY: no page is ever taken out of the map or put over another, and the words of one that
        // is moved within it stay where they are: they live as long as `self` does.
        Some(unsafe { page.0.as_ref() })
    }

    /// The words of `pages` pages from frame `pfn` on, which `read` fills, or which are those of a file from an
    /// offset on, if `place` says that they lie in one piece there.
    pub(super) fn stretch(
        &self,
        pfn: Pfn,
        pages: usize,
        place: Option<(&File, u64)>,
        read: impl FnOnce(PhysAddr, &mut [u8]) -> Option<()>,
    ) -> Option<&[AtomicU64]> {
        let count = pages.checked_mul(self.page.bytes() / size_of::<u64>())?;
        let long_enough = |stretch: &Stretch| stretch.words().len() >= count;
        let there = self.stretches.borrow();
        if !there.get(&pfn.get()).is_some_and(|all| all.iter().any(long_enough)) {
            drop(there);
            let bytes = count.checked_mul(size_of::<u64>())?;
            let stretch = if bytes > LONG
                && let Some((file, offset)) = place
                && let Some(mapped) = Mapped::new(file, offset, bytes)
            {
                Stretch::Mapped(mapped)
            } else {
                let mut room = self.room.borrow_mut();
                *room = room.checked_sub(bytes)?;
                let mut copy = Vec::new();
                copy.try_reserve_exact(bytes).ok()?;
                copy.resize(bytes, 0);
                read(pfn.addr(), &mut copy)?;
                Stretch::Copied(Owned::of(&copy))
            };
            self.stretches.borrow_mut().entry(pfn.get()).or_default().push(stretch);
        }
        let there = self.stretches.borrow();
        let found = there.get(&pfn.get())?.iter().find(|stretch| long_enough(stretch))?;
        let words = NonNull::from(found.words());
        // SAFETY: as for `page`; a mapping too stays where it is while the value is moved about.
        Some(unsafe { words.as_ref() })
    }
}

/// A stretch of a file, mapped to be read.
#[derive(Debug)]
struct Mapped {
    base: NonNull<c_void>,
    bytes: usize,
    /// Bytes before the first word.
    skew: usize,
}

impl Mapped {
    /// `bytes` bytes of `file` from `offset` on; `None` if they cannot be mapped as words.
    fn new(file: &File, offset: u64, bytes: usize) -> Option<Self> {
        let page = rustix::param::page_size() as u64;
        let skew = usize::try_from(offset % page).ok().filter(|skew| skew.is_multiple_of(8))?;
        let bytes = bytes.checked_add(skew)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let (start, access) = (offset - offset % page, ProtFlags::READ);
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let base =
            unsafe { rustix::mm::mmap(core::ptr::null_mut(), bytes, access, flags, file, start) };
        Some(Self { base: NonNull::new(base.ok()?)?, bytes, skew })
    }

    fn words(&self) -> &[AtomicU64] {
        let count = (self.bytes - self.skew) / size_of::<u64>();
        // SAFETY: the words lie in the mapping, which stays until `self` goes; it starts at a page,
        // and `skew` is a multiple of 8, so they are aligned. Any bytes are an `AtomicU64`. Nothing
        // in this process can write to it, nor does anything but load from it. Another process that
        // writes to the file may change a page meanwhile: an atomic load takes some value then, and
        // readers of tables believe no two loads to agree.
        unsafe {
            let first = self.base.cast::<u8>().add(self.skew).cast::<AtomicU64>();
            core::slice::from_raw_parts(first.as_ptr(), count)
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; what was read from it borrowed `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a whole mapping is unmapped: {unmapped:?}");
    }
}
