//! Sealing the handover that this kernel leaves, and breaking the seal again.

use heirloom_folio::Machine;
use heirloom_kho::narrow::{u64_to_u32, usize_to_u32, usize_to_u64};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{Header, HeaderPage, PAGE_SIZE, PhysAddr, RootView, Sealed};
use heirloom_slab::internal::DirectoryPart;

use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::names::{Names, Owner};
use crate::pages::{Pages, halves, words_at};
use crate::records::Records;
use crate::seal::{Sealer, Stored};

/// Room for nodes that the seal's own blocks may add to the tracker.
const SLACK: u64 = 64;

impl<M: Machine> Heirloom<M> {
    /// Adds checksums over the root page, the scratch list, the tracker's nodes, roots that this kernel
    /// published or claimed, the cache directory, and every preserved slab's header. A successor finds by them whatever changed on
    /// the way.
    ///
    /// Nothing needs it: the handover is valid without. What is preserved, unpreserved or published
    /// afterwards makes the seal untrue, and so does a preserving cache that grows, or the first use of a
    /// resumed slab in which nothing survived: sealing is the last thing before a jump. Publishing breaks the
    /// seal by itself; for the rest call [`Heirloom::unseal`].
    ///
    /// # Errors
    /// [`Error::Folio`]: no memory for the table; [`Error::TableFull`]: more tables than it can
    /// list. The handover is not sealed then.
    pub fn seal(&self) -> Result<(), Error> {
        self.fill_reserve();
        let made = self.edit.lock();
        self.break_seal()?;
        let mut page = self.header_page()?;
        let slabs = self.slabs();
        let mut entries = SLACK;
        self.memory().preserved().for_each_node(|_| entries += 1);
        let entry = self.entry();
        let root = RootView::new(halves(self.table_words(entry.root)), entry.root)?;
        entries += usize_to_u64(root.subtrees().count());
        slabs.for_each_table(|_| entries += 1);
        let mut sealer = Sealer::new(self.memory(), entries)?;
        if let Err(error) = self.cover_all(&mut sealer, &made) {
            sealer.abandon();
            return Err(error);
        }
        let table = sealer.close(&Plain(self))?;
        page.seal(Some(table.info()));
        Ok(())
    }

    /// Breaks the seal, so that the handover can change again.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the seal's table; the seal is broken even so.
    pub fn unseal(&self) -> Result<(), Error> {
        let _alone = self.edit.lock();
        self.break_seal()
    }

    /// Returns whether the handover is sealed.
    pub fn is_sealed(&self) -> bool {
        let _alone = self.edit.lock();
        let header = self.header_page().and_then(|page| Ok(page.read()?));
        header.is_ok_and(|header| header.seal.info().is_some())
    }

    /// Breaks the seal; the caller holds the lock.
    pub(crate) fn break_seal(&self) -> Result<(), Error> {
        let mut page = self.header_page()?;
        let Some(info) = page.read()?.seal.info() else { return Ok(()) };
        page.seal(None);
        // SAFETY: the table is the one that `seal` made and noted; nothing else stands for it,
        // and the page does not name it any more.
        let table = unsafe { Records::<_, Stored>::from_raw(self.memory(), info.first) }?;
        table.free().map_err(|(_, error)| error)
    }

    pub(crate) fn header_page(&self) -> Result<HeaderPage<'_>, Error> {
        Ok(HeaderPage::reopen(self.table_words(self.pages.header), self.pages.header)?)
    }

    fn cover_all(&self, sealer: &mut Sealer<'_, M>, made: &Names) -> Result<(), Error> {
        let page = usize_to_u32(PAGE_SIZE);
        let entry = self.entry();
        sealer.cover(Sealed::Root, entry.root, page)?;
        if let Some(before) = self.root_before() {
            sealer.cover(Sealed::Root, before, page)?;
        }
        if entry.scratch_bytes > 0 {
            sealer.cover(Sealed::Scratch, entry.scratch, u64_to_u32(entry.scratch_bytes))?;
        }
        sealer.cover(Sealed::Subtree, self.pages.header, usize_to_u32(Header::FIXED))?;
        let root = RootView::again(halves(self.table_words(entry.root)), entry.root)?;
        for (index, subtree) in root.subtrees().enumerate() {
            let subtree = subtree?;
            // What was published by a predecessor, and is still to be claimed, nothing writes.
            let left = || {
                let block = self.memory().predecessor().block_at(subtree.addr.pfn());
                let frames = subtree.frames();
                made.is(index, Owner::Inherited)
                    && block.is_some_and(|block| frames.is_some_and(|run| block.run().covers(run)))
            };
            if let Some(bytes) = subtree.size
                && (made.is_made(index) || left())
            {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                if bytes > 0 {
                    sealer.cover(Sealed::Subtree, subtree.addr, bytes)?;
                }
            }
        }
        let mut result = Ok(());
        let mut note = |kind, addr, length| {
            if result.is_ok() {
                result = sealer.cover(kind, addr, length);
            }
        };
        self.memory().preserved().for_each_node(|node| note(Sealed::Node, node.addr, page));
        self.slabs().for_each_table(|part| match part {
            DirectoryPart::Page(addr) => note(Sealed::CacheDirectory, addr, page),
            DirectoryPart::Header { addr, bytes } => note(Sealed::Slab, addr, bytes),
        });
        result
    }
}

/// This kernel's own tables and slab headers, to be hashed.
struct Plain<'h, M: Machine>(&'h Heirloom<M>);

impl<M: Machine> Pages for Plain<'_, M> {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        // SAFETY: tables, headers and state bytes are written as atomics alone while they live,
        // and published roots are not written at all.
        unsafe { words_at(self.0.memory(), addr, bytes) }
    }

    fn holds(&self, block: heirloom_kho::Block) -> bool {
        self.0.memory().preserved().contains(block)
    }
}
