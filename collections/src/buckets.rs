//! The buckets of a map: linear hashing, which grows by one bucket at a time.
//!
//! ```text
//!   head ── 64 links ─────────────────> segments of 254 lines        bucket b is line b % 254 of segment b / 254
//!        └─ 64 links ─> 1,018 links ──>     │
//!                                           v
//!   a line   | link | link | link | link | link | link | link | next |  ──> a line of its own, where seven are not enough
//!                tag of the hash, and where the entry is
//! ```
//!
//! There are `n` buckets. A hash belongs to bucket `hash mod 2^k`, 2^k being the least power of two from n on, or if that is n or
//! more, to `hash mod 2^(k-1)`. So a bucket more takes entries from one alone, its *parent*: they are linked in the new bucket
//! while no reader looks there, then one store says that there are n + 1, and then the links that have moved are cleared in the
//! parent. Lines beyond the last bucket hold zeroes.

use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{low_u32, u32_to_u64, u64_to_usize, usize_to_u64};

use crate::class::{Class, DIRECTORY_BYTES, SEGMENT_BYTES};
use crate::entry::{Entry, Found};
use crate::error::Error;
use crate::head::{DIRECT, Head, PAGES, at};
use crate::link::Link;
use crate::object::{Object, Owner, kind};
use crate::pool::Pool;
use crate::word::Word;

/// Links of a line.
pub(crate) const LINKS: usize = 7;
/// Lines of a segment.
const LINES: u64 = usize_to_u64(SEGMENT_BYTES / 64) - 1;
/// Links of a directory's page.
const PAGE_LINKS: usize = (DIRECTORY_BYTES - 16) / 8;
/// Segments that there can be.
const SEGMENTS: u64 = usize_to_u64(DIRECT + PAGES * PAGE_LINKS);
/// Buckets that there can be.
pub(crate) const MAX_BUCKETS: u64 = SEGMENTS * LINES;
/// Buckets of an empty map.
pub(crate) const MIN_BUCKETS: u64 = 16;
/// Bytes of a line that is an object of its own.
const LINE_BYTES: usize = 16 + 64;
/// Lines of a bucket beyond which it is taken to lead back to itself: no memory has so many.
const MAX_LINES: u32 = 1 << 24;

/// Returns the bucket of a hash, of `n`, at least one.
#[inline]
pub(crate) const fn bucket_of(hash: u32, n: u64) -> u64 {
    let mask = n.next_power_of_two() - 1;
    let bucket = u32_to_u64(hash) & mask;
    if bucket < n { bucket } else { bucket & mask >> 1 }
}

/// Returns the bucket from which bucket `n` takes its entries, `n` being at least one.
pub(crate) const fn parent_of(n: u64) -> u64 {
    n & !(1 << n.ilog2())
}

/// The words of a line: links, and the link to the next line.
#[derive(Clone, Copy)]
pub(crate) struct Line<'m>(&'m [Word; LINKS + 1]);

impl<'m> Line<'m> {
    #[inline]
    pub(crate) fn links(self) -> impl Iterator<Item = &'m Word> {
        self.0.iter().take(LINKS)
    }

    #[inline]
    pub(crate) const fn next(self) -> &'m Word {
        &self.0[LINKS]
    }

    pub(crate) fn is_empty(self) -> bool {
        self.links().all(|word| word.get() == 0)
    }
}

/// The buckets of one map.
pub(crate) struct Buckets<'p, M: Machine> {
    pub(crate) pool: &'p Pool<'p, M>,
    pub(crate) head: Head,
    pub(crate) addr: PhysAddr,
}

impl<M: Machine> Clone for Buckets<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Buckets<'_, M> {}

impl<'p, M: Machine> Buckets<'p, M> {
    #[inline]
    pub(crate) const fn owner(&self) -> Owner {
        Owner::of_head(self.addr)
    }

    #[cold]
    pub(crate) fn damaged(&self, at: u64, found: u64) -> Error {
        Error::Damaged { head: self.addr, at, found }
    }

