//! What the predecessor left: checked, reserved, and then looked up by its owners.

use heirloom_folio::sync::AtomicU64;

use heirloom_folio::{Block, Fate, Folio, Machine, Memory, PAGE_SIZE, PhysAddr, Run};
use heirloom_slab::Name as CacheName;

use crate::begin::NewHandover;
use crate::claim;
use crate::entry::{Entry, halves};
use crate::error::{Error, Fault, Table};
use crate::handover::Handover;
use crate::pages::Inherited;
use crate::root::{Name, RootView};
use crate::subtree::Producer;

/// What is known of a predecessor until the inheritance ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    root: PhysAddr,
    /// Pages that the predecessor did not preserve but that are in use until the end.
    held: [Option<Run>; 2],
    /// What calls of [`Handover::finish`] that were refused did for good.
    finished: Finished,
    /// Whether a call of [`Handover::finish`] is under way.
    ending: bool,
}

impl Past {
    /// Returns what is known of the predecessor whose root page is at `root`, for which the runs in
    /// `held` stay reserved until its end.
    pub(crate) fn new(root: PhysAddr, held: [Option<Run>; 2]) -> Self {
        Self { root, held, finished: Finished::default(), ending: false }
    }
}

/// Whether a handover must be sealed, and as it was when it was sealed.
///
/// A handover that was sealed can be [opened](crate::SealState::Opened): a successor found it whole,
/// and has been at work in it since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SealPolicy {
    /// A seal that is broken is refused; a handover that is not sealed, or opened, is taken.
    #[default]
    Checked,
    /// A handover that never was sealed is refused too; one that is opened is taken.
    Required,
    /// Only a handover that is sealed now is taken: one that is opened is refused too.
    SealedOnly,
    /// The seal is not looked at: structure alone is checked.
    Ignored,
}

/// Something that the predecessor preserved and nobody claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unclaimed {
    /// A folio, or a block of a run, an area or a large buffer: the tree does not tell which.
    Folio(Block),
    /// A slab of a cache that was not adopted, whole.
    Slab {
        /// The cache, as the predecessor named it.
        cache: CacheName,
        /// The slab.
        slab: Block,
        /// Preserved objects in it.
        objects: u32,
    },
    /// An object in a cache that was adopted, or a small buffer.
    Object {
        /// Its cache.
        cache: CacheName,
        /// Its address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: u32,
    },
}

impl From<heirloom_slab::Unclaimed> for Unclaimed {
    fn from(unclaimed: heirloom_slab::Unclaimed) -> Self {
        match unclaimed {
            heirloom_slab::Unclaimed::Slab { cache, slab, objects } => {
                Self::Slab { cache, slab, objects }
            }
            heirloom_slab::Unclaimed::Object { cache, addr, size } => {
                Self::Object { cache, addr, size }
            }
        }
    }
}

/// What [`Handover::finish`] found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    /// Blocks nobody claimed.
    pub folios: u64,
    /// Frames in them.
    pub frames: u64,
    /// Slabs of caches that were not adopted.
    pub slabs: u64,
    /// Objects nobody claimed, in slabs that were adopted.
    pub objects: u64,
}

/// A root that the predecessor published, claimed: its bytes, in a folio that dropping frees.
#[derive(Debug)]
pub struct Root<'m, M: Machine> {
    folio: Folio<'m, M>,
    bytes: usize,
}

impl<'m, M: Machine> Root<'m, M> {
    /// What was published.
    pub fn bytes(&self) -> &[u8] {
        self.folio.bytes().get(..self.bytes).unwrap_or(&[])
    }

    /// The folio that holds the bytes.
    pub fn into_folio(self) -> Folio<'m, M> {
        self.folio
    }
}

/// The old kernel is gone, and every page read here is one that it wrote and that nobody has
/// claimed. Before [`Handover::revive`] returns none can be: it alone has the memory. After that the
/// root page alone is read, under the lock of `past`: it is reserved, or has a label that no claim
/// of this layer takes, until the inheritance ends. (A published root has no label: it is read by
/// whoever claimed it, and only then.)
pub(crate) const fn left<M: Machine>(memory: &Memory<M>) -> Inherited<'_, M> {
    // SAFETY: see above: nothing writes what is read while the value is in use.
    unsafe { Inherited::new(memory) }
}

