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
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Acquire, Release};

use crate::class::{Class, DIRECTORY_BYTES, SEGMENT_BYTES};
use crate::entry::Entry;
use crate::error::Error;
use crate::head::{DIRECT, Head, PAGES, at};
use crate::link::Link;
use crate::object::{Object, Owner, kind};
use crate::pool::Pool;
use crate::segments::{self, Segments};
use crate::word::Word;

/// Links of a line.
pub(crate) const LINKS: usize = 7;
/// Lines of a segment.
const LINES: u64 = usize_to_u64(SEGMENT_BYTES / 64) - 1;
/// Links of a directory's page.
const PAGE_LINKS: usize = (DIRECTORY_BYTES - 16) / 8;
/// Segments that there can be.
const SEGMENTS: u64 = usize_to_u64(DIRECT + PAGES * PAGE_LINKS);
const _: () = assert!(DIRECT + PAGES * PAGE_LINKS <= segments::MAX, "all are found by it");
/// Buckets that there can be.
pub(crate) const MAX_BUCKETS: u64 = SEGMENTS * LINES;
/// Buckets of an empty map.
pub(crate) const MIN_BUCKETS: u64 = 16;
/// Bytes of a line that is an object of its own.
const LINE_BYTES: usize = 16 + 64;
/// Lines of a bucket up to which all of its links are compared with one another.
const LINES_CHECKED: usize = 64;
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

/// A segment of a map, in use.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'m> {
    /// The object's first line: its owner's words, then a bit for each bucket.
    head: &'m [AtomicU64; 8],
    lines: &'m [[Word; LINKS + 1]; u64_to_usize(LINES)],
}

/// Which word of a segment's first line has the first bits.
const BITS: usize = 2;

impl<'m> Segment<'m> {
    /// Returns the segment at a pointer.
    ///
    /// # Safety
    /// An object of [`Class::SEGMENT`] is there for as long, whose words only atomics touch.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        // SAFETY: the object has 64 bytes, then as many lines, aligned to 64 bytes.
        unsafe { Self { head: ptr.cast().as_ref(), lines: ptr.add(64).cast().as_ref() } }
    }

    const fn ptr(self) -> NonNull<u8> {
        // SAFETY: a reference is not null.
        unsafe { NonNull::new_unchecked(self.head.as_ptr().cast_mut().cast()) }
    }

    #[inline]
    pub(crate) fn line(self, index: u64) -> Option<Line<'m>> {
        self.lines.get(u64_to_usize(index)).map(Line)
    }

    /// Returns whether the links of a line were looked at in this kernel, all of them.
    #[inline]
    fn is_checked(self, index: u64) -> bool {
        // Acquire pairs with the Release in `note`.
        let word = self.head.get(BITS + u64_to_usize(index / 64));
        word.is_some_and(|word| word.load(Acquire) >> (index % 64) & 1 == 1)
    }

    /// Notes whether they were.
    fn note(self, index: u64, checked: bool) {
        if let Some(word) = self.head.get(BITS + u64_to_usize(index / 64)) {
            let bit = 1 << (index % 64);
            // Release pairs with the Acquire in `is_checked`.
            if checked {
                word.fetch_or(bit, Release)
            } else {
                word.fetch_and(!bit, Release)
            };
        }
    }

    /// Notes for all lines whether they were.
    fn note_all(self, checked: bool) {
        for word in self.head.iter().skip(BITS).take(u64_to_usize(LINES.div_ceil(64))) {
            word.store(if checked { u64::MAX } else { 0 }, Release);
        }
    }
}

