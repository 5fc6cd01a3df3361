//! What heirloom's module registers in Linux: the memory that Linux lends it, and where its own handover starts
//! within.
//!
//! ```text
//!  "heirloom" ──> page { "HEIRLOAN", version, page size, next, entry, folio, folio, 0, … }
//!                                                         │     │       │
//!      next page { …, 0, folio, … } <─────────────────────┘     │       └─> address | order
//!                                                               └─> root page, scratch list: in those folios
//! ```
//!
//! Where no module is between heirloom and the kernel, the subtree of this name leads to a
//! [`Header`](crate::Header). Which of the two it is, the first eight bytes say.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bytes::load;
use crate::addr::{Block, PhysAddr};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::{Pages, block_at, table_at};
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// What a page of the list starts with. `linux/module/loans.c` has the same structure.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    magic: [u8; 8],
    version: U32,
    page_shift: U32,
    next: U64,
    /// In the first page; zeroes in all others.
    entry: StoredEntry,
    reserved: [U64; 2],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredEntry {
    root: U64,
    scratch: U64,
    scratch_bytes: U64,
}

const MAGIC: [u8; 8] = *b"HEIRLOAN";
const NEXT_AT: usize = 16;
const ENTRY_AT: usize = 24;
const RESERVED_AT: usize = 48;
const WORDS_AT: usize = size_of::<Stored>();
const _: () = assert!(WORDS_AT == 64 && RESERVED_AT + 16 == WORDS_AT);

/// What the module's list of loans says.
///
/// # Examples
/// A list with one folio, a page, in which heirloom's root page stands.
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::atomic::AtomicU64;
/// use heirloom_kho::linux::{LoanPart, Loans};
/// use heirloom_kho::{Block, Error, Order, PAGE_SHIFT, PAGE_SIZE, Pages, PhysAddr};
///
/// /// Preserved pages by number.
/// struct Memory(BTreeMap<u64, Vec<AtomicU64>>);
/// impl Pages for Memory {
///     fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
///         let page = self.0.get(&addr.pfn().get())?;
///         page.get(addr.offset_in_page() / 8..)?.get(..bytes.div_ceil(8))
///     }
///     fn holds(&self, block: Block) -> bool {
///         block.order() == Order::ZERO && self.0.contains_key(&block.pfn().get())
///     }
/// }
/// let at = |page: u64| page * PAGE_SIZE as u64;
/// let version = u64::from(PAGE_SHIFT) << 32 | u64::from(Loans::VERSION);
/// let words = [u64::from_le_bytes(*b"HEIRLOAN"), version.to_le(), 0, at(2), 0, 0, 0, 0, at(2)];
/// let page = |words: &[u64]| {
///     let mut page: Vec<_> = words.iter().copied().map(AtomicU64::new).collect();
///     page.resize_with(PAGE_SIZE / 8, AtomicU64::default);
///     page
/// };
/// let memory = Memory(BTreeMap::from([(1, page(&words)), (2, page(&[]))]));
///
/// let loans = Loans::read(&memory, PhysAddr::new(at(1)), PAGE_SIZE as u64)?;
/// assert_eq!(loans.root.get(), at(2));
/// let mut lent = Vec::new();
/// loans.walk(&memory, |part| match part {
///     LoanPart::Page(_) => Ok(()),
///     LoanPart::Folio { folio, .. } => Ok(lent.push(folio.addr())),
///     LoanPart::Wrong(error) => Err(error),
/// })?;
/// assert_eq!(lent, [PhysAddr::new(at(2))]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loans {
    /// Where its first page is.
    pub at: PhysAddr,
    /// The root page of the handover within.
    pub root: PhysAddr,
    /// The scratch list of that handover.
    pub scratch: PhysAddr,
    /// Bytes of the scratch list.
    pub scratch_bytes: u64,
}

/// A piece of the list of loans, as [`Loans::walk`] comes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoanPart {
    /// A page of the list, which was not looked into yet.
    Page(Block),
    /// A folio that Linux lends.
    Folio {
        /// Where the list names it.
        at: PhysAddr,
        /// The folio, which is preserved.
        folio: Block,
    },
    /// A word or a field that is not sound. The list goes on behind it.
    Wrong(Error),
}

impl Loans {
    /// The subtree's name.
    pub const NAME: &str = crate::header::SUBTREE;
    /// The version that this reads.
    pub const VERSION: u32 = 1;