/// The words of a page that the predecessor left.
fn words<M: Machine>(
    memory: &Memory<M>,
    table: Table,
    at: PhysAddr,
    bytes: usize,
) -> Result<&[AtomicU64], Error> {
    let run = Run::covering(at, bytes as u64).filter(|run| memory.contains(*run));
    let outside = Fault::OutsideMemory { addr: at }.in_table(table, at, 0);
    run.ok_or(outside)?;
    let words = left_words(memory, at, bytes);
    words.ok_or(Fault::Misaligned { addr: at }.in_table(table, at, 0))
}

fn left_words<M: Machine>(memory: &Memory<M>, at: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
    // SAFETY: as for `left`.
    unsafe { crate::pages::words_at(memory, at, bytes) }
}

/// The predecessor's root page.
pub(crate) fn past_root<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<RootView<'_>, Error> {
    RootView::new(halves(words(memory, Table::Root, root, PAGE_SIZE)?), root)
}

impl<M: Machine> Handover<M> {
    /// Takes over from a predecessor: checks everything it left, holds what is preserved
    /// reserved, and starts a handover of its own. From here on every frame that the predecessor
    /// did not preserve is free memory.
    ///
    /// `memory` has all its ranges and nothing allocated; its metadata lies in scratch, where the
    /// scratch list is not, or outside its ranges. Time goes into reading the tables and into
    /// nothing that grows with memory.
    ///
    /// # Errors
    /// What is wrong with the tables and where: [`Error::Table`], [`Error::Folio`] (the tree),
    /// [`Error::Slab`] (caches and slabs), [`Error::Broken`] (the seal). [`Error::Folio`] also
    /// where so much is preserved that no memory is left for this kernel's own tables, about a
    /// dozen pages. The memory is given up then; nothing the predecessor preserved was written, so
    /// it can be tried again, or the machine started without it.
    pub fn revive(
        memory: Memory<M>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        Ok(NewHandover::revive(memory, entry, producer, seal)?.into_handover())
    }

    /// Who wrote the handover that this kernel came from, if it was heirloom; also once
    /// [`Handover::finish`] was called.
    pub const fn predecessor(&self) -> Option<Producer> {
        self.predecessor
    }

    /// Calls `each` with the name, address and size of every subtree that the predecessor left;
    /// none, once [`Handover::finish`] was called. No lock is held meanwhile: `each` may call
    /// anything, but [`Handover::finish`] is refused in it.
    ///
    /// # Errors
    /// None that `revive` did not find, but [`Error::Folio`] with
    /// [`Ending`](heirloom_folio::Error::Ending) while the inheritance of the memory is being ended.
    pub fn for_each_inherited_subtree(
        &self,
        mut each: impl FnMut(&str, PhysAddr, Option<u64>),
    ) -> Result<(), Error> {
        let Some(past) = self.left_behind() else { return Ok(()) };
        let Some(_held) = self.memory().hold_inheritance()? else { return Ok(()) };
        for subtree in past_root(self.memory(), past.root)?.subtrees() {
            let subtree = subtree?;
            each(subtree.name.as_str(), subtree.addr, subtree.size);
        }
        Ok(())
    }

