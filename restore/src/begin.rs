//! How a handover begins: with nothing in it, or with what a predecessor left.
//!
//! A kernel's stack is small, and a [`Handover`] is a kilobyte: each function that one is returned
//! through has a place for it there. So it is made last. What goes deep comes before, step by step,
//! each with a frame that is gone when the next begins:
//!
//! ```text
//!  fresh     scratch reserved ─────────────────────────────────────┐
//!                                                                  ├─> roll, pages, reserve ─> Handover
//!  revive    scratch reserved ─> tree ─> tables, header, seal ─────┘
//! ```

use heirloom_folio::{Block, Kind, Machine, Memory, PhysAddr, Run};
use heirloom_slab::NewSlabs;
use lock_api::Mutex;

use crate::check::{self, Place};
use crate::entry::Entry;
use crate::error::{Error, Fault, Table};
use crate::handover::{Handover, OwnPages, Published};
use crate::past::{Past, SealPolicy, left, past_root};
use crate::reserve::{self, Reserve};
use crate::scratch::ScratchList;
use crate::seal;
use crate::subtree::{Producer, SealState};

/// All that a [`Handover`] is made from. See the top of the file.
#[doc(hidden)]
pub struct NewHandover<M: Machine> {
    slabs: NewSlabs<M>,
    pages: OwnPages,
    past: Option<(Past, Option<Producer>)>,
    reserve: Reserve,
}

impl<M: Machine> NewHandover<M> {
    /// Returns what [`Handover::fresh`] makes the handover from.
    ///
    /// # Errors
    /// As for [`Handover::fresh`].
    #[inline(never)]
    pub fn fresh(memory: Memory<M>, scratch: &[Run], producer: &str) -> Result<Self, Error> {
        keep_scratch(&memory, scratch)?;
        large_enough(&memory, scratch)?;
        let slabs = NewSlabs::new(memory)?;
        let pages = OwnPages::create(&slabs, scratch.iter().copied(), producer, 0)?;
        let reserve = Reserve::of(slabs.memory());
        if reserve.frames() < reserve::FRAMES {
            // The memory is larger, and not all of it free.
            return Err(too_small(reserve::LEAST - reserve::FRAMES + reserve.frames()));
        }
        Ok(Self { slabs, pages, past: None, reserve })
    }

    /// Returns what [`Handover::revive`] makes the handover from.
    ///
    /// # Errors
    /// As for [`Handover::revive`].
    #[inline(never)]
    pub fn revive(
        mut memory: Memory<M>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        let sealable = inherit(&mut memory, entry)?;
        let mut left = Predecessor::default();
        check_left(&memory, entry, seal, sealable, &mut left)?;
        Self::after(memory, entry, producer, &left)
    }

    /// What is left to do once the predecessor's tables are known to be sound.
    #[inline(never)]
    fn after(
        memory: Memory<M>,
        entry: Entry,
        producer: &str,
        left: &Predecessor,
    ) -> Result<Self, Error> {
        let slabs = new_slabs(memory, left.roll)?;
        let pages = own_pages(&slabs, entry, producer, left.generation)?;
        let reserve = Reserve::of(slabs.memory());
        let past = Some((Past::new(entry.root, left.held), left.producer));
        Ok(Self { slabs, pages, past, reserve })
    }

    /// The handover.
    #[inline]
    pub fn into_handover(self) -> Handover<M> {
        let Self { slabs, pages, past, reserve } = self;
        Handover {
            slabs: slabs.into_slabs(),
            pages,
            predecessor: past.and_then(|(_, producer)| producer),
            edit: Mutex::new(Published::NONE),
            past: Mutex::new(past.map(|(past, _)| past)),
            reserve: Mutex::new(reserve),
        }
    }
}

/// Reserves the areas that are given for scratch.
#[inline(never)]
fn keep_scratch<M: Machine>(memory: &Memory<M>, scratch: &[Run]) -> Result<(), Error> {
    let (table, limit) = (Table::Scratch, ScratchList::LIMIT);
    if scratch.len() > limit {
        return Err(Error::TableFull { table, limit: limit as u64 });
    }
    if let Some(run) = scratch.iter().copied().find(|run| run.is_empty()) {
        return Err(Error::BadRun { table, run });
    }
    for area in scratch {
        memory.reserve(*area)?;
    }
    Ok(())
}

/// The error that says how many frames a handover takes.
const fn too_small(frames: u64) -> Error {
    Error::MemoryTooSmall { frames, needed: reserve::LEAST }
}

/// Whether there can be memory beside `scratch` for a handover and for its successor's tables.
#[inline(never)]
fn large_enough<M: Machine>(memory: &Memory<M>, scratch: &[Run]) -> Result<(), Error> {
    let frames: u64 = memory.ranges().map(|(run, _)| run.frames()).sum();
    let beside = frames.saturating_sub(scratch.iter().map(|area| area.frames()).sum());
    if beside < reserve::LEAST { Err(too_small(beside)) } else { Ok(()) }
}

/// Reserves the scratch areas and takes the tree over; how many frames there are that a seal can
/// cover.
#[inline(never)]
fn inherit<M: Machine>(memory: &mut Memory<M>, entry: Entry) -> Result<u64, Error> {
    let map = hold_scratch(memory, entry)?;
    Ok(memory.take_over(map, |counts| check::sealable(counts, entry))?)
}

