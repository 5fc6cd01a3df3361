//! Claiming what is made of several blocks: all of them, or none.

use core::slice;

use heirloom_folio::{FrameType, Machine, Memory, PreservedFolio, PreservedRun};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{
    AreaInfo, AreaPart, Block, Chain, Handle, HandleFault, Order, Parts, Pfn, PhysAddr, Record,
    Table,
};

use crate::area::PreservedArea;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::pages::{Inherited, Pages, words_at};
use crate::records::Records;

impl<M: Machine> Heirloom<M> {
    /// Returns the handle of a preserved folio.
    ///
    /// # Errors
    /// None for a folio; the type is that of all handles.
    pub fn folio_handle(&self, folio: &PreservedFolio<'_, M>) -> Result<Handle, Error> {
        Ok(Handle::new(Parts::Folio(folio.extent()))?)
    }

    /// Returns the handle of a preserved run.
    ///
    /// # Errors
    /// [`Error::Handle`]: more frames than a handle can count.
    pub fn run_handle(&self, run: &PreservedRun<'_, M>) -> Result<Handle, Error> {
        Ok(Handle::new(Parts::Run(run.extent()))?)
    }

    /// Claims a folio that the predecessor preserved; once. It stays preserved, until
    /// [`PreservedFolio::unpreserve`].
    ///
    /// # Errors
    /// [`Error::Handle`]: no folio's handle. [`Error::Folio`]: not preserved with this order, or
    /// claimed already; or it is a slab or a table.
    pub fn claim_folio(&self, handle: Handle) -> Result<PreservedFolio<'_, M>, Error> {
        match handle.parts()? {
            Parts::Folio(block) => Ok(self.memory().claim_owned(block)?),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims many folios, wherever they lie, all or none, and calls `each` with them, in the order
    /// of their handles. Costs less than a call for each where they are scattered so far that each is a
    /// miss, as what the next ones need comes meanwhile; else more, as all are gone over twice.
    ///
    /// # Errors
    /// As for [`Heirloom::claim_folio`], naming the first at fault: nothing is claimed then, and
    /// `each` is not called. A handle that is there twice is at fault the second time.
    pub fn claim_folios<'m>(
        &'m self,
        handles: &[Handle],
        each: impl FnMut(PreservedFolio<'m, M>),
    ) -> Result<(), Error> {
        folios(self.memory(), handles, each)
    }

    /// Claims a run, whole; once. It stays preserved, until [`PreservedRun::unpreserve`].
    ///
    /// # Errors
    /// As for [`Heirloom::claim_folio`].
    pub fn claim_run(&self, handle: Handle) -> Result<PreservedRun<'_, M>, Error> {
        match handle.parts()? {
            Parts::Run(run) => Ok(self.memory().claim_owned(run)?),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims an area, all of its blocks and tables; once. It stays preserved, until
    /// [`PreservedArea::unpreserve`].
    ///
    /// # Errors
    /// As for [`Heirloom::claim_folio`]; [`Error::Table`]: the area's tables are not sound. Then nothing
    /// is claimed.
    pub fn claim_area(&self, handle: Handle) -> Result<PreservedArea<'_, M>, Error> {
        match handle.parts()? {
            Parts::Area(info) => area(self.memory(), info),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Claims a list of records; once. It stays preserved, and can be added to.
    ///
    /// # Errors
    /// As for [`Heirloom::claim_area`]; [`Error::Handle`] also if its entries have another size.
    pub fn claim_records<T: Record>(&self, handle: Handle) -> Result<Records<'_, M, T>, Error> {
        match handle.parts()? {
            Parts::Records { first, entry } if entry == usize_to_u64(size_of::<T>()) => {
                records(self.memory(), first)
            }
            Parts::Records { .. } => Err(handle.refused(HandleFault::Length).into()),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }
}

/// A table's pages once they are claimed: this kernel's, and the claiming call's alone so far.
struct Claimed<'m, M: Machine>(&'m Memory<M>);

impl<M: Machine> Pages for Claimed<'_, M> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        // SAFETY: only pages that the claim under way took are asked for; no other owner has them.
        unsafe { words_at(self.0, addr, bytes) }
    }

