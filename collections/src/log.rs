//! A log that survives a jump: records are added at its end, and read and removed from its front.

use core::fmt;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::Handle;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_slab::MAX_OBJECT;

use crate::body::Body;
use crate::class::{Class, SEGMENT_BYTES};
use crate::deferred;
use crate::error::{Error, Field, Part};
use crate::head::at;
use crate::link::Link;
use crate::object::{Object, kind};
use crate::pool::Pool;
use crate::readers::Noted;
use crate::retire::{Now, Retire};
use crate::word::Word;

/// What a log's head begins with: kind and version.
pub const KIND: u64 = u64::from_le_bytes(*b"hl-log\0\x01");
/// Which word of the head leads to the first segment.
pub const FIRST: usize = at::DIRECT;
/// Which word of the head leads to the last segment.
pub const LAST: usize = at::DIRECT + 1;
/// Bytes of a segment before its records.
pub const HEADER: u64 = 40;
/// Bytes of a record before its own.
const LENGTH: u64 = 8;

/// A log of records, each a byte string with a number of its own. Each append and each removal happens at one store: a successor
/// finds it done or not done.
///
/// It is found by its [handle](Log::handle), and opened once in each successor. Dropping the value leaves the log as it is.
///
/// ```text
///   first ──> | next | front | end | … | record | record |  ──> | next | front | end | record | … |  <── last
///                        └─────────────^  segments of 16,320 bytes, or of one record that is longer
/// ```
///
/// # Examples
/// ```
/// use heirloom_collections::{Log, Pool};
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::Slabs;
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let pool = Pool::open(&slabs)?;
/// let mut log = Log::create(&pool)?;
/// assert_eq!(log.append(b"first")?, 0);
/// assert_eq!(log.append(b"second")?, 1);
/// assert_eq!(log.front()?, Some(&b"first"[..]));
/// assert!(log.pop_front()?);
/// let records: Result<Vec<_>, _> = log.records().collect();
/// assert_eq!(records?, [(1, &b"second"[..])]);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Log<'p, M: Machine> {
    pub(crate) body: Body<'p, M>,
    /// What counts readers beside a writer, once there were some.
    pub(crate) readers: Option<Noted>,
    first: Segment<'p>,
    last: Segment<'p>,
    /// The numbers of the first record, and of the next one that is appended.
    range: core::ops::Range<u64>,
}

impl<M: Machine> fmt::Debug for Log<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("head", &self.body.addr).field("range", &self.range).finish()
    }
}

/// A segment of a log.
#[derive(Clone, Copy)]
struct Segment<'p> {
    link: Link,
    ptr: NonNull<u8>,
    /// Its words: its owner's two, the link to the next, where its first record is, and where they end.
    words: &'p [Word; 5],
    bytes: u64,
}

// SAFETY: the words are atomics; the bytes of its records are reached as the log's borrow says.
unsafe impl Send for Segment<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Segment<'_> {}

impl<'p> Segment<'p> {
    /// Returns the segment of a link.
    ///
    /// # Safety
    /// An object of the link's class is there, for as long, a segment of a log that the caller has.
    unsafe fn at(link: Link, ptr: NonNull<u8>) -> Self {
        // SAFETY: the caller's promise.
        let words = unsafe { ptr.cast().as_ref() };
        Self { link, ptr, words, bytes: usize_to_u64(link.bytes()) }
    }

    /// Returns the number of its first record.
    fn base(self) -> u64 {
        self.words[1].get()
    }

