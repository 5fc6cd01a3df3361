//! Everything that is wrong with what Linux registered.
//!
//! Each block that a table names is claimed from a ledger before it is looked into, once: so no two
//! files have the same memory, and lists that lead to each other, however often, are gone through
//! once. The work is bounded by the frames there are.

use super::bytes::preserved;
use super::found::{Found, Opaque, Unread};
use super::kexec_metadata::Metadata;
use super::kho_test::KhoTest;
use super::loans::{LoanPart, Loans};
use super::luo::{File, Luo, Session};
use super::memblock::Memblock;
use super::memfd::Memfd;
use super::text::Text;
use crate::addr::{Block, PhysAddr};
use crate::area::{AreaInfo, AreaPart};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::header::SUBTREE;
use crate::narrow::usize_to_u64;
use crate::page_size::PageSize;
use crate::pages::Pages;
use crate::root::{RootView, Subtree};
use crate::tree::Ledger;

/// A subtree that this crate knows, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Known {
    /// `LUO`.
    Luo(Luo),
    /// `memblock`.
    Memblock(Memblock),
    /// `kexec-metadata`.
    Metadata(Metadata),
    /// `kho_test`.
    KhoTest(KhoTest),
    /// `heirloom`, where Linux lends to heirloom's module.
    Loans(Loans),
}

impl Known {
    /// Reads `subtree`; `None` if its name is none that this crate knows.
    ///
    /// # Errors
    /// As for `read` of what it is.
    pub fn read(pages: &impl Pages, subtree: &Subtree) -> Result<Option<Self>, Error> {
        let (at, bytes) = (subtree.addr, size(subtree, pages.page_size()));
        Ok(Some(match subtree.name.as_str() {
            Luo::NAME => Self::Luo(Luo::read(pages, at, bytes)?),
            Memblock::NAME => Self::Memblock(Memblock::read(pages, at, bytes)?),
            Metadata::NAME => Self::Metadata(Metadata::read(pages, at, bytes)?),
            KhoTest::NAME => Self::KhoTest(KhoTest::read(pages, at, bytes)?),
            // Without a module between them and the kernel, heirloom's own tables, which others read.
            Loans::NAME if Loans::is_list(pages, at) => Self::Loans(Loans::read(pages, at, bytes)?),
            _ => return Ok(None),
        }))
    }

