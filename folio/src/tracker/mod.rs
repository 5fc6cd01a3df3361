//! The tracker: which blocks survive, as the tree of one-page nodes that Linux's KHO v4 uses.
//!
//! Picture one bit for every block of every order that could exist, in [key](Key) order, stored as
//! a sparse bitmap: leaves are pages of bits, tables above them pages of addresses. Preserving a
//! block sets its bit with one atomic OR. A node is linked with one compare-exchange, and neither
//! moves nor goes away while the tree lives, so a directory of leaves beside the tree stands in
//! for the walk and nothing here takes a lock.
//!
//! ```text
//! key      the geometry; a block's key
//! node     what the tree asks of the memory around it
//! tree     reading: find a leaf, find the next node
//! grow     preserving and unpreserving a block; adding nodes
//! rows     the same for runs, and for many adjacent folios at once
//! walk     everything preserved: by words, folios, adjacent folios
//! pages    the tree's own nodes
//! prune    nodes that lead to nothing
//! counts   how much that is
//! gaps     what lies between
//! check    a predecessor's tree, believed only after this
//! frames   whose frame is whose, for a check of memory that is not this machine's
//! ```
//!
//! At any instant the tree in memory is whole: a node is zeroed before it is linked, and a bit is
//! set after its leaf is linked. So a successor that starts at any moment, after a crash too,
//! finds every block whose `preserve` had returned.

mod check;
mod counts;
mod frames;
mod gaps;
mod grow;
#[cfg(all(test, not(loom)))]
mod hostile_tests;
mod key;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
mod node;
mod pages;
mod prune;
#[cfg(test)]
pub(crate) mod ram;
mod rows;
#[cfg(all(test, not(loom)))]
mod survey_tests;
mod tree;
mod walk;

pub(crate) use check::check_counting;
pub use check::{Ledger, check, survey};
pub use counts::Counts;
pub use frames::{Frames, FramesOf};
pub use gaps::Gaps;
pub(crate) use grow::{Spot, Tracker};
pub use key::{Adjacent, Geometry, Key};
pub(crate) use node::Nodes;
pub use node::Tables;
pub use pages::{TreeNode, TreeNodes};
pub use tree::Tree;
pub use walk::{AdjacentFolios, Folios, Word, Words};