    const fn next(self) -> &'p Word {
        &self.words[2]
    }

    const fn front(self) -> &'p Word {
        &self.words[3]
    }

    const fn end(self) -> &'p Word {
        &self.words[4]
    }

    /// Returns whether front and end are places in it.
    fn is_sound(self) -> bool {
        let (front, end) = (self.front().get(), self.end().get());
        let aligned = front.is_multiple_of(LENGTH) && end.is_multiple_of(LENGTH);
        aligned && HEADER <= front && front <= end && end <= self.bytes
    }

    /// Returns the record at a place, and the place behind it; `None` if it is none before `end`, which is in the segment.
    fn record(self, at: u64, end: u64) -> Option<(&'p [u8], u64)> {
        let room = end.checked_sub(at)?.checked_sub(LENGTH)?;
        // SAFETY: in the segment: `at` and eight bytes more are before `end`; places are multiples of eight.
        let length = unsafe { self.ptr.add(u64_to_usize(at)).cast::<u64>().read() };
        let length = u64::from_le(length);
        if length > room || length.next_multiple_of(LENGTH) > room {
            return None;
        }
        // SAFETY: as above, with its length; written before `end` was, and not again as long as it is in the log.
        let bytes = unsafe {
            let ptr = self.ptr.add(u64_to_usize(at + LENGTH));
            NonNull::slice_from_raw_parts(ptr, u64_to_usize(length)).as_ref()
        };
        Some((bytes, at + LENGTH + length.next_multiple_of(LENGTH)))
    }

    /// Writes a record at a place.
    ///
    /// # Safety
    /// There is room for it in the segment of this pointer, which no reader looks at.
    unsafe fn write(ptr: NonNull<u8>, at: u64, record: &[u8]) {
        // SAFETY: the caller's promise; places are multiples of eight.
        unsafe {
            let place = ptr.add(u64_to_usize(at));
            place.cast::<u64>().write(usize_to_u64(record.len()).to_le());
            let to = place.add(8);
            to.copy_from_nonoverlapping(NonNull::from(record).cast(), record.len());
        }
    }

    /// Returns how many records lie before a place; `None` if it is none of one's end.
    fn count(self, until: u64) -> Option<u64> {
        let (mut at, mut count) = (HEADER, 0);
        while at < until {
            (_, at) = self.record(at, until)?;
            count += 1;
        }
        Some(count)
    }
}

/// Returns the bytes that a record takes.
const fn bytes_of(record: &[u8]) -> u64 {
    LENGTH + usize_to_u64(record.len()).next_multiple_of(LENGTH)
}

impl<'p, M: Machine> Log<'p, M> {
    /// Bytes of the longest record.
    pub const MAX_RECORD: usize = MAX_OBJECT - u64_to_usize(HEADER + LENGTH);

    /// Creates an empty log. Until its handle is in what survives, it is one that no successor opens.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory.
    pub fn create(pool: &'p Pool<'p, M>) -> Result<Self, Error> {
        let body = Body::create(pool, &[(at::KIND, KIND)])?;
        Self::begin(body, 0).inspect_err(|_| {
            // SAFETY: created just now, and not handed out.
            unsafe {
                body.close();
                pool.free_head(body.addr);
            }
        })
    }

    /// Adds the one segment of an empty log that has none, in which the next record is to have this number.
    fn begin(body: Body<'p, M>, next: u64) -> Result<Self, Error> {
        let link = new_segment(&body, next, None)?;
        body.head.set(FIRST, link.bits());
        body.head.set(LAST, link.bits());
        body.head.set(at::NEW, 0);
        // SAFETY: allocated just now, a segment of this log's.
        let first = unsafe { Segment::at(link, body.pool.ptr(link)) };
        Ok(Self { body, readers: None, first, last: first, range: next..next })
    }

    /// Opens the log of a handle that the predecessor left, and undoes what was going on. Looks at the first segment and at the
    /// last; costs the same however many there are.
    ///
    /// # Errors
    /// [`Error::Handle`], [`Error::Slab`]: no handle of a container, or one that was opened in this kernel before; out of memory, where
    /// it was being destroyed. [`Error::Mismatch`]: another container or version. Then nothing is claimed: it can be opened as what
    /// it is, or with more memory. [`Error::Damaged`]: what was left is not sound, as for [`Map::open`](crate::Map::open).
    pub fn open(pool: &'p Pool<'p, M>, handle: Handle) -> Result<Self, Error> {
        let body = Body::open(pool, handle, &[(at::KIND, Field::Kind, KIND)])?;
        // SAFETY: the value that had a copy of the body was dropped with the error, and this one is not used again.
        Self::opened(body).map_err(|error| unsafe { body.not_opened(error) })
    }

