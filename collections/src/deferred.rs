//! Objects that are unlinked and not freed yet, as readers may look at them. A successor finds their names, and frees them.
//!
//! ```text
//!   words of the head    11 ─ 19  20      two sets of nine links, and a link to more: what is unlinked now goes to the one,
//!                        21 ─ 29  30      what is in the other is freed once all readers have left that were in when it was full
//!
//!   a line of more       | link | link | link | link | link | link | link | next |
//! ```
//!
//! So an object waits for two visits at most that begin after it was unlinked, and the writer waits for none: a reader that stays
//! in costs memory.

use heirloom_folio::Machine;

use crate::body::Body;
use crate::class::Class;
use crate::error::Error;
use crate::head::{Head, at};
use crate::line::{LINE_BYTES, Line};
use crate::link::Link;
use crate::object::{Object, kind};
use crate::readers::{Grace, Noted, Readers};
use crate::retire::{Place, Retire};
use crate::word::Word;

/// Links of a set in the head.
const DIRECT: usize = 9;
const SETS: [Set; 2] = [Set(0), Set(1)];

/// One of the two sets.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set(usize);

impl Set {
    const fn other(self) -> Self {
        Self(1 - self.0)
    }

    /// Returns the word of the head that leads to the first line of more.
    const fn more(self) -> usize {
        at::DEFERRED + self.0 * (DIRECT + 1) + DIRECT
    }

    /// Returns the words of the head that name objects.
    fn direct<'p, M: Machine>(self, body: &Body<'p, M>) -> impl Iterator<Item = &'p Word> {
        let (body, first) = (*body, self.more() - DIRECT);
        (first..first + DIRECT).map(move |index| body.head_word(index))
    }

    /// Returns the first line of more.
    ///
    /// # Safety
    /// This kernel added it, or looked at it.
    unsafe fn line<'p, M: Machine>(self, body: &Body<'p, M>) -> Option<(Link, Line<'p>)> {
        let link = Link::from_bits(body.head.get(self.more()));
        // SAFETY: an object of this container with a line at 16 (contract), in use as long as it is linked.
        (!link.is_none()).then(|| (link, unsafe { Line::at(body.pool.ptr(link).add(16)) }))
    }

    /// Frees all that it names.
    ///
    /// # Safety
    /// This kernel named it. No reader looks at it, or will.
    unsafe fn free<M: Machine>(self, body: &Body<'_, M>) -> Result<(), Error> {
        let free = |word: &Word| -> Result<(), Error> {
            let link = Link::from_bits(word.get());
            if !link.is_none() {
                // SAFETY: named by `retire`: in use and unlinked; its words are atomics.
                unsafe { body.free_found(link, Object::at(body.pool.ptr(link))) }?;
                word.set(0);
            }
            Ok(())
        };
        self.direct(body).try_for_each(free)?;
        // SAFETY: added by this kernel.
        while let Some((link, line)) = unsafe { self.line(body) } {
            line.links().try_for_each(free)?;
            // SAFETY: the set's first, in use, and its words are atomics.
            unsafe { self.drop_line(body, link, line.next(), Object::at(body.pool.ptr(link))) }?;
        }
        Ok(())
    }

    /// Frees the first line of more.
    ///
    /// # Safety
    /// It is that, and an object of this container in use.
    unsafe fn drop_line<M: Machine>(
        self,
        body: &Body<'_, M>,
        link: Link,
        next: &Word,
        object: Object,
    ) -> Result<(), Error> {
        body.head.set(at::OLD, link.bits());
        body.head.set(self.more(), next.get());
        // SAFETY: the caller's promise, and unlinked just now.
        unsafe { body.free_found(link, object) }?;
        body.head.set(at::OLD, 0);
        Ok(())
    }
}

/// Returns whether a head leads to this line of more.
pub(crate) fn leads(head: Head, link: Link) -> bool {
    SETS.iter().any(|set| Link::from_bits(head.get(set.more())).same_object(link))
}

/// Frees what a predecessor had unlinked and not freed: `is_linked` is asked of each object.
pub(crate) fn recover<M: Machine>(
    body: &Body<'_, M>,
    is_linked: impl Fn(Link, Object) -> Result<bool, Error>,
) -> Result<(), Error> {
    let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
    let free = |word: &Word| -> Result<(), Error> {
        let link = Link::from_bits(word.get());
        if link.is_none() {
            return Ok(());
        }
        if let Some(object) = body.pool.follow(link, body.owner())?
            && !is_linked(link, object)?
        {
            body.free(link)?;
        }
        word.set(0);
        Ok(())
    };
    for set in SETS {
        set.direct(body).try_for_each(free)?;
        loop {
            let link = Link::from_bits(body.head.get(set.more()));
            if link.is_none() {
                break;
            }
            let Some(object) = body
                .pool
                .follow(link, body.owner())?
                .filter(|object| link.class() == Some(class) && object.kind() == kind::DEFERRED)
            else {
                // Forged: it leads to no line.
                body.head.set(set.more(), 0);
                break;
            };
            // SAFETY: eight words behind the first two, which only atomics touch; in use until it is freed below.
            let names = unsafe { Line::at(object.ptr().add(16)) };
            names.links().try_for_each(free)?;
            // (What leads back to a line that was freed leads to none.)
            // SAFETY: in use still: `leads` says of the first line that it is linked.
            unsafe { set.drop_line(body, link, names.next(), object) }?;
        }
    }
    Ok(())
}

