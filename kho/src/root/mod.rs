//! The root page: a flattened device tree in Linux's KHO v4 shape.
//!
//! ```text
//!  / { compatible = "kho-v4";
//!      preserved-memory-map = <u64: the tracker's root>;
//!      NAME { preserved-data = <u64: address>; blob-size = <u64: bytes>; };
//!      ... };
//! ```
//!
//! The tree is one page, and it is valid at any instant. [`RootPage`] lays it out with room for
//! two struct blocks of which the header names one; an edit composes the new tree in the other
//! and then turns to it with one 32-bit store:
//!
//! ```text
//!  0        40           56            56 + C        56 + 2C     page end
//!  | header | reserve map | struct A    | struct B    | strings |
//!       `- off_dt_struct = 56 or 56 + C
//! ```
//!
//! [`RootView`] reads this page and Linux's alike. It is a reader of its own, for three reasons:
//! it names the byte at fault, it reads word by word what an edit may be about to replace, and it
//! keeps to the struct and strings blocks whatever the lengths in them say. The framing is
//! [`DeviceTree`](crate::DeviceTree)'s; the two 64-bit values are in native byte order, as Linux has
//! them.

mod name;
mod page;
mod view;

pub use name::Name;
pub use page::{Edit, RootPage};
pub use view::{RootView, Subtree, Subtrees};

use crate::compat::{Format, RADIX, VMALLOC};

/// The value of the root's `compatible` property.
const COMPATIBLE: &str = "kho-v4";
/// What is read: the same, with or without versions of what it is built of.
static FORMAT: Format =
    Format { text: COMPATIBLE, name: "kho", version: 4, parts: &[RADIX, VMALLOC] };
/// The property with the address of the tracker's root.
const MAP: &str = "preserved-memory-map";
/// The property with the address of a subtree's bytes.
const DATA: &str = "preserved-data";
/// The property with the number of a subtree's bytes.
const SIZE: &str = "blob-size";