    /// Returns the log of a body that was opened.
    fn opened(body: Body<'p, M>) -> Result<Self, Error> {
        let mut opened = Self::recover(body).inspect_err(|_| {
            // SAFETY: not used again.
            unsafe { body.close() };
        })?;
        // (From here on the value closes it.)
        opened.advance(&mut Now)?;
        Ok(opened)
    }

    fn recover(body: Body<'p, M>) -> Result<Self, Error> {
        let leads =
            |word: usize, link: Link| Link::from_bits(body.head.get(word)).same_object(link);
        if body.head.get(LAST) == 0 {
            // It was being destroyed, and is empty; whatever is named led to nothing of it any more.
            body.recover(|_, _, _| Ok(false))?;
            deferred::recover(&body, |link, _| Ok(deferred::leads(body.head, link)))?;
            return Self::begin(body, body.head.get(at::LEN));
        }
        let mut last = segment(&body, Link::from_bits(body.head.get(LAST)))?;
        let next = Link::from_bits(last.next().get());
        if !next.is_none() {
            // A segment was linked, and the head does not say so yet.
            if !leads(at::NEW, next) {
                return Err(body.damaged(last.base(), next.bits()));
            }
            last = segment(&body, next)?;
            let beyond = last.next().get();
            if beyond != 0 {
                return Err(body.damaged(last.base(), beyond));
            }
            body.head.set(LAST, next.bits());
        }
        let is_linked =
            |link| Ok(leads(FIRST, link) || leads(LAST, link) || deferred::leads(body.head, link));
        body.recover(|_, link, _| is_linked(link))?;
        deferred::recover(&body, |link, _| is_linked(link))?;
        let first = segment(&body, Link::from_bits(body.head.get(FIRST)))?;
        let before = first.count(first.front().get());
        let all = last.count(last.end().get());
        let (Some(before), Some(all)) = (before, all) else {
            return Err(body.damaged(first.base(), first.front().get()));
        };
        let range = first.base().wrapping_add(before)..last.base().wrapping_add(all);
        Ok(Self { body, readers: None, first, last, range })
    }

    /// Returns the sixteen bytes by which a successor opens the log.
    pub const fn handle(&self) -> Handle {
        self.body.handle
    }

    /// Returns the numbers of the records that there are: the first one's, and that of the next that is appended.
    pub fn range(&self) -> core::ops::Range<u64> {
        self.range.clone()
    }

