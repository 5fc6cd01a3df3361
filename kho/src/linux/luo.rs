//! The live update orchestrator's subtree: sessions of files, and states that files share.
//!
//! ```text
//!  LUO                  compatible[], number u64, sessions u64, FLBs u64
//!    32 bytes           8 of them "luo-v5"
//!    40 bytes           16 of them "luo-v5;block-v1"
//!  session, 80 bytes    name[64], files u64, count u64             in blocks of records
//!  file, 64 bytes       compatible[48], data u64, token u64        in blocks of records
//! ```
//!
//! A file's `data` and an FLB's are what its owner wants back; only the owner knows whether it is an
//! address. Of a memfd's it is known: see [`File::memfd`].

use zerocopy::native_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bytes::{load, until_zero, words};
use super::flb::Flbs;
use super::memfd::{self, Memfd};
use super::properties::Properties;
use super::text::Text;
use crate::addr::{Block, PhysAddr};
use crate::blocks::{Chain, Entries, Record};
use crate::compat::{BLOCK, Compat, Format};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::fdt::FDT_MAGIC;
use crate::narrow::{u64_to_usize, usize_to_u64};
use crate::pages::Pages;

/// What stands behind the text that says what it is, which is as long as it needs to be: with a zero at
/// its end, whole words.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredLuo {
    number: U64,
    sessions: U64,
    flbs: U64,
}

/// Bytes of the text, where it names nothing that the structure is built of, and where it names all.
const SHORT: usize = 8;
const LONG: usize = 16;

static FORMAT: Format = Format { text: Luo::COMPATIBLE, name: "luo", version: 5, parts: &[BLOCK] };

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct StoredSession {
    name: [u8; 64],
    files: U64,
    count: U64,
}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct StoredFile {
    compatible: [u8; 48],
    data: U64,
    token: U64,
}

const _: () = {
    assert!(size_of::<StoredLuo>() == 24 && size_of::<StoredSession>() == 80);
    assert!(size_of::<StoredFile>() == 64);
};

impl StoredSession {
    pub(super) fn new(name: Text<64>, files: PhysAddr, count: u64) -> Self {
        Self { name: name.into_bytes(), files: files.get().into(), count: count.into() }
    }
}

impl StoredFile {
    pub(super) fn new(kind: Text<48>, data: u64, token: u64) -> Self {
        Self { compatible: kind.into_bytes(), data: data.into(), token: token.into() }
    }
}

/// Bytes of the smallest structure.
const SHORTEST: usize = SHORT + size_of::<StoredLuo>();

/// What the subtree `LUO` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Luo {
    /// Where it is.
    pub at: PhysAddr,
    /// What it says that it is.
    pub compat: Compat,
    /// How many live updates led here.
    pub number: u64,
    /// The first block of sessions; 0 if there is none.
    pub sessions: PhysAddr,
    /// The list of FLBs; 0 if there is none.
    pub flbs: PhysAddr,
}

impl Luo {
    /// The subtree's name.
    pub const NAME: &str = "LUO";
    /// The format that this reads, where it says nothing of what it is built of.
    pub const COMPATIBLE: &str = "luo-v5";
    /// Bytes of the smallest structure.
    pub const SIZE: u64 = usize_to_u64(SHORTEST);

    /// Returns what stands at `at` where there is nothing but a number, and its bytes.
    pub(super) fn head(at: PhysAddr, number: u64) -> (Self, [u8; SHORTEST]) {
        let none = PhysAddr::new(0);
        let luo = Self { at, compat: Compat::of(&FORMAT), number, sessions: none, flbs: none };
        let mut bytes = [0; SHORTEST];
        let (text, rest) = bytes.split_at_mut(SHORT);
        text.iter_mut().zip(Self::COMPATIBLE.bytes()).for_each(|(to, from)| *to = from);
        let stored = StoredLuo { number: number.into(), sessions: 0.into(), flbs: 0.into() };
        rest.copy_from_slice(stored.as_bytes());
        (luo, bytes)
    }

    /// Returns the bytes of the structure.
    pub const fn bytes(&self) -> u64 {
        usize_to_u64(text_bytes(self.compat) + size_of::<StoredLuo>())
    }