    fn holds(&self, _: Block) -> bool {
        true
    }
}

/// Returns what the predecessor left, for readers that claim each table page before they look into
/// it.
///
/// The claim is what makes the page theirs: another that has a handle to it loses, or has won
/// before and is refused here.
const fn inherited<M: Machine>(memory: &Memory<M>) -> Inherited<'_, M> {
    // SAFETY: a page is read only after `take` claimed it, so no other owner writes it.
    unsafe { Inherited::new(memory) }
}

/// Takes one block over, which stays preserved.
///
/// A block with a label is no part of an area or a list: it is a slab, or a slab table, whatever a
/// handle says.
pub(crate) fn take<M: Machine>(
    memory: &Memory<M>,
    block: Block,
    kind: FrameType,
) -> Result<(), Error> {
    if memory.predecessor().label_of(block).is_some() {
        return Err(Error::NotInherited { at: block.addr() });
    }
    // SAFETY: it has no label, and none is given once `revive` is over; what it is claimed as, its handle
    // says.
    unsafe { memory.claim_as(block, kind) }.map_err(|_| Error::NotInherited { at: block.addr() })
}

/// Undoes [`take`].
pub(crate) fn put_back<M: Machine>(memory: &Memory<M>, block: Block, kind: FrameType) {
    // SAFETY: taken by the claim under way, and not written.
    let undone = unsafe { memory.unclaim_as(block, kind) };
    debug_assert!(undone.is_ok(), "what was taken can be put back: {undone:?}");
}

/// Returns the kind that a part of an area is claimed as, and its block.
const fn kind_of(part: AreaPart) -> (Block, FrameType) {
    match part {
        AreaPart::Chunk(block) => (block, FrameType::Table),
        AreaPart::Block(block) => (block, FrameType::Folio),
    }
}

/// Claims an area: its chunk pages and its blocks, which stay preserved.
pub(crate) fn area<M: Machine>(
    memory: &Memory<M>,
    info: AreaInfo,
) -> Result<PreservedArea<'_, M>, Error> {
    let mut taken = 0_u64;
    let result = info.walk(&inherited(memory), |part| {
        let (block, kind) = kind_of(part);
        take(memory, block, kind)?;
        taken += 1;
        Ok(())
    });
    if let Err(error) = result {
        put_back_parts(memory, info, taken);
        return Err(error);
    }
    // SAFETY: the walk claimed every part of it just now, without an error; it is preserved still.
    Ok(unsafe { PreservedArea::from_raw(memory, info) })
}

/// Puts the first `taken` parts back. From the last to the first, they would have to be written down; so
/// the blocks go first, and each chunk after it was read for the last time.
fn put_back_parts<M: Machine>(memory: &Memory<M>, info: AreaInfo, taken: u64) {
    let mut seen = 0;
    let mut chunk = None;
    let stop = Error::NotInherited { at: info.first() };
    let walked = info.walk(&Claimed(memory), |part| {
        if seen == taken {
            return Err(stop);
        }
        seen += 1;
        match part {
            AreaPart::Chunk(block) => {
                if let Some(before) = chunk.replace(block) {
                    put_back(memory, before, FrameType::Table);
                }
            }
            AreaPart::Block(block) => put_back(memory, block, FrameType::Folio),
        }
        Ok(())
    });
    // Where it stops short is where the claim did.
    debug_assert!(seen == taken, "{walked:?}");
    if let Some(last) = chunk {
        put_back(memory, last, FrameType::Table);
    }
}