    /// Returns whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.first.front().get() == self.first.end().get()
    }

    /// Adds a record at the end. Returns its number: those of records that follow one another do, from 0.
    ///
    /// # Errors
    /// [`Error::TooLong`]; [`Error::Slab`] ([out of memory](Error::is_out_of_memory)). Nothing has changed then.
    pub fn append(&mut self, record: &[u8]) -> Result<u64, Error> {
        self.append_by(&mut Now, record)
    }

    /// Adds a record; a segment that is left is freed as `retire` does.
    #[inline]
    pub(crate) fn append_by<R: Retire>(
        &mut self,
        retire: &mut R,
        record: &[u8],
    ) -> Result<u64, Error> {
        if record.len() > Self::MAX_RECORD {
            let (part, bytes, max) = (Part::Value, record.len(), Self::MAX_RECORD);
            return Err(Error::TooLong { part, bytes, max });
        }
        let (number, bytes, end) = (self.range.end, bytes_of(record), self.last.end().get());
        if bytes <= self.last.bytes - end {
            // SAFETY: there is room; readers look at what lies before the end.
            unsafe { Segment::write(self.last.ptr, end, record) };
            // Here it happens.
            self.last.end().set(end + bytes);
            self.range.end = number.wrapping_add(1);
            return Ok(number);
        }
        if self.is_empty() {
            // The segment that is left then needs it.
            retire.reserve(&self.body)?;
        }
        let link = new_segment(&self.body, number, Some(record))?;
        // Here it happens.
        self.last.next().set(link.bits());
        self.body.head.set(LAST, link.bits());
        self.body.head.set(at::NEW, 0);
        // SAFETY: allocated just now, a segment of this log's.
        self.last = unsafe { Segment::at(link, self.body.pool.ptr(link)) };
        self.range.end = number.wrapping_add(1);
        // The one before may be empty.
        self.advance(retire)?;
        Ok(number)
    }

    /// Returns the first record; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what the predecessor left is not sound.
    pub fn front(&self) -> Result<Option<&[u8]>, Error> {
        Ok(self.records().next().transpose()?.map(|(_, record)| record))
    }

    /// Removes the first record. Returns whether there was one.
    ///
    /// # Errors
    /// As for [`Log::front`].
    pub fn pop_front(&mut self) -> Result<bool, Error> {
        self.pop_front_by(&mut Now)
    }

    /// Removes the first record; a segment that is left is freed as `retire` does.
    #[inline]
    pub(crate) fn pop_front_by<R: Retire>(&mut self, retire: &mut R) -> Result<bool, Error> {
        if self.is_empty() {
            return Ok(false);
        }
        retire.reserve(&self.body)?;
        let (front, end) = (self.first.front().get(), self.first.end().get());
        let Some((_, behind)) = self.first.record(front, end) else {
            return Err(self.body.damaged(self.range.start, front));
        };
        // Here it happens.
        self.first.front().set(behind);
        self.range.start = self.range.start.wrapping_add(1);
        self.advance(retire)?;
        Ok(true)
    }

    /// Returns the records with their numbers, the first first.
    pub fn records(&self) -> Records<'_, 'p, M> {
        let at = self.first.front().get();
        let (body, number) = (&self.body, self.range.start);
        Records { body, segment: Some(self.first), at, number }
    }

    /// Frees the log.
    ///
    /// # Errors
    /// As for [`Log::front`]; what is left can be opened by the next kernel.
    pub fn destroy(mut self) -> Result<(), Error> {
        deferred::end_split(&self.body, &mut self.readers)?;
        while self.pop_front()? {}
        let (body, old) = (self.body, self.first.link);
        // A successor that finds no last segment begins a new one, if it opens the log at all.
        body.head.set(at::LEN, self.range.end);
        body.head.set(at::OLD, old.bits());
        body.head.set(LAST, 0);
        body.head.set(FIRST, 0);
        body.free(old)?;
        // SAFETY: this value's, which ends, and nothing leads from it to anything.
        unsafe { body.pool.free_head(body.addr) };
        Ok(())
    }

    /// Frees segments at the front from which all was removed.
    fn advance<R: Retire>(&mut self, retire: &mut R) -> Result<(), Error> {
        let head = self.body.head;
        while self.is_empty() {
            let next = Link::from_bits(self.first.next().get());
            if next.is_none() {
                break;
            }
            let following = segment(&self.body, next)?;
            let old = self.first.link;
            // Numbers go on: so no reader comes to a segment again that is left.
            let is_behind = !R::SHARED || following.base() == self.range.start;
            if following.link.same_object(old) || !is_behind {
                return Err(self.body.damaged(self.range.start, next.bits()));
            }
            let place = retire.reserve(&self.body)?;
            head.set(at::OLD, old.bits());
            head.set(FIRST, next.bits());
            let left = core::mem::replace(&mut self.first, following);
            // SAFETY: found in the log before, a segment in use, and left just now; its words are atomics.
            unsafe { retire.retire(&self.body, place, old, Object::at(left.ptr)) }?;
            head.set(at::OLD, 0);
        }
        Ok(())
    }
}

