//! One subtree of another make passed on to the next kernel, with all that it leads to.
//!
//! ```text
//!  predecessor:  LUO ──> sessions ──> files ──> memfds      kho_test ──> folios
//!                │          │           │          │            │
//!  pass_on("LUO") claims each block before it looks into it     │
//!                v          v           v          v            v
//!  finish:       stays preserved, and the name with it       is free memory
//! ```
//!
//! What is claimed is written down in pages of this kernel's, so that an error undoes all of it.

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::linux::{Found, Known, Opaque, Unread};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::tree::{Key, Ledger, TreeFault};
use heirloom_kho::{
    Block, Excerpt, Fault, Name, Order, PAGE_SIZE, Pages as _, PhysAddr, Run, Subtree, Table,
};

use crate::area::growing;
use crate::claim::{put_back, take};
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::names::Owner;
use crate::pages::{Inherited, words_at};
use crate::published::place_of;

/// What [`Heirloom::pass_on`] keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PassedOn {
    /// Blocks, the subtree's own among them.
    pub blocks: u64,
    /// Frames in them.
    pub frames: u64,
}

impl<M: Machine> Heirloom<M> {
    /// Claims a subtree of the predecessor's that is of another make, and every block that it leads to, and
    /// keeps all of it for the next kernel as it is: [`Heirloom::finish`] does not tell of it. The name is
    /// this kernel's then, as after [`Heirloom::add_subtree`].
    ///
    /// What a subtree leads to is known of those that [`Known`] reads: `LUO`, for one, with its sessions,
    /// their files, memfds and folios. `accept` is asked about what is not known, as it could lead to memory that
    /// would not be kept: a subtree of another name, a file of another kind, a state that files share. `true`
    /// keeps the bytes that are known.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]: the predecessor left none of this name, or it was claimed, added or removed.
    /// [`Error::Table`]: something that it leads to is not sound, is claimed already, or was not accepted
    /// ([`Fault::Unknown`]). [`Error::NotInherited`]: its own bytes are not preserved, are claimed, or there are none.
    /// [`Error::Folio`]: no memory to write down what was claimed. [`Error::BadName`].
    /// Nothing is claimed then.
    ///
    /// # Safety
    /// - While the call runs, nothing else in this kernel writes, other than atomically, into memory that is
    ///   preserved.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Cpus, Disposition, Request};
    /// use heirloom_kho::linux::{Metadata, Text};
    /// use heirloom_kho::{Order, PAGE_SIZE, Run};
    /// use heirloom_restore::{Heirloom, SealPolicy};
    ///
    /// let map = Ram::frames(1024);
    /// let ram = Ram::over(&map);
    /// let scratch = Heirloom::<&Ram>::scratch_bytes(&map, ram.count());
    /// let scratch = Run::new(map[0].0.start(), (scratch / PAGE_SIZE) as u64).unwrap();
    /// // SAFETY: the machine has this memory, which nothing else uses; so below.
    /// let old = unsafe { Heirloom::boot(&ram, &map, &[scratch], "old 1.0") }?;
    /// let mut pages = old.blank_pages(1)?;
    /// let metadata = Metadata::create(pages.next().unwrap(), Text::new("7.3.4").unwrap(), 1);
    /// old.add_subtree(Metadata::NAME, metadata.at, Metadata::SIZE)?;
    /// let lost = old.memory().alloc_folio(Request::new(Order::ZERO))?;
    /// let lost = lost.preserve().map_err(|refused| refused.error)?.into_raw();
    /// let entry = old.entry();
    /// drop(pages);
    /// drop(old);
    ///
    /// // SAFETY: as above; the old one is gone.
    /// let new = unsafe { Heirloom::revive(&ram, &map, entry, "new 2.0", SealPolicy::Checked) }?;
    /// // SAFETY: nothing else runs in this kernel.
    /// let kept = unsafe { new.pass_on(Metadata::NAME, |_| false) }?;
    /// assert_eq!(kept.blocks, 1);
    /// assert_eq!(new.finish(|_| Disposition::Free)?.folios, 1);
    /// assert!(!new.memory().preserved().contains(lost));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub unsafe fn pass_on(
        &self,
        name: &str,
        mut accept: impl FnMut(&Unread) -> bool,
    ) -> Result<PassedOn, Error> {
        let name = Name::new(name)?;
        let (_, subtree) = self.inherited_named(&name)?;
        let bytes = subtree.size.unwrap_or(usize_to_u64(PAGE_SIZE));
        let outside = Fault::OutsideMemory { addr: subtree.addr };
        let outside = outside.in_table(Table::Blob, subtree.addr, 0);
        let own = Run::covering(subtree.addr, bytes).ok_or(outside)?;
        if own.is_empty() {
            // Its name would go on, and lead to what is free.
            return Err(Error::NotInherited { at: subtree.addr });
        }
        // SAFETY: the same contract; what is read is claimed before, or is a table's few words.
        let pages = unsafe { Inherited::new(self.memory()) };
        let mut claims = Claims { log: Log::new(self.memory()), own, refused: None };
        let mut at = own.start();
        while at < own.end() {
            let none = Error::NotInherited { at: at.addr() };
            let block = pages.block_around(at).ok_or(none)?;
            claims.log.claim(block)?;
            at = block.run().end();
        }
        let refuse = |unread: &Unread| {
            let found = Excerpt::of(unread.name.as_bytes().iter().copied());
            let table = match unread.what {
                Opaque::File => Table::File,
                Opaque::Flb => Table::Flbs,
                _ => Table::Blob,
            };
            Fault::Unknown { found, expected: "what is known" }.in_table(table, unread.at, 0)
        };
        let mut ask = |unread: &Unread| if accept(unread) { Ok(()) } else { Err(refuse(unread)) };
        let checked = if let Some(known) = Known::read(&pages, &subtree)? {
            known.check(&pages, &mut claims, |found| match found {
                Found::Wrong(error) => Err(error),
                Found::Unread(unread) => ask(&unread),
            })
        } else {
            ask(&Unread::of_subtree(&subtree))
        };
        // A claim that was refused for want of memory is told as a block with two uses.
        claims.refused.map_or(Ok(()), Err)?;
        checked?;
        let mut names = self.edit.lock();
        // The closure may have called anything.
        let page = self.root_page()?;
        let there = place_of(&page.view()?, &name)?;
        let there = there.filter(|there| there.1 == subtree.addr);
        let still = there.filter(|(index, _)| names.is(*index, Owner::Inherited));
        let (index, _) = still.ok_or(Error::NoSuchSubtree { name })?;
        names.set(index, None);
        Ok(claims.log.keep())
    }

    /// Returns the predecessor's subtree of this name, which is its still, and its place.
    fn inherited_named(&self, name: &Name) -> Result<(usize, Subtree), Error> {
        let names = self.edit.lock();
        let page = self.root_page()?;
        let view = page.view()?;
        let found = names.unclaimed(&view).find(|(_, subtree)| subtree.name == *name);
        found.ok_or(Error::NoSuchSubtree { name: *name })
    }
}