    /// Returns whether a list of loans, sound or not, is what starts at `at`, in a preserved page.
    pub fn is_list(pages: &impl Pages, at: PhysAddr) -> bool {
        let there = pages.page_size().covering(at, usize_to_u64(MAGIC.len()));
        let there = there.filter(|run| pages.is_memory(*run));
        let preserved = there.is_some_and(|run| pages.first_unpreserved(run).is_none());
        let first = if preserved { pages.words(at, MAGIC.len()) } else { None };
        matches!(first, Some([word, ..]) if word.load(Relaxed).to_ne_bytes() == MAGIC)
    }

    /// Reads the subtree's `bytes` bytes at `at`: the first page of the list.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: no page of its own, not in memory or not preserved; another
    /// version; of a kernel with pages of another size; not so many bytes as a page has.
    pub fn read(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Result<Self, Error> {
        let expected = usize_to_u64(pages.page_size().bytes());
        if bytes != expected {
            return Err(Fault::Length { expected, found: bytes }.in_table(Table::Loans, at, 0));
        }
        let (_, words) = table_at(pages, at, (Table::Loans, at, 0))?;
        let entry = head(pages, at, words)?.entry;
        Ok(Self {
            at,
            root: PhysAddr::new(entry.root.get()),
            scratch: PhysAddr::new(entry.scratch.get()),
            scratch_bytes: entry.scratch_bytes.get(),
        })
    }

    /// Goes through the whole list and calls `each` with every page of it, before the page is looked into, with
    /// every folio that it names, and with what is wrong: `Ok` goes on.
    ///
    /// No page is looked into more than three times, wherever the pages lead. That a folio is not named twice is
    /// not checked: claiming it twice fails.
    ///
    /// # Errors
    /// [`Error::Table`]: a page that cannot be read, or pages that lead back to one before; the first error of
    /// `each`. What `each` did by then stands.
    pub fn walk<E: From<Error>>(
        self,
        pages: &impl Pages,
        mut each: impl FnMut(LoanPart) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut addr, mut from) = (self.at, (Table::Loans, self.at, 0));
        // Brent's cycle detection, as for chains of records.
        let (mut tortoise, mut power, mut passed) = (self.at, 1_u64, 0_u64);
        loop {
            let (page, words) = table_at(pages, addr, from)?;
            each(LoanPart::Page(page))?;
            let head = head(pages, addr, words)?;
            let fail =
                |offset, fault: Fault| LoanPart::Wrong(fault.in_table(Table::Loans, addr, offset));
            let entry = [head.entry.root, head.entry.scratch, head.entry.scratch_bytes];
            let behind = if passed == 0 { &[][..] } else { &entry };
            for (at, fields) in [(ENTRY_AT, behind), (RESERVED_AT, &head.reserved)] {
                for (i, field) in fields.iter().enumerate().filter(|(_, field)| field.get() != 0) {
                    each(fail(at + i * 8, Fault::Reserved { found: field.get() }))?;
                }
            }
            let named = words.iter().enumerate().skip(WORDS_AT / size_of::<u64>());
            for (i, word) in named {
                let word = u64::from_le(word.load(Relaxed));
                if word != 0 {
                    let part = folio(pages, word, (addr, i * size_of::<u64>()));
                    each(part.unwrap_or_else(LoanPart::Wrong))?;
                }
            }
            let next = PhysAddr::new(head.next.get());
            if next.get() == 0 {
                return Ok(());
            }
            if next == tortoise {
                let cycle = Fault::Malformed { expected: "end: it comes back to a page before" };
                return Err(cycle.in_table(Table::Loans, addr, NEXT_AT).into());
            }
            passed += 1;
            if passed == power {
                (tortoise, power) = (next, power * 2);
            }
            (from, addr) = ((Table::Loans, addr, NEXT_AT), next);
        }
    }
}

/// Returns what the page of the list at `at` starts with, if this crate reads it.
fn head(pages: &impl Pages, at: PhysAddr, words: &[AtomicU64]) -> Result<Stored, Error> {
    let fail = |offset, fault: Fault| fault.in_table(Table::Loans, at, offset);
    let head: Stored = load(words);
    if head.magic != MAGIC {
        return Err(fail(0, Fault::Magic { found: u64::from_le_bytes(head.magic) }));
    }
    let (found, known) = (head.version.get(), Loans::VERSION);
    if found != known {
        return Err(fail(8, Fault::Version { found, known }));
    }
    let (found, expected) = (head.page_shift.get().into(), pages.page_size().shift().into());
    if found != expected {
        return Err(fail(12, Fault::Length { expected, found }));
    }
    Ok(head)
}

