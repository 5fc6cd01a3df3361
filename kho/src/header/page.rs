//! Writing the header so that it is whole at any instant.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use super::{
    CHECKSUM_AT, COMPATIBLE, Covered, HALVES, HALVES_AT, Half, Head, Header, OPENED, SEAL_AT,
    SEALS, SEALS_AT, SIZE, Says, Seal, SealInfo, SealState, TURN_AT, check, check_pages, fail,
    load_head, put, turned_to, word,
};
use crate::addr::{PAGE_SHIFT, PhysAddr};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{usize_to_u32, usize_to_u64};
use crate::page_size::PageSize;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Relaxed, Release};

/// The page of this kernel's `heirloom` subtree.
///
/// # Examples
/// ```
/// use core::sync::atomic::AtomicU64;
/// use heirloom_kho::{PAGE_SIZE, PhysAddr};
/// use heirloom_kho::{Header, HeaderPage, Producer, SealState};
///
/// let words = [const { AtomicU64::new(0) }; PAGE_SIZE / 8];
/// let at = PhysAddr::new(0x10_0000);
/// let header = Header {
///     generation: 3,
///     cache_directory: None,
///     before: None,
///     producer: Producer::new("example 1.0"),
///     seal: SealState::Unsealed,
///     longer: false,
/// };
/// HeaderPage::create(&words, at, &header)?;
/// assert_eq!(Header::read(&words, at), Ok(header));
///
/// // Its successor goes on with it.
/// let mut page = HeaderPage::reopen(&words, at)?;
/// page.renew(&Header { generation: 4, producer: Producer::new("example 1.1"), ..header })?;
/// assert_eq!(page.read()?.generation, 4);
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
#[derive(Debug)]
pub struct HeaderPage<'a> {
    words: &'a [AtomicU64],
    at: PhysAddr,
}

impl<'a> HeaderPage<'a> {
    /// Writes `header` into `words`, the page at `at`, with a table of this build's length. The root
    /// page must name it only after this, and nothing else may write it while the value lives.
    ///
    /// # Errors
    /// [`Error::TableFull`] if `words` are fewer than the table's, [`Error::Table`] if the header
    /// could not be read back: a cache directory where no page starts, or a root page at no multiple of 8.
    pub fn create(words: &'a [AtomicU64], at: PhysAddr, header: &Header) -> Result<Self, Error> {
        let Some(words) = words.get(..SIZE / size_of::<u64>()) else {
            return Err(Error::TableFull {
                table: Table::Header,
                limit: usize_to_u64(words.len()),
            });
        };
        let says = Says::new(header);
        // Nothing is written that the reader of this build would refuse.
        check_pages(PageSize::BUILD, &says, at, HALVES_AT)?;
        for word in words {
            store::word64(word, 0, Relaxed);
        }
        let head = Head {
            compatible: COMPATIBLE,
            page_shift: PAGE_SHIFT.into(),
            size: usize_to_u32(SIZE).into(),
        };
        put(words, 0, head.as_bytes());
        let mut page = Self { words, at };
        let [first, _] = HALVES;
        page.turn_to((HALVES_AT, first), &head, &says);
        match header.seal {
            SealState::Unsealed => page.seal(None),
            SealState::Sealed(info) => page.seal(Some(info)),
            SealState::Opened => page.open(),
        }
        Ok(page)
    }

    /// Returns the page that stands in `words`, which this kernel or a predecessor wrote, to be
    /// changed. Nothing else may write it while the value lives.
    ///
    /// # Errors
    /// As for [`Header::read`]; and [`Error::Table`] for one that is longer than this build knows:
    /// what is said behind could no longer be true once the rest has changed.
    pub fn reopen(words: &'a [AtomicU64], at: PhysAddr) -> Result<Self, Error> {
        let mut head = Head::new_zeroed();
        load_head(PageSize::BUILD, &mut head, words, at)?;
        let (expected, found) = (usize_to_u64(SIZE), head.size.get().into());
        if found != expected {
            return Err(fail(at, 20, Fault::Length { expected, found }));
        }
        let words = words.get(..SIZE / size_of::<u64>()).unwrap_or(words);
        check(words, at)?;
        Ok(Self { words, at })
    }

