//! What all containers are made of: a head, objects of their own, and a directory of numbered parts.
//!
//! ```text
//!   head ── 64 links ─────────────────> parts 0 ─ 63
//!        └─ 64 links ─> 1,018 links ──> parts 64 ─ 65,215          each a quarter of a slab
//! ```

use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::sync::written;
use heirloom_kho::{Handle, PhysAddr};

use crate::class::{Class, DIRECTORY_BYTES};
use crate::error::{Error, Field};
use crate::head::{DIRECT, Head, HeadBytes, PAGES, WORDS, at};
use crate::link::Link;
use crate::object::{Object, Owner, kind};
use crate::parts::{self, Parts};
use crate::pool::Pool;
use crate::word::Word;

/// Links of a directory's page.
pub const PAGE_LINKS: usize = (DIRECTORY_BYTES - 16) / 8;
/// Parts that there can be.
pub(crate) const PARTS: u64 = usize_to_u64(DIRECT + PAGES * PAGE_LINKS);
const _: () = assert!(DIRECT + PAGES * PAGE_LINKS <= parts::MAX, "all are found by it");

/// A container's head, and what this kernel knows of its parts.
pub(crate) struct Body<'p, M: Machine> {
    pub(crate) pool: &'p Pool<'p, M>,
    pub(crate) head: Head,
    pub(crate) addr: PhysAddr,
    pub(crate) handle: Handle,
    pub(crate) parts: Parts,
}

impl<M: Machine> Clone for Body<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Body<'_, M> {}

impl<'p, M: Machine> Body<'p, M> {
    /// Creates a container. `words` are its head's, each with its place; the words that are not named are 0.
    pub(crate) fn create(pool: &'p Pool<'p, M>, words: &[(usize, u64)]) -> Result<Self, Error> {
        let mut bytes = HeadBytes { words: [0; WORDS] };
        for (word, value) in words {
            bytes.words[*word] = value.to_le();
        }
        let parts = Parts::new(pool.slabs())?;
        match pool.new_head(bytes) {
            // SAFETY: allocated just now, and this container's alone.
            Ok((addr, handle)) => Ok(unsafe { Self::over(pool, addr, handle, parts) }),
            Err(error) => {
                // SAFETY: allocated just now, and not handed out.
                unsafe { parts.give_back(pool.slabs()) };
                Err(error)
            }
        }
    }

    /// Opens the container that a handle names, if its head has `words`, each in its place: the kind, version and layout
    /// that this build expects. A caller that finds another error says so by [`Body::not_opened`].
    pub(crate) fn open(
        pool: &'p Pool<'p, M>,
        handle: Handle,
        words: &[(usize, Field, u64)],
    ) -> Result<Self, Error> {
        let parts = Parts::new(pool.slabs())?;
        let opened = pool.claim_head(handle).and_then(|addr| {
            // SAFETY: claimed just now, once: this container's alone.
            let body = unsafe { Self::over(pool, addr, handle, parts) };
            let is_meant = words.iter().try_for_each(|(word, field, expected)| {
                body.expect(*field, *expected..=*expected, body.head.get(*word))
            });
            // SAFETY: claimed just now, and not handed out.
            is_meant.map(|()| body).map_err(|error| unsafe { body.not_opened(error) })
        });
        if opened.is_err() {
            // SAFETY: allocated just now, and not handed out.
            unsafe { parts.give_back(pool.slabs()) };
        }
        opened
    }

    /// Returns the error for which a container is not opened. Where it may be opened by another call, as what it is or with
    /// more memory, its head is not claimed any more; one that is damaged is kept.
    ///
    /// # Safety
    /// No copy of the value is used again.
    #[cold]
    pub(crate) unsafe fn not_opened(&self, error: Error) -> Error {
        if !matches!(error, Error::Damaged { .. }) {
            // SAFETY: claimed by `open`, and not used again (contract).
            unsafe { self.pool.unclaim_head(self.addr) };
        }
        error
    }

    /// Refuses what is not in a range.
    pub(crate) fn expect(
        &self,
        field: Field,
        range: core::ops::RangeInclusive<u64>,
        found: u64,
    ) -> Result<(), Error> {
        if range.contains(&found) {
            return Ok(());
        }
        Err(Error::Mismatch { head: self.addr, field, expected: *range.end(), found })
    }