/// The buckets of one map.
pub(crate) struct Buckets<'p, M: Machine> {
    pub(crate) pool: &'p Pool<'p, M>,
    pub(crate) head: Head,
    pub(crate) addr: PhysAddr,
    pub(crate) segments: Segments,
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

    /// Returns the segment of a bucket; `None` if there is none.
    #[inline]
    fn segment(&self, bucket: u64) -> Result<Option<Segment<'p>>, Error> {
        let index = bucket / LINES;
        match self.segments.get(u64_to_usize(index)) {
            Some(segment) => Ok(Some(segment)),
            None => self.find_segment(index),
        }
    }

    /// Finds a segment, if it is the map's, and notes where it is.
    #[cold]
    fn find_segment(&self, index: u64) -> Result<Option<Segment<'p>>, Error> {
        let Some(word) = self.segment_word(index)? else { return Ok(None) };
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(None);
        }
        let object = self.part(link, Class::SEGMENT, kind::SEGMENT, index)?;
        // SAFETY: a segment of this map, which keeps it as long as it is open.
        let segment: Segment<'p> = unsafe { Segment::at(object.ptr()) };
        // Another thread may do the same: what it has noted of lines by then is looked at again.
        segment.note_all(false);
        // SAFETY: as above; the bits say nothing.
        unsafe { self.segments.set(self.pool.slabs(), u64_to_usize(index), segment.ptr()) };
        Ok(Some(segment))
    }

    /// Returns the first line of a bucket; `None` if there is no segment for it.
    fn line(&self, bucket: u64) -> Result<Option<Line<'p>>, Error> {
        Ok(self.segment(bucket)?.and_then(|segment| segment.line(bucket % LINES)))
    }

    /// Returns the line that a link of a bucket leads to.
    #[inline]
    fn next_line(&self, link: Link, bucket: u64, trust: bool) -> Result<Line<'p>, Error> {
        let ptr = if trust {
            self.pool.ptr(link)
        } else {
            let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
            self.part(link, class, kind::LINE, bucket)?.ptr()
        };
        // SAFETY: a line of this map, found to be one just now or before: eight words behind its first two, which only atomics
        // touch. It stays as long as it is linked, and what it holds of this map is used.
        Ok(Line(unsafe { ptr.add(16).cast().as_ref() }))
    }

    /// Returns a bucket, after a look whether all that it leads to is the map's, and no other bucket's: once, if so.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    #[inline]
    pub(crate) fn bucket(&self, number: u64) -> Result<Bucket<'p>, Error> {
        let index = number % LINES;
        if let Some(segment) = self.segments.get(u64_to_usize(number / LINES))
            && segment.is_checked(index)
            && let Some(line) = segment.line(index)
        {
            return Ok(Bucket { number, line, trust: true });
        }
        self.bucket_slow(number)
    }

    /// Looks at a bucket for the first time.
    #[cold]
    #[inline(never)]
    fn bucket_slow(&self, number: u64) -> Result<Bucket<'p>, Error> {
        let segment = self.segment(number)?.ok_or_else(|| self.damaged(number, 0))?;
        let line = segment.line(number % LINES).ok_or_else(|| self.damaged(number, 0))?;
        let bucket = Bucket { number, line, trust: false };
        let trust = self.check(bucket)?;
        if trust {
            segment.note(number % LINES, true);
        }
        Ok(Bucket { trust, ..bucket })
    }

    /// Looks at all that a bucket leads to. Returns whether it can be followed without another look: not where there are too many
    /// lines, which it would take too long to compare.
    fn check(&self, bucket: Bucket<'p>) -> Result<bool, Error> {
        let n = self.count();
        for (count, line) in self.lines(bucket).enumerate() {
            if count == LINES_CHECKED {
                return Ok(false);
            }
            for word in line?.links() {
                let at = Link::from_bits(word.get());
                if !at.is_none()
                    && (bucket_of(self.entry(at, bucket)?.hash(), n) != bucket.number
                        || self.is_before(bucket, at, word)?)
                {
                    return Err(self.damaged(bucket.number, at.bits()));
                }
            }
        }
        Ok(true)
    }

    /// Returns the entry that `is` holds for, of those of a bucket whose tag a hash has, and the word that links it.
    #[inline]
    pub(crate) fn find(
        &self,
        bucket: Bucket<'p>,
        hash: u64,
        is: impl Fn(Entry<'p>) -> bool,
    ) -> Result<Option<Found<'p>>, Error> {
        if !bucket.trust {
            return self.find_slow(bucket, hash, &is);
        }
        let mut here = bucket.line;
        loop {
            for word in here.links() {
                let link = Link::from_bits(word.get());
                if link.has_tag(hash) && !link.is_none() {
                    // SAFETY: as in `entry`.
                    let entry = unsafe { Entry::at(self.pool.ptr(link)) };
                    if is(entry) {
                        return Ok(Some(Found { word, link, entry }));
                    }
                }
            }
            let next = Link::from_bits(here.next().get());
            if next.is_none() {
                return Ok(None);
            }
            // SAFETY: as in `next_line`.
            here = Line(unsafe { self.pool.ptr(next).add(16).cast().as_ref() });
        }
    }

    /// Does what [`Buckets::find`] does, in a bucket whose links are looked at each time.
    #[cold]
    #[inline(never)]
    fn find_slow(
        &self,
        bucket: Bucket<'p>,
        hash: u64,
        is: &impl Fn(Entry<'p>) -> bool,
    ) -> Result<Option<Found<'p>>, Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.has_tag(hash) && !link.is_none() {
                    let entry = self.entry(link, bucket)?;
                    if is(entry) {
                        return Ok(Some(Found { word, link, entry }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns a bucket whose links are all looked at, each time, and that may hold what belongs elsewhere; `None` if there is no
    /// line for it.
    fn unchecked(&self, number: u64) -> Result<Option<Bucket<'p>>, Error> {
        Ok(self.line(number)?.map(|line| Bucket { number, line, trust: false }))
    }

    /// Returns the lines of a bucket, the first first. Each is looked at when it is asked for.
    #[inline]
    pub(crate) const fn lines(&self, bucket: Bucket<'p>) -> Lines<'_, 'p, M> {
        Lines { buckets: self, bucket, next: Next::First, left: MAX_LINES }
    }

    /// Returns the entry that a link in a bucket leads to.
    #[inline]
    pub(crate) fn entry(&self, link: Link, bucket: Bucket<'p>) -> Result<Entry<'p>, Error> {
        if bucket.trust {
            // SAFETY: an entry of this map, found to be one before; how long it is used, `Map`'s methods say.
            return Ok(unsafe { Entry::at(self.pool.ptr(link)) });
        }
        let object = self.pool.follow(link, self.owner())?;
        // SAFETY: as above, found just now.
        let entry = object.and_then(|object| unsafe { Entry::in_object(object, link.bytes()) });
        entry.ok_or_else(|| self.damaged(bucket.number, link.bits()))
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
        if let Some(word) = word
            && word.get() == 0
        {
            self.grow(Class::SEGMENT, kind::SEGMENT, segment, word)?;
            // It holds zeroes, which lead to nothing else's.
            if let Some(segment) = self.find_segment(segment)? {
                segment.note_all(true);
            }
        }
        Ok(())
    }

    /// Returns a word of a bucket that is free, in a line that may be new.
    pub(crate) fn free_word(&self, bucket: Bucket<'p>) -> Result<&'p Word, Error> {
        if let Some(free) = bucket.line.links().find(|word| word.get() == 0) {
            return Ok(free);
        }
        let mut last = bucket.line;
        for line in self.lines(bucket).skip(1) {
            last = line?;
            if let Some(free) = last.links().find(|word| word.get() == 0) {
                return Ok(free);
            }
        }
        self.add_line(bucket.number, last)?;
        let added = self.next_line(Link::from_bits(last.next().get()), bucket.number, true)?;
        added.links().next().ok_or_else(|| self.damaged(bucket.number, 0))
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
        let parent = self.bucket(parent_of(n))?;
        self.make_room(n)?;
        let segment = self.segment(n)?.ok_or_else(|| self.damaged(n, 0))?;
        let line = segment.line(n % LINES).ok_or_else(|| self.damaged(n, 0))?;
        let new = Bucket { number: n, line, trust: parent.trust };
        if let Err(error) = self.link_moved(new, parent) {
            // What was linked there so far is in its parent too.
            self.strip(n)?;
            return Err(error);
        }
        segment.note(n % LINES, parent.trust);
        self.head.set(at::SIZE, n + 1);
        self.clear_moved(parent, n)
    }

    /// Links in bucket `new`, which is none yet, what belongs to it of its parent.
    fn link_moved(&self, new: Bucket<'p>, parent: Bucket<'p>) -> Result<(), Error> {
        let n = new.number;
        for line in self.lines(parent) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none() && bucket_of(self.entry(link, parent)?.hash(), n + 1) == n {
                    self.free_word(new)?.set(link.bits());
                }
            }
        }
        Ok(())
    }

    /// Clears in a parent what is linked in bucket `n` now.
    fn clear_moved(&self, parent: Bucket<'p>, n: u64) -> Result<(), Error> {
        for line in self.lines(parent) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none() && bucket_of(self.entry(link, parent)?.hash(), n + 1) == n {
                    word.set(0);
                }
            }
        }
        if parent.line.next().get() == 0 { Ok(()) } else { self.close_up(parent) }
    }

    /// Clears a bucket that is none yet, and frees its lines but the first.
    pub(crate) fn strip(&self, bucket: u64) -> Result<(), Error> {
        let Some(bucket) = self.unchecked(bucket)? else { return Ok(()) };
        for line in self.lines(bucket) {
            line?.links().filter(|word| word.get() != 0).for_each(|word| word.set(0));
        }
        self.drop_lines(bucket)
    }

    /// Clears in a bucket what belongs to another, and what is there twice; then closes it up.
    pub(crate) fn tidy(&self, bucket: u64) -> Result<(), Error> {
        let n = self.count();
        let Some(bucket) = self.unchecked(bucket)? else { return Ok(()) };
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none()
                    && (bucket_of(self.entry(link, bucket)?.hash(), n) != bucket.number
                        || self.is_before(bucket, link, word)?)
                {
                    word.set(0);
                }
            }
        }
        self.close_up(bucket)
    }

    /// Moves links of a bucket to where words are free in lines before, and frees the lines that are empty then.
    fn close_up(&self, bucket: Bucket<'p>) -> Result<(), Error> {
        for line in self.lines(bucket).skip(1) {
            for word in line?.links() {
                let bits = word.get();
                if bits != 0
                    && let Some(free) = self.first_free(bucket, word)?
                {
                    // For a moment it is there twice.
                    free.set(bits);
                    word.set(0);
                }
            }
        }
        self.drop_lines(bucket)
    }

    /// Returns the first word of a bucket that is free, before `this`.
    fn first_free(&self, bucket: Bucket<'p>, this: &Word) -> Result<Option<&'p Word>, Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                if core::ptr::eq(word, this) {
                    return Ok(None);
                }
                if word.get() == 0 {
                    return Ok(Some(word));
                }
            }
        }
        Ok(None)
    }

    /// Returns whether a word of a bucket before this one leads to the same object.
    fn is_before(&self, bucket: Bucket<'p>, link: Link, this: &Word) -> Result<bool, Error> {
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
    #[inline]
    pub(crate) fn drop_lines(&self, bucket: Bucket<'p>) -> Result<(), Error> {
        if bucket.line.next().get() == 0 {
            return Ok(());
        }
        self.drop_lines_slow(bucket)
    }

    #[cold]
    fn drop_lines_slow(&self, bucket: Bucket<'p>) -> Result<(), Error> {
        let mut last = bucket.line;
        for _ in 0..MAX_LINES {
            let link = Link::from_bits(last.next().get());
            if link.is_none() {
                return Ok(());
            }
            let next = self.next_line(link, bucket.number, bucket.trust)?;
            if !next.is_empty() {
                last = next;
                continue;
            }
            self.head.set(at::OLD, link.bits());
            last.next().set(next.next().get());
            self.free(link, bucket.trust)?;
            self.head.set(at::OLD, 0);
        }
        Ok(())
    }

    /// Frees what a link leads to, which nothing of the map leads to any more.
    #[inline]
    pub(crate) fn free(&self, link: Link, trust: bool) -> Result<(), Error> {
        let ptr = if trust {
            self.pool.ptr(link)
        } else {
            match self.pool.follow(link, self.owner())? {
                Some(object) => object.ptr(),
                None => return Ok(()),
            }
        };
        // SAFETY: in use and this map's, found to be so now or before, and unlinked; the caller has the map alone.
        unsafe { self.pool.free(link, ptr) }
    }

    /// Returns whether the map leads to an object of its own.
    pub(crate) fn is_linked(&self, link: Link, object: Object) -> Result<bool, Error> {
        let (n, more) = (self.count(), object.more());
        let leads = |word: &Word| Link::from_bits(word.get()).same_object(link);
        match object.kind() {
            kind::SEGMENT => Ok(more < SEGMENTS && self.segment_word(more)?.is_some_and(leads)),
            kind::DIRECTORY => Ok(self.page_word(u64_to_usize(more)).is_some_and(leads)),
            kind::LINE if more > n => Ok(false),
            kind::LINE => self.any_line(more, |line| leads(line.next())),
            _ => self.any_line(bucket_of(low_u32(more >> 32), n), |line| line.links().any(leads)),
        }
    }

    /// Returns whether `is` holds for a line of a bucket.
    fn any_line(&self, bucket: u64, is: impl Fn(Line<'_>) -> bool) -> Result<bool, Error> {
        let Some(bucket) = self.unchecked(bucket)? else { return Ok(false) };
        for line in self.lines(bucket) {
            if is(line?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A bucket that there is a line for.
#[derive(Clone, Copy)]
pub(crate) struct Bucket<'p> {
    number: u64,
    line: Line<'p>,
    /// Whether all that it leads to was looked at, and is the map's.
    pub(crate) trust: bool,
}

/// An entry, and the word that links it.
pub(crate) struct Found<'p> {
    pub(crate) word: &'p Word,
    pub(crate) link: Link,
    pub(crate) entry: Entry<'p>,
}

enum Next {
    First,
    Link(Link),
}

/// The lines of a bucket.
pub(crate) struct Lines<'b, 'p, M: Machine> {
    buckets: &'b Buckets<'p, M>,
    bucket: Bucket<'p>,
    next: Next,
    left: u32,
}

impl<'p, M: Machine> Iterator for Lines<'_, 'p, M> {
    type Item = Result<Line<'p>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Bucket { number, line, trust } = self.bucket;
        let line = match self.next {
            Next::First => Ok(line),
            Next::Link(link) if link.is_none() => return None,
            Next::Link(link) if self.left == 0 => Err(self.buckets.damaged(number, link.bits())),
            Next::Link(link) => self.buckets.next_line(link, number, trust),
        };
        self.left = self.left.saturating_sub(1);
        self.next = Next::Link(match &line {
            Ok(line) => Link::from_bits(line.next().get()),
            Err(_) => Link::NONE,
        });
        Some(line)
    }
}
