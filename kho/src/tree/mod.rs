//! Which blocks are preserved: the tree of one-page nodes that Linux's KHO v4 uses, to be read.
//!
//! Picture one bit for every block of every order that could exist, in [key](Key) order, stored as
//! a sparse bitmap: leaves are pages of bits, tables above them pages of addresses.
//!
//! ```text
//! key      the geometry; a block's key
//! tables   what a tree is read from
//! read     find a leaf, find the next node
//! walk     everything preserved: by words, folios, adjacent folios
//! pages    the tree's own nodes
//! counts   how much that is
//! gaps     what lies between
//! check    a predecessor's tree, believed only after this
//! fault    what it may find
//! frames   which frames are taken, for a check of memory that is not this machine's
//! ```

mod check;
mod counts;
mod fault;
mod frames;
mod gaps;
mod key;
mod pages;
mod read;
mod tables;
mod walk;

pub use check::{Ledger, check, check_counting, survey};
pub use counts::Counts;
pub use fault::{TreeError, TreeFault};
pub use frames::{Frames, FramesOf};
pub use gaps::Gaps;
pub use key::{FolioRange, Geometry, KEY_LIMIT, Key, LEAF_KEYS, LEVELS, ORDERS, WORDS, node_start};
pub use pages::{TreeNode, TreeNodes};
pub use read::{Node, Tree};
pub use tables::Tables;
pub use walk::{FolioRanges, Folios, Word, Words};