    /// Returns the container of a head.
    ///
    /// # Safety
    /// The head is in use, and this value's alone, as `parts` is.
    unsafe fn over(pool: &'p Pool<'p, M>, addr: PhysAddr, handle: Handle, parts: Parts) -> Self {
        // SAFETY: the caller's promise; the head's memory stays mapped as long as the pool is borrowed.
        let head = unsafe { Head::at(pool.head_ptr(addr)) };
        Self { pool, head, addr, handle, parts }
    }

    /// Gives back what this kernel knows of it; the container stays.
    ///
    /// # Safety
    /// No copy of the value is used again.
    pub(crate) unsafe fn close(&self) {
        // SAFETY: made for this value, and not used again (contract).
        unsafe { self.parts.give_back(self.pool.slabs()) };
    }

    #[inline]
    pub(crate) const fn owner(&self) -> Owner {
        Owner::of_head(self.addr)
    }

    #[cold]
    pub(crate) fn damaged(&self, at: u64, found: u64) -> Error {
        Error::Damaged { head: self.addr, at, found }
    }

    /// Returns the object of this container that a link leads to, of this kind and with this second word.
    pub(crate) fn part(
        &self,
        link: Link,
        class: Class,
        kind: u16,
        more: u64,
    ) -> Result<Object, Error> {
        let found = self.pool.follow_as(link, self.owner(), |object| {
            let is_meant = object.kind() == kind && object.more() == more;
            (is_meant && link.class() == Some(class)).then_some(object)
        })?;
        found.flatten().ok_or_else(|| self.damaged(more, link.bits()))
    }

