//! The tracker: which blocks survive, as the tree of one-page nodes that Linux's KHO v4 uses.
//!
//! Picture one bit for every block of every order that could exist, in [key](Key) order, stored as
//! a sparse bitmap: leaves are pages of bits, tables above them pages of addresses. Preserving a
//! block sets its bit with one atomic OR. A node is linked with one compare-exchange, and neither
//! moves nor goes away while the tree lives, so a directory of leaves beside the tree stands in
//! for the walk and nothing here takes a lock.
//!
//! ```text
//! node     what the tree asks of the memory around it
//! grow     preserving and unpreserving a block; adding nodes
//! rows     the same for runs, and for many adjacent folios at once
//! prune    nodes that lead to nothing
//! ```
//!
//! How the tree is read and checked, and what its keys are: [`heirloom_kho::tree`].
//!
//! At any instant the tree in memory is whole: a node is zeroed before it is linked, and a bit is
//! set after its leaf is linked. So a successor that starts at any moment, after a crash too,
//! finds every block for which `preserve` had returned.

mod batch;
mod grow;
#[cfg(all(test, not(loom)))]
mod hostile_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod model_tests;
mod node;
mod prune;
#[cfg(test)]
pub(crate) mod ram;
#[cfg(all(test, not(loom)))]
mod survey_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use grow::{LeafBit, Tracker};
pub(crate) use node::NodeAlloc;
