//! The rows of the page in their order, and what each is held to.

/// What a figure may be at most.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// Only shown.
    Shown,
    /// So many uncontended read-modify-writes.
    Rmw(f64),
    /// So many nanoseconds.
    Ns(f64),
    /// So many times the best of the user-space allocators.
    Best(f64),
    /// So many times another function: of a row, by name.
    Of(f64, &'static str, &'static str),
    /// So many nanoseconds more than another function of the same row.
    Beyond(f64, &'static str),
}

/// One line of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// The row of the benches.
    pub(super) row: &'static str,
    /// Which function of it is held to the bound.
    pub(super) ours: &'static str,
    pub(super) bound: Bound,
}

/// A table.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) lines: &'static [Line],
    /// The columns beside ours, in order.
    pub(super) peers: &'static [&'static str],
}

/// The allocators that [`Bound::Best`] means.
pub(super) const USER_SPACE: [&str; 4] = ["mimalloc", "snmalloc", "jemalloc", "glibc"];

use Bound::{Best, Beyond, Ns, Of, Rmw, Shown};

const fn line(row: &'static str, ours: &'static str, bound: Bound) -> Line {
    Line { row, ours, bound }
}

const H: &str = "heirloom";
const PRESERVING: &str = "heirloom, preserving";
const BUFFER: &str = "heirloom, buffer";
const HELD: &str = "heirloom, buffer, preserving";
const PLAIN: &str = "heirloom, plain cache";
const REVIVE: &str = "revive, 1 TiB";
const FINISH: &str = "finish, 1048576 scattered over 1 TiB";
const HOT: &str = "claim an object by handle, 1000 hot";
const RANDOM: &str = "claim an object by handle, a million at random";
const RANDOM_2T: &str = "2T: claim an object by handle, a million at random";
/// What a claim at random is compared with: it writes the state.
const MISS: &str = "a read-modify-write of its state";
const FIRST_USE: &str = "1500000 objects in 60 caches, from revive to first use";

