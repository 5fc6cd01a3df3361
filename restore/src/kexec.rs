//! How many kernels there were: Linux's `kexec-metadata`, which each kernel writes anew.

use heirloom_folio::{FrameType, Machine};
use heirloom_kho::linux::{Known, Metadata, Text};
use heirloom_kho::{Block, Error as Kho, Fault, Name, Order, PhysAddr, Subtree, Table};

use crate::claim::take;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::pages::Inherited;
use crate::published::place_of;

impl<M: Machine> Heirloom<M> {
    /// Returns the subtree of this name, whether it is this kernel's or still the predecessor's.
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Table`] if something else wrote the root page.
    pub fn subtree(&self, name: &str) -> Result<Option<Subtree>, Error> {
        let name = Name::new(name)?;
        let _names = self.edit.lock();
        let page = self.root_page()?;
        let view = page.view()?;
        Ok(match place_of(&view, &name)? {
            Some(_) => Some(view.find(&name)?),
            None => None,
        })
    }

    /// Writes `kexec-metadata` as Linux does: this kernel's release, and one kernel more than the predecessor says, whose
    /// own it takes the place of. A Linux that follows tells of it. Once in each kernel, before [`Heirloom::finish`].
    /// Returns how many kernels were left by then, this one included.
    ///
    /// If the kernel ends in the middle, there may be none.
    ///
    /// # Errors
    /// [`Error::Table`]: the predecessor's is not sound, or the release is longer than 64 bytes. [`Error::NotInherited`]: it
    /// is claimed. [`Error::NameTaken`]: this kernel wrote its own. [`Error::Folio`]: no memory. [`Error::RootFull`].
    ///
    /// # Safety
    /// - While the call runs, nothing else in this kernel writes, other than atomically, into memory that the predecessor
    ///   preserved.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_restore::Heirloom;
    ///
    /// let kernel = Heirloom::boot_memory(Ram::memory(&Ram::frames(256))?, &[], "kernel 1.0")?;
    /// // SAFETY: there is no predecessor.
    /// assert_eq!(unsafe { kernel.count_kexec("kernel 1.0") }?, 1);
    /// # Ok::<(), heirloom_restore::Error>(())
    /// ```
    pub unsafe fn count_kexec(&self, release: &str) -> Result<u32, Error> {
        let long = Fault::Malformed { expected: "release of up to 64 bytes" };
        let long: Kho = long.in_table(Table::Metadata, PhysAddr::new(0), 4);
        let release = Text::new(release).ok_or(long)?;
        let mut before = None;
        self.for_each_inherited_subtree(|name, addr, size| {
            before = before.or((name == Metadata::NAME).then_some((addr, size)));
        })?;
        let (mut kernels, mut old) = (0, None);
        if let Some((addr, size)) = before {
            // SAFETY: the same contract.
            let pages = unsafe { Inherited::new(self.memory()) };
            let subtree = Subtree { name: Name::new(Metadata::NAME)?, addr, size };
            if let Some(Known::Metadata(metadata)) = Known::read(&pages, &subtree)? {
                kernels = metadata.kexec_count;
                let none = Error::NotInherited { at: addr };
                let block = self.memory().predecessor().block_at(addr.pfn()).ok_or(none)?;
                old = Some(block).filter(|block| block.addr() == addr);
            }
        }
        let kernels = kernels.saturating_add(1);
        let mut blank = self.blank_pages(1)?;
        if let Some(block) = old {
            take(self.memory(), block, FrameType::Folio)?;
            self.remove_subtree(Metadata::NAME)?;
            self.drop_folio(block);
        }
        let Some(page) = blank.next() else { return Ok(kernels) };
        let at = Metadata::create(page, release, kernels).at;
        self.add_subtree(Metadata::NAME, at, Metadata::SIZE).inspect_err(|_| {
            self.drop_folio(Block::containing(at.pfn(), Order::ZERO));
        })?;
        Ok(kernels)
    }

    /// Frees a preserved folio of this call's.
    fn drop_folio(&self, block: Block) {
        // SAFETY: claimed or made by the call under way, and not named any more.
        let done =
            unsafe { self.memory().unpreserve(block).and_then(|()| self.memory().free(block)) };
        debug_assert!(done.is_ok(), "a preserved folio can be let go: {done:?}");
    }
}