/// What is known of the predecessor, once its tables are checked; little, if it was not heirloom.
#[derive(Default)]
struct Predecessor {
    /// Pages that it did not preserve, which are reserved.
    held: [Option<Run>; 2],
    /// Where its header is.
    header: Option<PhysAddr>,
    generation: u64,
    producer: Option<Producer>,
    roll: Option<PhysAddr>,
}

/// Checks what lies beside the tree, and keeps the predecessor's pages from being used.
#[inline(never)]
fn check_left<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
    seal: SealPolicy,
    sealable: u64,
    says: &mut Predecessor,
) -> Result<(), Error> {
    says.held = hold_entry(memory, entry)?;
    let state = read_header(memory, entry, says)?;
    check_seal(memory, state, seal, sealable)?;
    match says.header {
        Some(page) => label_table(memory, Table::Header, page),
        None => Ok(()),
    }
}

/// Checks the subtrees, and takes note of what the header says; whether it is sealed.
#[inline(never)]
fn read_header<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
    says: &mut Predecessor,
) -> Result<SealState, Error> {
    let root = past_root(memory, entry.root)?;
    let Some((page, header)) = check::subtrees(&left(memory), &root, Err)? else {
        return Ok(SealState::Unsealed);
    };
    says.header = Some(page);
    (says.generation, says.roll) = (header.generation, header.roll);
    says.producer = Some(header.producer);
    Ok(header.seal)
}

/// What slabs are made from, with the predecessor's caches if it had any.
#[inline(never)]
fn new_slabs<M: Machine>(memory: Memory<M>, roll: Option<PhysAddr>) -> Result<NewSlabs<M>, Error> {
    let slabs = match roll {
        Some(roll) => NewSlabs::revive(memory, roll),
        None => NewSlabs::new(memory),
    };
    slabs.map_err(Error::from)
}

/// This kernel's own pages, with the scratch areas of its predecessor, of `generation`.
#[inline(never)]
fn own_pages<M: Machine>(
    slabs: &NewSlabs<M>,
    entry: Entry,
    producer: &str,
    generation: u64,
) -> Result<OwnPages, Error> {
    let areas = scratch_list(slabs.memory(), entry)?;
    OwnPages::create(slabs, areas.runs(), producer, generation.saturating_add(1))
}

/// Reserves the scratch areas, in which nothing but the list itself may lie, and finds the map.
#[inline(never)]
fn hold_scratch<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<PhysAddr, Error> {
    for area in scratch_list(memory, entry)?.runs() {
        memory.reserve(area)?;
    }
    Ok(past_root(memory, entry.root)?.map())
}

fn scratch_list<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<ScratchList<'_>, Error> {
    // SAFETY: the memory covers what it contains; nothing writes the predecessor's pages.
    unsafe { entry.scratch_areas(memory.machine(), |run| memory.contains(run)) }
}

/// Keeps the root page and the scratch list from being used: labelled where they are preserved,
/// reserved where they are not. Returns what was reserved.
#[inline(never)]
fn hold_entry<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<[Option<Run>; 2], Error> {
    let mut held = [None; 2];
    let areas = scratch_list(memory, entry)?;
    // What lies in scratch is reserved with it.
    let tables = entry.tables().filter(|(_, run)| !areas.overlaps(*run));
    for (slot, (table, run)) in held.iter_mut().zip(tables) {
        match check::place(&left(memory), table, run)? {
            Place::Preserved(block) => label_block(memory, table, block)?,
            Place::Free(run) => {
                memory.reserve(run)?;
                *slot = Some(run);
            }
        }
    }
    if let Some(block) = entry.empty_list(&left(memory))
        && memory.label_of(block).is_none()
    {
        label_block(memory, Table::Scratch, block)?;
    }
    Ok(held)
}

/// Labels the block that holds the table at `addr`.
fn label_table<M: Machine>(memory: &Memory<M>, table: Table, addr: PhysAddr) -> Result<(), Error> {
    let block = memory.inherited_block(addr.pfn()).ok_or(Error::NotInherited { at: addr })?;
    label_block(memory, table, block)
}

/// Labels the block of a table, which must be no other table's.
fn label_block<M: Machine>(memory: &Memory<M>, table: Table, block: Block) -> Result<(), Error> {
    // SAFETY: this layer reads the predecessor's tables, and found this one.
    unsafe { memory.label(block, Kind::Table) }.map_err(|error| match error {
        heirloom_folio::Error::WrongKind { .. } => {
            Fault::Shared { block }.in_table(table, block.addr(), 0)
        }
        other => other.into(),
    })
}

/// Looks at the seal, which covers at most `frames` frames, as `policy` demands.
#[inline(never)]
fn check_seal<M: Machine>(
    memory: &Memory<M>,
    seal: SealState,
    policy: SealPolicy,
    frames: u64,
) -> Result<(), Error> {
    if let Some(info) = seal.info() {
        // No claim may take the table. Where its chain is not sound, the check of the seal below says so.
        let labelled = seal::for_each_block(&left(memory), &info, |block| {
            label_block(memory, Table::Seal, block)
        });
        labelled
            .or_else(|error| if policy == SealPolicy::Ignored { Ok(()) } else { Err(error) })?;
    }
    let opened = seal == SealState::Opened;
    match (policy, seal) {
        (SealPolicy::Ignored, _) => Ok(()),
        (_, SealState::Sealed(info)) => {
            check::sealed(&left(memory), &info, frames, Err).map(|_| ())
        }
        (SealPolicy::Checked, _) | (SealPolicy::Required, SealState::Opened) => Ok(()),
        (SealPolicy::Required | SealPolicy::SealedOnly, _) => Err(Error::NotSealed { opened }),
    }
}
