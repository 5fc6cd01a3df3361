//! How a handover begins: with nothing in it, or by going on with what a predecessor left.
//!
//! A kernel's stack is small, and a [`Handover`] is a kilobyte: each function that one is returned
//! through has a place for it there. So it is made last. What goes deep comes before, step by step,
//! each with a frame that is gone when the next begins:
//!
//! ```text
//!  fresh     scratch reserved ───────────────────────────> roll, pages ──────────┐
//!                                                                                ├─> reserve ─> Handover
//!  revive    scratch reserved ─> tree ─> tables, header, seal, roll ─> opened ───┘
//!                                 nothing that survives is written │ one store after another
//! ```
//!
//! Up to the bar all is checked, and what is found is noted in this kernel's own metadata alone. Behind
//! it each store leaves a whole handover: a kernel that ends there has changed nothing for the next.

use heirloom_folio::{Block, Kind, Machine, Memory, Order, PhysAddr, Run};
use heirloom_slab::NewSlabs;
use lock_api::Mutex;

use crate::area::{drop_table, new_table};
use crate::check::{self, Place};
use crate::entry::Entry;
use crate::error::Error;
use crate::handover::{Handover, OwnPages};
use crate::moved::{Moved, end_before};
use crate::names::Names;
use crate::pages::halves;
use crate::pages::{Pages, words_at};
use crate::predecessor::{Held, Predecessor, SealPolicy, left, past_root, past_words};
use crate::records::Records;
use crate::reserve::{self, Reserve};
use crate::seal::{self, Stored};
use heirloom_kho::ScratchList;
use heirloom_kho::internal::Edit;
use heirloom_kho::{Fault, Table};
use heirloom_kho::{Header, HeaderPage, Producer, SUBTREE, SealState};
use heirloom_kho::{Name, RootPage, Subtree};

/// All that a [`Handover`] is made from. See the top of the file.
#[doc(hidden)]
pub struct NewHandover<M: Machine> {
    slabs: NewSlabs<M>,
    pages: OwnPages,
    names: Names,
    moved: Option<Moved>,
    lost: u32,
    predecessor: Option<Producer>,
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
        let (names, moved, lost, predecessor) = (Names::NONE, None, 0, None);
        Ok(Self { slabs, pages, names, moved, lost, predecessor, reserve })
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

