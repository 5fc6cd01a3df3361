//! Device trees of subtrees: their nodes and properties, by name.

use super::bytes::preserved;
use crate::addr::PhysAddr;
use crate::compat::{Compat, Format};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::fdt::{DeviceTree, Token};
use crate::narrow::{u32_to_usize, usize_to_u64};
use crate::pages::Pages;

/// A property's value: where it stands and how long it is.
#[derive(Clone, Copy)]
pub(crate) struct Value {
    pub(crate) at: usize,
    pub(crate) length: u32,
}

/// A step through a tree: what is at which depth. The root's properties have depth 1.
pub(crate) enum Step {
    /// A node opens; its name starts here.
    Begin { name: usize },
    /// A node closes.
    End,
    /// A property of the node that is open.
    Property { name: u32, value: Value },
}

/// A subtree that is a device tree.
pub(crate) struct Properties<'p> {
    pub(crate) tree: DeviceTree<'p>,
    table: Table,
}

impl<'p> Properties<'p> {
    /// Returns the tree of `bytes` bytes at `at`.
    pub(crate) fn read(
        pages: &'p impl Pages,
        table: Table,
        at: PhysAddr,
        bytes: u64,
    ) -> Result<Self, Error> {
        preserved(pages, at, bytes, (table, at, 0))?;
        let outside = Fault::OutsideMemory { addr: at }.in_table(table, at, 0);
        let bytes = usize::try_from(bytes).map_err(|_| outside)?;
        Ok(Self { tree: DeviceTree::read(pages, Table::Blob, at, bytes)?, table })
    }

    /// Returns `fault` as one at byte `offset` of the tree.
    pub(crate) fn fail(&self, offset: usize, fault: Fault) -> Error {
        fault.in_table(self.table, self.tree.at(), offset)
    }

    /// Calls `each` with every step and the depth it is taken at, from the root node's begin (depth
    /// 0) on.
    pub(crate) fn walk(
        &self,
        mut each: impl FnMut(usize, u32, Step) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut cursor, mut depth) = (self.tree.start(), 0_u32);
        loop {
            let (offset, token) = self.tree.next(&mut cursor)?;
            match token {
                Token::Begin { name } => {
                    each(offset, depth, Step::Begin { name })?;
                    depth += 1;
                }
                Token::End => {
                    let expected = "node to close";
                    depth = depth
                        .checked_sub(1)
                        .ok_or(self.fail(offset, Fault::Malformed { expected }))?;
                    each(offset, depth, Step::End)?;
                }
                Token::Property { name, value, length } => {
                    let value = Value { at: value, length };
                    each(offset, depth, Step::Property { name, value })?;
                }
                Token::Finish if depth == 0 => return Ok(()),
                Token::Finish => {
                    let expected = "end of the node";
                    return Err(self.fail(offset, Fault::Malformed { expected }));
                }
            }
        }
    }

    /// Returns the property `name` of the root (`node` is `None`), or of its child `node`.
    pub(crate) fn find(&self, node: Option<&str>, name: &'static str) -> Result<Value, Error> {
        let wanted = if node.is_some() { 2 } else { 1 };
        let (mut found, mut inside) = (None, node.is_none());
        self.walk(|offset, depth, step| {
            if let Step::Begin { name } = step
                && depth == 1
            {
                inside = node.is_none_or(|node| self.is_named(name, node));
            }
            if let Step::Property { name: called, value } = step
                && depth == wanted
                && inside
                && self.tree.string_is(called, name)
                && found.replace(value).is_some()
            {
                return Err(self.fail(offset, Fault::Duplicate));
            }
            Ok(())
        })?;
        found.ok_or(self.fail(self.tree.start(), Fault::Missing { property: name }))
    }

    /// Returns whether the name at `at` is `name`.
    fn is_named(&self, at: usize, name: &str) -> bool {
        let expected = name.bytes().chain([0]);
        self.tree.bytes(at..at + name.len() + 1).eq(expected)
    }

    /// Returns what a value says that the structure is, if it is one of this format.
    pub(crate) fn compat(&self, value: Value, format: &'static Format) -> Result<Compat, Error> {
        // More than an error shows: text that is longer is none that is known.
        let mut text = [0; 64];
        let length = text.len().min(u32_to_usize(value.length));
        for (to, from) in text.iter_mut().zip(self.tree.bytes(value.at..value.at + length)) {
            *to = from;
        }
        let text = text.get(..length).unwrap_or(&text);
        // The zero at the end; others stand between several strings, and are part of the text.
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        format.read(&text.iter().copied()).map_err(|fault| self.fail(value.at, fault))
    }

    /// Returns a value of 32 bits.
    pub(crate) fn u32(&self, value: Value) -> Result<u32, Error> {
        self.sized(value, 4)?;
        self.tree.value32(value.at).ok_or(self.cut(value))
    }

    /// Returns a value of 64 bits.
    pub(crate) fn u64(&self, value: Value) -> Result<u64, Error> {
        self.sized(value, 8)?;
        self.tree.value(value.at).ok_or(self.cut(value))
    }

    /// Returns a value of `N` bytes.
    pub(crate) fn array<const N: usize>(&self, value: Value) -> Result<[u8; N], Error> {
        self.sized(value, usize_to_u64(N))?;
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.tree.bytes(value.at..value.at + N)) {
            *to = from;
        }
        Ok(array)
    }

    fn sized(&self, value: Value, expected: u64) -> Result<(), Error> {
        let found = value.length.into();
        if found == expected {
            return Ok(());
        }
        Err(self.fail(value.at, Fault::Length { expected, found }))
    }

    fn cut(&self, value: Value) -> Error {
        self.fail(value.at, Fault::Malformed { expected: "value within the tree" })
    }
}