/// Takes each block for this kernel, the first time that it is named.
struct Claims<'m, M: Machine> {
    log: Log<'m, M>,
    /// The subtree's own frames, which are taken before it is read, as far as no table named them yet: each is
    /// named once.
    own: Run,
    /// Why a block was refused that is the predecessor's.
    refused: Option<Error>,
}

impl<M: Machine> Ledger for Claims<'_, M> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        if self.claim(block) { Ok(()) } else { Err(TreeFault::Overlap { block }) }
    }

    fn claim(&mut self, block: Block) -> bool {
        let (run, own) = (block.run(), self.own);
        if run.start() <= own.start() && own.start() < run.end() && !own.is_empty() {
            self.own = Run::between(run.end().min(own.end()), own.end()).unwrap_or(own);
            return true;
        }
        match self.log.claim(block) {
            Ok(()) => true,
            Err(error) => {
                self.refused = Some(error).filter(Error::is_out_of_memory);
                false
            }
        }
    }
}

/// What was claimed, in order: pages of keys, each with the address of the page before.
struct Log<'m, M: Machine> {
    memory: &'m Memory<M>,
    page: Option<Block>,
    /// Words of the page that are used, its link included.
    used: usize,
    claimed: PassedOn,
}

/// Words of a page.
const WORDS: usize = PAGE_SIZE / size_of::<u64>();
/// The link of the first page.
const NONE: u64 = u64::MAX;