/// Returns what counts the readers of a container, of which there are none, and frees what was deferred for those that there were.
///
/// # Safety
/// The container is borrowed alone during `'m`. What has it calls neither this nor [`end_split`] meanwhile.
pub(crate) unsafe fn begin_split<'m, M: Machine>(
    body: &Body<'_, M>,
    noted: &mut Option<Noted>,
) -> Result<&'m Readers, Error> {
    let readers = match noted.take() {
        Some(before) => before,
        None => Noted::new(body.pool.slabs())?,
    };
    let readers = noted.insert(readers);
    // SAFETY: named by this kernel, as `recover` left nothing, and what borrowed the container for readers has ended.
    SETS.iter().try_for_each(|set| unsafe { set.free(body) })?;
    // SAFETY: the caller's promise.
    Ok(unsafe { readers.reset() })
}

/// Frees what was deferred for readers, and what counts them, if a container was ever split. The caller has it alone.
pub(crate) fn end_split<M: Machine>(
    body: &Body<'_, M>,
    noted: &mut Option<Noted>,
) -> Result<(), Error> {
    let Some(readers) = noted.take() else { return Ok(()) };
    readers.give_back(body.pool.slabs());
    // SAFETY: as in `begin_split`.
    SETS.iter().try_for_each(|set| unsafe { set.free(body) })
}

/// Frees once all readers have left that were in.
pub(crate) struct Later<'m> {
    readers: &'m Readers,
    /// What is unlinked goes to this set.
    open: Set,
    /// How many of its words in the head name an object, and how many in its first line of more, once those do.
    used: usize,
    in_line: usize,
    /// Whether there is more in the open set than the head names: buckets that there are no more.
    more: bool,
    /// Whether there may be segments of such buckets.
    pub(crate) trims: bool,
    /// Whether the other set waits, and for what.
    waits: bool,
    grace: Grace,
    /// What is called until readers have left, where there is no memory without what they may look at.
    wait: Option<fn()>,
}

impl<'m> Later<'m> {
    /// Returns what has nothing to free: both sets are empty.
    pub(crate) fn new(readers: &'m Readers) -> Self {
        let grace = Grace::default();
        Self {
            readers,
            open: Set(0),
            used: 0,
            in_line: 0,
            more: false,
            trims: false,
            waits: false,
            grace,
            wait: None,
        }
    }

    /// Has it wait for readers where memory is full.
    pub(crate) const fn wait_by(&mut self, wait: fn()) {
        self.wait = Some(wait);
    }

    /// Frees what no reader can look at any more: all, if it is to wait for readers.
    pub(crate) fn make_room<M: Machine>(&mut self, body: &Body<'_, M>) -> Result<(), Error> {
        while !self.reclaim(body)? {
            let Some(wait) = self.wait else { break };
            wait();
        }
        Ok(())
    }

    /// Returns the word for what is unlinked next, if there is one.
    fn place<'p, M: Machine>(&self, body: &Body<'p, M>) -> Place<'p> {
        if self.used < DIRECT {
            return self.open.direct(body).nth(self.used);
        }
        // SAFETY: added by this kernel.
        let (_, line) = unsafe { self.open.line(body) }?;
        line.link(self.in_line)
    }

    /// Adds a line to the open set.
    fn add_line<M: Machine>(&mut self, body: &Body<'_, M>) -> Result<(), Error> {
        let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
        let (owner, next) = (body.owner(), body.head.get(self.open.more()));
        // SAFETY: the object's bytes, and its owner's words first.
        let link = unsafe {
            body.alloc(class, |object| {
                Object::begin(object, owner, kind::DEFERRED, 0);
                let line = Line::at(object.add(16));
                line.links().for_each(|word| word.set(0));
                line.next().set(next);
            })
        }?;
        body.head.set(self.open.more(), link.bits());
        body.head.set(at::NEW, 0);
        self.in_line = 0;
        Ok(())
    }

    /// Returns whether there is anything to free.
    pub(crate) const fn holds(&self) -> bool {
        self.used > 0 || self.more || self.waits
    }

    /// Frees what no reader can look at any more, without waiting for any. Returns whether nothing is left.
    pub(crate) fn reclaim<M: Machine>(&mut self, body: &Body<'_, M>) -> Result<bool, Error> {
        loop {
            if self.waits {
                if !self.grace.is_over(self.readers) {
                    return Ok(false);
                }
                // SAFETY: named by this kernel, and all readers have left that were in when it was unlinked.
                unsafe { self.open.other().free(body) }?;
                self.waits = false;
            }
            if self.used == 0 && !self.more {
                return Ok(true);
            }
            self.more = false;
            self.open = self.open.other();
            (self.used, self.in_line, self.waits) = (0, 0, true);
            self.grace = Grace::begin(self.readers);
        }
    }
}

impl Retire for Later<'_> {
    const SHARED: bool = true;

    fn shrunk(&mut self) {
        (self.more, self.trims) = (true, true);
    }

    fn reserve<'p, M: Machine>(&mut self, body: &Body<'p, M>) -> Result<Place<'p>, Error> {
        if let Some(place) = self.place(body) {
            return Ok(Some(place));
        }
        // What cannot be freed now can be later.
        let _ = self.reclaim(body);
        if self.place(body).is_none()
            && let Err(error) = self.add_line(body)
        {
            if self.wait.is_none() || !error.is_out_of_memory() {
                return Err(error);
            }
            self.make_room(body)?;
        }
        Ok(self.place(body))
    }

    unsafe fn retire<M: Machine>(
        &mut self,
        body: &Body<'_, M>,
        place: Place<'_>,
        link: Link,
        _: Object,
    ) -> Result<(), Error> {
        let Some(place) = place else { return Err(body.damaged(0, link.bits())) };
        place.set(link.bits());
        if self.used < DIRECT {
            self.used += 1;
        } else {
            self.in_line += 1;
        }
        Ok(())
    }
}
