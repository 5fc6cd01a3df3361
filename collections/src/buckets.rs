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
use crate::entry::Entry;
use crate::error::Error;
use crate::head::at;
use crate::line::{LINES, Line, Segment};
use crate::link::Link;
use crate::object::{Object, kind};
use crate::word::Word;

/// Buckets that there can be: there is a line behind the last.
pub(crate) const MAX_BUCKETS: u64 = PARTS * LINES - 1;
/// Buckets of an empty map.
pub(crate) const MIN_BUCKETS: u64 = 16;
/// Bytes of a line that is an object of its own.
pub(crate) const LINE_BYTES: usize = 16 + 64;
/// Lines of a bucket up to which all of its links are compared with one another.
const LINES_CHECKED: usize = 64;

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

    /// Returns the segment of a bucket; `None` if there is none.
    #[inline]
    pub(crate) fn segment(&self, bucket: u64) -> Result<Option<Segment<'p>>, Error> {
        let index = bucket / LINES;
        match self.body.parts.get(u64_to_usize(index)) {
            // SAFETY: `find_segment` found it to be one, which the map keeps as long as it is open.
            Some(segment) => Ok(Some(unsafe { Segment::at(segment) })),
            None => self.find_segment(index),
        }
    }

    /// Finds a segment, if it is the map's, and notes where it is.
    #[cold]
    pub(crate) fn find_segment(&self, index: u64) -> Result<Option<Segment<'p>>, Error> {
        let Some(ptr) = self.body.find_part(index, kind::SEGMENT)? else { return Ok(None) };
        // SAFETY: a segment of this map, which keeps it as long as it is open.
        let segment: Segment<'p> = unsafe { Segment::at(ptr) };
        // What they said in another kernel is never believed. Another thread may do the same: what it has noted of lines by then
        // is looked at again.
        segment.note_all(false);
        self.body.parts.set(self.body.pool.slabs(), u64_to_usize(index), ptr.as_ptr());
        Ok(Some(segment))
    }

    /// Returns the first line of a bucket; `None` if there is no segment for it.
    fn line(&self, bucket: u64) -> Result<Option<Line<'p>>, Error> {
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

    /// Returns a bucket, after a look whether all that it leads to is the map's, and no other bucket's: once, if so.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    #[inline]
    pub(crate) fn bucket(&self, number: u64) -> Result<Bucket<'p>, Error> {
        let index = number % LINES;
        if let Some(segment) = self.body.parts.get(u64_to_usize(number / LINES)) {
            // SAFETY: as in `segment`.
            let segment: Segment<'p> = unsafe { Segment::at(segment) };
            if segment.is_checked(index)
                && let Some(line) = segment.line(index)
            {
                return Ok(Bucket { number, line, trust: true });
            }
        }
        self.bucket_slow(number)
    }

    /// Looks at a bucket for the first time.
    #[cold]
    #[inline(never)]
    fn bucket_slow(&self, number: u64) -> Result<Bucket<'p>, Error> {
        let segment = self.segment(number)?.ok_or_else(|| self.body.damaged(number, 0))?;
        let line = segment.line(number % LINES).ok_or_else(|| self.body.damaged(number, 0))?;
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
                    return Err(self.body.damaged(bucket.number, at.bits()));
                }
            }
        }
        Ok(true)
    }

    /// Returns the first entry of a bucket whose link has the tag of `hash` and for which `is` returns `true`, with the word
    /// that links it; `None` if the bucket has no such entry.
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
                    let entry = unsafe { Entry::at(self.body.pool.ptr(link)) };
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
            here = unsafe { Line::at(self.body.pool.ptr(next).add(16)) };
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
    pub(crate) fn unchecked(&self, number: u64) -> Result<Option<Bucket<'p>>, Error> {
        Ok(self.line(number)?.map(|line| Bucket { number, line, trust: false }))
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
        if bucket.trust {
            // SAFETY: an entry of this map, found to be one before; how long it is used, `Map`'s methods say.
            return Ok(unsafe { Entry::at(self.body.pool.ptr(link)) });
        }
        let object = self.body.pool.follow(link, self.body.owner())?;
        // SAFETY: as above, found just now.
        let entry = object.and_then(|object| unsafe { Entry::in_object(object, link.bytes()) });
        entry.ok_or_else(|| self.body.damaged(bucket.number, link.bits()))
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
    /// A link before (Brent 1980): after so many lines more it is the one here, and then after twice as many.
    mark: Link,
    left: u32,
    reach: u32,
}

impl<'p, M: Machine> Iterator for Lines<'_, 'p, M> {
    type Item = Result<Line<'p>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Bucket { number, line, trust } = self.bucket;
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
                self.buckets.next_line(link, number, trust)
            }
        };
        self.next = Next::Link(match &line {
            Ok(line) => Link::from_bits(line.next().get()),
            Err(_) => Link::NONE,
        });
        Some(line)
    }
}