impl<'m, M: Machine> Log<'m, M> {
    const fn new(memory: &'m Memory<M>) -> Self {
        Self { memory, page: None, used: 0, claimed: PassedOn { blocks: 0, frames: 0 } }
    }

    /// Claims a block, and writes it down.
    fn claim(&mut self, block: Block) -> Result<(), Error> {
        if self.page.is_none() || self.used == WORDS {
            let request = Request::new(Order::ZERO).frame_type(FrameType::Table);
            let page = growing(self.memory, || self.memory.alloc(request))?;
            let before = self.page.replace(page).map_or(NONE, |page| page.addr().get());
            self.used = 0;
            self.put(before);
        }
        // A folio, or, where it is too large for one, a run.
        if block.order() <= Order::MAX_FOLIO {
            take(self.memory, block, FrameType::Folio)?;
        } else {
            self.memory.claim(block.run())?;
        }
        self.put(Key::of(block).get());
        self.claimed.blocks += 1;
        self.claimed.frames += block.order().frames();
        Ok(())
    }

    fn words(&self) -> &'m [AtomicU64] {
        let page = self.page.map_or(PhysAddr::new(0), Block::addr);
        // SAFETY: allocated by `claim`, and known to this value alone.
        self.page.and_then(|_| unsafe { words_at(self.memory, page, PAGE_SIZE) }).unwrap_or(&[])
    }

    fn put(&mut self, value: u64) {
        if let Some(word) = self.words().get(self.used) {
            word.store(value, Relaxed);
        }
        self.used += 1;
    }

    /// Frees the last page, and goes on with the one before.
    fn drop_page(&mut self) {
        let before = self.words().first().map_or(NONE, |word| word.load(Relaxed));
        if let Some(page) = self.page.take() {
            // SAFETY: allocated by `claim`, and not used any more.
            let freed = unsafe { self.memory.free_as(page, FrameType::Table) };
            debug_assert!(freed.is_ok(), "a page of the log can be freed: {freed:?}");
        }
        let before = Some(before).filter(|before| *before != NONE);
        let before = before.map(|at| Block::containing(PhysAddr::new(at).pfn(), Order::ZERO));
        (self.page, self.used) = (before, WORDS);
    }

    /// Lets all claims stand.
    fn keep(mut self) -> PassedOn {
        while self.page.is_some() {
            self.drop_page();
        }
        self.claimed
    }
}

/// Undoes every claim, from the last to the first.
impl<M: Machine> Drop for Log<'_, M> {
    fn drop(&mut self) {
        while self.page.is_some() {
            while let Some(last) = self.used.checked_sub(1).filter(|last| *last > 0) {
                self.used = last;
                let key = self.words().get(last).map_or(0, |word| word.load(Relaxed));
                let Some(block) = Key::new(key).block() else { continue };
                if block.order() <= Order::MAX_FOLIO {
                    put_back(self.memory, block, FrameType::Folio);
                } else {
                    // SAFETY: claimed by this value, and not written.
                    let undone = unsafe { self.memory.unclaim_as(block.run(), FrameType::Run) };
                    debug_assert!(undone.is_ok(), "what was taken can be put back: {undone:?}");
                }
            }
            self.drop_page();
        }
    }
}
