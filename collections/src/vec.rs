//! A vector that survives a jump.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::Handle;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_slab::Persist;

use crate::body::{Body, PARTS};
use crate::class::SEGMENT_BYTES;
use crate::error::{Error, Field};
use crate::head::at;
use crate::object::kind;
use crate::pool::Pool;
use crate::word::settle;

/// What a vector's head begins with: kind and version.
pub const KIND: u64 = u64::from_le_bytes(*b"hl-vec\0\x01");
/// Which word of the head says which element is being replaced, plus one.
pub const REPLACED: usize = at::AFTER;
/// Bytes of a chunk before its elements.
pub const HEADER: usize = 64;

/// A vector of plain bytes, in chunks that never move. Each push, pop and replacement happens at one store: a successor finds it
/// done or not done.
///
/// It is found by its [handle](Vec::handle), and opened once in each successor. Dropping the value leaves the vector as it is.
///
/// ```text
///   chunk 0   | what is being replaced | element 0 | element 1 | …      16,256 bytes of elements a chunk, of 65,216 chunks
/// ```
///
/// # Examples
/// ```
/// use heirloom_collections::{Pool, Vec};
/// use heirloom_folio::harness::Ram;
/// use heirloom_slab::{Slabs, persist};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Point {
///     x: u32,
///     y: u32,
/// }
/// persist!(Point { x, y });
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let pool = Pool::open(&slabs)?;
/// let mut points = Vec::<Point, _>::create(&pool)?;
/// points.push(Point { x: 1, y: 2 })?;
/// points.push(Point { x: 3, y: 4 })?;
/// points.set(0, Point { x: 5, y: 6 })?;
/// assert_eq!(points.get(0)?, Some(&Point { x: 5, y: 6 }));
/// assert_eq!(points.pop()?, Some(Point { x: 3, y: 4 }));
/// assert_eq!(points.len(), 1);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Vec<'p, T: Persist, M: Machine> {
    body: Body<'p, M>,
    of: PhantomData<T>,
}

impl<T: Persist, M: Machine> fmt::Debug for Vec<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vec").field("head", &self.body.addr).field("len", &self.len()).finish()
    }
}

impl<'p, T: Persist, M: Machine> Vec<'p, T, M> {
    /// Elements of a chunk.
    const PER_CHUNK: u64 = {
        assert!(size_of::<T>() > 0, "an element has bytes");
        assert!(size_of::<T>() <= 4096, "an element has up to 4,096 bytes");
        assert!(align_of::<T>() <= HEADER, "an element is aligned to up to 64 bytes");
        usize_to_u64((SEGMENT_BYTES - HEADER) / size_of::<T>())
    };

    /// Elements that there can be. One place is for what is being replaced.
    pub const MAX_LEN: u64 = PARTS * Self::PER_CHUNK - 1;

    /// What tells the layout of elements from others.
    const LAYOUT: u64 = T::FINGERPRINT.rotate_left(8) ^ usize_to_u64(size_of::<T>());

    /// Creates an empty vector. Until its handle is in what survives, it is one that no successor opens.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory.
    pub fn create(pool: &'p Pool<'p, M>) -> Result<Self, Error> {
        let element = usize_to_u64(size_of::<T>());
        let words = [(at::KIND, KIND), (at::LAYOUT, Self::LAYOUT), (at::ELEMENT, element)];
        let body = Body::create(pool, &words)?;
        Ok(Self { body, of: PhantomData })
    }

    /// Opens the vector of a handle that the predecessor left, and brings to an end, or undoes, what was going on. Costs the same
    /// however many elements there are.
    ///
    /// # Errors
    /// [`Error::Handle`], [`Error::Slab`]: no handle of a container, or one that was opened in this kernel before; out of memory.
    /// [`Error::Mismatch`]: another container or version, or other elements. Then nothing is claimed: it can be opened as what it is.
    /// [`Error::Damaged`]: what was left is not sound, as for [`Map::open`](crate::Map::open).
    pub fn open(pool: &'p Pool<'p, M>, handle: Handle) -> Result<Self, Error> {
        let words = [(at::KIND, Field::Kind, KIND), (at::LAYOUT, Field::Layout, Self::LAYOUT)];
        let body = Body::open(pool, handle, &words)?;
        // SAFETY: the value that had a copy of the body was dropped with the error, and this one is not used again.
        Self::opened(body).map_err(|error| unsafe { body.not_opened(error) })
    }

    /// Returns the vector of a body that was opened.
    fn opened(body: Body<'p, M>) -> Result<Self, Error> {
        let vec = Self { body, of: PhantomData };
        body.expect(Field::Size, 0..=Self::MAX_LEN, vec.len())?;
        body.recover(|_, link, object| body.is_listed(link, object))?;
        let replaced = body.head.get(REPLACED);
        if replaced != 0 {
            if replaced <= vec.len() {
                vec.replace(replaced - 1)?;
            }
            body.head.set(REPLACED, 0);
        }
        Ok(vec)
    }

    /// Returns the sixteen bytes by which a successor opens the vector.
    pub const fn handle(&self) -> Handle {
        self.body.handle
    }

    /// Returns another value of the vector, for readers: neither changed nor dropped.
    pub(crate) const fn view(&self) -> Self {
        Self { body: self.body, of: PhantomData }
    }

