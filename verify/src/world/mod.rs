//! Handovers of every kind in small machines, and one of Linux's.
//!
//! ```text
//! dump     what Linux left, as a dump of memory has it
//! left     whole handovers: what was left, and every table that a successor reads
//! ```

mod dump;
mod left;
#[path = "../../../folio/tests/common/owned.rs"]
mod owned;

pub use dump::Dump;
#[cfg(feature = "image")]
pub(crate) use dump::{ELF, segments};
pub use heirloom_testkit::{Kernel, PAGE, Recipe, Record, TestMachine, TestObject, end};
pub use left::{Left, PLAIN, Place, Shape, THINGS, TableAt, tables_of};
pub(crate) use owned::Owned;
