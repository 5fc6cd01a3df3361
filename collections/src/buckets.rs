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

use heirloom_folio::Machine;
use heirloom_kho::narrow::{low_u32, u32_to_u64, u64_to_usize};

use crate::body::{Body, PARTS};
use crate::class::Class;
use crate::deferred;
use crate::entry::Entry;
use crate::error::Error;
use crate::head::at;
use crate::index::{Index, Looked, Tags};
use crate::line::{LINE_BYTES, LINES, Line, Segment};
use crate::link::Link;
use crate::object::{Object, kind};
use crate::word::Word;

/// Buckets that there can be: there is a line behind the last.
pub const MAX_BUCKETS: u64 = PARTS * LINES - 1;
/// Buckets of an empty map.
pub(crate) const MIN_BUCKETS: u64 = 16;
/// Lines of a bucket up to which all of its links are compared with one another.
const LINES_CHECKED: usize = 64;

/// Returns the bucket of a hash, of `n`, at least one.
#[inline]
pub const fn bucket_of(hash: u32, n: u64) -> u64 {
    bucket_by(hash, n, mask_of(n))
}

/// Returns the bucket of a hash, of `n`, which has this [mask](mask_of).
#[inline]
pub(crate) const fn bucket_by(hash: u32, n: u64, mask: u64) -> u64 {
    let bucket = u32_to_u64(hash) & mask;
    if bucket < n { bucket } else { bucket & mask >> 1 }
}

/// Returns the bits of a hash that say to which of `n` buckets it belongs.
#[inline]
pub(crate) const fn mask_of(n: u64) -> u64 {
    n.next_power_of_two() - 1
}

/// Returns the bucket from which bucket `n` takes its entries, `n` being at least one.
pub(crate) const fn parent_of(n: u64) -> u64 {
    n & !(1 << n.ilog2())
}

/// Returns whether links of a bucket may have moved while the number of buckets grew from `before` to `after`: whether it is the
/// [parent](parent_of) of a bucket that was added meanwhile, or of the one that was the last before, as the writer may have been
/// clearing in the parent what went there.
pub(crate) fn is_split(bucket: u64, before: u64, after: u64) -> bool {
    let mut bit = (bucket + 1).next_power_of_two();
    while bucket + bit < after {
        if bucket + bit + 1 >= before {
            return true;
        }
        bit *= 2;
    }
    false
}

/// The buckets of one map.
pub(crate) struct Buckets<'p, M: Machine> {
    pub(crate) body: Body<'p, M>,
}

impl<M: Machine> Clone for Buckets<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Buckets<'_, M> {}

