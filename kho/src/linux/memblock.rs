//! Regions that were reserved by name on the command line and are kept.
//!
//! ```text
//!  / { compatible = "memblock-v1";
//!      NAME { compatible = "reserve-mem-v1"; start = <u64>; size = <u64>; }; ... };
//! ```

use super::properties::{Properties, Step, Value};
use super::text::Text;
use crate::addr::{PhysAddr, Run};
use crate::compat::{Compat, Format};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::pages::Pages;

static FORMAT: Format =
    Format { text: Memblock::COMPATIBLE, name: "memblock", version: 1, parts: &[] };
static REGION: Format =
    Format { text: "reserve-mem-v1", name: "reserve-mem", version: 1, parts: &[] };

/// A region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its name.
    pub name: Text<64>,
    /// Where it starts.
    pub start: PhysAddr,
    /// How many bytes.
    pub size: u64,
}

/// What the subtree `memblock` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memblock {
    /// Where it is.
    pub at: PhysAddr,
    /// What it says that it is.
    pub compat: Compat,
    bytes: u64,
}

/// A node of a region, as far as it was read.
struct Reading {
    offset: usize,
    name: [u8; 64],
    compatible: Option<Value>,
    start: Option<u64>,
    size: Option<u64>,
}

impl Memblock {
    /// The subtree's name.
    pub const NAME: &str = "memblock";
    /// The format that this reads.
    pub const COMPATIBLE: &str = "memblock-v1";

    /// Reads the subtree's `bytes` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Table`]: no sound device tree. [`Error::Table`] with the byte and the reason: not
    /// in memory or not preserved, or another version.
    pub fn read(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Result<Self, Error> {
        let tree = Properties::read(pages, Table::Memblock, at, bytes)?;
        let version = tree.find(None, "compatible")?;
        let compat = tree.compat(version, &FORMAT)?;
        Ok(Self { at, compat, bytes })
    }

    /// Calls `each` with every region, in the order they stand in.
    ///
    /// # Errors
    /// The first error of `each`. [`Error::Table`], [`Error::Table`]: the tree is not sound, or a
    /// region has no name, start or size.
    pub fn for_each_region<E: From<Error>>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(Region) -> Result<(), E>,
    ) -> Result<(), E> {
        let tree = Properties::read(pages, Table::Memblock, self.at, self.bytes)?;
        let mut reading = Reading::of(0);
        let mut stopped = Ok(());
        let walked = tree.walk(|offset, depth, step| {
            match step {
                Step::Begin { name } if depth == 1 => {
                    reading = Reading::of(offset);
                    let bytes = tree.tree.bytes(name..name + reading.name.len());
                    let bytes = bytes.take_while(|byte| *byte != 0);
                    reading.name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                }
                Step::Property { name, value } if depth == 2 => {
                    let slot = if tree.tree.string_is(name, "start") {
                        &mut reading.start
                    } else if tree.tree.string_is(name, "size") {
                        &mut reading.size
                    } else {
                        if tree.tree.string_is(name, "compatible") {
                            reading.compatible.get_or_insert(value);
                        }
                        return Ok(());
                    };
                    if slot.replace(tree.u64(value)?).is_some() {
                        return Err(tree.fail(offset, Fault::Duplicate));
                    }
                }
                Step::End if depth == 1 => {
                    stopped = each(reading.region(&tree)?);
                    // A walk ends with an error of its own alone; the caller's, which ended it, is returned instead.
                    if stopped.is_err() {
                        let fault = Fault::Malformed { expected: "reader that goes on" };
                        return Err(tree.fail(offset, fault));
                    }
                }
                _ => {}
            }
            Ok(())
        });
        stopped?;
        Ok(walked?)
    }

    /// Calls `each` with every region, or what is wrong with the tree.
    pub(crate) fn regions<E>(
        &self,
        pages: &impl Pages,
        mut each: impl FnMut(Result<Region, Error>) -> Result<(), E>,
    ) -> Result<(), E> {
        let walked = self.for_each_region(pages, |region| each(Ok(region)).map_err(Stop::Each));
        match walked {
            Ok(()) => Ok(()),
            Err(Stop::Tree(error)) => each(Err(error)),
            Err(Stop::Each(error)) => Err(error),
        }
    }
}

impl Region {
    /// Returns its frames; `None` if they reach above the last.
    pub const fn run(&self) -> Option<Run> {
        Run::covering(self.start, self.size)
    }
}

impl Reading {
    /// Makes a region of which nothing is read yet: the node at byte `offset`.
    const fn of(offset: usize) -> Self {
        Self { offset, name: [0; 64], compatible: None, start: None, size: None }
    }

    fn region(&self, tree: &Properties<'_>) -> Result<Region, Error> {
        let missing = |property| tree.fail(self.offset, Fault::Missing { property });
        let expected = "compatible \"reserve-mem-v1\"";
        let missing_name = tree.fail(self.offset, Fault::Malformed { expected });
        tree.compat(self.compatible.ok_or(missing_name)?, &REGION)?;
        let name = Text::read(self.name, (Table::Memblock, tree.tree.at(), self.offset))?;
        let start = PhysAddr::new(self.start.ok_or(missing("start"))?);
        Ok(Region { name, start, size: self.size.ok_or(missing("size"))? })
    }
}

/// What ended a walk over the regions.
enum Stop<E> {
    Tree(Error),
    Each(E),
}

impl<E> From<Error> for Stop<E> {
    fn from(error: Error) -> Self {
        Self::Tree(error)
    }
}
