//! An entry of a map: a key and its value, in one object.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use heirloom_kho::narrow::{low_u32, u16_to_u32, u32_to_usize, usize_to_u64};

use crate::class::Class;
use crate::error::{Error, Part};
use crate::object::{Object, Owner, kind};
use crate::word::Word;

/// Bytes of an entry before its key: its owner and lengths, and its mark.
pub const HEADER: usize = 24;

/// An entry of a map, as long as the map is not changed.
#[derive(Clone, Copy)]
pub struct Entry<'m> {
    object: Object,
    of: PhantomData<&'m [u8]>,
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("mark", &self.mark())
            .finish_non_exhaustive()
    }
}

/// What an entry is to hold.
pub(crate) struct NewEntry<'a> {
    pub(crate) owner: Owner,
    pub(crate) hash: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) mark: u64,
}

impl NewEntry<'_> {
    /// Bytes that the longest key can have.
    pub(crate) const MAX_KEY: usize = 0xfff0;

    /// Returns the class of the entry's object.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub(crate) fn class(&self) -> Result<Class, Error> {
        let too_long = |part, bytes, max| Error::TooLong { part, bytes, max };
        if self.key.len() > Self::MAX_KEY {
            return Err(too_long(Part::Key, self.key.len(), Self::MAX_KEY));
        }
        let max = heirloom_slab::MAX_OBJECT - HEADER - self.key.len();
        let bytes = self.value.len().min(max + 1) + self.key.len() + HEADER;
        Class::fitting(bytes).ok_or(too_long(Part::Value, self.value.len(), max))
    }

    /// Writes the entry to an object that is not in use yet.
    ///
    /// # Safety
    /// The object is the caller's, and of [`NewEntry::class`].
    pub(crate) unsafe fn write(&self, ptr: NonNull<u8>) {
        // (The longest key has fewer bytes than a kind's number: `class` said so.)
        let length = u16::try_from(self.key.len()).unwrap_or(kind::CHUNK);
        let more = u64::from(self.hash) << 32 | usize_to_u64(self.value.len());
        // SAFETY: the caller's promise.
        unsafe { Object::begin(ptr, self.owner, length, more) };
        // SAFETY: the third word of the caller's object.
        unsafe { ptr.add(16).cast::<Word>().as_ref() }.set(self.mark);
        // SAFETY: the class has room for header, key and value, one behind the other.
        unsafe {
            let key = ptr.add(HEADER);
            key.copy_from_nonoverlapping(NonNull::from(self.key).cast(), self.key.len());
            let value = key.add(self.key.len());
            value.copy_from_nonoverlapping(NonNull::from(self.value).cast(), self.value.len());
        }
    }
}

impl<'m> Entry<'m> {
    /// Returns the entry in an object; `None` if it is no entry, or says to be longer than the object is.
    ///
    /// # Safety
    /// The object is in use, of so many bytes, of a map that is not changed during `'m`.
    pub(crate) unsafe fn in_object(object: Object, bytes: usize) -> Option<Self> {
        let entry = Self { object, of: PhantomData };
        let (key, value) = (entry.key_len(), entry.value_len());
        let whole = key <= NewEntry::MAX_KEY
            && value.checked_add(HEADER + key).is_some_and(|all| all <= bytes);
        whole.then_some(entry)
    }

    /// Returns the entry at a pointer.
    ///
    /// # Safety
    /// As for [`Entry::in_object`], which found it to be one, in this kernel.
    #[inline]
    pub(crate) const unsafe fn at(ptr: NonNull<u8>) -> Self {
        // SAFETY: the caller's promise.
        Self { object: unsafe { Object::at(ptr) }, of: PhantomData }
    }

    /// Returns the object that it is in.
    #[inline]
    pub(crate) const fn object(self) -> Object {
        self.object
    }

    /// Returns the bytes of the key.
    #[inline]
    fn key_len(self) -> usize {
        u32_to_usize(u16_to_u32(self.object.kind()))
    }

    /// Returns the bytes of the value.
    #[inline]
    fn value_len(self) -> usize {
        u32_to_usize(low_u32(self.object.more()))
    }

    /// Returns the key.
    #[inline]
    pub fn key(&self) -> &'m [u8] {
        // SAFETY: `in_object` saw that the object has so many bytes behind the header; they were written before it was in use,
        // and are not changed, nor is it freed, as long as the map is not (contract of `in_object`).
        unsafe {
            NonNull::slice_from_raw_parts(self.object.ptr().add(HEADER), self.key_len()).as_ref()
        }
    }

    /// Returns the value.
    #[inline]
    pub fn value(&self) -> &'m [u8] {
        // SAFETY: as for `key`.
        unsafe {
            let value = self.object.ptr().add(HEADER + self.key_len());
            NonNull::slice_from_raw_parts(value, self.value_len()).as_ref()
        }
    }

    /// Returns the mark: a number of the caller's beside the value, which one store changes.
    #[inline]
    pub fn mark(&self) -> u64 {
        self.mark_word().get()
    }

    /// Changes the mark, by one store: to when it was last used, say, or when it expires. Other readers may do so at the same time.
    #[inline]
    pub fn set_mark(&self, mark: u64) {
        self.mark_word().set(mark);
    }

    /// Changes the mark, by one store, if it is `expected` still. Returns whether it was: of several threads that derive a new mark
    /// from the old one, none undoes what another did.
    #[inline]
    pub fn replace_mark(&self, expected: u64, mark: u64) -> bool {
        self.mark_word().replace(expected, mark)
    }

    #[inline]
    fn mark_word(self) -> &'m Word {
        // SAFETY: the third word, aligned to 8 bytes, which only atomics touch once the entry is in use.
        unsafe { self.object.ptr().add(16).cast().as_ref() }
    }

    /// Returns the low half of the key's hash, as the map was told it.
    #[inline]
    pub(crate) fn hash(self) -> u32 {
        low_u32(self.object.more() >> 32)
    }
}