    /// Checks all that it leads to, and hands what is wrong, and what it does not know, to `found`:
    /// `Ok` goes on. Every block that it names is claimed from `ledger`.
    ///
    /// An opaque value, such as an FLB's `data`, is not taken for an address.
    ///
    /// # Errors
    /// The first error of `found`.
    pub fn check<P, L, E>(
        &self,
        pages: &P,
        ledger: &mut L,
        found: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E>
    where
        P: Pages,
        L: Ledger + ?Sized,
    {
        Checks { pages, ledger, found }.known(self)
    }
}

/// Returns the number of bytes of a subtree: a page where its writer did not say.
fn size(subtree: &Subtree, page: PageSize) -> u64 {
    subtree.size.unwrap_or(usize_to_u64(page.bytes()))
}

/// Checks every subtree of `root` that this crate knows, and all that it leads to: lists, files,
/// memfds and their folios, areas, regions. Hands what is wrong to `found`: `Ok` goes on, without
/// what is at fault. Sessions of one name and files of one token are not looked for: to find them
/// takes memory that grows with the lists, and this crate allocates none; the command looks for them.
///
/// What it does not know is handed to `found` too, so that no reader takes what was not looked at for
/// something in order: subtrees of other names (but [`SUBTREE`], which the survey
/// checks), files of other kinds, and all states that files share, whose data is their owner's alone.
/// A subtree is taken for one of Linux's by its name: another producer's of the same name is wrong.
///
/// The caller runs a `heirloom_restore::survey` first, with the same `ledger`: a block that
/// it claimed for one of the handover's own tables is a finding if one of Linux's names it. This
/// check passes over a subtree whose own bytes are not in memory or not preserved, as the survey
/// has told of it.
///
/// # Errors
/// The first error of `found`.
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicU32, AtomicU64};
/// use heirloom_kho::tree::Frames;
/// use heirloom_kho::{Block, PAGE_SIZE, PhysAddr};
/// use heirloom_kho::linux::Found;
/// use heirloom_kho::{Pages, RootPage};
///
/// struct Nothing;
/// impl Pages for Nothing {
///     fn words(&self, _: PhysAddr, _: usize) -> Option<&[AtomicU64]> {
///         None
///     }
///     fn holds(&self, _: Block) -> bool {
///         false
///     }
/// }
///
/// let words = [const { AtomicU32::new(0) }; PAGE_SIZE / 4];
/// let root = RootPage::create(&words, PhysAddr::new(0x10_0000), PhysAddr::new(0x20_0000))?;
/// heirloom_kho::linux::check(&Nothing, &root.view()?, &mut Frames::new(&mut []), |found| match found {
///     Found::Wrong(error) => Err(error),
///     Found::Unread(_) => Ok(()),
/// })?;
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
pub fn check<P, L, E>(
    pages: &P,
    root: &RootView<'_>,
    ledger: &mut L,
    found: impl FnMut(Found) -> Result<(), E>,
) -> Result<(), E>
where
    P: Pages,
    L: Ledger + ?Sized,
{
    let mut checks = Checks { pages, ledger, found };
    for subtree in root.subtrees() {
        let Ok(subtree) = subtree else { return Ok(()) };
        let page = pages.page_size();
        let run = page.covering(subtree.addr, size(&subtree, page));
        let there = run.filter(|run| pages.is_memory(*run));
        if there.is_none_or(|run| pages.first_unpreserved(run).is_some()) {
            continue;
        }
        match checks.sound(Known::read(pages, &subtree))? {
            Some(Some(known)) => checks.known(&known)?,
            Some(None) if subtree.name.as_str() != SUBTREE => {
                (checks.found)(Found::Unread(Unread::of_subtree(&subtree)))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A check under way.
struct Checks<'c, P, L: ?Sized, F> {
    pages: &'c P,
    ledger: &'c mut L,
    found: F,
}

impl<P, L, F, E> Checks<'_, P, L, F>
where
    P: Pages,
    L: Ledger + ?Sized,
    F: FnMut(Found) -> Result<(), E>,
{
    /// Returns what is sound of `result`; the rest is a finding.
    fn sound<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, E> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.wrong(error).map(|()| None),
        }
    }

    fn wrong(&mut self, error: Error) -> Result<(), E> {
        (self.found)(Found::Wrong(error))
    }

    fn unread(&mut self, what: Opaque, name: Text<48>, at: PhysAddr) -> Result<(), E> {
        (self.found)(Found::Unread(Unread { what, name, at }))
    }

    /// Claims the blocks that `each` names. Returns whether all were unclaimed; else there is a
    /// finding that names the first that was not. `at` is the table that names them. A block at
    /// fault ends `each` without a finding: the next reader of the block has it.
    fn claim(
        &mut self,
        (table, at): (Table, PhysAddr),
        each: impl FnOnce(&P, &mut dyn FnMut(Block) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<bool, E> {
        let mut shared = None;
        // Ends at the first that is shared, so a list is not gone through twice.
        let ended = each(self.pages, &mut |block| {
            if self.ledger.claim(block) {
                return Ok(());
            }
            shared = Some(block);
            Err(Fault::Shared { block }.in_table(table, at, 0))
        });
        match (shared, ended) {
            (Some(_), Err(error)) => self.wrong(error).map(|()| false),
            _ => Ok(true),
        }
    }

    /// Claims, as [`Checks::claim`] does, the blocks of a list of records. Where a block is claimed
    /// already, it is another table's, or the list comes back to one of its own: the finding says which.
    fn claim_list(
        &mut self,
        (table, at): (Table, PhysAddr),
        each: impl Fn(&P, &mut dyn FnMut(Block) -> Result<(), Error>) -> Result<(), Error>,
    ) -> Result<bool, E> {
        let (mut own, mut last, mut shared) = (0_u64, at, None);
        let ended = each(self.pages, &mut |block| {
            if self.ledger.claim(block) {
                (own, last) = (own + 1, block.addr());
                return Ok(());
            }
            shared = Some(block);
            Err(Fault::Shared { block }.in_table(table, at, 0))
        });
        let (Some(shared), Err(error)) = (shared, ended) else { return Ok(true) };
        // Gone through again only as far as it was its own.
        let mut returns = false;
        let _ = each(self.pages, &mut |block| {
            returns |= own > 0 && block == shared;
            own = own.saturating_sub(1);
            if own == 0 { Err(error) } else { Ok(()) }
        });
        let expected = "end: it comes back to a block before";
        let cycle = Fault::Malformed { expected }.in_table(Table::Records, last, 0);
        self.wrong(if returns { cycle } else { error }).map(|()| false)
    }

    /// Claims the preserved blocks that `bytes` bytes at `addr` lie in.
    fn claim_bytes(&mut self, table: Table, addr: PhysAddr, bytes: u64) -> Result<bool, E> {
        self.claim((table, addr), |pages, claim| {
            let Some(run) = pages.page_size().covering(addr, bytes) else { return Ok(()) };
            let mut at = run.start();
            while at < run.end() {
                let Some(block) = pages.block_around(at) else { return Ok(()) };
                claim(block)?;
                at = block.run().end();
            }
            Ok(())
        })
    }

    /// Claims an area's chunk pages and blocks.
    fn claim_area(&mut self, table: Table, at: PhysAddr, area: AreaInfo) -> Result<bool, E> {
        self.claim((table, at), |pages, claim| {
            area.walk(pages, |part| match part {
                AreaPart::Chunk(block) | AreaPart::Block(block) => claim(block),
            })
        })
    }

    fn known(&mut self, known: &Known) -> Result<(), E> {
        match known {
            Known::Luo(luo) => self.luo(luo),
            Known::Memblock(memblock) => self.memblock(memblock),
            Known::Metadata(metadata) => {
                self.claim_bytes(Table::Metadata, metadata.at, Metadata::SIZE).map(|_| ())
            }
            Known::KhoTest(test) => self.kho_test(test),
            Known::Loans(loans) => self.loans(*loans),
        }
    }

    fn luo(&mut self, luo: &Luo) -> Result<(), E> {
        if !self.claim_bytes(Table::Luo, luo.at, luo.bytes())? {
            return Ok(());
        }
        let from = (Table::Luo, luo.at);
        if self.claim_list(from, |pages, claim| luo.for_each_block(pages, claim))?
            && let Some(sessions) = self.sound(luo.sessions(self.pages))?
        {
            for session in sessions {
                if let Some(session) = self.sound(session)? {
                    self.session(&session)?;
                }
            }
        }
        if let Some(flbs) = self.sound(luo.flbs(self.pages))?
            && self.claim_bytes(Table::Flbs, luo.flbs, flbs.bytes())?
        {
            for flb in flbs {
                if let Some(flb) = self.sound(flb)? {
                    self.unread(Opaque::Flb, flb.name, flb.at)?;
                }
            }
        }
        Ok(())
    }

    fn session(&mut self, session: &Session) -> Result<(), E> {
        let from = (Table::Session, session.at);
        if self.claim_list(from, |pages, claim| session.for_each_block(pages, claim))?
            && let Some(files) = self.sound(session.files(self.pages))?
        {
            for file in files {
                if let Some(file) = self.sound(file)? {
                    self.file(&file)?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &File) -> Result<(), E> {
        let memfd = match self.sound(file.memfd(self.pages))? {
            Some(Some(memfd)) => memfd,
            Some(None) => return self.unread(Opaque::File, file.compatible, file.at),
            None => return Ok(()),
        };
        if !self.claim_bytes(Table::Memfd, memfd.at, Memfd::SIZE)? {
            return Ok(());
        }
        for fault in memfd.faults() {
            self.wrong(fault)?;
        }
        if let Some(area) = memfd.area
            && !self.claim_area(Table::Memfd, memfd.at, area)?
        {
            return Ok(());
        }
        memfd.entries(self.pages, |at, folio| {
            if let Some(folio) = self.sound(folio)? {
                for fault in folio.faults(at, memfd.page_size) {
                    self.wrong(fault)?;
                }
                self.claim((Table::MemfdFolios, at), |_, claim| claim(folio.block))?;
            }
            Ok(())
        })
    }

    fn kho_test(&mut self, test: &KhoTest) -> Result<(), E> {
        if !self.claim_bytes(Table::KhoTest, test.at, 1)?
            || !self.claim_area(Table::KhoTest, test.at, test.area)?
        {
            return Ok(());
        }
        let mut sound = true;
        test.entries(self.pages, |at, folio| {
            sound &= match self.sound(folio)? {
                Some(block) => self.claim((Table::KhoTest, at), |_, claim| claim(block))?,
                None => false,
            };
            Ok(())
        })?;
        if sound {
            self.sound(test.verify(self.pages))?;
        }
        Ok(())
    }

    /// Claims the list's pages and the folios. What lies in them is another handover, which this does not look into.
    fn loans(&mut self, loans: Loans) -> Result<(), E> {
        let (pages, mut at) = (self.pages, loans.at);
        let walked = loans.walk(pages, |part| match part {
            LoanPart::Page(page) => {
                let from = (Table::Loans, at);
                at = page.addr();
                match self.claim(from, |_, claim| claim(page)) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Ended::Told),
                    Err(error) => Err(Ended::Each(error)),
                }
            }
            LoanPart::Folio { folio, .. } => {
                let claimed = self.claim((Table::Loans, at), |_, claim| claim(folio));
                claimed.map(|_| ()).map_err(Ended::Each)
            }
            LoanPart::Wrong(error) => self.wrong(error).map_err(Ended::Each),
        });
        match walked {
            Ok(()) | Err(Ended::Told) => Ok(()),
            Err(Ended::Table(error)) => self.wrong(error),
            Err(Ended::Each(error)) => Err(error),
        }
    }

    fn memblock(&mut self, memblock: &Memblock) -> Result<(), E> {
        if !self.claim_bytes(Table::Memblock, memblock.at, 1)? {
            return Ok(());
        }
        memblock.regions(self.pages, |region| {
            // Claimed before it is looked into: any number of regions can be all of memory.
            if let Some(region) = self.sound(region)?
                && self.claim_bytes(Table::Memblock, region.start, region.size)?
            {
                let from = (Table::Memblock, memblock.at, 0);
                self.sound(preserved(self.pages, region.start, region.size, from))?;
            }
            Ok(())
        })
    }
}

/// Why a walk over a list ends early.
enum Ended<E> {
    /// A table is not sound.
    Table(Error),
    /// There is a finding of it already.
    Told,
    /// The caller's own error.
    Each(E),
}

impl<E> From<Error> for Ended<E> {
    fn from(error: Error) -> Self {
        Self::Table(error)
    }
}
