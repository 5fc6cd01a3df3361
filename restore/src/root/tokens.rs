//! The framing of a flattened device tree, read word by word and never outside its blocks.

use core::ops::Range;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use heirloom_folio::PhysAddr;

use super::{FDT_MAGIC, FDT_VERSION, header, token};
use crate::error::{Error, Fault, Table};

/// The blocks of a tree whose header is sound.
#[derive(Clone, Debug)]
pub(super) struct Tree<'a> {
    words: &'a [AtomicU32],
    at: PhysAddr,
    structure: Range<usize>,
    strings: Range<usize>,
}

/// One step through the struct block. Offsets are bytes from the start of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A node opens; its name starts at this offset.
    Begin { name: usize },
    /// A node closes.
    End,
    /// A property.
    Property { name: u32, value: usize, length: u32 },
    /// The struct block ends.
    Finish,
}

impl<'a> Tree<'a> {
    /// Checks the header of the tree in `words`, which stand at `at`.
    pub(super) fn open(words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        let fail = |field: usize, fault: Fault| fault.in_table(Table::Root, at, field * 4);
        let field = |i: usize| {
            // Acquire pairs with the Release store in `RootPage` that turns to another struct
            // block; for the other fields it costs nothing.
            let word = words.get(i).map(|w| u32::from_be(w.load(Acquire)));
            word.ok_or_else(|| fail(i, Fault::Malformed { expected: "header" }))
        };
        let magic = field(header::MAGIC)?;
        if magic != FDT_MAGIC {
            return Err(fail(header::MAGIC, Fault::Magic { found: magic.into() }));
        }
        let version = field(header::VERSION)?;
        if version < FDT_VERSION {
            return Err(fail(header::VERSION, Fault::Version { found: version }));
        }
        let oldest = field(header::LAST_COMPATIBLE)?;
        if oldest > FDT_VERSION {
            return Err(fail(header::LAST_COMPATIBLE, Fault::Version { found: oldest }));
        }
        let total = field(header::TOTAL_SIZE)?;
        let limit = size_of_val(words) as u64;
        if u64::from(total) > limit {
            let found = total.into();
            return Err(fail(header::TOTAL_SIZE, Fault::TooMany { found, limit }));
        }
        let block = |offset: usize, size: usize| {
            let start = field(offset)?;
            let end = start.checked_add(field(size)?).filter(|end| *end <= total);
            match end {
                Some(end) if start as usize >= header::BYTES => Ok(start as usize..end as usize),
                _ => Err(fail(offset, Fault::Malformed { expected: "block within the tree" })),
            }
        };
        let structure = block(header::OFF_STRUCT, header::SIZE_STRUCT)?;
        if !structure.start.is_multiple_of(4) {
            return Err(fail(header::OFF_STRUCT, Fault::Malformed { expected: "aligned block" }));
        }
        let strings = block(header::OFF_STRINGS, header::SIZE_STRINGS)?;
        Ok(Self { words, at, structure, strings })
    }

    /// The page's address.
    pub(super) const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Where the struct block starts, in bytes from the start of the page.
    pub(super) const fn start(&self) -> usize {
        self.structure.start
    }

    /// `fault` at byte `offset` of this page.
    pub(super) const fn fail(&self, offset: usize, fault: Fault) -> Error {
        fault.in_table(Table::Root, self.at, offset)
    }

    /// The token at `cursor`, which moves past it, and where the token stands. Every token moves
    /// the cursor at least four bytes on, so a walk ends.
    pub(super) fn next(&self, cursor: &mut usize) -> Result<(usize, Token), Error> {
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
                    let end = value.checked_add(length as usize);
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
            *cursor = next.next_multiple_of(4);
            return Ok((at, token));
        }
    }

    /// Whether the string at `offset` of the strings block is `expected`.
    pub(super) fn string_is(&self, offset: u32, expected: &str) -> bool {
        let Some(start) = self.strings.start.checked_add(offset as usize) else { return false };
        let expected = expected.bytes().chain([0]);
        let length = expected.clone().count();
        self.bytes(start..self.strings.end).take(length).eq(expected)
    }

    /// The bytes of the page in `range`, as far as there are.
    pub(super) fn bytes(&self, range: Range<usize>) -> impl Iterator<Item = u8> {
        range.map_while(|i| {
            let word = self.words.get(i / 4)?.load(Relaxed).to_ne_bytes();
            word.get(i % 4).copied()
        })
    }

    /// The 64-bit value, in native byte order, at byte `offset`, a multiple of 4.
    pub(super) fn value(&self, offset: usize) -> Option<u64> {
        let word = |i: usize| Some(self.words.get(i)?.load(Relaxed).to_ne_bytes());
        let (first, second) = (word(offset / 4)?, word(offset / 4 + 1)?);
        let mut bytes = [0; 8];
        let (low, high) = bytes.split_at_mut(4);
        low.copy_from_slice(&first);
        high.copy_from_slice(&second);
        Some(u64::from_ne_bytes(bytes))
    }

    /// The big-endian word at byte `offset`, a multiple of 4, of the struct block.
    fn word(&self, offset: usize) -> Option<u32> {
        if offset + 4 > self.structure.end {
            return None;
        }
        Some(u32::from_be(self.words.get(offset / 4)?.load(Relaxed)))
    }
}
