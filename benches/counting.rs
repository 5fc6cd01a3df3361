//! Atomic read-modify-writes on memory that other CPUs use, for every 1000 operations: a figure
//! that does not depend on the machine, and tells how a path scales past two of its CPUs.
//!
//! The compiler's thread sanitizer pass makes a call of every atomic access; this program, built
//! with it and `--cfg heirloom_count`, answers those calls itself and counts them:
//!
//! ```text
//! RUSTFLAGS="--cfg heirloom_count -C passes=tsan
//!     -C llvm-args=-tsan-instrument-func-entry-exit=0
//!     -C llvm-args=-tsan-instrument-memory-accesses=0
//!     -C llvm-args=-tsan-instrument-memintrinsics=0" CARGO_PROFILE_BENCH_LTO=off
//!     cargo bench -p heirloom-benches --bench counting --target x86_64-unknown-linux-gnu
//! ```
//!
//! So the library is counted as it is shipped, its locks included. Per-CPU state is read and
//! written without read-modify-writes, so that those counted are on shared words. A line of the
//! output is `count`, the row, and the figure, with tabs between. Built otherwise, it says so.

#[cfg(heirloom_count)]
#[path = "counting/pass.rs"]
mod pass;
#[cfg(heirloom_count)]
#[path = "counting/rows.rs"]
mod rows;

fn main() {
    #[cfg(heirloom_count)]
    rows::all();
    #[cfg(not(heirloom_count))]
    println!("not a counting build: see the first lines of benches/counting.rs");
}
