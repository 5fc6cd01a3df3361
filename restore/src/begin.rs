//! How a handover begins: with nothing in it, or by going on with what a predecessor left.
//!
//! A kernel's stack is small, and a [`Heirloom`] is a kilobyte: each function that one is returned
//! through has a place for it there. So it is made last. What goes deep comes before, step by step,
//! each with a frame that is gone when the next begins:
//!
//! ```text
//!  fresh     scratch reserved ─────────────────────────> caches, pages ──────────┐
//!                                                                                ├─> reserve ─> Heirloom
//!  revive    scratch reserved ─> tree ─> tables, header, seal, caches ─> opened ─┘
//!                                 nothing that survives is written │ one store after another
//! ```
//!
//! Up to the bar all is checked, and what is found is noted in this kernel's own metadata alone. Behind
//! it each store leaves a whole handover: a kernel that ends there has changed nothing for the next.

mod check;
mod proceed;

use check::{check_left, hold_scratch};
use heirloom_folio::{Machine, Memory};
use heirloom_kho::PageSize;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{Header, HeaderPage, Producer, Run, ScratchList, Table};
use heirloom_slab::internal::NewSlabs;
use lock_api::Mutex;
use proceed::{GoneOn, drop_lost, go_on, root_of};

use crate::entry::Entry;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::moved::{Moved, end_before};
use crate::names::Names;
use crate::own_pages::OwnPages;
use crate::pages::words_at;
use crate::predecessor::{Predecessor, SealPolicy};
use crate::records::Records;
use crate::reserve::{self, Reserve};
use crate::seal::Stored;

/// All that a [`Heirloom`] is made from. See the top of the file.
pub(crate) struct NewHeirloom<M: Machine> {
    slabs: NewSlabs<M>,
    pages: OwnPages,
    names: Names,
    moved: Option<Moved>,
    lost: u32,
    predecessor: Option<Producer>,
    reserve: Reserve,
}

impl<M: Machine> NewHeirloom<M> {
    /// Returns what [`Heirloom::boot_memory`] makes the handover from.
    ///
    /// # Errors
    /// As for [`Heirloom::boot_memory`].
    #[inline(never)]
    pub(crate) fn fresh(memory: Memory<M>, scratch: &[Run], producer: &str) -> Result<Self, Error> {
        keep_scratch(&memory, scratch)?;
        large_enough(&memory, scratch)?;
        let slabs = NewSlabs::new(memory)?;
        let pages = OwnPages::create(&slabs, scratch.iter().copied(), producer, 0)?;
        let reserve = Reserve::of(slabs.memory());
        if reserve.frames() < reserve::FRAMES {
            // The memory is larger, and not all of it free.
            return Err(too_small(reserve::LEAST - reserve::FRAMES + reserve.frames()));
        }
        let (names, moved, lost, predecessor) = (Names::NONE, None, 0, None);
        Ok(Self { slabs, pages, names, moved, lost, predecessor, reserve })
    }

    /// Returns what [`Heirloom::revive_memory`] makes the handover from.
    ///
    /// # Errors
    /// As for [`Heirloom::revive_memory`].
    #[inline(never)]
    pub(crate) fn revive(
        mut memory: Memory<M>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        let sealable = take_over(&mut memory, entry)?;
        let mut left = Predecessor::default();
        check_left(&memory, entry, seal, sealable, &mut left)?;
        Self::after(memory, entry, producer, &left)
    }

    /// Returns what is left to do once the predecessor's tables are known to be sound.
    #[inline(never)]
    fn after(
        memory: Memory<M>,
        entry: Entry,
        producer: &str,
        left: &Predecessor,
    ) -> Result<Self, Error> {
        let mut slabs = new_slabs(memory, left)?;
        // Before anything is let go, which that entry would still find.
        end_before(slabs.memory(), entry.root, left.before)?;
        // Before anything is let go: what the check found in use leads to something still.
        slabs.prune();
        drop_seal(slabs.memory(), left);
        let GoneOn { pages, moved, lost } = go_on(&slabs, entry, producer, left)?;
        // Called here and not by `go_on`, whose frame would stand above this one's on a small stack. A root
        // page that `go_on` has written has no such name.
        let lost = lost + drop_lost(slabs.memory(), pages.entry)?;
        let names = Names::inherited(&root_of(slabs.memory(), pages.entry)?)?;
        let reserve = Reserve::of(slabs.memory());
        Ok(Self { slabs, pages, names, moved, lost, predecessor: left.producer, reserve })
    }

