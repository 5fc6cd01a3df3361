//! The pages of this kernel's handover itself.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{
    Header, HeaderPage, Name, PhysAddr, Producer, RootPage, Run, SUBTREE, ScratchWords, SealState,
};
use heirloom_slab::internal::NewSlabs;

use crate::area::new_table;
use crate::entry::Entry;
use crate::error::Error;
use crate::pages::halves;

/// The pages of the handover itself, and what was written into them.
#[derive(Clone, Copy)]
pub(crate) struct OwnPages {
    pub(crate) entry: Entry,
    pub(crate) header: PhysAddr,
    pub(crate) generation: u64,
}

impl OwnPages {
    /// Writes a handover with nothing in it but itself.
    #[inline(never)]
    pub(crate) fn create<M: Machine>(
        slabs: &NewSlabs<M>,
        scratch: impl Iterator<Item = Run> + Clone,
        producer: &str,
        generation: u64,
    ) -> Result<Self, Error> {
        let list = write_scratch(slabs.memory(), scratch)?;
        let header = write_header(slabs, producer, generation)?;
        Self::around(slabs.memory(), list, generation, header)
    }

    /// Writes a root page and a scratch list beside a predecessor's, with this page of the `heirloom`
    /// subtree.
    #[inline(never)]
    pub(crate) fn beside<M: Machine>(
        memory: &Memory<M>,
        scratch: impl Iterator<Item = Run> + Clone,
        generation: u64,
        header: PhysAddr,
    ) -> Result<Self, Error> {
        Self::around(memory, write_scratch(memory, scratch)?, generation, header)
    }

    fn around<M: Machine>(
        memory: &Memory<M>,
        (scratch, scratch_bytes): (PhysAddr, u64),
        generation: u64,
        header: PhysAddr,
    ) -> Result<Self, Error> {
        let root = write_root(memory, header)?;
        Ok(Self { entry: Entry { root, scratch, scratch_bytes }, header, generation })
    }
}

// Each page by a function of its own: what one needs of the stack is gone before the next.

/// Writes a scratch list: where it is, and how many bytes.
#[inline(never)]
fn write_scratch<M: Machine>(
    memory: &Memory<M>,
    scratch: impl Iterator<Item = Run> + Clone,
) -> Result<(PhysAddr, u64), Error> {
    let (list, words) = new_table(memory)?;
    Ok((list, usize_to_u64(ScratchWords::new(words, list).write(scratch)?)))
}

/// Writes the page of the `heirloom` subtree.
#[inline(never)]
fn write_header<M: Machine>(
    slabs: &NewSlabs<M>,
    producer: &str,
    generation: u64,
) -> Result<PhysAddr, Error> {
    let (header, words) = new_table(slabs.memory())?;
    let (cache_directory, producer) = (Some(slabs.cache_directory()), Producer::new(producer));
    let (before, seal, longer) = (None, SealState::Unsealed, false);
    let says = Header { generation, cache_directory, before, producer, seal, longer };
    HeaderPage::create(words, header, &says)?;
    Ok(header)
}

/// Writes a root page that leads to the tree and to `header`.
#[inline(never)]
fn write_root<M: Machine>(memory: &Memory<M>, header: PhysAddr) -> Result<PhysAddr, Error> {
    let (root, words) = new_table(memory)?;
    let mut page = RootPage::create(halves(words), root, memory.preserved().tree_root()?)?;
    page.add(Name::new(SUBTREE)?, header, usize_to_u64(Header::SIZE))?;
    Ok(root)
}
