//! Small worlds, tried completely: every sequence of operations up to a length.
//!
//! ```text
//!  state ──op──> state ──op──> state      saved and put back, byte by byte
//!    │             └──op──> (seen before, with as much ahead: not gone into again)
//!    └──op──> …
//! ```
//!
//! A world is its memory and the value that manages it, both of which can be copied and put back; so
//! a search walks the tree of all sequences and returns from each. Two sequences that lead to the
//! same bytes (of what is somebody's, and of all metadata) are one from there on.
//!
//! After each operation its result and everything that can be seen are compared with a model, as in
//! [`model`](crate::model).

mod frames;
mod image;
mod search;
mod whole;

pub use frames::Frames;
pub use search::{Found, World, search};
pub use whole::Whole;
