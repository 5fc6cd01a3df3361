//! What the kernel's own test of KHO leaves: folios, and a checksum over them.
//!
//! ```text
//!  / { compatible = "kho-test-v1"; magic = <u32 0x4b484f21>;
//!      data { nr_folios = <u32>; folios_info = <area descriptor>; csum = <u32>; }; };
//!  area: nr_folios entries, u64 each: address | order
//! ```

use zerocopy::FromBytes;

use super::properties::Properties;
use super::stop::Stop;
use crate::addr::{Block, PAGE_SIZE, PhysAddr};
use crate::area::{AreaDescriptor, AreaInfo, AreaPart};
use crate::compat::{Compat, Format, VMALLOC};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{low_u32, u32_to_u64, usize_to_u64};
use crate::pages::Pages;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

static FORMAT: Format =
    Format { text: KhoTest::COMPATIBLE, name: "kho-test", version: 1, parts: &[VMALLOC] };

const MAGIC: u32 = 0x4b48_4f21;
/// The node with the rest.
const DATA: &str = "data";

/// Linux's checksum of memory (`csum_partial`): the ones' complement sum of its 16-bit words, as a
/// number modulo 0xffff.
///
/// # Examples
/// ```
/// use heirloom_kho::linux::Checksum;
/// let mut sum = Checksum::default();
/// sum.add(&[0xff, 0xff, 2, 0, 0, 0, 0, 0]);
/// assert_eq!(sum, Checksum::of(2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checksum(u32);

impl Checksum {
    const MODULUS: u64 = 0xffff;

    /// The sum that Linux wrote down, of which only this much is the sum's: how it is folded into 32
    /// bits depends on how the memory was cut up.
    pub const fn of(csum: u32) -> Self {
        Self(low_u32(u32_to_u64(csum) % Self::MODULUS))
    }

    /// The sum, below 0xffff.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Adds memory, an even number of bytes of it; half a word at the end is left out.
    pub fn add(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks::<2>().0 {
            self.add_word(u16::from_ne_bytes(*word).into());
        }
    }

    /// Adds memory that is read by words.
    pub fn add_words(&mut self, words: &[AtomicU64]) {
        for word in words {
            self.add_word(word.load(Relaxed));
        }
    }

    /// 2^16 is 1 modulo 0xffff, so a word is the sum of its quarters.
    const fn add_word(&mut self, word: u64) {
        self.0 = low_u32((u32_to_u64(self.0) + word % Self::MODULUS) % Self::MODULUS);
    }
}

/// What the subtree `kho_test` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KhoTest {
    /// Where it is.
    pub at: PhysAddr,
    /// What it says that it is.
    pub compat: Compat,
    /// How many folios.
    pub folios: u32,
    /// The area with the list of them.
    pub area: AreaInfo,
    /// The checksum as Linux wrote it.
    pub csum: u32,
}

impl KhoTest {
    /// The subtree's name.
    pub const NAME: &str = "kho_test";
    /// The format that this reads, where it says nothing of what it is built of.
    pub const COMPATIBLE: &str = "kho-test-v1";