/// Returns the folio that `word`, which stands in byte `offset` of the page at `page`, names.
fn folio(
    pages: &impl Pages,
    word: u64,
    (page, offset): (PhysAddr, usize),
) -> Result<LoanPart, Error> {
    let size = pages.page_size();
    let below = usize_to_u64(size.bytes()) - 1;
    let (addr, found) = (PhysAddr::new(word & !below), word & below);
    let limit = size.max_order().into();
    let order = u8::try_from(found).ok().and_then(|order| size.order_of(order));
    let many = Fault::TooMany { found, limit }.in_table(Table::Loans, page, offset);
    let folio = block_at(pages, addr, order.ok_or(many)?, (Table::Loans, page, offset))?;
    let at = PhysAddr::new(page.get() + usize_to_u64(offset));
    if pages.is_memory(folio.run()) {
        Ok(LoanPart::Folio { at, folio })
    } else {
        Err(Fault::OutsideMemory { addr }.in_table(Table::Loans, page, offset))
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::addr::{Order, PAGE_SHIFT, PAGE_SIZE};
    use crate::fault::TableError;
    use crate::testing::Left;

    const PAGE: u64 = PAGE_SIZE as u64;
    const LIST: PhysAddr = PhysAddr::new(PAGE);

    /// Returns a page of a list: what it starts with, and its words.
    fn words(next: u64, entry: [u64; 3], folios: &[u64]) -> Vec<u64> {
        let version = u64::from(PAGE_SHIFT) << 32 | u64::from(Loans::VERSION);
        let head = [u64::from_le_bytes(MAGIC), version, next];
        [&head[..], &entry, &[0, 0], folios].concat().into_iter().map(u64::to_le).collect()
    }

    fn block(page: u64, order: u8) -> Block {
        Block::containing(PhysAddr::new(page * PAGE).pfn(), Order::new(order).unwrap())
    }

    /// Two pages of a list, the folios of four pages at 16 and of one at 20 and at 9, which is memory.
    fn left(first: &[u64]) -> Left {
        let mut left = Left::default();
        left.table(LIST, first);
        left.table(PhysAddr::new(2 * PAGE), &words(0, [0; 3], &[0, 9 * PAGE]));
        for (page, order) in [(16, 2), (20, 0), (9, 0)] {
            let block = block(page, order);
            let words = block.run().bytes() as usize / 8;
            left.add(block.addr(), (0..words).map(|_| AtomicU64::new(0)).collect());
            left.hold(block);
        }
        left
    }

    fn sound() -> Vec<u64> {
        words(2 * PAGE, [16 * PAGE, 17 * PAGE, 32], &[(16 * PAGE) | 2, 0, 20 * PAGE])
    }

    /// Returns what a walk comes to, and how it ends.
    fn walked(left: &Left) -> (Vec<LoanPart>, Result<(), Error>) {
        let mut parts = Vec::new();
        let loans = Loans::read(left, LIST, PAGE);
        let ended = loans.and_then(|loans| {
            loans.walk(left, |part| {
                parts.push(part);
                Ok(())
            })
        });
        (parts, ended)
    }

    #[test]
    fn pages_folios_and_the_entry_are_read() {
        let left = left(&sound());
        assert!(Loans::is_list(&left, LIST));
        let at = |offset| PhysAddr::new(PAGE + offset);
        let expected = Loans {
            at: LIST,
            root: PhysAddr::new(16 * PAGE),
            scratch: PhysAddr::new(17 * PAGE),
            scratch_bytes: 32,
        };
        assert_eq!(Loans::read(&left, LIST, PAGE), Ok(expected));
        let (parts, ended) = walked(&left);
        assert_eq!(ended, Ok(()));
        let folio = |at, folio| LoanPart::Folio { at, folio };
        let expected = [
            LoanPart::Page(block(1, 0)),
            folio(at(64), block(16, 2)),
            folio(at(80), block(20, 0)),
            LoanPart::Page(block(2, 0)),
            folio(at(PAGE + 72), block(9, 0)),
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn each_fault_names_its_byte() {
        let fault = |ended: Result<_, Error>| match ended {
            Err(Error::Table(TableError { table: Table::Loans, at: LIST, offset, fault })) => {
                (offset, fault)
            }
            other => panic!("{other:?}"),
        };
        let with = |index: usize, word: u64| {
            let mut words = sound();
            words[index] = word.to_le();
            left(&words)
        };
        let ends = |index, word| fault(walked(&with(index, word)).1);
        let found = u64::from_le_bytes(*b"HEIRLOAF");
        assert_eq!(ends(0, found), (0, Fault::Magic { found }));
        assert!(!Loans::is_list(&with(0, found), LIST));
        let version = u64::from(PAGE_SHIFT) << 32 | 2;
        assert_eq!(ends(1, version), (8, Fault::Version { found: 2, known: 1 }));
        let length = Fault::Length { expected: PAGE_SHIFT.into(), found: 11 };
        assert_eq!(ends(1, 11 << 32 | 1), (12, length));
        let addr = PhysAddr::new(2 * PAGE + 8);
        assert_eq!(ends(2, addr.get()), (16, Fault::Misaligned { addr }));
        assert_eq!(ends(2, 3 * PAGE), (16, Fault::NotPreserved { block: block(3, 0) }));
        let expected = "end: it comes back to a page before";
        assert_eq!(ends(2, PAGE), (16, Fault::Malformed { expected }));
        let short = Fault::Length { expected: PAGE, found: 280 };
        assert_eq!(fault(Loans::read(&with(0, found), LIST, 280).map(|_| ())), (0, short));
        let addr = PhysAddr::new(PAGE + 8);
        let at = Fault::Misaligned { addr };
        let read = Loans::read(&left(&sound()), addr, PAGE);
        assert_eq!(read, Err(at.in_table(Table::Loans, addr, 0)));
        assert!(!Loans::is_list(&left(&sound()), PhysAddr::new(3 * PAGE)));
    }

    /// A word that is not sound is none of the folios, and the list goes on.
    #[test]
    fn what_is_wrong_with_a_word_ends_nothing() {
        let largest = u64::from(crate::PageSize::BUILD.max_order());
        for (index, word, offset, fault) in [
            (8, (17 * PAGE) | 2, 64, Fault::Misaligned { addr: PhysAddr::new(17 * PAGE) }),
            (8, (16 * PAGE) | 1, 64, Fault::NotPreserved { block: block(16, 1) }),
            (
                8,
                (16 * PAGE) | (largest + 1),
                64,
                Fault::TooMany { found: largest + 1, limit: largest },
            ),
            (9, PAGE - 1, 72, Fault::TooMany { found: PAGE - 1, limit: largest }),
            (6, 5, 48, Fault::Reserved { found: 5 }),
        ] {
            let mut words = sound();
            words[index] = word.to_le();
            let (parts, ended) = walked(&left(&words));
            assert_eq!(ended, Ok(()));
            let wrong = LoanPart::Wrong(fault.in_table(Table::Loans, LIST, offset));
            assert_eq!(parts.iter().filter(|part| **part == wrong).count(), 1, "{parts:?}");
            let folios = parts.iter().filter(|part| matches!(part, LoanPart::Folio { .. }));
            assert_eq!(folios.count(), if index == 8 { 2 } else { 3 });
        }
        // An entry in a page that is not the first.
        let mut left = left(&sound());
        let second = PhysAddr::new(2 * PAGE);
        left.table(second, &words(0, [0, 0, 32], &[]));
        let wrong = Fault::Reserved { found: 32 }.in_table(Table::Loans, second, 40);
        assert!(walked(&left).0.contains(&LoanPart::Wrong(wrong)));
    }

    #[test]
    fn a_list_without_an_end_ends() {
        for back in [1, 2, 3] {
            let mut left = left(&words(2 * PAGE, [0; 3], &[]));
            left.table(PhysAddr::new(2 * PAGE), &words(3 * PAGE, [0; 3], &[]));
            left.table(PhysAddr::new(3 * PAGE), &words(back * PAGE, [0; 3], &[]));
            let (parts, ended) = walked(&left);
            assert!(ended.is_err() && parts.len() <= 9, "{parts:?}");
        }
    }
}
