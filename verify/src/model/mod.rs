//! A reference model of the whole library, and random programs that run next to it.
//!
//! ```text
//!  seed ── generate ──> program ──┬──> the library, on a machine of 4 CPUs and 2 nodes
//!                                 └──> State: lists and sets of what there must be
//!                       after each step: the same answer, and the same state
//! ```
//!
//! The model has no memory management of its own: it is told where something lies and checks that
//! nobody had that memory, and from then on it knows whose it is, what it contains, whether it
//! survives, and what every call about it must answer. A refusal for want of memory must be one: the
//! frames that nobody has, counted from outside, could not have met the request.
//!
//! [`run_seed`] runs a program; where it fails, it looks for a short part of it that does.

mod caches;
mod check;
mod claims;
mod folios;
mod frames;
mod many;
mod objects;
mod past;
mod run;
mod state;
mod step;
mod tables;

pub(crate) use run::begin;
pub use run::{Setting, run, run_seed};
pub use state::Figures;
pub(crate) use state::State;
pub use step::{Op, Step, generate, minimise};
