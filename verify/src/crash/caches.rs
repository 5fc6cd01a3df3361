//! The caches and names that old kernels and successors use, by number.

use heirloom::kho::Order;
use heirloom::slab::{CacheSpec, Persist, persist};
use heirloom_testkit::{ObjectKind, stamp, word};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The value of the typed caches: words that only its seed gives.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Debug)]
#[repr(C)]
pub(crate) struct Value {
    words: [u64; 8],
}
persist!(Value { words });

impl Value {
    pub(crate) fn of(seed: u64) -> Self {
        Self { words: std::array::from_fn(|i| word(seed, i as u64)) }
    }
}

const fn typed(name: &str, preserving: bool) -> CacheSpec {
    CacheSpec::new(name, size_of::<Value>())
        .align(align_of::<Value>())
        .fingerprint(Value::FINGERPRINT)
        .preserving(preserving)
}

/// Names of the typed caches: the one whose objects are preserved singly, the preserving one.
pub(crate) const TYPED: [&str; 2] = ["typed", "typed-kept"];

/// The caches that a life uses: of small objects and of large ones, each without and with
/// preserving; typed ones; and one that the successor has with another layout.
const LIFE: [CacheSpec; 7] = [
    CacheSpec::new("small", 152),
    CacheSpec::new("small-kept", 152).preserving(true),
    CacheSpec::new("large", 9000),
    CacheSpec::new("large-kept", 9000).preserving(true),
    typed(TYPED[0], false),
    typed(TYPED[1], true),
    CacheSpec::new("changed", 72).fingerprint(1),
];

/// How many caches a life uses.
pub(crate) const CACHES: u8 = LIFE.len() as u8;

/// The cache whose layout the successor has changed: its objects go through `upgrade`.
pub(crate) const CHANGED: u8 = 6;

/// The cache of which there are many slabs, an object in each.
pub(crate) const SLABS: u8 = 7;

/// The first of many caches, and how many of them there may be.
pub(crate) const MANY: u8 = 8;
pub(crate) const ALL: u8 = MANY + 40;

/// A cache by its number.
pub(crate) fn spec(cache: u8) -> CacheSpec {
    match LIFE.get(usize::from(cache)) {
        Some(spec) => *spec,
        None if cache == SLABS => CacheSpec::new("slabs", 3000).order(Order::ZERO).preserving(true),
        None => CacheSpec::new(&cache_name(cache), 1000).order(Order::ZERO).preserving(true),
    }
}

/// The name of a cache.
pub(crate) fn cache_name(cache: u8) -> String {
    const NAMES: [&str; SLABS as usize + 1] =
        ["small", "small-kept", "large", "large-kept", TYPED[0], TYPED[1], "changed", "slabs"];
    NAMES.get(usize::from(cache)).map_or_else(|| format!("many{cache}"), |name| (*name).to_owned())
}

/// Whether objects of the cache are preserved from birth.
pub(crate) const fn preserving(cache: u8) -> bool {
    cache % 2 == 1 || cache >= MANY
}

/// The content of a published root.
pub(crate) fn root_bytes(seed: u64, bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    stamp(&mut content, seed);
    content
}

/// The name of a root or a subtree: each thread has its own.
pub(crate) fn name(kind: ObjectKind, id: u32) -> String {
    match kind {
        ObjectKind::Subtree => format!("tree{id}"),
        _ => format!("root{id}"),
    }
}
