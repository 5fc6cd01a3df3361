//! Sessions for Linux to find: written as Linux writes them.
//!
//! ```text
//!  Luo::create ─> add_session(name, files) ─────────┐ one store links it, or counts it
//!                      FileList: push(kind, data) ──┘ nothing leads there before
//! ```
//!
//! Whatever Linux left can be added to as well: its own sessions stay, and another one comes behind them.

use core::marker::PhantomData;

use super::blank::{BlankPage, take};
use super::bytes::save;
use super::luo::{Luo, Session, StoredFile, StoredSession};
use super::text::Text;
use crate::addr::PhysAddr;
use crate::blocks::{self, Chain, Record, entry_words, head};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{u64_to_usize, usize_to_u64};
use crate::pages::Pages;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Release;

/// Words of the subtree before the address of the first block of sessions, whatever it says that it is.
const SESSIONS_FROM_END: usize = 2;

/// A list of records in the making.
#[derive(Debug)]
struct List<'p, T> {
    table: Table,
    first: Option<BlankPage<'p>>,
    last: &'p [AtomicU64],
    count: u64,
    marker: PhantomData<fn(T)>,
}

impl<'p, T: Record> List<'p, T> {
    const fn new(table: Table) -> Self {
        Self { table, first: None, last: &[], count: 0, marker: PhantomData }
    }

    fn push(
        &mut self,
        pages: &mut impl Iterator<Item = BlankPage<'p>>,
        record: &T,
    ) -> Result<(), Error> {
        if self.first.is_none() || !append(self.last, record) {
            let page = take(pages, self.table, self.count)?;
            append(page.words(), record);
            match self.first {
                Some(_) => link(self.last, page.addr()),
                None => self.first = Some(page),
            }
            self.last = page.words();
        }
        self.count += 1;
        Ok(())
    }

    fn addr(&self) -> PhysAddr {
        self.first.map_or(PhysAddr::new(0), |page| page.addr())
    }
}

/// Writes a record into a block and counts it; returns `false` if the block is full.
fn append<T: Record>(block: &[AtomicU64], record: &T) -> bool {
    let (_, count) = head(block);
    if count >= T::PER_BLOCK {
        return false;
    }
    let slot = entry_words::<T>(block, count);
    let (Some(slot), Some(counter)) = (slot, block.get(1)) else { return false };
    blocks::save(slot, record);
    // Release: a reader of the count reads the entry (`head`'s Acquire).
    store::word64(counter, count + 1, Release);
    true
}

/// Puts the block at `next` behind this one.
fn link(block: &[AtomicU64], next: PhysAddr) {
    if let Some(word) = block.first() {
        // Release: a reader that comes there reads what was written there (`head`'s Acquire).
        store::word64(word, next.get(), Release);
    }
}

/// The files of a session in the making. Nothing leads to them until [`Luo::add_session`].
#[derive(Debug)]
pub struct FileList<'p>(List<'p, StoredFile>);

impl Default for FileList<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'p> FileList<'p> {
    /// Returns a list of no files, which takes no page.
    pub const fn new() -> Self {
        Self(List::new(Table::File))
    }

    /// Returns how many pages a list of so many files takes.
    pub const fn pages_for(files: u64) -> u64 {
        files.div_ceil(StoredFile::PER_BLOCK)
    }

    /// Appends a file: of which kind and version it is, what its owner wants back, and its token.
    ///
    /// # Errors
    /// [`Error::TableFull`]: `pages` has none left. The list is as it was.
    pub fn push(
        &mut self,
        pages: &mut impl Iterator<Item = BlankPage<'p>>,
        kind: Text<48>,
        data: u64,
        token: u64,
    ) -> Result<(), Error> {
        self.0.push(pages, &StoredFile::new(kind, data, token))
    }

    /// Returns how many files there are.
    pub const fn len(&self) -> u64 {
        self.0.count
    }

    /// Returns whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.count == 0
    }
}

impl Luo {
    /// Writes the subtree, without a session, into a page, as Linux 7.3 does: [`Luo::SIZE`] bytes.
    /// `number` counts live updates, the one to come included.
    pub fn create(page: BlankPage<'_>, number: u64) -> Self {
        let (luo, head) = Self::head(page.addr(), number);
        save(page.words(), &head);
        luo
    }

    /// Returns how many pages [`Luo::add_session`] takes at most.
    pub const fn pages_for_session() -> u64 {
        1
    }

    /// Appends a session. A reader finds it whole, or finds what was there before. Takes a page if no block
    /// has room for it.
    ///
    /// # Errors
    /// [`Error::Table`]: there is a session of this name ([`Fault::Duplicate`]), or what is there is not sound.
    /// [`Error::TableFull`]: `blank` has no page left. Nothing was changed.
    ///
    /// # Examples
    /// See [the module](crate::linux#writing).
    pub fn add_session<'p, P: Pages>(
        &mut self,
        pages: &P,
        blank: &mut impl Iterator<Item = BlankPage<'p>>,
        name: Text<64>,
        files: &FileList<'p>,
    ) -> Result<(), Error> {
        let record = StoredSession::new(name, files.0.addr(), files.len());
        let (mut last, mut count): (Option<&[AtomicU64]>, _) = (None, 0);
        if self.sessions.get() != 0 {
            let chain = Chain::<_, StoredSession>::walk(
                pages,
                self.sessions,
                Table::Records,
                |_, words| {
                    last = Some(words);
                    Ok::<_, Error>(())
                },
            )?;
            count = chain.len();
            if let Some(Session { at, .. }) = self.find(pages, name)? {
                return Err(Fault::Duplicate.in_table(Table::Session, at, 0));
            }
        }
        // The count is stored last: a reader that comes in between sees the list as it was.
        if last.is_some_and(|last| append(last, &record)) {
            return Ok(());
        }
        let skip = u64_to_usize(self.bytes()) / 8 - SESSIONS_FROM_END;
        let at = PhysAddr::new(self.at.get() + usize_to_u64(skip * 8));
        let outside = Fault::OutsideMemory { addr: at }.in_table(Table::Luo, self.at, skip * 8);
        let to_first = pages.words(at, 8).ok_or(outside)?;
        let page = take(blank, Table::Session, count)?;
        // Filled before anything leads to it.
        append(page.words(), &record);
        if last.is_none() {
            self.sessions = page.addr();
        }
        link(last.unwrap_or(to_first), page.addr());
        Ok(())
    }

    /// Returns the session of this name, whatever else there is.
    fn find(&self, pages: &impl Pages, name: Text<64>) -> Result<Option<Session>, Error> {
        let mut all = self.sessions(pages)?.filter_map(Result::ok);
        Ok(all.find(|session| session.name.as_bytes() == name.as_bytes()))
    }
}