    /// Returns how many buckets there are: at least one.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.head.get(at::SIZE).max(1)
    }

    /// Returns the object of this map that a link leads to, of this kind and with this second word.
    fn part(&self, link: Link, class: Class, kind: u16, more: u64) -> Result<Object, Error> {
        let found = self.pool.follow(link, self.owner())?;
        let is_meant = |object: &Object| {
            link.class() == Some(class) && object.kind() == kind && object.more() == more
        };
        found.filter(is_meant).ok_or_else(|| self.damaged(more, link.bits()))
    }

    /// Returns the word that holds the link to a segment; `None`: there is no page of the directory for it.
    pub(crate) fn segment_word(&self, segment: u64) -> Result<Option<&'p Word>, Error> {
        let index = u64_to_usize(segment);
        if index < DIRECT {
            return Ok(Some(self.head_word(at::DIRECT + index)));
        }
        let (page, index) = ((index - DIRECT) / PAGE_LINKS, (index - DIRECT) % PAGE_LINKS);
        let Some(word) = self.page_word(page) else { return Err(self.damaged(segment, 0)) };
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(None);
        }
        let page = self.part(link, Class::DIRECTORY, kind::DIRECTORY, usize_to_u64(page))?;
        // SAFETY: a page of a directory, of this map: as many words behind its first two, which only atomics touch.
        let words: &'p [Word; PAGE_LINKS] = unsafe { page.ptr().add(16).cast().as_ref() };
        Ok(words.get(index))
    }

    /// Returns the word of the head that holds the link to a page of the directory.
    pub(crate) fn page_word(&self, page: usize) -> Option<&'p Word> {
        (page < PAGES).then(|| self.head_word(at::PAGES + page))
    }

    fn head_word(&self, index: usize) -> &'p Word {
        let word: *const Word = self.head.word(index);
        // SAFETY: the head stays for as long as the map is open, and only atomics touch it.
        unsafe { &*word }
    }

    /// Returns the first line of a bucket; `None` if there is no segment for it.
    #[inline]
    pub(crate) fn line(&self, bucket: u64) -> Result<Option<Line<'p>>, Error> {
        let (segment, index) = (bucket / LINES, bucket % LINES);
        let Some(word) = self.segment_word(segment)? else { return Ok(None) };
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(None);
        }
        let object = self.part(link, Class::SEGMENT, kind::SEGMENT, segment)?;
        // SAFETY: a segment of this map: as many lines behind its first 64 bytes, which only atomics touch.
        let lines: &'p [[Word; LINKS + 1]; u64_to_usize(LINES)] =
            unsafe { object.ptr().add(64).cast().as_ref() };
        Ok(lines.get(u64_to_usize(index)).map(Line))
    }

    /// Returns the line that a link of a bucket leads to.
    fn next_line(&self, link: Link, bucket: u64) -> Result<Line<'p>, Error> {
        let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
        let object = self.part(link, class, kind::LINE, bucket)?;
        // SAFETY: a line of this map: eight words behind its first two, which only atomics touch.
        Ok(Line(unsafe { object.ptr().add(16).cast().as_ref() }))
    }

    /// Returns the lines of a bucket, the first first. Each is looked at when it is asked for.
    pub(crate) fn lines(&self, bucket: u64) -> Lines<'_, 'p, M> {
        Lines { buckets: self, bucket, next: Next::First, left: MAX_LINES }
    }

    /// Returns the entry that a link in a bucket leads to.
    #[inline]
    pub(crate) fn entry(&self, link: Link, bucket: u64) -> Result<Found<'p>, Error> {
        let object = self.pool.follow(link, self.owner())?;
        // SAFETY: an object in use, of this map; how long the entry is used, `Map`'s methods say.
        let entry = object.and_then(|object| unsafe { Entry::in_object(object) });
        let entry = entry.ok_or_else(|| self.damaged(bucket, link.bits()))?;
        Ok(Found { link, entry })
    }

    /// Names what is being linked, and allocates it: `link` then links it.
    ///
    /// # Safety
    /// `fill` writes an owner's words to the object, and no more bytes than the class has.
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
    fn grow(&self, class: Class, kind: u16, more: u64, word: &Word) -> Result<(), Error> {
        let owner = self.owner();
        // SAFETY: the object's bytes, and its owner's words.
        let link = unsafe {
            self.alloc(class, |object| {
                object.write_bytes(0, class.bytes());
                Object::begin(object, owner, kind, more);
            })
        }?;
        word.set(link.bits());
        self.head.set(at::NEW, 0);
        Ok(())
    }

    /// Adds a line to a bucket whose last line this is.
    pub(crate) fn add_line(&self, bucket: u64, last: Line<'_>) -> Result<(), Error> {
        let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
        self.grow(class, kind::LINE, bucket, last.next())
    }

    /// Makes room for bucket `bucket`, whose line holds zeroes then.
    pub(crate) fn make_room(&self, bucket: u64) -> Result<(), Error> {
        let segment = bucket / LINES;
        let mut word = self.segment_word(segment)?;
        if word.is_none() {
            let page = (u64_to_usize(segment) - DIRECT) / PAGE_LINKS;
            if let Some(page_word) = self.page_word(page) {
                let more = usize_to_u64(page);
                self.grow(Class::DIRECTORY, kind::DIRECTORY, more, page_word)?;
            }
            word = self.segment_word(segment)?;
        }
        match word {
            Some(word) if word.get() == 0 => {
                self.grow(Class::SEGMENT, kind::SEGMENT, segment, word)
            }
            _ => Ok(()),
        }
    }

    /// Puts a link into a bucket: a word that is free, in a line that may be new.
    pub(crate) fn free_word(&self, bucket: u64) -> Result<&'p Word, Error> {
        let mut last = None;
        for line in self.lines(bucket) {
            let line = line?;
            if let Some(free) = line.links().find(|word| word.get() == 0) {
                return Ok(free);
            }
            last = Some(line);
        }
        let last = last.ok_or_else(|| self.damaged(bucket, 0))?;
        self.add_line(bucket, last)?;
        let added = self.next_line(Link::from_bits(last.next().get()), bucket)?;
        added.links().next().ok_or_else(|| self.damaged(bucket, 0))
    }

    /// Adds a bucket, and moves to it what belongs there. Changes nothing that can be seen, but that there is room.
    ///
    /// # Errors
    /// As for an insertion; the map is as it was.
    pub(crate) fn split(&self) -> Result<(), Error> {
        let n = self.count();
        if n >= MAX_BUCKETS {
            return Ok(());
        }
        self.make_room(n)?;
        let moved = self.fill(n, parent_of(n));
        if let Err(error) = moved {
            // What was linked there so far is in its parent too.
            self.strip(n)?;
            return Err(error);
        }
        self.head.set(at::SIZE, n + 1);
        self.tidy(parent_of(n))
    }

    /// Links in bucket `n`, which is none yet, what belongs to it of its parent.
    fn fill(&self, n: u64, parent: u64) -> Result<(), Error> {
        for line in self.lines(parent) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none() && bucket_of(self.entry(link, parent)?.entry.hash(), n + 1) == n
                {
                    self.free_word(n)?.set(link.bits());
                }
            }
        }
        Ok(())
    }

    /// Clears a bucket that is none yet, and frees its lines but the first.
    pub(crate) fn strip(&self, bucket: u64) -> Result<(), Error> {
        for line in self.lines(bucket) {
            line?.links().filter(|word| word.get() != 0).for_each(|word| word.set(0));
        }
        self.drop_lines(bucket)
    }

    /// Clears in a bucket what belongs to another, and what is there twice; then moves links together, and frees the lines that
    /// are empty.
    pub(crate) fn tidy(&self, bucket: u64) -> Result<(), Error> {
        let n = self.count();
        let (mut free, mut tail) = (None, false);
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.is_none() {
                    free = free.or(Some(word));
                    continue;
                }
                let belongs = bucket_of(self.entry(link, bucket)?.entry.hash(), n) == bucket;
                if !belongs || self.is_before(bucket, link, word)? {
                    word.set(0);
                    free = free.or(Some(word));
                } else if tail && let Some(to) = free {
                    // For a moment it is there twice.
                    to.set(link.bits());
                    word.set(0);
                    free = self.first_free(bucket, word)?;
                }
            }
            tail = true;
        }
        self.drop_lines(bucket)
    }

    /// Returns the first word of a bucket that is free, up to `last`.
    fn first_free(&self, bucket: u64, last: &Word) -> Result<Option<&'p Word>, Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                if word.get() == 0 {
                    return Ok(Some(word));
                }
                if core::ptr::eq(word, last) {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Returns whether a word of a bucket before this one leads to the same object.
    fn is_before(&self, bucket: u64, link: Link, this: &Word) -> Result<bool, Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                if core::ptr::eq(word, this) {
                    return Ok(false);
                }
                if Link::from_bits(word.get()).same_object(link) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Frees the lines of a bucket that are empty, but the first.
    fn drop_lines(&self, bucket: u64) -> Result<(), Error> {
        let Some(mut last) = self.line(bucket)? else { return Ok(()) };
        for _ in 0..MAX_LINES {
            let link = Link::from_bits(last.next().get());
            if link.is_none() {
                return Ok(());
            }
            let next = self.next_line(link, bucket)?;
            if !next.is_empty() {
                last = next;
                continue;
            }
            self.head.set(at::OLD, link.bits());
            last.next().set(next.next().get());
            self.free(link)?;
            self.head.set(at::OLD, 0);
        }
        Ok(())
    }

    /// Frees what a link leads to, which nothing of the map leads to any more.
    pub(crate) fn free(&self, link: Link) -> Result<(), Error> {
        match self.pool.follow(link, self.owner())? {
            // SAFETY: in use and this map's, which has unlinked it; the caller has the map alone.
            Some(object) => unsafe { self.pool.free(link, object) },
            None => Ok(()),
        }
    }

    /// Returns whether the map leads to an object of its own.
    pub(crate) fn is_linked(&self, link: Link, object: Object) -> Result<bool, Error> {
        let (n, more) = (self.count(), object.more());
        let leads = |word: &Word| Link::from_bits(word.get()).same_object(link);
        match object.kind() {
            kind::SEGMENT => Ok(more < SEGMENTS && self.segment_word(more)?.is_some_and(leads)),
            kind::DIRECTORY => Ok(self.page_word(u64_to_usize(more)).is_some_and(leads)),
            kind::LINE if more > n => Ok(false),
            kind::LINE => {
                for line in self.lines(more) {
                    if leads(line?.next()) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => {
                for line in self.lines(bucket_of(low_u32(more >> 32), n)) {
                    if line?.links().any(leads) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

enum Next {
    First,
    Link(Link),
}

/// The lines of a bucket.
pub(crate) struct Lines<'b, 'p, M: Machine> {
    buckets: &'b Buckets<'p, M>,
    bucket: u64,
    next: Next,
    left: u32,
}

impl<'p, M: Machine> Iterator for Lines<'_, 'p, M> {
    type Item = Result<Line<'p>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.next {
            Next::First => self.buckets.line(self.bucket).transpose()?,
            Next::Link(link) if link.is_none() => return None,
            Next::Link(link) if self.left == 0 => {
                Err(self.buckets.damaged(self.bucket, link.bits()))
            }
            Next::Link(link) => self.buckets.next_line(link, self.bucket),
        };
        self.left = self.left.saturating_sub(1);
        self.next = Next::Link(match &line {
            Ok(line) => Link::from_bits(line.next().get()),
            Err(_) => Link::NONE,
        });
        Some(line)
    }
}
