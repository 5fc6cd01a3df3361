//! The caches that programs use: plain and preserving, typed, constructed, of large objects.

use core::ptr::NonNull;

use heirloom::kho::Order;
use heirloom::slab::{Adopted, Cache, CacheSpec, Error, persist};
use heirloom_testkit::{Kernel, TestMachine};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A typed object.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Note {
    /// Any number.
    pub number: u64,
    /// Any bytes.
    pub text: [u64; 14],
}
persist!(Note { number, text });

/// What stands at the start of a constructed object.
pub(super) const CONSTRUCTED: u64 = 0x0123_4567_89ab_cdef;

fn construct(object: NonNull<u8>) {
    // SAFETY: an object of the cache has so many bytes, and they are nobody else's now.
    unsafe { object.cast::<u64>().write_unaligned(CONSTRUCTED) };
}

/// How many caches there are.
pub(super) const CACHES: usize = 8;

/// The names of the caches.
pub(super) const NAMES: [&str; CACHES] =
    ["plain", "keeping", "note", "kept note", "made", "large", "tiny", "tiny kept"];

/// What a cache is like; a typed one says so itself.
pub(super) const fn spec(cache: usize) -> Option<CacheSpec> {
    Some(match cache {
        0 => CacheSpec::new(NAMES[0], 152),
        1 => CacheSpec::new(NAMES[1], 200).preserving(true),
        4 => CacheSpec::new(NAMES[4], 320).constructor(construct),
        5 => CacheSpec::new(NAMES[5], 9000).align(64),
        6 => CacheSpec::new(NAMES[6], 1000).order(Order::ZERO),
        7 => CacheSpec::new(NAMES[7], 1000).order(Order::ZERO).preserving(true),
        _ => return None,
    })
}

/// Another cache of the same name.
pub(super) const fn other_spec(cache: usize) -> CacheSpec {
    CacheSpec::new(NAMES[cache], 48).fingerprint(99)
}

/// The cache, created if there is none.
///
/// # Errors
/// As for [`Slabs::cache`](heirloom::slab::Slabs::cache).
pub(super) fn cache<'k, 'g>(
    kernel: &'k Kernel<'g>,
    n: usize,
) -> Result<Cache<'k, &'g TestMachine>, Error> {
    match spec(n) {
        Some(spec) => kernel.slabs().cache(spec),
        None => Ok(kernel.slabs().typed::<Note>(NAMES[n], n == 3)?.cache()),
    }
}

/// The same with all that the predecessor's cache of this name left, in use as it was.
///
/// # Errors
/// As for [`Slabs::resume_or_create`](heirloom::slab::Slabs::resume_or_create).
pub(super) fn resume(kernel: &Kernel<'_>, n: usize) -> Result<(), Error> {
    match spec(n) {
        Some(spec) => _ = kernel.slabs().resume_or_create(spec)?,
        None => _ = kernel.slabs().resume_typed_or_create::<Note>(NAMES[n], n == 3)?,
    }
    Ok(())
}

/// The same with what the predecessor's cache of this name left.
///
/// # Errors
/// As for [`Slabs::adopt_or_create`](heirloom::slab::Slabs::adopt_or_create).
pub(super) fn adopt(kernel: &Kernel<'_>, n: usize) -> Result<Adopted, Error> {
    Ok(match spec(n) {
        Some(spec) => kernel.slabs().adopt_or_create(spec)?.1,
        None => kernel.slabs().adopt_typed_or_create::<Note>(NAMES[n], n == 3)?.1,
    })
}
