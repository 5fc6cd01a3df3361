//! The framing of a flattened device tree, read word by word and never outside its blocks.
//!
//! The root page is one, and so are some subtrees that Linux registers. The framing is that of the
//! Devicetree Specification 0.4, chapter 5.

use core::ops::Range;

use crate::addr::{PhysAddr, Run};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{u32_to_usize, usize_to_u64};
use crate::pages::{Pages, halves};
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Acquire, Relaxed};

/// Fields of the tree's header, as indices of 32-bit words.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const TOTAL_SIZE: usize = 1;
    pub(crate) const OFF_STRUCT: usize = 2;
    pub(crate) const OFF_STRINGS: usize = 3;
    pub(crate) const OFF_RESERVE: usize = 4;
    pub(crate) const VERSION: usize = 5;
    pub(crate) const LAST_COMPATIBLE: usize = 6;
    pub(crate) const SIZE_STRINGS: usize = 8;
    pub(crate) const SIZE_STRUCT: usize = 9;
    /// Bytes in the header.
    pub(crate) const BYTES: usize = 40;
}

pub(crate) const FDT_MAGIC: u32 = 0xd00d_feed;
/// The header word at which a tree is told to be one.
pub const MAGIC_WORD: usize = header::MAGIC;
/// What stands there in a root page whose entry was ended.
pub const FDT_ENDED: u32 = 0;
pub(crate) const FDT_VERSION: u32 = 17;
pub(crate) const FDT_LAST_COMPATIBLE: u32 = 16;

/// Tokens of the struct block.
pub(crate) mod token {
    pub(crate) const BEGIN_NODE: u32 = 1;
    pub(crate) const END_NODE: u32 = 2;
    pub(crate) const PROPERTY: u32 = 3;
    pub(crate) const NOP: u32 = 4;
    pub(crate) const END: u32 = 9;
}

/// A flattened device tree whose header is sound; its tokens are checked as they are read.
///
/// # Examples
/// Walks a tree of one node with no property.
/// ```
/// use core::sync::atomic::AtomicU32;
/// use heirloom_kho::PhysAddr;
/// use heirloom_kho::{DeviceTree, Table, Token};
///
/// // Header: magic, size, where the struct and the strings block are, versions, their sizes.
/// let header = [0xd00d_feed, 56, 40, 56, 40, 17, 16, 0, 0, 16];
/// let words: Vec<_> =
///     header.into_iter().chain([1, 0, 2, 9]).map(|word: u32| AtomicU32::new(word.to_be())).collect();
/// let tree = DeviceTree::open(&words, Table::Blob, PhysAddr::new(0x1000))?;
/// let mut cursor = tree.start();
/// assert_eq!(tree.next(&mut cursor)?, (40, Token::Begin { name: 44 }));
/// assert_eq!(tree.next(&mut cursor)?.1, Token::End);
/// assert_eq!(tree.next(&mut cursor)?.1, Token::Finish);
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceTree<'a> {
    words: &'a [AtomicU32],
    table: Table,
    at: PhysAddr,
    structure: Range<usize>,
    strings: Range<usize>,
}

/// One step through the struct block. Offsets are bytes from the start of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// A node opens.
    Begin {
        /// Where its name starts.
        name: usize,
    },
    /// A node closes.
    End,
    /// A property.
    Property {
        /// Where its name starts in the strings block, for [`DeviceTree::string_is`].
        name: u32,
        /// Where its value starts.
        value: usize,
        /// Bytes of its value.
        length: u32,
    },
    /// The struct block ends.
    Finish,
}

impl<'a> DeviceTree<'a> {
    /// Checks the header of the tree at `at`, which has `bytes` bytes at most.
    ///
    /// # Errors
    /// As for [`DeviceTree::open`]; [`Error::Table`] also if the bytes are not in memory or not
    /// aligned to 8.
    pub fn read(
        pages: &'a impl Pages,
        table: Table,
        at: PhysAddr,
        bytes: usize,
    ) -> Result<Self, Error> {
        let outside = Fault::OutsideMemory { addr: at }.in_table(table, at, 0);
        let run = Run::covering(at, usize_to_u64(bytes)).filter(|run| pages.is_memory(*run));
        run.ok_or(outside)?;
        if !at.get().is_multiple_of(8) {
            return Err(Fault::Misaligned { addr: at }.in_table(table, at, 0));
        }
        Self::open(halves(pages.words(at, bytes).ok_or(outside)?), table, at)
    }

    /// Checks the header of the tree in `words`, which stand at `at` and are known as `table` in
    /// errors. `words` may be more than the tree needs: the tree says its own length.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: no device tree, a version that this reader
    /// does not know, a block that leaves the tree, or a tree that leaves the words.
    pub fn open(words: &'a [AtomicU32], table: Table, at: PhysAddr) -> Result<Self, Error> {
        Self::marked(words, table, at, FDT_MAGIC)
    }