    /// Returns how many elements there are.
    #[inline]
    pub fn len(&self) -> u64 {
        self.body.head.get(at::LEN)
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns where a place is; `None` if there is no chunk for it. Place 0 is for what is being replaced.
    #[inline]
    fn place(&self, place: u64) -> Result<Option<NonNull<T>>, Error> {
        let (chunk, index) = (place / Self::PER_CHUNK, u64_to_usize(place % Self::PER_CHUNK));
        let ptr = match self.body.parts.get(u64_to_usize(chunk)) {
            Some(ptr) => Some(ptr),
            None => self.find_chunk(chunk)?,
        };
        // SAFETY: a chunk of this vector has `PER_CHUNK` elements behind its header.
        Ok(ptr.map(|ptr| unsafe { ptr.add(HEADER).cast::<T>().add(index) }))
    }

    #[cold]
    fn find_chunk(&self, chunk: u64) -> Result<Option<NonNull<u8>>, Error> {
        let found = self.body.find_part(chunk, kind::CHUNK)?;
        if let Some(ptr) = found {
            self.body.parts.set(self.body.pool.slabs(), u64_to_usize(chunk), ptr.as_ptr());
        }
        Ok(found)
    }

    /// Returns where the place of an element that is there is.
    #[inline]
    fn element(&self, index: u64) -> Result<NonNull<T>, Error> {
        self.place(index + 1)?.ok_or_else(|| self.body.damaged(index, 0))
    }

    /// Returns an element; `None` beyond the last.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what the predecessor left is not sound.
    #[inline]
    pub fn get(&self, index: u64) -> Result<Option<&T>, Error> {
        if index >= self.len() {
            return Ok(None);
        }
        // SAFETY: an element of this vector, aligned to its chunk's 64 bytes; any bytes are a `T`, and what writes to it has the
        // vector alone.
        Ok(Some(unsafe { self.element(index)?.as_ref() }))
    }

    /// Adds an element behind the last.
    ///
    /// # Errors
    /// [`Error::Slab`] ([out of memory](Error::is_out_of_memory)); [`Error::Full`]; as for [`Vec::get`]. Nothing has changed then.
    pub fn push(&mut self, value: T) -> Result<(), Error> {
        let len = self.len();
        if len >= Self::MAX_LEN {
            return Err(Error::Full { max: Self::MAX_LEN });
        }
        let mut place = self.place(len + 1)?;
        if place.is_none() {
            self.body.add_part((len + 1) / Self::PER_CHUNK, kind::CHUNK)?;
            place = self.place(len + 1)?;
        }
        let place = place.ok_or_else(|| self.body.damaged(len, 0))?;
        // SAFETY: a place of this vector that no reader looks at before the length says so.
        unsafe { place.write(value) };
        // Here it happens.
        self.body.head.set(at::LEN, len + 1);
        Ok(())
    }

    /// Removes the last element and returns it.
    ///
    /// # Errors
    /// As for [`Vec::get`].
    pub fn pop(&mut self) -> Result<Option<T>, Error> {
        let Some(last) = self.len().checked_sub(1) else { return Ok(None) };
        // SAFETY: as in `get`; plain bytes may be copied.
        let value = unsafe { self.element(last)?.read() };
        // Here it happens.
        self.body.head.set(at::LEN, last);
        Ok(Some(value))
    }

    /// Replaces an element. Returns whether there is one of this index.
    ///
    /// # Errors
    /// As for [`Vec::get`].
    pub fn set(&mut self, index: u64, value: T) -> Result<bool, Error> {
        if index >= self.len() {
            return Ok(false);
        }
        self.element(index)?;
        let spare = self.place(0)?.ok_or_else(|| self.body.damaged(0, 0))?;
        // SAFETY: the place for it, which no reader looks at.
        unsafe { spare.write(value) };
        // Here it happens: a successor copies it, if this kernel does not come to it.
        self.body.head.set(REPLACED, index + 1);
        self.replace(index)?;
        self.body.head.set(REPLACED, 0);
        Ok(true)
    }

    /// Copies what is being replaced to its place.
    fn replace(&self, index: u64) -> Result<(), Error> {
        let spare = self.place(0)?.ok_or_else(|| self.body.damaged(0, 0))?;
        let place = self.element(index)?;
        settle();
        // SAFETY: two places of this vector, which the caller has alone.
        unsafe { place.copy_from_nonoverlapping(spare, 1) };
        settle();
        Ok(())
    }

    /// Shortens the vector to `len` elements, if it has more, by one store. Its chunks stay: see [`Vec::shrink`].
    pub fn truncate(&mut self, len: u64) {
        if len < self.len() {
            self.body.head.set(at::LEN, len);
        }
    }

    /// Frees the chunks that hold no element, from the last on.
    ///
    /// # Errors
    /// As for [`Vec::get`]; what was freed by then is.
    pub fn shrink(&mut self) -> Result<(), Error> {
        // The first chunk holds what is being replaced, too.
        let keep = if self.is_empty() { 0 } else { self.len() / Self::PER_CHUNK + 1 };
        self.body.trim(keep, kind::CHUNK)
    }

    /// Frees the vector.
    ///
    /// # Errors
    /// As for [`Vec::get`]; what is left can be opened by the next kernel.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.truncate(0);
        self.shrink()?;
        // SAFETY: this value's, which ends, and nothing leads from it to anything.
        unsafe { self.body.pool.free_head(self.body.addr) };
        Ok(())
    }

    /// Calls `each` with every element, the first first.
    ///
    /// # Errors
    /// As for [`Vec::get`].
    pub fn for_each(&self, mut each: impl FnMut(&T)) -> Result<(), Error> {
        for index in 0..self.len() {
            if let Some(element) = self.get(index)? {
                each(element);
            }
        }
        Ok(())
    }
}

impl<T: Persist, M: Machine> Drop for Vec<'_, T, M> {
    fn drop(&mut self) {
        // SAFETY: the value's own, which ends.
        unsafe { self.body.close() };
    }
}

#[cfg(test)]
mod tests;
