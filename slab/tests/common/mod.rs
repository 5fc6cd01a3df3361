//! What the tests of this layer share.
#![allow(dead_code, reason = "not every test uses all of it")]

use core::ptr::NonNull;

use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, FrameType};
use heirloom_kho::PhysAddr;
use heirloom_slab::{Action, Error, Name, ObjectState, Slabs};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::{RngAlgorithm, RngSeed};

/// The same cases at every run.
pub(crate) fn config(cases: u32, seed: u64) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    }
}

/// An instance over `frames` frames.
pub(crate) fn slabs(frames: u64) -> Slabs<Ram> {
    Slabs::new(Ram::memory(&Ram::frames(frames)).unwrap()).unwrap()
}

/// Jumps: the successor over the same memory.
pub(crate) fn successor(slabs: Slabs<Ram>, frames: u64) -> Result<Slabs<Ram>, Error> {
    let map = slabs.memory().preserved().tree_root()?;
    let directory = slabs.cache_directory();
    let memory = slabs.into_memory().into_machine().attach(&Ram::frames(frames))?;
    let (memory, _) = memory.take_over(map)?;
    Slabs::revive(memory, directory)
}

/// A copy of the memory as it is now, on another machine.
pub(crate) fn copy_of(ram: &Ram, frames: u64) -> Ram {
    let ranges = Ram::frames(frames);
    let copy = Ram::over(&ranges);
    let run = ranges[0].0;
    let (from, to) = (ram.ptr(run.addr()), copy.ptr(run.addr()));
    // SAFETY: both machines have these frames, and nothing else runs.
    unsafe { to.copy_from_nonoverlapping(from, run.bytes() as usize) };
    copy
}

/// The successor that starts while the one before it is in the middle of something: over a copy of
/// the memory.
pub(crate) fn copy(slabs: &Slabs<Ram>, frames: u64) -> Slabs<Ram> {
    let map = slabs.memory().preserved().tree_root().unwrap();
    let memory = copy_of(slabs.memory().machine(), frames).attach(&Ram::frames(frames)).unwrap();
    let (memory, _) = memory.take_over(map).unwrap();
    Slabs::revive(memory, slabs.cache_directory()).unwrap()
}

/// What an action is answered that an object's state forbids.
pub(crate) const fn wrong<T>(
    cache: Name,
    addr: PhysAddr,
    action: Action,
    found: ObjectState,
) -> Result<T, Error> {
    Err(Error::WrongState { cache, addr, action, found })
}

/// The address that a pointer leads to.
pub(crate) fn addr(slabs: &Slabs<Ram>, ptr: NonNull<u8>) -> PhysAddr {
    slabs.memory().machine().phys(ptr).unwrap()
}

/// The pointer that leads to an address.
pub(crate) fn ptr(slabs: &Slabs<Ram>, addr: PhysAddr) -> NonNull<u8> {
    slabs.memory().machine().ptr(addr)
}

/// Fills bytes with a pattern that `seed` determines.
///
/// # Safety
/// The bytes are the caller's.
pub(crate) unsafe fn fill(ptr: NonNull<u8>, bytes: usize, seed: u8) {
    for i in 0..bytes {
        // SAFETY: the caller's promise.
        unsafe { ptr.add(i).write(pattern(i, seed)) };
    }
}

/// Whether bytes are as [`fill`] left them.
///
/// # Safety
/// The bytes are the caller's.
pub(crate) unsafe fn filled(ptr: NonNull<u8>, bytes: usize, seed: u8) -> bool {
    // SAFETY: the caller's promise.
    (0..bytes).all(|i| unsafe { ptr.add(i).read() } == pattern(i, seed))
}

fn pattern(i: usize, seed: u8) -> u8 {
    (i as u8).wrapping_mul(31) ^ seed
}

/// Frames of slabs in use.
pub(crate) fn slab_frames(slabs: &Slabs<Ram>) -> u64 {
    slabs.memory().audit().unwrap().allocated[FrameType::Slab as usize]
}