    /// Checks a tree as [`DeviceTree::open`] does, that is marked by another word.
    ///
    /// # Errors
    /// As for [`DeviceTree::open`].
    pub fn marked(
        words: &'a [AtomicU32],
        table: Table,
        at: PhysAddr,
        mark: u32,
    ) -> Result<Self, Error> {
        let fail = |field: usize, fault: Fault| fault.in_table(table, at, field * 4);
        let field = |i: usize| {
            // Acquire pairs with the Release store in `RootPage` that turns to another struct
            // block; for the other fields it costs nothing.
            let word = words.get(i).map(|w| u32::from_be(w.load(Acquire)));
            word.ok_or_else(|| fail(i, Fault::Malformed { expected: "header" }))
        };
        let (magic, version) = (field(header::MAGIC)?, field(header::VERSION)?);
        if magic != mark {
            // What ends an entry clears this word alone.
            let ended = magic == FDT_ENDED && version == FDT_VERSION && table == Table::Root;
            let fault = if ended { Fault::Ended } else { Fault::Magic { found: magic.into() } };
            return Err(fail(header::MAGIC, fault));
        }
        if version < FDT_VERSION {
            return Err(fail(
                header::VERSION,
                Fault::Version { found: version, known: FDT_VERSION },
            ));
        }
        let oldest = field(header::LAST_COMPATIBLE)?;
        if oldest > FDT_VERSION {
            return Err(fail(
                header::LAST_COMPATIBLE,
                Fault::Version { found: oldest, known: FDT_VERSION },
            ));
        }
        let total = field(header::TOTAL_SIZE)?;
        let limit = usize_to_u64(size_of_val(words));
        if u64::from(total) > limit {
            let found = total.into();
            return Err(fail(header::TOTAL_SIZE, Fault::TooMany { found, limit }));
        }
        let block = |offset: usize, size: usize| {
            let start = field(offset)?;
            let end = start.checked_add(field(size)?).filter(|end| *end <= total);
            match end {
                Some(end) if u32_to_usize(start) >= header::BYTES => {
                    Ok(u32_to_usize(start)..u32_to_usize(end))
                }
                _ => Err(fail(offset, Fault::Malformed { expected: "block within the tree" })),
            }
        };
        let structure = block(header::OFF_STRUCT, header::SIZE_STRUCT)?;
        if !structure.start.is_multiple_of(4) {
            return Err(fail(header::OFF_STRUCT, Fault::Malformed { expected: "aligned block" }));
        }
        let strings = block(header::OFF_STRINGS, header::SIZE_STRINGS)?;
        Ok(Self { words, table, at, structure, strings })
    }

    /// Returns the tree's address.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Returns where the struct block starts, in bytes from the start of the tree: the first cursor
    /// for [`DeviceTree::next`].
    pub const fn start(&self) -> usize {
        self.structure.start
    }

    /// Returns `fault` as one at byte `offset` of this tree.
    pub const fn fail(&self, offset: usize, fault: Fault) -> Error {
        fault.in_table(self.table, self.at, offset)
    }

    /// Returns the token at `cursor`, which moves past it, and where the token stands. Every token
    /// moves the cursor at least four bytes on, so a walk ends.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte: no token that is known, or one that leaves the struct block.
    pub fn next(&self, cursor: &mut usize) -> Result<(usize, Token), Error> {
        loop {
            let at = *cursor;
            let malformed = |expected| self.fail(at, Fault::Malformed { expected });
            let tag = self.word(at).ok_or_else(|| malformed("token within the struct block"))?;
            let (token, next) = match tag {
                token::BEGIN_NODE => {
                    let name = at + 4;
                    let length = self.bytes(name..self.structure.end).position(|b| b == 0);
                    let length = length.ok_or_else(|| malformed("end of the node's name"))?;
                    (Token::Begin { name }, name + length + 1)
                }
                token::END_NODE => (Token::End, at + 4),
                token::PROPERTY => {
                    let head = (self.word(at + 4), self.word(at + 8));
                    let (Some(length), Some(name)) = head else {
                        return Err(malformed("property header within the struct block"));
                    };
                    let value = at + 12;
                    // The length is the predecessor's word: with it the end may lie past a 32-bit address space.
                    let end = value.checked_add(u32_to_usize(length));
                    let end = end.filter(|end| *end <= self.structure.end);
                    let end = end.ok_or_else(|| malformed("value within the struct block"))?;
                    (Token::Property { name, value, length }, end)
                }
                token::NOP => {
                    *cursor = at + 4;
                    continue;
                }
                token::END => (Token::Finish, at + 4),
                _ => return Err(malformed("token known")),
            };
            // Tokens are aligned; what fills up to the next is not looked at.
            *cursor = next.next_multiple_of(4);
            return Ok((at, token));
        }
    }

    /// Returns whether the string at `offset` of the strings block is `expected`.
    pub fn string_is(&self, offset: u32, expected: &str) -> bool {
        let Some(start) = self.strings.start.checked_add(u32_to_usize(offset)) else {
            return false;
        };
        let expected = expected.bytes().chain([0]);
        let length = expected.clone().count();
        self.bytes(start..self.strings.end).take(length).eq(expected)
    }

    /// Returns the bytes of the tree in `range`, as far as there are.
    pub fn bytes(&self, range: Range<usize>) -> impl Iterator<Item = u8> + Clone {
        range.map_while(|i| {
            let word = self.words.get(i / 4)?.load(Relaxed).to_ne_bytes();
            word.get(i % 4).copied()
        })
    }

    /// Returns the 64-bit value, in native byte order, at byte `offset`, a multiple of 4.
    pub fn value(&self, offset: usize) -> Option<u64> {
        let word = |i: usize| Some(self.words.get(i)?.load(Relaxed).to_ne_bytes());
        let (first, second) = (word(offset / 4)?, word(offset / 4 + 1)?);
        let mut bytes = [0; 8];
        let (low, high) = bytes.split_at_mut(4);
        low.copy_from_slice(&first);
        high.copy_from_slice(&second);
        Some(u64::from_ne_bytes(bytes))
    }

    /// Returns the 32-bit value, in native byte order, at byte `offset`, a multiple of 4.
    pub fn value32(&self, offset: usize) -> Option<u32> {
        Some(self.words.get(offset / 4)?.load(Relaxed))
    }

    /// Returns the big-endian word at byte `offset`, a multiple of 4, of the struct block.
    fn word(&self, offset: usize) -> Option<u32> {
        if offset.checked_add(4)? > self.structure.end {
            return None;
        }
        Some(u32::from_be(self.words.get(offset / 4)?.load(Relaxed)))
    }
}
