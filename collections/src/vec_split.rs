//! A vector's readers beside one that pushes: elements that are there stay where they are, and as they are.

use core::fmt;
use core::mem::ManuallyDrop;

use heirloom_folio::Machine;
use heirloom_slab::Persist;

use crate::error::Error;
use crate::vec::Vec;

impl<'p, T: Persist, M: Machine> Vec<'p, T, M> {
    /// Splits the vector into what pushes elements and a reader, which go on beside one another: on several threads, say. The
    /// reader is cloned for more of them. Elements are not replaced or removed meanwhile: so a reader may keep what it finds.
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
    /// struct Sample {
    ///     value: u64,
    /// }
    /// persist!(Sample { value });
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let pool = Pool::open(&slabs)?;
    /// let mut samples = Vec::<Sample, _>::create(&pool)?;
    /// let (mut writer, reader) = samples.split();
    /// writer.push(Sample { value: 1 })?;
    /// let first = reader.get(0)?.expect("it is there");
    /// writer.push(Sample { value: 2 })?;
    /// assert_eq!((first.value, reader.len()), (1, 2));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub const fn split(&mut self) -> (VecWriter<'_, 'p, T, M>, VecReader<'_, T, M>) {
        let reader = VecReader(ManuallyDrop::new(self.view()));
        (VecWriter(self), reader)
    }
}

/// What pushes elements to a [split](Vec::split) vector.
pub struct VecWriter<'v, 'p, T: Persist, M: Machine>(&'v mut Vec<'p, T, M>);

impl<T: Persist, M: Machine> fmt::Debug for VecWriter<'_, '_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VecWriter").field(&self.0).finish()
    }
}

impl<T: Persist, M: Machine> VecWriter<'_, '_, T, M> {
    /// Adds an element behind the last, as [`Vec::push`] does.
    ///
    /// # Errors
    /// As for [`Vec::push`].
    pub fn push(&mut self, value: T) -> Result<(), Error> {
        self.0.push(value)
    }
}

/// A reader of a [split](Vec::split) vector, beside what pushes elements to it.
// (The vector's value is another's, which is borrowed for as long: this one is not dropped.)
pub struct VecReader<'v, T: Persist, M: Machine>(ManuallyDrop<Vec<'v, T, M>>);

impl<T: Persist, M: Machine> Clone for VecReader<'_, T, M> {
    fn clone(&self) -> Self {
        Self(ManuallyDrop::new(self.0.view()))
    }
}

impl<T: Persist, M: Machine> fmt::Debug for VecReader<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VecReader").field(&*self.0).finish()
    }
}

impl<'v, T: Persist, M: Machine> VecReader<'v, T, M> {
    /// Returns an element; `None` beyond the last that is there now.
    ///
    /// # Errors
    /// As for [`Vec::get`].
    pub fn get(&self, index: u64) -> Result<Option<&'v T>, Error> {
        let found = self.0.get(index)?.map(core::ptr::from_ref);
        // SAFETY: an element that is there is neither changed nor freed as long as the vector is split.
        Ok(found.map(|element| unsafe { &*element }))
    }

    /// Returns how many elements there are now.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
