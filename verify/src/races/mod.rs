//! Threads in every order, or in very many: the library as it ships, under two checkers.
//!
//! ```text
//! loom     every interleaving up to a bound, and every value that a load may find
//! shuttle  whole operations of several threads in random schedules
//! objects  what a thread of a random program owns, and does
//! ```
//!
//! Built with `--cfg heirloom_model`: the library's atomics then ask a watcher before each
//! operation (`heirloom_kho::sync`). Nothing else in it changes. The machine is the testkit's, its
//! memory at the same addresses in each run.

mod loom;
mod objects;
mod shuttle;

pub use self::loom::{Model, on};
pub use self::objects::{Owned, PLAIN, THINGS, Worker};
pub use self::shuttle::{Program, programs, schedules};