/// Claims a list of records: its blocks, which stay preserved.
pub(crate) fn records<M: Machine, T: Record>(
    memory: &Memory<M>,
    first: PhysAddr,
) -> Result<Records<'_, M, T>, Error> {
    let mut taken = 0_u64;
    let (left, ours) = (inherited(memory), Claimed(memory));
    let result = Chain::<_, T>::walk(&left, first, Table::Records, |block, _| {
        take(memory, block, FrameType::Table)?;
        taken += 1;
        Ok(())
    });
    if let Err(error) = result {
        let mut seen = 0;
        let mut before = None;
        let stop = Error::NotInherited { at: first };
        let walked = Chain::<_, T>::walk(&ours, first, Table::Records, |block, _| {
            if seen == taken {
                return Err(stop);
            }
            seen += 1;
            if let Some(block) = before.replace(block) {
                put_back(memory, block, FrameType::Table);
            }
            Ok(())
        });
        debug_assert!(seen == taken, "{:?}", walked.err());
        if let Some(last) = before {
            put_back(memory, last, FrameType::Table);
        }
        return Err(error);
    }
    // SAFETY: the walk claimed every block of the list just now; each is preserved still.
    unsafe { Records::from_raw(memory, first) }
}

/// How many folios are claimed in one call of the layer below.
const PARCEL: usize = 64;

/// Claims folios, all or none, and then hands each out.
pub(crate) fn folios<'m, M: Machine>(
    memory: &'m Memory<M>,
    handles: &[Handle],
    mut each: impl FnMut(PreservedFolio<'m, M>),
) -> Result<(), Error> {
    let block_of = |handle: &Handle| match handle.parts()? {
        Parts::Folio(block) => Ok(block),
        _ => Err(handle.refused(HandleFault::Kind)),
    };
    let mut parcel = [Block::containing(Pfn::new(0), Order::ZERO); PARCEL];
    for (n, some) in handles.chunks(PARCEL).enumerate() {
        let blocks = some.iter().zip(&mut parcel).try_for_each(|(handle, block)| {
            *block = block_of(handle)?;
            Ok(())
        });
        let claimed =
            blocks.and_then(|()| Ok(memory.claim(parcel.get(..some.len()).unwrap_or_default())?));
        if let Err(error) = claimed {
            for block in handles.iter().take(n * PARCEL).filter_map(|handle| block_of(handle).ok())
            {
                // SAFETY: claimed by this call, and not written.
                let undone = unsafe { memory.unclaim_as(block, FrameType::Folio) };
                debug_assert!(undone.is_ok(), "a claim can be undone: {undone:?}");
            }
            return Err(error);
        }
    }
    let mut rest = Rest { memory, handles: handles.iter() };
    for handle in rest.handles.by_ref() {
        let block = block_of(handle)?;
        // SAFETY: claimed just now as a folio, by this call alone; `rest` has it no more.
        each(unsafe { PreservedFolio::from_raw(memory, block) });
    }
    Ok(())
}

/// Folios that were claimed and not handed out yet. Dropped, by a panic of the caller's closure, it
/// puts them back, there for the next claim.
struct Rest<'a, 'm, M: Machine> {
    memory: &'m Memory<M>,
    handles: slice::Iter<'a, Handle>,
}

impl<M: Machine> Drop for Rest<'_, '_, M> {
    fn drop(&mut self) {
        for handle in self.handles.by_ref() {
            if let Ok(Parts::Folio(block)) = handle.parts() {
                // SAFETY: claimed by the call that ends here, and not written.
                let undone = unsafe { self.memory.unclaim_as(block, FrameType::Folio) };
                debug_assert!(undone.is_ok(), "a claim can be undone: {undone:?}");
            }
        }
    }
}

/// Takes a block over that holds `bytes` bytes from its start: a published root.
pub(crate) fn blob<M: Machine>(
    memory: &Memory<M>,
    addr: PhysAddr,
    bytes: u64,
) -> Result<Block, Error> {
    let none = Error::NotInherited { at: addr };
    let block = memory.predecessor().block_at(addr.pfn()).ok_or(none)?;
    if block.addr() != addr || bytes > block.order().bytes() || block.order() > Order::MAX_FOLIO {
        return Err(none);
    }
    take(memory, block, FrameType::Table)?;
    Ok(block)
}
