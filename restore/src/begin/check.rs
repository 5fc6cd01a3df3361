//! What is checked before anything is changed: what lies beside the tree, taken for this kernel.

use heirloom_folio::{FrameType, Machine, Memory};
use heirloom_kho::PageSize;
use heirloom_kho::{Block, Fault, PhysAddr, ScratchList, SealState, Table};

use crate::check::{self, Place};
use crate::entry::Entry;
use crate::error::Error;
use crate::pages::Pages;
use crate::predecessor::{Held, Predecessor, SealPolicy, check_root, left, past_root};
use crate::seal;

/// Checks what lies beside the tree, and keeps the predecessor's pages from being used.
#[inline(never)]
pub(super) fn check_left<M: Machine>(
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
    // A name is left out if its owner let its frames go: see `Names`.
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
    (says.generation, says.cache_directory, says.before) =
        (header.generation, header.cache_directory, header.before);
    says.producer = Some(header.producer);
    Ok(header.seal)
}

/// Checks the root page, once for all that read it later, and reserves the scratch areas, in which nothing
/// but the list itself may lie. Returns where the map is.
#[inline(never)]
pub(super) fn hold_scratch<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
) -> Result<PhysAddr, Error> {
    for area in scratch_list(memory, entry)?.runs() {
        memory.reserve(area)?;
    }
    Ok(check_root(memory, entry.root)?.map())
}

pub(super) fn scratch_list<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
) -> Result<ScratchList<'_>, Error> {
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
    let tables = entry.tables(PageSize::BUILD).filter(|(_, run)| !areas.overlaps(*run));
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
        && memory.predecessor().contains(block)
    {
        take_table(memory, Table::Scratch, block)?;
        let [_, list] = &mut held;
        *list = Some(Held::Taken(block));
    }
    Ok(held)
}

/// Takes the block of a table, which must be no other table's.
fn take_table<M: Machine>(memory: &Memory<M>, table: Table, block: Block) -> Result<(), Error> {
    if !memory.predecessor().contains(block) && memory.preserved().contains(block) {
        return Err(Fault::Shared { block }.in_table(table, block.addr(), 0).into());
    }
    // SAFETY: this layer reads the predecessor's tables, and found this one.
    Ok(unsafe { memory.claim_as(block, FrameType::Table) }?)
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
