//! What becomes of an object that its container leads to no more: it is freed at once, or once no reader can look at it.

use heirloom_folio::Machine;

use crate::body::Body;
use crate::error::Error;
use crate::link::Link;
use crate::object::Object;
use crate::word::Word;

/// How a writer frees what it unlinks.
pub(crate) trait Retire {
    /// Whether readers are beside it.
    const SHARED: bool;

    /// Returns a word of the head, or of a line that the head leads to, for what is unlinked next, if it is to be named until it is
    /// freed. Called while nothing is being linked or unlinked: it may do so itself.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory for one; nothing has changed.
    fn reserve<'p, M: Machine>(&mut self, body: &Body<'p, M>) -> Result<Place<'p>, Error>;

    /// Notes that there are fewer buckets than there were: readers that are in may look at those still, and nothing names them.
    fn shrunk(&mut self);

    /// Frees an object, or names it to be freed. The head names it in [`OLD`](crate::head::at::OLD) meanwhile.
    ///
    /// # Safety
    /// The place was reserved since the last call. The link leads to the object, which is in use, this container's, and unlinked; the
    /// caller is its one writer, and alone if the strategy is not [`SHARED`](Retire::SHARED).
    unsafe fn retire<M: Machine>(
        &mut self,
        body: &Body<'_, M>,
        place: Place<'_>,
        link: Link,
        object: Object,
    ) -> Result<(), Error>;
}

/// Where an object is named that is not freed at once.
pub(crate) type Place<'p> = Option<&'p Word>;

/// Frees at once: there are no readers.
pub(crate) struct Now;

impl Retire for Now {
    const SHARED: bool = false;

    #[inline]
    fn reserve<'p, M: Machine>(&mut self, _: &Body<'p, M>) -> Result<Place<'p>, Error> {
        Ok(None)
    }

    #[inline]
    fn shrunk(&mut self) {}

    #[inline]
    unsafe fn retire<M: Machine>(
        &mut self,
        body: &Body<'_, M>,
        _: Place<'_>,
        link: Link,
        object: Object,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { body.free_found(link, object) }
    }
}