    /// Returns the kernel's object, with its metadata in these frames.
    #[inline]
    pub(crate) fn into_heirloom(self, metadata: Run) -> Heirloom<M> {
        let Self { slabs, pages, names, moved, lost, predecessor, reserve } = self;
        Heirloom {
            metadata,
            slabs: slabs.into_slabs(),
            pages,
            predecessor,
            lost,
            edit: Mutex::new(names),
            moved: Mutex::new(moved),
            reserve: Mutex::new(reserve),
        }
    }
}

/// Reserves the areas that are given for scratch.
#[inline(never)]
fn keep_scratch<M: Machine>(memory: &Memory<M>, scratch: &[Run]) -> Result<(), Error> {
    let (table, limit) = (Table::Scratch, ScratchList::LIMIT);
    if scratch.len() > limit {
        return Err(Error::TableFull { table, limit: usize_to_u64(limit) });
    }
    if let Some(run) = scratch.iter().copied().find(|run| run.is_empty()) {
        return Err(Error::BadRun { table, run });
    }
    for area in scratch {
        memory.reserve(*area)?;
    }
    Ok(())
}

/// Returns the error that says how many frames a handover takes.
const fn too_small(frames: u64) -> Error {
    Error::MemoryTooSmall { frames, needed: reserve::LEAST }
}

/// Checks that there can be memory beside `scratch` for a handover and for its successor's tables.
#[inline(never)]
fn large_enough<M: Machine>(memory: &Memory<M>, scratch: &[Run]) -> Result<(), Error> {
    let beside = memory.frames().saturating_sub(scratch.iter().map(|area| area.frames()).sum());
    if beside < reserve::LEAST { Err(too_small(beside)) } else { Ok(()) }
}

/// Reserves the scratch areas and takes the tree over; how many frames there are that a seal can
/// cover.
#[inline(never)]
fn take_over<M: Machine>(memory: &mut Memory<M>, entry: Entry) -> Result<u64, Error> {
    let map = hold_scratch(memory, entry)?;
    Ok(memory
        .take_over_in_place(map, |counts| crate::check::sealable(counts, entry, PageSize::BUILD))?)
}

/// Returns what slabs are made from, with the predecessor's caches if it had any. The cache directory is the
/// last to be checked: then the seal is opened, and from there on the handover is changed.
#[inline(never)]
fn new_slabs<M: Machine>(memory: Memory<M>, left: &Predecessor) -> Result<NewSlabs<M>, Error> {
    if let Some(directory) = left.cache_directory {
        let slabs = NewSlabs::revive(memory, directory)?;
        open_seal(slabs.memory(), left)?;
        return Ok(slabs);
    }
    open_seal(&memory, left)?;
    Ok(NewSlabs::new(memory)?)
}

/// Says that the seal was found whole and is open from now on, or, if it was not looked at, that
/// there is none.
#[inline(never)]
fn open_seal<M: Machine>(memory: &Memory<M>, left: &Predecessor) -> Result<(), Error> {
    let (Some(_), Some((at, _))) = (left.seal, left.header) else { return Ok(()) };
    // SAFETY: a page that the check took, which nothing else reaches.
    let words = unsafe { words_at(memory, at, Header::SIZE) }.unwrap_or(&[]);
    Ok(HeaderPage::open_at(words, at, left.opened)?)
}

/// Gives the table of a seal back that is opened, if all of it was taken.
#[inline(never)]
fn drop_seal<M: Machine>(memory: &Memory<M>, left: &Predecessor) {
    let Some((info, true)) = left.seal else { return };
    // SAFETY: `check_seal` took each of its blocks; the header names it no more.
    let table = unsafe { Records::<_, Stored>::from_raw(memory, info.first) };
    // One that is not sound was not to be looked at, and stays.
    let _ = table.map(Records::free);
}