    /// Claims what the predecessor published under `name`; once.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]: it published nothing of that name. [`Error::NotInherited`]: it is
    /// claimed already, or no folio holds all of it (a subtree of another make: read its address
    /// with [`Handover::for_each_inherited_subtree`]). [`Error::BadName`].
    pub fn claim_root(&self, name: &str) -> Result<Root<'_, M>, Error> {
        let name = Name::new(name)?;
        let memory = self.memory();
        let past = self.left_behind().ok_or(Error::NoSuchSubtree { name })?;
        let _held = memory.hold_inheritance()?.ok_or(Error::NoSuchSubtree { name })?;
        let subtree = past_root(memory, past.root)?.find(&name)?;
        let bytes = subtree.size.ok_or(Error::NotInherited { at: subtree.addr })?;
        let block = claim::blob(memory, subtree.addr, bytes)?;
        // SAFETY: claimed just now as a folio, by nobody else.
        let folio = unsafe { Folio::from_raw(memory, block) };
        Ok(Root { folio, bytes: usize::try_from(bytes).unwrap_or(0) })
    }

    /// Ends the inheritance. `fate` is asked about everything that nobody claimed, and decides
    /// whether it becomes free memory or is preserved again for the next kernel; the
    /// predecessor's own tables become free memory.
    ///
    /// A claim on another CPU either comes first, or is refused. This layer holds no lock while it
    /// calls `fate`, which may allocate, free, publish and look up; what it cannot do, finish
    /// once more or claim while the folios are asked about, is refused with
    /// [`Ending`](heirloom_folio::Error::Ending).
    ///
    /// The report is of all that was decided, by calls that were refused too. After such a call
    /// the next asks once more about what was kept in caches, object by object.
    ///
    /// # Errors
    /// [`Error::Folio`] or [`Error::Slab`]: no memory for keeping something;
    /// [`Claiming`](heirloom_folio::Error::Claiming): a claim, or a reader of what was left, is under
    /// way; [`Ending`](heirloom_folio::Error::Ending): another call of this is. What was
    /// decided so far stands, and the call can be repeated.
    /// [`TooManyCaches`](heirloom_slab::Error::TooManyCaches): what is kept needs more caches than
    /// there can be, as it will each time; repeat the call with [`Fate::Free`] for the rest.
    pub fn finish(&self, mut fate: impl FnMut(Unclaimed) -> Fate) -> Result<Finished, Error> {
        let memory = self.memory();
        let Some(mut ending) = Ending::begin(self)? else { return Ok(Finished::default()) };
        // What is kept in caches is asked about once more by the next call, if this one is refused.
        let (finished, mut kept) = (&mut ending.finished, Finished::default());
        let count = |unclaimed: heirloom_slab::Unclaimed, fate| {
            let count = if fate == Fate::Keep { &mut kept } else { &mut *finished };
            match unclaimed {
                heirloom_slab::Unclaimed::Slab { .. } => count.slabs += 1,
                heirloom_slab::Unclaimed::Object { .. } => count.objects += 1,
            }
        };
        self.slabs.finish_inherited_noting(|unclaimed| fate(unclaimed.into()), count)?;
        // The one that was asked about last, which a fault leaves as it was.
        let mut last = 0;
        let done = memory.disinherit(|block| {
            if memory.label_of(block).is_some() {
                last = 0;
                return Fate::Free;
            }
            let fate = fate(Unclaimed::Folio(block));
            last = block.order().frames();
            finished.folios += 1;
            finished.frames += last;
            fate
        });
        if done.is_err() {
            finished.folios -= u64::from(last > 0);
            finished.frames -= last;
        }
        done?;
        let (slabs, objects) = (finished.slabs + kept.slabs, finished.objects + kept.objects);
        let finished = Finished { slabs, objects, ..*finished };
        ending.done()?;
        Ok(finished)
    }

    /// What is known of the predecessor, until the inheritance has ended. Nothing keeps it from
    /// ending meanwhile but [`Memory::hold_inheritance`].
    fn left_behind(&self) -> Option<Past> {
        *self.past.lock()
    }
}

/// A call of [`Handover::finish`] that is under way, with no lock held: the only one. Dropped, by an
/// error or a panic of the caller's closure, it leaves what was decided to the next call.
struct Ending<'h, M: Machine> {
    handover: &'h Handover<M>,
    finished: Finished,
}

impl<'h, M: Machine> Ending<'h, M> {
    /// `None`: there is no inheritance, or none any more.
    fn begin(handover: &'h Handover<M>) -> Result<Option<Self>, Error> {
        let mut past = handover.past.lock();
        let Some(past) = past.as_mut() else { return Ok(None) };
        if core::mem::replace(&mut past.ending, true) {
            return Err(heirloom_folio::Error::Ending.into());
        }
        Ok(Some(Self { handover, finished: past.finished }))
    }

    /// The inheritance of the memory has ended.
    fn done(self) -> Result<(), Error> {
        let held = self.handover.past.lock().map_or([None; 2], |past| past.held);
        for run in held.into_iter().flatten() {
            // SAFETY: `hold_entry` reserved it, and nothing reads the predecessor's pages again:
            // each reader holds the inheritance, which has ended.
            unsafe { self.handover.memory().release(run) }?;
        }
        *self.handover.past.lock() = None;
        // The predecessor's tables are free memory by now.
        self.handover.fill_reserve();
        Ok(())
    }
}

impl<M: Machine> Drop for Ending<'_, M> {
    fn drop(&mut self) {
        if let Some(past) = self.handover.past.lock().as_mut() {
            (past.finished, past.ending) = (self.finished, false);
        }
    }
}