    /// Returns the word that holds the link to a part; `None`: there is no page of the directory for it.
    pub(crate) fn slot(&self, part: u64) -> Result<Option<&'p Word>, Error> {
        let index = u64_to_usize(part);
        if index < DIRECT {
            return Ok(Some(self.head_word(at::DIRECT + index)));
        }
        let (page, index) = ((index - DIRECT) / PAGE_LINKS, (index - DIRECT) % PAGE_LINKS);
        let Some(word) = self.page_word(page) else { return Err(self.damaged(part, 0)) };
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(None);
        }
        let page = self.part(link, Class::DIRECTORY, kind::DIRECTORY, usize_to_u64(page))?;
        // SAFETY: a page of a directory, of this container: as many words behind its first two, which only atomics touch.
        let words: &'p [Word; PAGE_LINKS] = unsafe { page.ptr().add(16).cast().as_ref() };
        Ok(words.get(index))
    }

    /// Returns the word of the head that holds the link to a page of the directory.
    pub(crate) fn page_word(&self, page: usize) -> Option<&'p Word> {
        (page < PAGES).then(|| self.head_word(at::PAGES + page))
    }

    /// Returns a word of the head.
    pub(crate) fn head_word(&self, index: usize) -> &'p Word {
        let word: *const Word = self.head.word(index);
        // SAFETY: the head stays for as long as the container is open, and only atomics touch it.
        unsafe { &*word }
    }

    /// Returns a numbered part of a kind, after a look at it; `None` if there is none.
    pub(crate) fn find_part(&self, part: u64, kind: u16) -> Result<Option<NonNull<u8>>, Error> {
        let Some(word) = self.slot(part)? else { return Ok(None) };
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(None);
        }
        Ok(Some(self.part(link, Class::SEGMENT, kind, part)?.ptr()))
    }

    /// Adds a numbered part of a kind, zeroed, and the page of the directory that leads to it. Returns whether it did: not if there
    /// is one.
    pub(crate) fn add_part(&self, part: u64, kind: u16) -> Result<bool, Error> {
        let mut word = self.slot(part)?;
        if word.is_none() {
            let page = (u64_to_usize(part) - DIRECT) / PAGE_LINKS;
            if let Some(page_word) = self.page_word(page) {
                let more = usize_to_u64(page);
                self.grow(Class::DIRECTORY, kind::DIRECTORY, more, page_word)?;
            }
            word = self.slot(part)?;
        }
        match word {
            Some(word) if word.get() == 0 => {
                self.grow(Class::SEGMENT, kind, part, word)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Frees the parts of a kind from number `keep` on, the last first, and then the pages of the directory that lead to none.
    ///
    /// # Errors
    /// [`Error::Damaged`]: a link that leads to anything else. It stays, and so does what it leads to.
    pub(crate) fn trim(&self, keep: u64, kind: u16) -> Result<(), Error> {
        let mut end = keep;
        while end < PARTS && self.slot(end)?.is_some_and(|word| word.get() != 0) {
            end += 1;
        }
        for part in (keep..end).rev() {
            if let Some(word) = self.slot(part)? {
                self.part(Link::from_bits(word.get()), Class::SEGMENT, kind, part)?;
                self.parts.set(self.pool.slabs(), u64_to_usize(part), core::ptr::null_mut());
                self.unlink(word)?;
            }
        }
        let needed = u64_to_usize(keep).saturating_sub(DIRECT).div_ceil(PAGE_LINKS);
        for page in (needed..PAGES).rev() {
            if let Some(word) = self.page_word(page).filter(|word| word.get() != 0) {
                let link = Link::from_bits(word.get());
                self.part(link, Class::DIRECTORY, kind::DIRECTORY, usize_to_u64(page))?;
                self.unlink(word)?;
            }
        }
        Ok(())
    }

    /// Unlinks what a word leads to, and frees it.
    fn unlink(&self, word: &Word) -> Result<(), Error> {
        let link = Link::from_bits(word.get());
        self.head.set(at::OLD, link.bits());
        word.set(0);
        self.free(link)?;
        self.head.set(at::OLD, 0);
        Ok(())
    }

    /// Returns whether the directory leads to a part, or a page of its own.
    pub(crate) fn is_listed(&self, link: Link, object: Object) -> Result<bool, Error> {
        let leads = |word: &Word| Link::from_bits(word.get()).same_object(link);
        let more = object.more();
        match object.kind() {
            kind::DIRECTORY => Ok(self.page_word(u64_to_usize(more)).is_some_and(leads)),
            _ => Ok(more < PARTS && self.slot(more)?.is_some_and(leads)),
        }
    }

    /// Names what is being linked, and allocates it; the caller links it, and says so by [`at::NEW`].
    ///
    /// # Safety
    /// `fill` begins by writing this owner's words to the object, and writes no more bytes than the class has.
    #[inline]
    pub(crate) unsafe fn alloc(
        &self,
        class: Class,
        fill: impl FnOnce(NonNull<u8>),
    ) -> Result<Link, Error> {
        // SAFETY: the caller's promise.
        let allocated = unsafe {
            self.pool.alloc(class, |object, link| {
                fill(object);
                self.head.set(at::NEW, link.bits());
            })
        };
        if allocated.is_err() {
            self.head.set(at::NEW, 0);
        }
        allocated
    }

    /// Adds a zeroed object of a kind, and links it from a word.
    pub(crate) fn grow(
        &self,
        class: Class,
        kind: u16,
        more: u64,
        word: &Word,
    ) -> Result<(), Error> {
        let owner = self.owner();
        // SAFETY: the object's bytes, and its owner's words.
        let link = unsafe {
            self.alloc(class, |object| {
                object.write_bytes(0, class.bytes());
                written(object, class.bytes());
                Object::begin(object, owner, kind, more);
            })
        }?;
        word.set(link.bits());
        self.head.set(at::NEW, 0);
        Ok(())
    }

    /// Frees what a link leads to, which nothing of the container leads to any more, if it is the container's.
    pub(crate) fn free(&self, link: Link) -> Result<(), Error> {
        match self.pool.follow(link, self.owner())? {
            // SAFETY: in use and this container's, found to be so just now, and unlinked; the caller has the container alone.
            Some(object) => unsafe { self.free_found(link, object) },
            None => Ok(()),
        }
    }

    /// Frees an object.
    ///
    /// # Safety
    /// The link leads to it. It is in use, this container's, and nothing of the container leads to it; the caller has the
    /// container alone.
    #[inline]
    pub(crate) unsafe fn free_found(&self, link: Link, object: Object) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.pool.free(link, object.ptr()) }
    }

    /// Brings to an end what a predecessor had begun to link or unlink, or undoes it: `is_linked` is asked of each object
    /// that is this container's still, with the word that names it.
    pub(crate) fn recover(
        &self,
        mut is_linked: impl FnMut(usize, Link, Object) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        for word in [at::NEW, at::OLD] {
            let link = Link::from_bits(self.head.get(word));
            if let Some(object) = self.pool.follow(link, self.owner())?
                && !is_linked(word, link, object)?
            {
                self.free(link)?;
            }
            if self.head.get(word) != 0 {
                self.head.set(word, 0);
            }
        }
        Ok(())
    }
}