    /// Reads the subtree's `bytes` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: not in memory, not preserved, too short, or
    /// another version.
    pub fn read(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Result<Self, Error> {
        let fail = |fault: Fault| fault.in_table(Table::Luo, at, 0);
        let short = |expected| fail(Fault::Length { expected, found: bytes });
        if bytes < Self::SIZE {
            return Err(short(Self::SIZE));
        }
        let first = words(pages, at, SHORTEST, (Table::Luo, at, 0))?;
        let first: [u8; SHORTEST] = load(first);
        if first.starts_with(&FDT_MAGIC.to_be_bytes()) {
            return Err(tree(pages, at, bytes));
        }
        // Text that goes on behind the shorter field, or what else stands there, as far as it is one.
        let text = match first.split_at(SHORT).0 {
            short if short.contains(&0) => until_zero(short),
            _ => first.split(|byte| !byte.is_ascii_graphic()).next().unwrap_or(&first),
        };
        let compat = FORMAT.read(&text.iter().copied()).map_err(fail)?;
        let skip = text_bytes(compat);
        let size = skip + size_of::<StoredLuo>();
        if bytes < usize_to_u64(size) {
            return Err(short(usize_to_u64(size)));
        }
        let all = words(pages, at, size, (Table::Luo, at, 0))?;
        let stored: StoredLuo = load(all.get(skip / 8..).unwrap_or(&[]));
        // The text has a zero behind it.
        let ends = text.len() < skip && first.get(text.len()) == Some(&0);
        ends.then_some(())
            .ok_or(fail(Fault::Malformed { expected: "zero at the end of the text" }))?;
        Ok(Self {
            at,
            compat,
            number: stored.number.get(),
            sessions: PhysAddr::new(stored.sessions.get()),
            flbs: PhysAddr::new(stored.flbs.get()),
        })
    }

    /// Returns the sessions, in the order they stand in.
    ///
    /// # Errors
    /// [`Error::Table`]: their list is not sound.
    pub fn sessions<'p, P: Pages>(&self, pages: &'p P) -> Result<Sessions<'p, P>, Error> {
        Ok(Sessions { entries: list(pages, self.sessions)?.map(|chain| chain.iter()) })
    }

    /// Calls `each` with every block of the list of sessions, as far as it is sound, each before it
    /// is looked into.
    ///
    /// # Errors
    /// The first error of `each`; as for [`Luo::sessions`].
    pub fn for_each_block(
        &self,
        pages: &impl Pages,
        each: impl FnMut(Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        blocks::<StoredSession>(pages, self.sessions, each)
    }

    /// Returns the session of this name, the first if there are several.
    ///
    /// # Errors
    /// As for [`Luo::sessions`]; [`Error::Table`]: a session before it is not sound.
    pub fn session(&self, pages: &impl Pages, name: &str) -> Result<Option<Session>, Error> {
        for session in self.sessions(pages)? {
            let session = session?;
            if session.name.as_bytes() == name.as_bytes() {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    /// Returns the states that files share.
    ///
    /// # Errors
    /// [`Error::Table`]: their list is not in memory, not preserved, or has more entries than its
    /// pages hold.
    pub fn flbs<'p, P: Pages>(&self, pages: &'p P) -> Result<Flbs<'p, P>, Error> {
        Flbs::read(pages, self.flbs, (Table::Luo, self.at, u64_to_usize(self.bytes()) - 8))
    }
}

/// Returns what is wrong with a device tree of `bytes` bytes at `at`: the structure was one up to version 2, and
/// names its version there.
#[cold]
fn tree(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Error {
    let known = Properties::read(pages, Table::Luo, at, bytes).and_then(|tree| {
        let says = tree.find(None, "compatible")?;
        tree.compat(says, &FORMAT)
    });
    let expected = "structure that starts with its own text";
    known.err().unwrap_or(Fault::Malformed { expected }.in_table(Table::Luo, at, 0))
}

/// Returns the number of bytes of the text that says what the structure is.
const fn text_bytes(compat: Compat) -> usize {
    if compat.has_parts() { LONG } else { SHORT }
}

/// Returns a list of records; none at address 0.
fn list<P: Pages, T: Record>(pages: &P, first: PhysAddr) -> Result<Option<Chain<'_, P, T>>, Error> {
    if first.get() == 0 {
        return Ok(None);
    }
    Ok(Some(Chain::new(pages, first)?))
}

/// Calls `each` with the blocks of a list of records; with none at address 0.
fn blocks<T: Record>(
    pages: &impl Pages,
    first: PhysAddr,
    each: impl FnMut(Block) -> Result<(), Error>,
) -> Result<(), Error> {
    if first.get() == 0 {
        return Ok(());
    }
    Chain::<_, T>::for_each(pages, first, each)
}

/// One session: files that one owner preserved together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// Where its entry is.
    pub at: PhysAddr,
    /// Its name.
    pub name: Text<64>,
    /// The first block of files; 0 if there is none.
    pub files: PhysAddr,
    /// How many files.
    pub count: u64,
}