pub(super) const SECTIONS: &[Section] = &[
    Section {
        title: "Page frames",
        peers: &[
            "frame-alloc",
            "frame-alloc, per-CPU",
            "buddy-slab-allocator",
            "buddy_system_allocator",
            "bitmap-allocator",
        ],
        lines: &[
            line("order 0, pair at 0 %", H, Rmw(0.5)),
            line("order 0, pair at 50 %", H, Rmw(0.5)),
            line("order 0, pair at 90 %", H, Rmw(0.5)),
            line("order 0, allocate all", H, Rmw(0.4)),
            line("order 0, free all in order", H, Rmw(0.4)),
            line("order 0, free all in random order", H, Rmw(1.3)),
            line("order 9, allocate all", H, Rmw(1.2)),
            line("order 9, free all in order", H, Rmw(1.2)),
            line("order 9, free all in random order", H, Shown),
            line("order 9, pair", H, Rmw(1.0)),
            line("churn of orders 0 to 10 at 10 %, 1 GiB", H, Shown),
            line("churn of orders 0 to 10 at 25 %, 1 GiB", H, Shown),
            line("churn of orders 0 to 10 at 50 %, 1 GiB", H, Rmw(2.4)),
            line("churn of orders 0 to 10 at 75 %, 1 GiB", H, Shown),
            line("churn of orders 0 to 10 at 90 %, 1 GiB", H, Shown),
            line("churn of orders 0 to 10 at 50 %, 8 GiB", H, Rmw(2.4)),
            line("free random and allocate, order 0 at 50 %, 1 GiB", H, Shown),
            line("free random and allocate, order 0 at 50 %, 8 GiB", H, Rmw(1.6)),
            line("order 0, pair, 1 TiB", H, Rmw(0.5)),
            line("churn of orders 0 to 10, 128 GiB live, 1 TiB", H, Shown),
            line("a kernel's trace, folios", H, Shown),
        ],
    },
    Section {
        title: "Page frames, two threads (a thread's time for an operation)",
        peers: &[
            "frame-alloc",
            "frame-alloc, per-CPU",
            "buddy-slab-allocator, locked",
            "buddy_system_allocator, locked",
            "bitmap-allocator, locked",
        ],
        lines: &[
            line("2T: order 0, pair", H, Of(1.2, "order 0, pair at 0 %", H)),
            line("2T: order 0, allocate all", H, Rmw(0.8)),
            line("2T: order 0, free what the other allocated", H, Rmw(2.0)),
        ],
    },
    Section {
        title: "Objects and buffers",
        peers: &["mimalloc", "snmalloc", "jemalloc", "glibc", "talc", "slabmalloc"],
        lines: &[
            line("64 B, pair", H, Best(1.0)),
            line("256 B, pair", H, Best(1.0)),
            line("1 KiB, pair", H, Best(1.0)),
            line("64 B, pair", BUFFER, Shown),
            line("256 B, pair", BUFFER, Shown),
            line("1 KiB, pair", BUFFER, Shown),
            line("4 KiB, pair", BUFFER, Rmw(1.0)),
            line("16 KiB, pair", BUFFER, Rmw(1.0)),
            line("64 KiB, pair", BUFFER, Rmw(1.0)),
            line("64 B, 64 allocs then 64 frees", H, Best(1.0)),
            line("1 KiB, 64 allocs then 64 frees", H, Best(1.0)),
            line("4 KiB, 64 allocs then 64 frees", H, Best(1.0)),
            line("64 B, a million: alloc", H, Best(1.0)),
            line("64 B, a million: free in order", H, Best(1.0)),
            line("64 B, a million: free in random order", H, Best(1.0)),
            line("churn of 64 B to 4 KiB, 10000 live", BUFFER, Best(1.1)),
            line("a kernel's trace, objects", BUFFER, Best(1.1)),
        ],
    },
    Section {
        title: "Objects, two threads (a thread's time for an operation; for an object across)",
        peers: &["mimalloc", "snmalloc", "jemalloc", "glibc", "talc", "slabmalloc, locked"],
        lines: &[
            line("2T: 64 B, pair", H, Best(1.0)),
            line("2T: 1 KiB, pair", H, Best(1.0)),
            line("2T: churn of 64 B to 4 KiB, 10000 live", BUFFER, Best(1.2)),
            line("2T: 64 B, allocated on one core, freed on the other", H, Best(1.1)),
            line("2T: 1 KiB, allocated on one core, freed on the other", H, Best(1.1)),
        ],
    },
    Section {
        title: "Objects that are preserved as they are allocated",
        peers: &[H],
        lines: &[
            line("64 B, pair", PRESERVING, Of(1.2, "64 B, pair", H)),
            line("256 B, pair", PRESERVING, Of(1.2, "256 B, pair", H)),
            line("1 KiB, pair", PRESERVING, Of(1.2, "1 KiB, pair", H)),
            line(
                "64 B, 64 allocs then 64 frees",
                PRESERVING,
                Of(1.2, "64 B, 64 allocs then 64 frees", H),
            ),
            line(
                "1 KiB, 64 allocs then 64 frees",
                PRESERVING,
                Of(1.2, "1 KiB, 64 allocs then 64 frees", H),
            ),
            line(
                "4 KiB, 64 allocs then 64 frees",
                PRESERVING,
                Of(1.2, "4 KiB, 64 allocs then 64 frees", H),
            ),
            line("64 B, a million: alloc", PRESERVING, Of(1.2, "64 B, a million: alloc", H)),
            line(
                "64 B, a million: free in order",
                PRESERVING,
                Of(1.2, "64 B, a million: free in order", H),
            ),
            line(
                "64 B, a million: free in random order",
                PRESERVING,
                Of(1.2, "64 B, a million: free in random order", H),
            ),
            line("2T: 64 B, pair", PRESERVING, Of(1.2, "2T: 64 B, pair", H)),
            line("4 KiB, pair", HELD, Of(1.5, "4 KiB, pair", BUFFER)),
            line("16 KiB, pair", HELD, Of(1.5, "16 KiB, pair", BUFFER)),
            line("64 KiB, pair", HELD, Of(1.5, "64 KiB, pair", BUFFER)),
            line(
                "2T: churn of 64 B to 4 KiB, 10000 live",
                HELD,
                Of(1.2, "2T: churn of 64 B to 4 KiB, 10000 live", BUFFER),
            ),
            line("64 B, preserve and unpreserve", H, Shown),
            line("64 B, preserve and unpreserve", "heirloom, beside a preserved one", Shown),
            line("64 B, preserve and unpreserve", "heirloom, 16 KiB", Shown),
        ],
    },
    Section {
        title: "The tracker",
        peers: &["roaring", "BTreeSet", "hashbrown", "rangemap"],
        lines: &[
            line("a million contiguous: preserve", H, Rmw(1.1)),
            line("a million contiguous: unpreserve", H, Rmw(1.1)),
            line("a million contiguous: walk by key", H, Ns(1.0)),
            line("a million contiguous: walk as runs", H, Ns(0.02)),
            line("a million random over 1 TiB: preserve", H, Rmw(2.2)),
            line("a million random over 1 TiB: unpreserve", H, Rmw(2.2)),
            line("a million random over 1 TiB: preserve, all at once", H, Rmw(2.2)),
            line("a million random over 1 TiB: unpreserve, all at once", H, Rmw(2.2)),
            line("a million random over 1 TiB: walk by key", H, Ns(11.0)),
            line("a million random over 1 TiB: walk as runs", H, Shown),
            line("64 adjacent folios, a folio", H, Rmw(0.05)),
            line("a run of 16 GiB, aligned", H, Ns(100.0)),
            line("a run of 16 GiB, misaligned at both ends", H, Ns(1000.0)),
        ],
    },
    Section {
        title: "The tracker, two threads (a thread's time for a key)",
        peers: &["roaring, locked", "BTreeSet, locked", "hashbrown, locked", "rangemap, locked"],
        lines: &[
            line(
                "2T: a million contiguous: preserve disjoint parts",
                H,
                Of(1.1, "a million contiguous: preserve", H),
            ),
            line(
                "2T: a million random over 1 TiB: preserve disjoint parts",
                H,
                Of(1.1, "a million random over 1 TiB: preserve", H),
            ),
        ],
    },
    Section {
        title: "Reviving, claiming, sealing",
        peers: &[],
        lines: &[
            line(REVIVE, "metadata alone", Shown),
            line(REVIVE, "scattered 1048576", Ns(25e6)),
            line(REVIVE, "scattered 1048576", Of(2.2, REVIVE, "scattered 524288")),
            line(REVIVE, "contiguous 1048576", Of(2.2, REVIVE, "contiguous 524288")),
            line(REVIVE, "mixed 1048576", Of(2.2, REVIVE, "mixed 524288")),
            line(REVIVE, "every frame", Beyond(10e6, "metadata alone")),
            line(FINISH, "unclaimed, kept", Shown),
            line(FINISH, "unclaimed, freed", Shown),
            line(FINISH, "all claimed", Shown),
            line("claim a folio", H, Rmw(2.5)),
            line("claim a folio", "heirloom, many at once", Rmw(2.5)),
            line("claim a small object", H, Rmw(4.0)),
            line("claim a large buffer", H, Rmw(4.0)),
            line("the handle of an object", H, Ns(4.0)),
            line("the handle of an object", PLAIN, Ns(4.0)),
            line(HOT, H, Ns(40.0)),
            line(HOT, PLAIN, Ns(40.0)),
            line(RANDOM, "a load of its state", Shown),
            line(RANDOM, MISS, Shown),
            line(RANDOM, "a load of it", Shown),
            line(RANDOM, H, Beyond(40.0, MISS)),
            line(RANDOM, PLAIN, Beyond(40.0, MISS)),
            line(RANDOM_2T, "a load of its state", Shown),
            line(RANDOM_2T, MISS, Shown),
            line(RANDOM_2T, "a load of it", Shown),
            line(RANDOM_2T, H, Beyond(40.0, MISS)),
            line(RANDOM_2T, PLAIN, Beyond(40.0, MISS)),
            line(FIRST_USE, "resume all, use one", Ns(5e6)),
            line(FIRST_USE, "resume all, look for each", Shown),
            line(FIRST_USE, "adopt all, claim one", Shown),
            line(FIRST_USE, "adopt all, claim each", Shown),
            line("adopt a slab of 64 B objects", H, Shown),
            line("seal and verify", "seal", Of(4.0, "seal and verify", "reading as many bytes")),
            line("seal and verify", "verify", Of(4.0, "seal and verify", "reading as many bytes")),
        ],
    },
];

/// What footprints are held to, by their rows.
pub(super) const FOOTPRINTS: &[(&str, f64)] = &[
    ("frames: metadata", 1.3),
    ("frames: metadata without the per-frame kind", 0.3),
    ("64 B objects, 64 MiB live: overhead", 3.0),
];

/// What counts are held to: cached frames and objects.
pub(super) const COUNTS: &[&str] = &[
    "order 0, pair at 0 %",
    "order 0, pair at 50 %",
    "64 B, pair",
    "64 B, 64 allocs then 64 frees",
    "64 B, preserving, pair",
    "64 B, preserving, 64 allocs then 64 frees",
    "1 KiB, pair",
    "1 KiB, preserving, pair",
];

/// For every 1000 operations.
pub(super) const COUNT: f64 = 20.0;