/// Allocates a segment whose first record has this number, with that record if there is one.
fn new_segment<M: Machine>(
    body: &Body<'_, M>,
    base: u64,
    record: Option<&[u8]>,
) -> Result<Link, Error> {
    let end = HEADER + record.map_or(0, bytes_of);
    let class = if end <= usize_to_u64(SEGMENT_BYTES) {
        Class::SEGMENT
    } else {
        Class::fitting(u64_to_usize(end)).unwrap_or(Class::SEGMENT)
    };
    let owner = body.owner();
    // SAFETY: the owner's words first; the class has room for header and record.
    unsafe {
        body.alloc(class, |object| {
            Object::begin(object, owner, kind::CHUNK, base);
            let words = object.cast::<[Word; 5]>().as_ref();
            words[2].set(0);
            words[3].set(HEADER);
            words[4].set(end);
            if let Some(record) = record {
                Segment::write(object, HEADER, record);
            }
        })
    }
}

/// Returns the segment that a link leads to, if it is one of this log's.
///
/// What a predecessor forged may lead to one segment from two places. Then its records may be read twice, but each segment that
/// is freed is first found to be in use, and is not the log's last: that one leads to none.
fn segment<'p, M: Machine>(body: &Body<'p, M>, link: Link) -> Result<Segment<'p>, Error> {
    let found = body.pool.follow(link, body.owner())?;
    let is_meant = |object: &Object| object.kind() == kind::CHUNK && link.bytes() >= 48;
    let object = found.filter(is_meant).ok_or_else(|| body.damaged(0, link.bits()))?;
    // SAFETY: a segment of this log's, which keeps it as long as it leads to it.
    let segment = unsafe { Segment::at(link, object.ptr()) };
    if segment.is_sound() { Ok(segment) } else { Err(body.damaged(0, link.bits())) }
}

/// The records of a log, with their numbers: see [`Log::records`]. After an error there are no more.
pub struct Records<'l, 'p, M: Machine> {
    body: &'l Body<'p, M>,
    segment: Option<Segment<'p>>,
    at: u64,
    number: u64,
}

impl<'l, 'p, M: Machine> Records<'l, 'p, M> {
    /// Returns the records of a log that a writer goes on with, from its first on.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what the predecessor left is not sound.
    pub(crate) fn beside(body: &'l Body<'p, M>) -> Result<Self, Error> {
        let first = segment(body, Link::from_bits(body.head.get(FIRST)))?;
        let at = first.front().get();
        let before = first.count(at).ok_or_else(|| body.damaged(first.base(), at))?;
        Ok(Self { body, segment: Some(first), at, number: first.base().wrapping_add(before) })
    }
}

impl<M: Machine> fmt::Debug for Records<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<'l, M: Machine> Iterator for Records<'l, '_, M> {
    type Item = Result<(u64, &'l [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut here = self.segment.take()?;
        let body = self.body;
        if self.at == here.end().get() {
            let next = Link::from_bits(here.next().get());
            if next.is_none() {
                return None;
            }
            // (A writer may have added records to this one before it added the next.)
            if self.at == here.end().get() {
                here = match segment(body, next) {
                    // Numbers go on, and there is a record: so no segment comes twice.
                    Ok(next) if next.base() == self.number && next.end().get() > HEADER => next,
                    Ok(_) => return Some(Err(body.damaged(self.number, next.bits()))),
                    Err(error) => return Some(Err(error)),
                };
                self.at = HEADER;
            }
        }
        let Some((record, behind)) = here.record(self.at, here.end().get()) else {
            return Some(Err(body.damaged(self.number, self.at)));
        };
        let number = self.number;
        (self.segment, self.at, self.number) = (Some(here), behind, number.wrapping_add(1));
        Some(Ok((number, record)))
    }
}

impl<M: Machine> Drop for Log<'_, M> {
    fn drop(&mut self) {
        // (What cannot be freed is named still, and a successor frees it.)
        let _ = deferred::end_split(&self.body, &mut self.readers);
        // SAFETY: the value's own, which ends.
        unsafe { self.body.close() };
    }
}

#[cfg(test)]
mod tests;