    /// Reads the subtree's `bytes` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Table`]: no sound device tree or area descriptor. [`Error::Table`] with the byte
    /// and the reason: not in memory or not preserved; a property missing, twice or of another
    /// length; another version; a list too long for its area.
    pub fn read(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Result<Self, Error> {
        let page = pages.page_size();
        let tree = Properties::read(pages, Table::KhoTest, at, bytes)?;
        let version = tree.find(None, "compatible")?;
        let compat = tree.compat(version, &FORMAT)?;
        let magic = tree.find(None, "magic")?;
        let found = tree.u32(magic)?;
        if found != MAGIC {
            return Err(tree.fail(magic.at, Fault::Magic { found: found.into() }));
        }
        let count = tree.find(Some(DATA), "nr_folios")?;
        let folios = tree.u32(count)?;
        let info = tree.find(Some(DATA), "folios_info")?;
        let descriptor: [u8; 16] = tree.array(info)?;
        let here = PhysAddr::new(at.get() + usize_to_u64(info.at));
        let cut = tree.fail(info.at, Fault::Malformed { expected: "area descriptor" });
        let area = AreaDescriptor::read_from_bytes(&descriptor).map_err(|_| cut)?;
        let area = area.info(here, page)?;
        let limit = u64::from(area.pages()) * (usize_to_u64(page.bytes()) / 8);
        if u64::from(folios) > limit {
            return Err(tree.fail(count.at, Fault::TooMany { found: folios.into(), limit }));
        }
        let csum = tree.u32(tree.find(Some(DATA), "csum")?)?;
        Ok(Self { at, compat, folios, area, csum })
    }

    /// Calls `each` with every folio, in the order of the list. All are preserved.
    ///
    /// # Errors
    /// The first error of `each`. [`Error::Table`]: the area is not sound, or not all of it is
    /// preserved. [`Error::Table`] with the entry and the reason: no block, or one that is not
    /// preserved with this order.
    pub fn for_each_folio<E: From<Error>>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<(), E> {
        self.entries(pages, |_, entry| each(entry?))
    }

    /// Checks that the folios are as they were when Linux computed the checksum.
    ///
    /// # Errors
    /// As for [`KhoTest::checksum`]; [`Error::Table`]: they are not.
    pub fn verify(&self, pages: &impl Pages) -> Result<(), Error> {
        let (sum, stored) = (self.checksum(pages)?, Checksum::of(self.csum));
        if sum == stored {
            return Ok(());
        }
        let fault = Fault::Checksum { expected: sum.0.into(), found: stored.0.into() };
        Err(fault.in_table(Table::KhoTest, self.at, 0))
    }

    /// The checksum of the folios as they are now; to be compared with [`Checksum::of`] of what
    /// Linux wrote.
    ///
    /// Reads each folio as often as the list names it: of a list that no
    /// [`check`](super::Known::check) has found sound, that can be any number of times.
    ///
    /// # Errors
    /// As for [`KhoTest::for_each_folio`]; [`Error::Table`]: a folio is not in memory.
    pub fn checksum(&self, pages: &impl Pages) -> Result<Checksum, Error> {
        let mut sum = Checksum::default();
        self.for_each_folio(pages, |block| {
            for frame in 0..block.order().frames() {
                let addr = block.pfn().add(frame).addr();
                let words = pages.words(addr, PAGE_SIZE);
                let outside = Fault::OutsideMemory { addr }.in_table(Table::KhoTest, self.at, 0);
                sum.add_words(words.ok_or(outside)?);
            }
            Ok::<_, Error>(())
        })?;
        Ok(sum)
    }

    /// Calls `each` with every entry and its address, or what is wrong with it or with the area.
    pub(crate) fn entries<E>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(PhysAddr, Result<Block, Error>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = u64::from(self.folios);
        let walked = self.area.walk(pages, |part| {
            let AreaPart::Block(list) = part else { return Ok(()) };
            let count = left.min(list.order().bytes() / 8);
            left -= count;
            for index in 0..count {
                let at = PhysAddr::new(list.addr().get() + index * 8);
                let entry = pages.words(at, 8).and_then(|words| words.first());
                let outside = Fault::OutsideMemory { addr: at }.in_table(Table::KhoTest, at, 0);
                let block = entry.ok_or(outside);
                let block = block.and_then(|word| folio(pages, at, word.load(Relaxed)));
                each(at, block).map_err(Stop::Each)?;
            }
            Ok(())
        });
        match walked {
            Ok(()) => Ok(()),
            Err(Stop::Area(error)) => each(self.area.first(), Err(error)),
            Err(Stop::Each(error)) => Err(error),
        }
    }
}

/// The preserved folio that the entry at `at` names.
fn folio(pages: &impl Pages, at: PhysAddr, entry: u64) -> Result<Block, Error> {
    let page = pages.page_size();
    let mask = usize_to_u64(page.bytes()) - 1;
    let (addr, found) = (PhysAddr::new(entry & !mask), entry & mask);
    let limit = page.max_order().into();
    let order = u8::try_from(found).ok().and_then(|order| page.order_of(order));
    let order = order.ok_or(Fault::TooMany { found, limit }.in_table(Table::KhoTest, at, 0))?;
    let block = Block::new(addr.pfn(), order);
    let block = block.ok_or(Fault::Misaligned { addr }.in_table(Table::KhoTest, at, 0))?;
    if !pages.holds(block) {
        return Err(Fault::NotPreserved { block }.in_table(Table::KhoTest, at, 0));
    }
    Ok(block)
}