impl Session {
    /// Returns its files, in the order they stand in.
    ///
    /// # Errors
    /// [`Error::Table`]: their list is not sound. [`Error::Table`]: it has more or fewer than the
    /// session says.
    pub fn files<'p, P: Pages>(&self, pages: &'p P) -> Result<Files<'p, P>, Error> {
        let chain = list(pages, self.files)?;
        let found = chain.as_ref().map_or(0, Chain::len);
        if found != self.count {
            let fault = Fault::Length { expected: self.count, found };
            return Err(fault.in_table(Table::Session, self.at, 72));
        }
        Ok(Files { entries: chain.map(|chain| chain.iter()) })
    }

    /// Calls `each` with every block of the list of files, as far as it is sound, each before it is
    /// looked into.
    ///
    /// # Errors
    /// The first error of `each`; [`Error::Table`]: the list is not sound.
    pub fn for_each_block(
        &self,
        pages: &impl Pages,
        each: impl FnMut(Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        blocks::<StoredFile>(pages, self.files, each)
    }

    /// Returns the file with this token, the first if there are several.
    ///
    /// # Errors
    /// As for [`Session::files`]; [`Error::Table`]: a file before it is not sound.
    pub fn file(&self, pages: &impl Pages, token: u64) -> Result<Option<File>, Error> {
        for file in self.files(pages)? {
            let file = file?;
            if file.token == token {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

/// The sessions, from [`Luo::sessions`]. An item is an error if that entry is not sound; others
/// follow.
#[derive(Debug)]
pub struct Sessions<'p, P> {
    entries: Option<Entries<'p, P, StoredSession>>,
}

impl<P: Pages> Iterator for Sessions<'_, P> {
    type Item = Result<Session, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.as_mut()?;
        let stored = entries.next()?;
        let at = entries.last_at();
        let (files, count) = (PhysAddr::new(stored.files.get()), stored.count.get());
        let name = Text::read(stored.name, (Table::Session, at, 0));
        Some(name.map(|name| Session { at, name, files, count }))
    }
}

/// One preserved file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Where its entry is.
    pub at: PhysAddr,
    /// Of which kind and version it is.
    pub compatible: Text<48>,
    /// What the owner that preserved it wants back.
    pub data: u64,
    /// What its session knows it by.
    pub token: u64,
}

impl File {
    /// Returns the memfd that it is; `None` if its kind is none that this crate knows, and then
    /// nothing of its data was looked at.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: not in memory or not preserved; more folios than the
    /// area holds, or than the file has pages; an area's descriptor that is not sound. [`Error::Table`]: a memfd of
    /// another version, or built of something of another version or that is not known, or with another name:
    /// `memfd` alone, or with anything behind the version.
    pub fn memfd(&self, pages: &impl Pages) -> Result<Option<Memfd>, Error> {
        let kind = self.compatible.as_bytes();
        match memfd::FORMAT.read(&kind.iter().copied()) {
            Ok(compat) => {
                let from = (Table::File, self.at, 48);
                Memfd::read(pages, compat, PhysAddr::new(self.data), from).map(Some)
            }
            Err(fault) if memfd::is_one(kind) => Err(fault.in_table(Table::File, self.at, 0)),
            Err(_) => Ok(None),
        }
    }
}

/// The files of a session, from [`Session::files`]. An item is an error if that entry is not sound;
/// others follow.
#[derive(Debug)]
pub struct Files<'p, P> {
    entries: Option<Entries<'p, P, StoredFile>>,
}

impl<P: Pages> Iterator for Files<'_, P> {
    type Item = Result<File, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.as_mut()?;
        let stored = entries.next()?;
        let at = entries.last_at();
        let (data, token) = (stored.data.get(), stored.token.get());
        let compatible = Text::read(stored.compatible, (Table::File, at, 0));
        Some(compatible.map(|compatible| File { at, compatible, data, token }))
    }
}