    /// Says of the page in `words`, of whatever length, that its seal was opened, or that there is
    /// none: for a page that may say more than this build knows, before it is left.
    ///
    /// # Errors
    /// [`Error::Table`] if the page is not sound.
    pub fn open_at(words: &'a [AtomicU64], at: PhysAddr, verified: bool) -> Result<(), Error> {
        let words = words.get(..SIZE / size_of::<u64>()).unwrap_or(words);
        check(words, at)?;
        let mut page = Self { words, at };
        if verified {
            page.open();
        } else {
            page.seal(None);
        }
        Ok(())
    }

    /// Returns the page's address.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Returns what the page says now.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the page.
    pub fn read(&self) -> Result<Header, Error> {
        Header::read(self.words, self.at)
    }

    /// Says this of the handover, its seal aside, in place of what was said: at each instant the one
    /// or the other.
    ///
    /// A seal covers what is said: one that holds is broken first, or [opened](HeaderPage::open).
    ///
    /// # Errors
    /// [`Error::Table`]: a cache directory where no page starts, or a root page at no multiple of 8; or something
    /// else wrote the page. Nothing is changed then.
    pub fn renew(&mut self, header: &Header) -> Result<(), Error> {
        let mut head = Head::new_zeroed();
        load_head(PageSize::BUILD, &mut head, self.words, self.at)?;
        let [first, second] = HALVES;
        let other = if turned_to(self.words, self.at)? == HALVES_AT {
            (HALVES_AT + size_of::<Half>(), second)
        } else {
            (HALVES_AT, first)
        };
        let says = Says::new(header);
        check_pages(PageSize::BUILD, &says, self.at, other.0)?;
        self.turn_to(other, &head, &says);
        Ok(())
    }

    /// Writes the half at an offset, which does not hold, and turns to it by its word.
    #[inline(never)]
    fn turn_to(&mut self, (half, turn): (usize, u64), head: &Head, says: &Says) {
        let checksum: U64 = xxh3_64(Covered { head: *head, says: *says }.as_bytes()).into();
        put(self.words, half, says.as_bytes());
        put(self.words, half + CHECKSUM_AT, checksum.as_bytes());
        if let Some(word) = word(self.words, TURN_AT) {
            // Release pairs with the Acquire in `turned_to`: what reads the turn reads the half.
            store::word64(word, turn.to_le(), Release);
        }
    }

    /// Says that this seal holds now, and no other; or that none does.
    pub fn seal(&mut self, seal: Option<SealInfo>) {
        let Some(seal) = seal else { return self.turn_seal(0) };
        // The seal that does not hold is written, then turned to.
        let [first, second] = SEALS;
        let found = word(self.words, SEAL_AT).map_or(0, |word| word.load(Relaxed));
        let holds = u64::from_le(found) == first;
        let (which, at) = if holds { (second, 1) } else { (first, 0) };
        let info = Seal {
            first: seal.first.get().into(),
            entries: seal.entries.into(),
            hash: seal.hash.into(),
        };
        put(self.words, SEALS_AT + at * size_of::<Seal>(), info.as_bytes());
        self.turn_seal(which);
    }

    /// Says that the handover was sealed, that it was found whole, and that it is changed from now
    /// on: [`SealState::Opened`].
    pub fn open(&mut self) {
        self.turn_seal(OPENED);
    }

    fn turn_seal(&mut self, says: u64) {
        if let Some(word) = word(self.words, SEAL_AT) {
            // Release pairs with the Acquire in `seal_in`: what reads the word reads that seal.
            store::word64(word, says.to_le(), Release);
        }
    }
}

impl Says {
    fn new(header: &Header) -> Self {
        Self {
            generation: header.generation.into(),
            cache_directory: header.cache_directory.unwrap_or_default().get().into(),
            before: header.before.unwrap_or_default().get().into(),
            producer: header.producer.0,
        }
    }
}