    /// The handover.
    #[inline]
    pub fn into_handover(self) -> Handover<M> {
        let Self { slabs, pages, names, moved, lost, predecessor, reserve } = self;
        Handover {
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

impl<M: Machine> Handover<M> {
    /// A handover with nothing in it but itself, over memory from which nothing was allocated.
    ///
    /// `scratch` is reserved and written down: nothing preserved ever lies in it, so the
    /// successor may work there before it has read the map. What a successor needs at least,
    /// [`Memory::range_bytes`] and [`Memory::cpu_bytes`] tell.
    ///
    /// # Errors
    /// [`Error::Folio`]: scratch is not free memory. [`Error::MemoryTooSmall`]: beside scratch there are
    /// fewer than 32 frames, which the handover's own pages and its [reserve](Handover::reserve)
    /// take. [`Error::BadRun`]: an area of no frames. [`Error::TableFull`]: more
    /// than [`ScratchList::LIMIT`] areas.
    pub fn fresh(memory: Memory<M>, scratch: &[Run], producer: &str) -> Result<Self, Error> {
        Ok(NewHandover::fresh(memory, scratch, producer)?.into_handover())
    }

    /// Takes over from a predecessor: checks everything it left, and goes on with it. What was preserved
    /// stays so, claimed or not, until it is let go or freed; every frame that was not is free memory.
    ///
    /// At whatever instant this kernel ends, from the first instruction of this call on, the next that
    /// starts with the same entry finds everything that was preserved and not let go of. So it does
    /// with [`Handover::entry`] of this kernel, which is the same entry, unless the predecessor's root
    /// page is of another make (Linux's): see [`Handover::finish`]. A kernel that starts with that entry
    /// ends the predecessor's.
    ///
    /// `memory` has all its ranges and nothing allocated; its metadata lies in scratch, where the
    /// scratch list is not, or outside its ranges. Time goes into reading the tables and into
    /// nothing that grows with memory.
    ///
    /// # Errors
    /// What is wrong with the tables and where: [`Error::Table`], [`Error::Folio`] (the tree),
    /// [`Error::Slab`] (caches and slabs), [`Error::Broken`] (the seal). [`Error::Folio`] also
    /// where so much is preserved that no memory is left for tables that this kernel needs beside those
    /// that are there: none, unless the predecessor was of another make, or its header page is another
    /// build's. The memory is given up then; what the predecessor preserved is there as it was, so it can
    /// be tried again, or the machine started without it.
    ///
    /// A name whose owner let its frames go is no error: this call removes it and counts it in
    /// [`Handover::names_lost`].
    pub fn revive(
        memory: Memory<M>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        Ok(NewHandover::revive(memory, entry, producer, seal)?.into_handover())
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
    let whole = check_seal(memory, state, seal, sealable)?;
    says.seal = state.info().map(|info| (info, whole));
    says.opened = match state {
        SealState::Sealed(_) => seal != SealPolicy::Ignored,
        state => state == SealState::Opened,
    };
    Ok(())
}

/// Checks the subtrees, takes note of what the header says, and takes its page; which seal holds.
#[inline(never)]
fn read_header<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
    says: &mut Predecessor,
) -> Result<SealState, Error> {
    let root = past_root(memory, entry.root)?;
    // A name whose frames were let go is left out: see `Names`.
    let lost = |error| match error {
        Error::Table(fault) if fault.table == Table::Root && fault.is_not_preserved() => Ok(()),
        error => Err(error),
    };
    let Some((page, header)) = check::subtrees(&left(memory), &root, lost)? else {
        return Ok(SealState::Unsealed);
    };
    let around = Pages::block_around(&left(memory), page.pfn());
    let block = around.ok_or(Error::NotInherited { at: page })?;
    take_table(memory, Table::Header, block)?;
    says.header = Some((page, block));
    says.longer = header.longer;
    (says.generation, says.roll, says.before) = (header.generation, header.roll, header.before);
    says.producer = Some(header.producer);
    Ok(header.seal)
}

/// What slabs are made from, with the predecessor's caches if it had any. The roll is the last to be
/// checked: then the seal is opened, and from there on the handover is changed.
#[inline(never)]
fn new_slabs<M: Machine>(memory: Memory<M>, left: &Predecessor) -> Result<NewSlabs<M>, Error> {
    if let Some(roll) = left.roll {
        let slabs = NewSlabs::revive(memory, roll)?;
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

/// The pages of this kernel's handover, and what became of the predecessor's.
struct GoneOn {
    pages: OwnPages,
    moved: Option<Moved>,
    /// Names that led to frames that were let go.
    lost: u32,
}

/// What the `heirloom` name of a root page says.
fn header_name(header: PhysAddr) -> Result<Subtree, Error> {
    Ok(Subtree { name: Name::new(SUBTREE)?, addr: header, size: Some(Header::SIZE as u64) })
}

/// Goes on with the predecessor's pages, or, where its root page is of another make, writes new ones.
#[inline(never)]
fn go_on<M: Machine>(
    slabs: &NewSlabs<M>,
    entry: Entry,
    producer: &str,
    left: &Predecessor,
) -> Result<GoneOn, Error> {
    let memory = slabs.memory();
    let [root, list] = left.held;
    // A list in frames that nothing preserves would stay there, where the next kernel may not find it.
    let loose = matches!(list, Some(Held::Reserved(_)));
    if loose || !root.is_some_and(|root| root.is_page_of(entry.root)) {
        return move_on(slabs, entry, producer, left);
    }
    let (fits, there) = header_in_place(memory, entry)?;
    if !fits {
        return move_on(slabs, entry, producer, left);
    }
    let generation = left.generation.saturating_add(1);
    let header = go_on_header(slabs, producer, generation, left, None)?;
    if there != Some(header) {
        turn_to_header(memory, entry, header, there.is_some())?;
    }
    // One that could not be gone on with is named no more.
    if let Some((_, block)) = left.header.filter(|(at, _)| *at != header) {
        drop_table(memory, block);
    }
    Ok(GoneOn { pages: OwnPages { entry, header, generation }, moved: None, lost: 0 })
}

/// Writes pages of this kernel's own beside the predecessor's, whose entry stays good.
#[inline(never)]
fn move_on<M: Machine>(
    slabs: &NewSlabs<M>,
    entry: Entry,
    producer: &str,
    left: &Predecessor,
) -> Result<GoneOn, Error> {
    let memory = slabs.memory();
    let generation = left.generation.saturating_add(1);
    let areas = scratch_list(memory, entry)?;
    let header = go_on_header(slabs, producer, generation, left, Some(entry.root))?;
    let pages = OwnPages::beside(memory, areas.runs(), generation, header)?;
    let mut page = root_of(memory, pages.entry)?;
    let (mut full, mut lost) = (0, 0);
    let before = past_root(memory, entry.root)?;
    check::each_name(&crate::predecessor::left(memory), &before, |subtree, gone| {
        if gone {
            lost += 1;
            return Ok(());
        }
        match page.edit(Edit::Add(subtree), || Ok::<_, Error>(())) {
            // It stays in the predecessor's root page.
            Err(Error::RootFull { .. }) => full += 1,
            added => added?,
        }
        Ok(())
    })?;
    let replaced = left.header.filter(|(at, _)| *at != pages.header);
    let [page, areas] = left.held;
    let held = [page, areas, replaced.map(|(_, block)| Held::Taken(block))];
    Ok(GoneOn { pages, moved: Some(Moved::new(entry.root, held, full)), lost })
}

/// Whether the root page is laid out as this build does it and has room for a header's name, and where it
/// names one now.
#[inline(never)]
fn header_in_place<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
) -> Result<(bool, Option<PhysAddr>), Error> {
    let page = root_of(memory, entry)?;
    // Whatever the header page's address will be: an edit that has room for one has it for any.
    let named = header_name(entry.root)?;
    let there = page.view()?.find(&named.name).ok().map(|there| there.addr);
    let edit = if there.is_some() { Edit::Replace } else { Edit::Add };
    let room = page.is_ours() && page.try_edit(edit(named)).is_ok();
    Ok((room, there))
}

/// Makes the root page name this header, in place of another or of none.
#[inline(never)]
fn turn_to_header<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
    header: PhysAddr,
    replaces: bool,
) -> Result<(), Error> {
    let edit = if replaces { Edit::Replace } else { Edit::Add };
    root_of(memory, entry)?.edit(edit(header_name(header)?), || Ok(()))
}

/// What this kernel says in the header.
#[inline(never)]
fn says_on(
    roll: PhysAddr,
    producer: &str,
    generation: u64,
    left: &Predecessor,
    before: Option<PhysAddr>,
) -> Header {
    let (roll, producer) = (Some(roll), Producer::new(producer));
    let seal = if left.opened { SealState::Opened } else { SealState::Unsealed };
    Header { generation, roll, before, producer, seal, longer: false }
}

/// Says this in the predecessor's page of the `heirloom` subtree. Returns where that is.
#[inline(never)]
fn renew_header<M: Machine>(
    memory: &Memory<M>,
    at: PhysAddr,
    says: &Header,
) -> Result<PhysAddr, Error> {
    // SAFETY: a page that the check took, which nothing else reaches.
    let words = unsafe { words_at(memory, at, Header::SIZE) }.unwrap_or(&[]);
    HeaderPage::reopen(words, at)?.renew(says)?;
    Ok(at)
}

/// The page of the `heirloom` subtree: the predecessor's, which says from now on what this kernel says,
/// or a new one.
#[inline(never)]
fn go_on_header<M: Machine>(
    slabs: &NewSlabs<M>,
    producer: &str,
    generation: u64,
    left: &Predecessor,
    before: Option<PhysAddr>,
) -> Result<PhysAddr, Error> {
    let memory = slabs.memory();
    let says = says_on(slabs.cache_directory(), producer, generation, left, before);
    if let Some((at, block)) = left.header
        && block.order() == Order::ZERO
        && block.addr() == at
        && !left.longer
    {
        return renew_header(memory, at, &says);
    }
    let (header, words) = new_table(memory)?;
    HeaderPage::create(words, header, &says)?;
    Ok(header)
}

/// The root page of an entry whose root page is this kernel's.
fn root_of<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<RootPage<'_>, Error> {
    let words = past_words(memory, entry.root)?;
    Ok(RootPage::reopen(halves(words), entry.root)?)
}

/// Takes the names out of a root page whose frames were let go. Returns how many.
#[inline(never)]
fn drop_lost<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<u32, Error> {
    let mut page = root_of(memory, entry)?;
    let mut dropped = 0;
    loop {
        let mut first = None;
        check::each_name(&left(memory), &page.view()?, |subtree, gone| {
            first = first.or(gone.then_some(subtree.name));
            Ok(())
        })?;
        let Some(name) = first else { return Ok(dropped) };
        page.edit(Edit::Remove(name), || Ok::<_, Error>(()))?;
        dropped += 1;
    }
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

/// Keeps the root page and the scratch list from being used: taken where they are preserved, reserved
/// where they are not. Returns which.
#[inline(never)]
fn hold_entry<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<[Option<Held>; 2], Error> {
    let mut held = [None; 2];
    let areas = scratch_list(memory, entry)?;
    // What lies in scratch is reserved with it.
    let tables = entry.tables().filter(|(_, run)| !areas.overlaps(*run));
    for (slot, (table, run)) in held.iter_mut().zip(tables) {
        *slot = Some(match check::place(&left(memory), table, run)? {
            Place::Preserved(block) => {
                take_table(memory, table, block)?;
                Held::Taken(block)
            }
            Place::Free(run) => {
                memory.reserve(run)?;
                Held::Reserved(run)
            }
        });
    }
    if let Some(block) = entry.empty_list(&left(memory))
        && memory.is_inherited(block)
    {
        take_table(memory, Table::Scratch, block)?;
        let [_, list] = &mut held;
        *list = Some(Held::Taken(block));
    }
    Ok(held)
}

/// Takes the block of a table, which must be no other table's.
fn take_table<M: Machine>(memory: &Memory<M>, table: Table, block: Block) -> Result<(), Error> {
    if !memory.is_inherited(block) && memory.is_preserved(block) {
        return Err(Fault::Shared { block }.in_table(table, block.addr(), 0).into());
    }
    // SAFETY: this layer reads the predecessor's tables, and found this one.
    Ok(unsafe { memory.claim_as(block, Kind::Table) }?)
}

/// Looks at the seal, which covers at most `frames` frames, as `policy` demands. Returns whether all
/// of its table was taken.
#[inline(never)]
fn check_seal<M: Machine>(
    memory: &Memory<M>,
    seal: SealState,
    policy: SealPolicy,
    frames: u64,
) -> Result<bool, Error> {
    let mut taken = Ok(());
    if let Some(info) = seal.info() {
        // No claim may take the table. Where its chain is not sound, the check of the seal below says so.
        taken = seal::for_each_block(&left(memory), &info, |block| {
            take_table(memory, Table::Seal, block)
        });
    }
    let opened = seal == SealState::Opened;
    match (policy, seal) {
        (SealPolicy::Ignored, _) => return Ok(taken.is_ok()),
        (_, SealState::Sealed(info)) => {
            taken?;
            check::sealed(&left(memory), &info, frames, Err)?;
        }
        (SealPolicy::Checked, _) | (SealPolicy::Required, SealState::Opened) => {}
        (SealPolicy::Required | SealPolicy::SealedOnly, _) => {
            return Err(Error::NotSealed { opened });
        }
    }
    Ok(true)
}