impl<'p, M: Machine> Buckets<'p, M> {
    /// Returns how many buckets there are: at least one.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.body.head.get(at::SIZE).max(1)
    }

    /// Returns what this kernel knows of a segment: nothing, unless it was found before.
    #[inline]
    pub(crate) fn index(&self, segment: u64) -> Option<&'p Index> {
        let index = self.body.parts.get(u64_to_usize(segment))?;
        // SAFETY: `find_segment` has noted it; it stays until the map is closed, or has no segment any more.
        Some(unsafe { index.cast().as_ref() })
    }

    /// Returns the segment of a bucket; `None` if there is none.
    fn segment(&self, bucket: u64) -> Result<Option<Segment<'p>>, Error> {
        let number = bucket / LINES;
        match self.index(number) {
            Some(index) => Ok(Some(index.segment())),
            None => self.find_segment(number, false),
        }
    }

    /// Finds a segment, if it is the map's, and notes where it is, and whether it holds zeroes.
    #[cold]
    pub(crate) fn find_segment(
        &self,
        number: u64,
        zeroes: bool,
    ) -> Result<Option<Segment<'p>>, Error> {
        let Some(ptr) = self.body.find_part(number, kind::SEGMENT)? else { return Ok(None) };
        let slabs = self.body.pool.slabs();
        // SAFETY: a segment of this map.
        if let Some(index) = unsafe { Index::new(slabs, ptr, zeroes) } {
            let noted = self.body.parts.add(slabs, u64_to_usize(number), index.cast());
            if noted != Some(index.cast()) {
                // Another thread was first, or there was no memory.
                // SAFETY: made just now, and not handed out.
                unsafe { Index::give_back(slabs, index) };
            }
        }
        // SAFETY: a segment of this map, which keeps it as long as it is open.
        Ok(Some(unsafe { Segment::at(ptr) }))
    }

    /// Forgets what this kernel knows of segments, from number `keep` on.
    ///
    /// # Safety
    /// No bucket of theirs that was returned before is used again.
    pub(crate) unsafe fn forget(&self, keep: u64) {
        self.body.parts.drain(u64_to_usize(keep), |index| {
            // SAFETY: noted by `find_segment`, and no longer; nothing uses it (contract).
            unsafe { Index::give_back(self.body.pool.slabs(), index.cast()) };
        });
    }

    /// Frees the segments from number `keep` on, and the pages of the directory that lead to none.
    ///
    /// # Safety
    /// All their lines hold zeroes. No bucket of theirs that was returned before is used again, nor does a reader look at one.
    pub(crate) unsafe fn trim(&self, keep: u64) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.forget(keep) };
        self.body.trim(keep, kind::SEGMENT)
    }

    /// Returns the first line of a bucket; `None` if there is no segment for it.
    pub(crate) fn line(&self, bucket: u64) -> Result<Option<Line<'p>>, Error> {
        Ok(self.segment(bucket)?.and_then(|segment| segment.line(bucket % LINES)))
    }

    /// Returns the line that a link of a bucket leads to.
    #[inline]
    pub(crate) fn next_line(
        &self,
        link: Link,
        bucket: u64,
        trust: bool,
    ) -> Result<Line<'p>, Error> {
        let ptr = if trust {
            self.body.pool.ptr(link)
        } else {
            let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
            self.body.part(link, class, kind::LINE, bucket)?.ptr()
        };
        // SAFETY: a line of this map, found to be one just now or before: eight words behind its first two, which only atomics
        // touch. It stays as long as it is linked, and what it holds of this map is used.
        Ok(unsafe { Line::at(ptr.add(16)) })
    }

    /// Returns a bucket that was looked at in this kernel, and what is known of it.
    #[inline]
    pub(crate) fn known(&self, number: u64) -> Option<(Bucket<'p>, Looked)> {
        let index = self.index(number / LINES)?;
        let tags = index.word(number % LINES)?;
        let looked = tags.get();
        if !looked.is_something() {
            return None;
        }
        let line = index.segment().line(number % LINES)?;
        Some((Bucket { number, line, tags: Some(tags) }, looked))
    }

    /// Returns a bucket, after a look whether all that it leads to is the map's, and no other bucket's: once, if so.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    #[inline]
    pub(crate) fn bucket(&self, number: u64) -> Result<Bucket<'p>, Error> {
        match self.known(number) {
            Some((bucket, _)) => Ok(bucket),
            None => self.bucket_slow(number),
        }
    }

    /// Looks at a bucket for the first time.
    #[cold]
    #[inline(never)]
    pub(crate) fn bucket_slow(&self, number: u64) -> Result<Bucket<'p>, Error> {
        let line = self.line(number)?.ok_or_else(|| self.body.damaged(number, 0))?;
        let bucket = Bucket { number, line, tags: None };
        let tags = if self.check(bucket)? { self.tags(number) } else { None };
        let bucket = Bucket { tags, ..bucket };
        self.note(bucket);
        Ok(bucket)
    }

    /// Returns the word of a bucket, if there was memory for one.
    pub(crate) fn tags(&self, number: u64) -> Option<&'p Tags> {
        self.index(number / LINES)?.word(number % LINES)
    }

    /// Notes what a bucket's links are, if they were all looked at.
    pub(crate) fn note(&self, bucket: Bucket<'p>) {
        let Some(tags) = bucket.tags else { return };
        let mut looked = Looked::EMPTY;
        for line in self.lines(bucket) {
            // (Those that were looked at have no error.)
            for word in line.iter().flat_map(|line| line.links()) {
                looked.note(bucket.line.place_of(word), Link::from_bits(word.get()));
            }
        }
        tags.set(looked);
    }

    /// Looks at all that a bucket leads to. Returns whether it can be followed without another look: not where there are too many
    /// lines, which it would take too long to compare.
    fn check(&self, bucket: Bucket<'p>) -> Result<bool, Error> {
        let n = self.count();
        if self.lines(bucket).nth(LINES_CHECKED).is_some() {
            return Ok(false);
        }
        for line in self.lines(bucket) {
            for word in line?.links() {
                let at = Link::from_bits(word.get());
                if !at.is_none()
                    && (bucket_of(self.entry(at, bucket)?.hash(), n) != bucket.number
                        || self.is_before(bucket, at, word)?)
                {
                    return Err(self.body.damaged(bucket.number, at.bits()));
                }
            }
        }
        Ok(true)
    }

    /// Returns the entry of a key and its hash in a bucket, with the word that links it; `None` if the bucket has no such entry.
    #[inline]
    pub(crate) fn find(
        &self,
        (bucket, looked): (Bucket<'p>, Looked),
        hash: u64,
        key: &[u8],
    ) -> Option<Found<'p>> {
        for place in looked.places(hash) {
            if let Some(word) = bucket.line.link(place) {
                let link = Link::from_bits(word.get());
                if !link.is_none() {
                    // SAFETY: as in `entry`.
                    let entry = unsafe { Entry::at(self.body.pool.ptr(link)) };
                    if entry.key() == key {
                        return Some(Found { word, link, entry });
                    }
                }
            }
        }
        if looked.is_beyond(hash) { self.find_beyond(bucket.line, hash, key) } else { None }
    }

    /// Does what [`Buckets::find`] does, in the lines beyond the first of a bucket that was looked at.
    #[inline(never)]
    fn find_beyond(&self, mut here: Line<'p>, hash: u64, key: &[u8]) -> Option<Found<'p>> {
        loop {
            let next = Link::from_bits(here.next().get());
            if next.is_none() {
                return None;
            }
            // SAFETY: as in `next_line`.
            here = unsafe { Line::at(self.body.pool.ptr(next).add(16)) };
            for word in here.links() {
                let link = Link::from_bits(word.get());
                if link.has_tag(hash) && !link.is_none() {
                    // SAFETY: as in `entry`.
                    let entry = unsafe { Entry::at(self.body.pool.ptr(link)) };
                    if entry.key() == key {
                        return Some(Found { word, link, entry });
                    }
                }
            }
        }
    }

    /// Does what [`Buckets::find`] does, in a bucket whose links are looked at each time.
    #[cold]
    #[inline(never)]
    pub(crate) fn find_slow(
        &self,
        bucket: Bucket<'p>,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<Found<'p>>, Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.has_tag(hash) && !link.is_none() {
                    let entry = self.own_entry(link, bucket)?;
                    if entry.key() == key {
                        return Ok(Some(Found { word, link, entry }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Does what [`Buckets::find`] does for a reader beside the writer, in a bucket of which nothing is known: what is followed is
    /// looked at. What belongs to another bucket is passed over, as it may be there for a moment.
    #[cold]
    #[inline(never)]
    pub(crate) fn find_shared(
        &self,
        number: u64,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<Entry<'p>>, Error> {
        let bucket = self.unchecked(number)?.ok_or_else(|| self.body.damaged(number, 0))?;
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.has_tag(hash)
                    && !link.is_none()
                    && let Some(entry) =
                        self.shared_entry(link, bucket, |there| there == low_u32(hash))?
                    && entry.key() == key
                {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Returns the entry that a link in a bucket leads to, for a reader beside the writer. Returns `None` for an entry with a hash that
    /// `is_own` refuses, if the bucket was not checked yet: its link may be forged, and the writer does not wait with freeing such an
    /// entry until the reader has left.
    #[inline]
    pub(crate) fn shared_entry(
        &self,
        link: Link,
        bucket: Bucket<'p>,
        is_own: impl Fn(u32) -> bool,
    ) -> Result<Option<Entry<'p>>, Error> {
        if bucket.is_trusted() {
            return self.entry(link, bucket).map(Some);
        }
        let bytes = link.bytes();
        let found = self.body.pool.follow_as(link, self.body.owner(), |object| {
            // SAFETY: in use, and this map's. It is used where it is the bucket's own: then the writer frees it once the reader has
            // left, after it has cleared all that leads to it there.
            let entry = unsafe { Entry::in_object(object, bytes) }?;
            Some(is_own(entry.hash()).then_some(entry))
        })?;
        found.flatten().ok_or_else(|| self.body.damaged(bucket.number, link.bits()))
    }

    /// Clears what leads to an entry of a bucket beside `this` word, in a bucket that is not trusted: once that one is cleared,
    /// nothing leads to it.
    #[cold]
    pub(crate) fn clear_others(
        &self,
        bucket: Bucket<'p>,
        link: Link,
        this: &Word,
    ) -> Result<(), Error> {
        for line in self.lines(bucket) {
            for word in line?.links() {
                if Link::from_bits(word.get()).same_object(link) && !core::ptr::eq(word, this) {
                    word.set(0);
                }
            }
        }
        Ok(())
    }

    /// Returns a bucket whose links are all looked at, each time, and that may hold what belongs elsewhere; `None` if there is no
    /// line for it.
    pub(crate) fn unchecked(&self, number: u64) -> Result<Option<Bucket<'p>>, Error> {
        Ok(self.line(number)?.map(|line| Bucket { number, line, tags: None }))
    }

    /// Returns the lines of a bucket, the first first. Each is looked at when it is asked for. Lines that lead back to one
    /// before end in an error, after a few times as many as there are.
    #[inline]
    pub(crate) const fn lines(&self, bucket: Bucket<'p>) -> Lines<'_, 'p, M> {
        Lines { buckets: self, bucket, next: Next::First, mark: Link::NONE, left: 0, reach: 1 }
    }

    /// Returns the entry that a link in a bucket leads to.
    #[inline]
    pub(crate) fn entry(&self, link: Link, bucket: Bucket<'p>) -> Result<Entry<'p>, Error> {
        if bucket.is_trusted() {
            // SAFETY: an entry of this map, found to be one before; how long it is used, `Map`'s methods say.
            return Ok(unsafe { Entry::at(self.body.pool.ptr(link)) });
        }
        let object = self.body.pool.follow(link, self.body.owner())?;
        // SAFETY: as above, found just now.
        let entry = object.and_then(|object| unsafe { Entry::in_object(object, link.bytes()) });
        entry.ok_or_else(|| self.body.damaged(bucket.number, link.bits()))
    }

    /// Returns the entry that a link in a bucket leads to, which belongs to that bucket: no other one leads to it then.
    #[inline]
    pub(crate) fn own_entry(&self, link: Link, bucket: Bucket<'p>) -> Result<Entry<'p>, Error> {
        let entry = self.entry(link, bucket)?;
        if !bucket.is_trusted() && bucket_of(entry.hash(), self.count()) != bucket.number {
            return Err(self.body.damaged(bucket.number, link.bits()));
        }
        Ok(entry)
    }

    /// Returns whether a word of a bucket before this one leads to the same object.
    pub(crate) fn is_before(
        &self,
        bucket: Bucket<'p>,
        link: Link,
        this: &Word,
    ) -> Result<bool, Error> {
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

    /// Returns whether the map leads to an object of its own.
    pub(crate) fn is_linked(&self, link: Link, object: Object) -> Result<bool, Error> {
        let (n, more) = (self.count(), object.more());
        let leads = |word: &Word| Link::from_bits(word.get()).same_object(link);
        match object.kind() {
            kind::SEGMENT | kind::DIRECTORY => self.body.is_listed(link, object),
            kind::DEFERRED => Ok(deferred::leads(self.body.head, link)),
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
    pub(crate) number: u64,
    pub(crate) line: Line<'p>,
    /// What is known of its links. `Some`: all that it leads to was looked at, and is the map's.
    pub(crate) tags: Option<&'p Tags>,
}

impl Bucket<'_> {
    /// Returns whether all that it leads to was looked at.
    #[inline]
    pub(crate) const fn is_trusted(&self) -> bool {
        self.tags.is_some()
    }

    /// Stores a link in a word of the bucket, or none. Its tag is noted before: a tag without a link leads to nothing.
    #[inline]
    pub(crate) fn set(&self, word: &Word, link: Link) {
        let note = || self.tags.iter().for_each(|tags| tags.note(self.line.place_of(word), link));
        if link.is_none() {
            word.set(0);
            note();
        } else {
            note();
            word.set(link.bits());
        }
    }
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
    /// A link before (Brent 1980): after so many lines more it is the one here, and then after twice as many.
    mark: Link,
    left: u32,
    reach: u32,
}

impl<'p, M: Machine> Iterator for Lines<'_, 'p, M> {
    type Item = Result<Line<'p>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        #[cfg(test)]
        crate::watch::line();
        let Bucket { number, line, tags } = self.bucket;
        let line = match self.next {
            Next::First => Ok(line),
            Next::Link(link) if link.is_none() => return None,
            Next::Link(link) if link.same_object(self.mark) => {
                Err(self.buckets.body.damaged(number, link.bits()))
            }
            Next::Link(link) => {
                if self.left == 0 {
                    (self.mark, self.left) = (link, self.reach);
                    self.reach = self.reach.saturating_mul(2);
                }
                self.left -= 1;
                self.buckets.next_line(link, number, tags.is_some())
            }
        };
        self.next = Next::Link(match &line {
            Ok(line) => Link::from_bits(line.next().get()),
            Err(_) => Link::NONE,
        });
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_split_where_it_is_the_parent_of_one_that_was_added() {
        for (bucket, before) in (0..40).flat_map(|bucket| (1..140).map(move |n| (bucket, n))) {
            for after in before..150 {
                let is = (before.max(2) - 1..after).any(|n| parent_of(n) == bucket);
                assert_eq!(is_split(bucket, before, after), is, "{bucket}, {before}, {after}");
            }
        }
    }
}
